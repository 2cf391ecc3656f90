"""A language model of tokens: train_lm -> make_graph -> decode, around a made-up recogniser; any word can come out."""

import json

import numpy as np
import pytest

from steps import decode, make_graph, score
from steps.core.cli import MissingInput, UserError
from steps.core.exports import check_sums, read_sums
from steps.core.outdir import sha256_file
from steps.data.tokenizer import SPACE, Tokenizer, train_tokenizer
from steps.deploy.graph_files import check_graph
from steps.lm.arpa import read_arpa
from steps.lm.fst import write_fst
from steps.lm.graph import Weights, build_token_graph
from steps.search.graph import GraphDecoder
from tests.made_up_recogniser import TOKENS, FakeRecogniser, features_of
from tests.test_language_model import TEXTS, make, run, settings, setup, train

__all__ = ["setup"]
OF_TOKENS = "ngram: {unit: token}\ngraph: {lm_scale: [0.5], word_score: [0.0]}"


@pytest.fixture
def tokens(setup):
    """As `setup`, with a tokenizer whose tokens are those of the recogniser, and settings of a model of them."""
    train_tokenizer([*TEXTS.values(), "AE CA"]).save(setup.root / "tokenizer")
    setup.settings = settings(setup, OF_TOKENS)
    setup.tokenizer = ["--tokenizer", setup.root / "tokenizer"]
    return setup


@pytest.fixture
def shipped(tokens, monkeypatch):
    pytest.importorskip("kaldi_decoder")
    train(monkeypatch, tokens, *tokens.tokenizer, *tokens.settings)
    make(monkeypatch, tokens, *tokens.settings)
    return tokens


def test_n_grams_are_of_tokens_with_the_space_among_them(tokens, monkeypatch, capsys):
    train(monkeypatch, tokens, *tokens.tokenizer, *tokens.settings)
    model = read_arpa(tokens.lm)
    assert {word for (word,) in model.probs[0]} == {SPACE, *"ABCDE", "<s>", "</s>"}
    assert ("A", "B", SPACE) in model.probs[2] and model.log10_prob("A", ("<s>",)) > model.log10_prob("E", ("<s>",))
    out = capsys.readouterr().out
    # 6 + 3 + 7 + 6 letters and spaces, and four ends
    assert (
        "a token (4 sentences, 26 tokens with their ends)" in out and "words.txt is not used: a model of tokens" in out
    )
    facts = json.loads((tokens.root / "lm" / "lm.json").read_text())
    assert facts["settings"]["unit"] == "token" and str(tokens.root / "tokenizer/tokenizer.model") in facts["sources"]
    # the model file itself, without its folder
    train(monkeypatch, tokens, "--tokenizer", tokens.root / "tokenizer/tokenizer.model", *tokens.settings)
    assert json.loads((tokens.root / "lm" / "lm.json").read_text()) == facts
    with pytest.raises(UserError, match=r"lm.yaml: ngram: .*name the folder of the tokenizer"):
        train(monkeypatch, tokens, *tokens.settings)


def test_a_letter_that_no_token_has_counts_as_unknown(tokens, monkeypatch, capsys):
    (tokens.root / "text").write_text("AB CAD\nBAX\n")
    train(monkeypatch, tokens, *tokens.tokenizer, *tokens.settings, source=["--text", tokens.root / "text"])
    assert "1 of 9 tokens of " in capsys.readouterr().out
    assert ("X",) not in read_arpa(tokens.lm).probs[0]


def test_words_that_are_in_no_text_come_out(shipped, monkeypatch, capsys):
    check_sums(shipped.export)
    assert list(read_sums(shipped.export)) == ["model.onnx", "HLG.fst"] and check_graph(shipped.export, TOKENS) is None
    assert "any\n  word can come out" in (shipped.export / "README.md").read_text()
    out = shipped.out
    options = ["--model", shipped.export, "--data", shipped.root / "dev", "--graph", shipped.export, "--out", out]
    run(monkeypatch, decode, *options)
    assert json.loads((out / "decode.json").read_text())["graph"] == {"sha256": sha256_file(shipped.export / "HLG.fst")}
    assert (out / "lm.txt").read_text().splitlines()[0] == "s1-a AB CAD"
    run(monkeypatch, score, "--decode", out, "--data", shipped.root / "dev")
    assert json.loads((out / "score_lm.json").read_text())["words"]["reference_length"] == 7
    recogniser = FakeRecogniser()
    recogniser.use_graph(shipped.export)
    # each space once, none at the ends
    assert recogniser.recognise(features_of(" DACA  BEE "), "u")["lm"] == "DACA BEE"


