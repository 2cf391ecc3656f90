"""Tokenizer: text survives the round trip, ids mean what tokens.txt says, and training is reproducible."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.cli import MissingInput, UserError
from steps.core.config import ConfigError, from_dict, load_config
from steps.core.datadir import Utterance, write_data_dir
from steps.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "SET THE KITCHEN LIGHT TO TEN PERCENT", "SET A TIMER", "GO", "A", "DON'T STOP THE MUSIC", "set the timer",
    "ÉTÉ à Zürich", "e\u0301te\u0301", "ﬁn ½ Ａ", "日本 語", "#1 $(x) \"y\"", "TURN THE LIGHT ON", "TURN THE LIGHT OFF",
]  # fmt: skip
SIZES = {"char": None, "bpe": 80, "unigram": 60}


@pytest.fixture(scope="module", params=list(SIZES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind):
    return train_tokenizer(TEXTS, kind, SIZES[kind])


def test_text_comes_back_as_it_was(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(isinstance(i, int) and 1 < i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.encode("  SET  THE ") == tokenizer.encode("SET THE")


def test_blank_is_first_unknown_second_and_sizes_are_as_asked(tokenizer):
    assert tokenizer.pieces[:2] == ["<blk>", "<unk>"]
    assert (tokenizer.blank_id, tokenizer.unknown_id) == (0, 1)
    assert len(tokenizer.pieces) == tokenizer.vocab_size == len(set(tokenizer.pieces))
    assert tokenizer.decode([0, *tokenizer.encode("GO"), 0, 0]) == "GO"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_vocab_size_counts_every_id(kind):
    assert train_tokenizer(TEXTS, kind, SIZES[kind]).vocab_size == SIZES[kind]


def test_words_have_one_spelling_wherever_they_stand(tokenizer):
    space = [] if "▁" not in tokenizer.pieces else [tokenizer.pieces.index("▁")]
    first, second = tokenizer.encode("SET"), tokenizer.encode("TIMER")
    assert tokenizer.encode("SET TIMER") in (first + second, first + space + second)


def test_characters_spell_words_letter_by_letter():
    tokenizer = train_tokenizer(TEXTS, "char")
    assert [tokenizer.pieces[i] for i in tokenizer.encode("SET A")] == ["S", "E", "T", "▁", "A"]
    assert set(tokenizer.pieces) == {"<blk>", "<unk>", "▁"} | set("".join(TEXTS)) - {" "}
    assert "▁" not in train_tokenizer(["YES", "NO"], "char").pieces


def test_tokens_file_is_what_sherpa_onnx_reads(tokenizer, tmp_path):
    """Its reading: `symbol id` lines; joined symbols with U+2581 as a space, leading space stripped, give the text."""
    tokenizer.save(tmp_path)
    symbols = {}
    for line in (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines():
        symbol, index = line.split(" ")
        symbols[int(index)] = symbol
    assert [symbols[i] for i in range(len(symbols))] == tokenizer.pieces
    for text in TEXTS:
        joined = "".join(symbols[i] for i in tokenizer.encode(text)).replace("▁", " ")
        assert joined.lstrip(" ") == text


def test_same_texts_give_the_same_bytes(kind, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "one")
    train_tokenizer(TEXTS, kind, SIZES[kind]).save(tmp_path / "two")
    for name in ("tokenizer.model", "tokens.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_load_gives_the_same_tokenizer_and_so_does_pickle(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for other in (
        Tokenizer.load(tmp_path),
        Tokenizer.load(tmp_path / "tokenizer.model"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert other.pieces == tokenizer.pieces
        assert [other.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_files_that_do_not_belong_together_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(
        tokens.read_text(encoding="utf-8").replace("<blk> 0\n<unk> 1", "<unk> 0\n<blk> 1"), encoding="utf-8"
    )
    for place in (tmp_path, tmp_path / "tokenizer.model"):
        with pytest.raises(UserError, match="does not belong to tokenizer.model"):
            Tokenizer.load(place)
    tokens.unlink()
    with pytest.raises(MissingInput):
        Tokenizer.load(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer.model").pieces == tokenizer.pieces
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path / "tokenizer.model")
    with pytest.raises(MissingInput, match="stage 2"):
        Tokenizer.load(tmp_path / "nothing")


def test_lacking_characters_become_unknown_and_are_counted(tokenizer):
    assert tokenizer.unknown_characters(TEXTS) == {}
    texts = ["SET THE ZZÖ", "Ö"]
    assert tokenizer.unknown_characters(texts) == {"Ö": 2}
    assert tokenizer.unknown_id in tokenizer.encode("ZÖ") and "<unk>" in tokenizer.decode(tokenizer.encode("ZÖ"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_impossible_sizes_are_explained(kind):
    with pytest.raises(UserError, match=rf"too large for this text: {kind} allows (\d+) at most") as error:
        train_tokenizer(TEXTS, kind, 5000)
    most = int(str(error.value).split("allows ")[1].split()[0])
    assert train_tokenizer(TEXTS, kind, most).vocab_size == most
    with pytest.raises(UserError, match="its characters alone take") as error:
        train_tokenizer(TEXTS, kind, 5)
    least = int(str(error.value).rsplit(" ", 1)[1])
    assert train_tokenizer(TEXTS, kind, least).vocab_size == least


@pytest.mark.parametrize("texts", [[], ["", " "], ["A ▁ B"], ["A <unk> B"], ["<blk>"]])
def test_useless_texts_are_refused(texts):
    with pytest.raises(UserError):
        train_tokenizer(texts)


def test_a_very_long_transcript_counts_too():
    assert "Q" in train_tokenizer(["AB " * 5000 + "Q", "AB"], "char").pieces


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "syllable"},
        {"kind": "bpe"},
        {"kind": "char", "vocab_size": 30},
        {"kind": "bpe", "vocab_size": 2},
        {"size": 3},
    ],
)
def test_faulty_settings_are_refused(data):
    with pytest.raises(ConfigError):
        from_dict(TokenizerConfig, data, "tokenizer.yaml")


def test_program(tmp_path):
    rows = [Utterance(f"s-{i:02}", "s", text, "a.wav") for i, text in enumerate(TEXTS)]
    write_data_dir(tmp_path / "data", rows)
    options = [
        "--data",
        tmp_path / "data",
        "--config",
        ROOT / "conf" / "tokenizer.yaml",
        "--out",
        tmp_path / "tokenizer",
    ]
    command = [sys.executable, "-m", "steps.train_tokenizer", *map(str, options)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert f"char tokenizer, {tokenizer.vocab_size} tokens" in result.stdout
    assert tokenizer.pieces == train_tokenizer(TEXTS).pieces
    assert load_config(TokenizerConfig, tmp_path / "tokenizer" / "tokenizer.yaml") == TokenizerConfig()


def test_word_tokens_are_whole_words():
    tokenizer = train_tokenizer(["sil ax b", "sil ih z sil"], "word")
    assert sorted(tokenizer.pieces[2:]) == ["\u2581ax", "\u2581b", "\u2581ih", "\u2581sil", "\u2581z"]
    ids = tokenizer.encode("z sil b")
    assert len(ids) == 3 and tokenizer.decode(ids) == "z sil b"
    assert tokenizer.encode("q") == [tokenizer.unknown_id]


def test_a_piece_that_is_no_text_is_refused(tmp_path):
    train_tokenizer(["ab ba", "ba"]).save(tmp_path)
    content = (tmp_path / "tokenizer.model").read_bytes()
    piece = "\u2581".encode()
    assert content.count(piece) == 1
    with pytest.raises(UserError, match=r"x.model: not a SentencePiece model \(.*utf-8"):
        Tokenizer(content.replace(piece, b"\xe2\x28\x81"), "x.model")
