"""Units of other people's models: taken over in our order, spelled as their own tokenizer spells."""

import io
import sys

import numpy as np
import pytest
import sentencepiece

from steps import train_tokenizer as program
from steps.core.cli import UserError
from steps.core.datadir import Utterance, write_data_dir
from steps.data.tokenizer import Tokenizer, train_tokenizer
from steps.data.units import Units, tokenizer_of

TEXTS = ["the cat sat on the mat", "a hat on a cat", "that is the thing", "this is it then", "hot tea on the table"]


def write_tokens(folder, tokens):
    folder.mkdir(exist_ok=True)
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)))
    return folder


def foreign(kind, size):
    """A SentencePiece model as icefall makes it. Returns: content, its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, model_type=kind, vocab_size=size, unk_id=2, bos_id=-1, eos_id=-1,
        user_defined_symbols=["<blk>", "<sos/eos>"], minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return model.getvalue(), processor


@pytest.mark.parametrize(
    ("tokens", "columns"),
    [
        (["<blk>", "<sos/eos>", "<unk>", "a", "b"], [0, 2, 3, 4]),
        (["a", "b", "<blk>"], [2, -1, 0, 1]),
        (["<blank>", "<unk>", "a", "b", "<sos/eos>"], [0, 1, 2, 3]),
        (["<pad>", "<s>", "</s>", "<unk>", "a", "b"], [0, 3, 4, 5]),
    ],
)
def test_units_are_brought_to_our_order(tokens, columns):
    units = Units(tokens, "x")
    assert units.vocabulary == ["<blk>", "<unk>", "a", "b"] and units.columns.tolist() == columns
    outputs = np.random.default_rng(0).normal(size=(3, len(tokens))).astype(np.float32)
    picked = units.pick(outputs)
    np.testing.assert_allclose(np.exp(picked).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(picked[:, 3] - picked[:, 0], outputs[:, columns[3]] - outputs[:, columns[0]], rtol=1e-4)
    assert (picked[:, 1] <= -1000).all() == (columns[1] == -1)


def test_units_without_a_blank_are_refused():
    for tokens, words in ((["a", "b"], "no blank among the tokens"), (["<blk>", "<unk>"], "no unit but the blank")):
        with pytest.raises(UserError, match=f"x: {words}"):
            Units(tokens, "x")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_foreign_tokenizer_spells_as_before(tmp_path, kind):
    content, theirs = foreign(kind, 26)
    pieces = [theirs.id_to_piece(i) for i in range(theirs.get_piece_size())]
    folder = write_tokens(tmp_path / "m", pieces)
    (folder / "bpe.model").write_bytes(content)
    ours = tokenizer_of(folder)
    assert ours.pieces == Units(pieces, "x").vocabulary and len(ours.pieces) == 25
    for text in TEXTS:
        assert [ours.pieces[i] for i in ours.encode(text)] == theirs.encode(text, out_type=str)
        assert ours.decode(ours.encode(text)) == text
    if kind == "bpe":
        (folder / "bpe.model").unlink()
        alone = tokenizer_of(folder)
        for text in TEXTS:
            assert alone.encode(text) == ours.encode(text)
    else:
        # most probable pieces first: no order of merges
        (folder / "bpe.model").unlink()
        write_tokens(folder, ["<blk>", "\u2581cat", "a", "c", "t", "\u2581"])
        with pytest.raises(UserError, match="no merges of earlier units; put the SentencePiece model"):
            tokenizer_of(folder)


def test_characters_need_no_tokenizer(tmp_path):
    ours = tokenizer_of(write_tokens(tmp_path / "m", ["<blank>", "<unk>", "\u2581", *"abcdehist", "<sos/eos>"]))
    assert ours.decode(ours.encode("the cat is sad")) == "the cat is sad" and ours.pieces[2] == "\u2581"
    assert len(ours.encode("cat")) == 3


def test_phones_of_several_letters_are_taken_whole(tmp_path):
    """Their order says nothing of merges: d and the affricate it begins, a diphthong before its vowels."""
    units = ["<blank>", "a\u026a", "a", "\u026a", "d", "d\u0361\u0292", "\u0292", "\u2581"]
    ours = tokenizer_of(write_tokens(tmp_path / "m", units))
    text = "d\u0361\u0292a\u026a a\u0292d"
    spelled = [ours.pieces[i] for i in ours.encode(text)]
    assert (
        spelled == ["d\u0361\u0292", "a\u026a", "\u2581", "a", "\u0292", "d"] and ours.decode(ours.encode(text)) == text
    )


@pytest.mark.parametrize("tokens", [["<pad>", "<s>", "</s>", "<unk>", "|"], ["[UNK]", " ", "[PAD]"], ["<blk>", " "]])
def test_the_space_of_others_is_ours(tmp_path, tokens):
    """wav2vec 2.0 calls it |, others by its name."""
    ours = tokenizer_of(write_tokens(tmp_path / "m", [*tokens, *"abcdehist"]))
    spelled = [ours.pieces[i] for i in ours.encode("the cat")]
    assert spelled == [*"the", "\u2581", *"cat"] and ours.decode(ours.encode("the cat")) == "the cat"
    assert ours.unknown_characters(["the cat", "that x"]) == {"x": 1}


def test_a_bar_is_a_letter_where_there_is_a_space():
    assert Units(["<pad>", "|", "\u2581", "a"], "x").vocabulary == ["<blk>", "<unk>", "|", "\u2581", "a"]
    assert Units(["<blk>", "|", "a"], "x").vocabulary == ["<blk>", "<unk>", "|", "a"]


def test_blanks_between_words_that_no_unit_stands_for_are_counted(tmp_path):
    ours = tokenizer_of(write_tokens(tmp_path / "m", ["<blk>", "AA", "TH", "T"]))
    assert ours.unknown_characters(["AATH T", "AA"]) == {" ": 1}


def test_units_that_cannot_be_told_are_refused():
    with pytest.raises(UserError, match="the blank may be <s> or <pad>"):
        Units(["<s>", "<pad>", "</s>", "<unk>", " ", "a"], "x")
    with pytest.raises(UserError, match="byte-level BPE of GPT-2's kind"):
        Units(["<blk>", "<unk>", "\u0120the", "c"], "x")
    with pytest.raises(UserError, match="no blank among the tokens .*; call it <blk> there"):
        Units(["a", "b"], "x")


def test_units_of_ours_all_stay():
    own = ["<blk>", "<unk>", "<s>", "</s>", "a"]
    assert Units(own, "x").vocabulary == own


def test_our_own_models_hand_their_tokenizer_on(tmp_path):
    own = train_tokenizer(TEXTS, "char")
    own.save(tmp_path / "m")
    assert tokenizer_of(tmp_path / "m").fingerprint == own.fingerprint
    export = write_tokens(tmp_path / "m" / "export", own.pieces)
    assert tokenizer_of(export).fingerprint == own.fingerprint


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xff", b"hello"])
def test_a_model_that_is_none_is_refused(tmp_path, content):
    folder = write_tokens(tmp_path / "m", ["<blk>", "<unk>", "\u2581the", "a"])
    (folder / "bpe.model").write_bytes(content)
    with pytest.raises(UserError, match="bpe.model: (not a SentencePiece model|has no)"):
        tokenizer_of(folder)


def test_the_program_takes_units_over_or_trains_never_both(tmp_path, monkeypatch, capsys):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    write_data_dir(
        tmp_path / "data", [Utterance(f"s-{i}", "s", text, str(tmp_path / "a.wav")) for i, text in enumerate(TEXTS)]
    )
    folder = write_tokens(tmp_path / "m", ["<blk>", "<unk>", "\u2581", *"abcehnopst"])
    command = ["x", "--data", tmp_path / "data", "--out", tmp_path / "t"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*command, "--from", folder])))
    program.main()
    said = capsys.readouterr().out
    assert "lacks and that count as <unk>: 'i' " in said and "13 tokens" in said.splitlines()[-1]
    assert Tokenizer.load(tmp_path / "t").pieces[:3] == ["<blk>", "<unk>", "\u2581"]
    assert not (tmp_path / "t/tokenizer.yaml").exists()
    for words in ([], ["--from", folder, "--config", "conf/tokenizer.yaml"]):
        monkeypatch.setattr(sys, "argv", list(map(str, [*command, *words])))
        with pytest.raises(SystemExit) as left:
            program.main()
        assert left.value.code == 2