def test_the_model_of_tokens_changes_what_is_heard(tokens, monkeypatch):
    pytest.importorskip("kaldi_decoder")
    config = settings(tokens, OF_TOKENS.replace("0.5]", "2.0]").replace("0.0]", "2.0]"))
    train(monkeypatch, tokens, *tokens.tokenizer, *config)
    make(monkeypatch, tokens, *config)
    recogniser = FakeRecogniser()
    recogniser.use_graph(tokens.export)
    heard = recogniser.recognise(features_of("AB CAE"), "u")
    assert heard == {"greedy": "AB CAE", "lm": "AB CAD"}, "CAE is nowhere in the text"


def test_weights_are_chosen_by_words_all_the_same(shipped, monkeypatch):
    config = settings(shipped, OF_TOKENS.replace("[0.5]", "[0.5, 1.0]"))
    make(monkeypatch, shipped, *config)
    facts = json.loads((shipped.export / "graph.json").read_text())
    assert facts["unit"] == "token" and {one["words"] for one in facts["dev"]["tried"]} == {7} and facts["words"] == 6


def test_what_does_not_fit_a_model_of_tokens_is_refused(shipped, monkeypatch, capsys):
    # run.sh gives both programs the same settings; by hand it is easy to forget them
    with pytest.raises(
        UserError, match=r"lm.arpa: \u2581 says that it is of tokens; set ngram: {unit: token} in .*conf/lm.yaml"
    ):
        make(monkeypatch, shipped)
    (shipped.root / "spellings").write_text("AB A B\n")
    make(monkeypatch, shipped, *shipped.settings, "--lexicon", shipped.root / "spellings")
    assert "spellings is not used: tokens have no spellings" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"hotwords need ngram: {unit: word}"):
        make(monkeypatch, shipped, *settings(shipped, "ngram: {unit: token}\ngraph: {hotwords: {AB: 1.0}}"))
    with pytest.raises(UserError, match=r"ngram: unit must be word or token, not 'char'"):
        make(monkeypatch, shipped, *settings(shipped, "ngram: {unit: char}"))


def test_a_model_of_other_tokens_is_refused(shipped, monkeypatch, capsys):
    arpa = shipped.lm.read_text()
    # the space is the same in all letters
    shipped.lm.write_text(arpa.lower())
    with pytest.raises(
        UserError, match=r"lm.arpa: not of the tokens of .*export: a is not among the tokens; train it with"
    ):
        make(monkeypatch, shipped, *shipped.settings)
    # single letters are among the tokens of every tokenizer of subwords
    recogniser = FakeRecogniser()
    recogniser.tokens = [*TOKENS, *(f"{SPACE}{letter}{letter}" for letter in "ABCDE"), "AB", "CD"]
    monkeypatch.setattr(make_graph, "load_recogniser", lambda *args, **kwargs: recogniser)
    shipped.lm.write_text(arpa)
    with pytest.raises(UserError, match="it knows 6 of 13 tokens"):
        make(monkeypatch, shipped, *shipped.settings)
    recogniser.tokens = [*TOKENS, "F"]
    make(monkeypatch, shipped, *shipped.settings)
    told = f"never out of this graph: 1 token of {shipped.export} that {shipped.lm} does not know: F"
    assert told in capsys.readouterr().out
    # words taken for tokens
    with pytest.raises(
        UserError, match=r"lm.arpa: 1 of its 7 words are no tokens of .*tokenizer \(AB\); set ngram: {unit: word}"
    ):
        shipped.lm.write_text(
            arpa.replace("\tE\t", "\tE\t").replace("ngram 1=8", "ngram 1=9").replace("\\1-grams:", "\\1-grams:\n-2\tAB")
        )
        train(monkeypatch, shipped, *shipped.tokenizer, *shipped.settings, source=["--arpa", shipped.lm])


def test_subwords_make_up_words(tokens, monkeypatch):
    texts = [f"{a}{b} {b}{a}" for a in ("ABC", "BAD", "CAB") for b in ("DEAD", "BEE", "ACE")]
    train_tokenizer(texts, "bpe", 20).save(tokens.root / "bpe")
    (tokens.root / "text").write_text("\n".join(texts))
    train(
        monkeypatch,
        tokens,
        "--tokenizer",
        tokens.root / "bpe",
        *tokens.settings,
        source=["--text", tokens.root / "text"],
    )
    model = read_arpa(tokens.lm)
    pieces = Tokenizer.load(tokens.root / "bpe").pieces[2:]
    assert {word for (word,) in model.probs[0]} == {*pieces, "<s>", "</s>"} | {"<unk>"} & {w for (w,) in model.probs[0]}
    graph = build_token_graph(model, ["<blk>", "<unk>", *pieces], Weights())
    assert {i - 1 for i in graph.arcs["olabel"] if i} == set(range(2, len(pieces) + 2))
    (tokens.root / "HLG.fst").write_bytes(write_fst(graph))
    pytest.importorskip("kaldi_decoder")
    said = Tokenizer.load(tokens.root / "bpe").encode("BADBEE CABACE")
    log_probs = np.full((2 * len(said), len(pieces) + 2), -9.0, np.float32)
    log_probs[np.arange(len(log_probs)), [i for one in said for i in (one, 0)]] = 0.0
    decoder = GraphDecoder(tokens.root / "HLG.fst", ["<blk>", "<unk>", *pieces])
    assert decoder.decode(log_probs) == "BADBEE CABACE"


def test_with_rates_of_characters_these_choose_the_weights(shipped, monkeypatch):
    (shipped.root / "decode.yaml").write_text("cer: true\n")
    config = settings(shipped, OF_TOKENS.replace("[0.5]", "[0.5, 1.0]"))
    make(monkeypatch, shipped, *config, "--decode-config", shipped.root / "decode.yaml")
    dev = json.loads((shipped.export / "graph.json").read_text())["dev"]
    # 6 + 3 + 7 + 6 characters, the spaces among them
    assert dev["counted"] == "char" and {one["words"] for one in dev["tried"]} == {22}


def test_a_graph_of_words_takes_the_place_of_one_of_tokens_and_back(shipped, monkeypatch):
    of_tokens = (shipped.export / "HLG.fst").read_bytes(), (shipped.export / "README.md").read_text()
    arpa = shipped.lm.read_bytes()
    train(monkeypatch, shipped)
    make(monkeypatch, shipped)
    assert list(read_sums(shipped.export)) == ["model.onnx", "HLG.fst", "words.txt"]
    shipped.lm.write_bytes(arpa)
    make(monkeypatch, shipped, *settings(shipped, OF_TOKENS))
    assert list(read_sums(shipped.export)) == ["model.onnx", "HLG.fst"] and not (shipped.export / "words.txt").exists()
    assert ((shipped.export / "HLG.fst").read_bytes(), (shipped.export / "README.md").read_text()) == of_tokens


def test_a_folder_left_half_way_is_not_taken_for_one_of_tokens(shipped, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    train(monkeypatch, shipped)
    make(monkeypatch, shipped)
    train(monkeypatch, shipped, *shipped.tokenizer, *settings(shipped, OF_TOKENS))
    write = make_graph.ship_graph.__globals__["write_text"]
    monkeypatch.setattr(
        "steps.deploy.graph_files.write_text",
        lambda path, text: fail() if path.name == "README.md" else write(path, text),
    )
    with pytest.raises(OSError, match="disk full"):
        make(monkeypatch, shipped, *shipped.settings)
    assert not (shipped.export / "words.txt").exists()
    with pytest.raises(MissingInput, match="words.txt: no such file; steps.make_graph makes it"):
        check_graph(shipped.export, TOKENS)
