"""train_lm -> make_graph -> decode, score, around a made-up recogniser that reads the tokens off the features."""

import json
import shutil
import sys
from types import SimpleNamespace

import kaldiio
import numpy as np
import pytest
import soundfile

from steps import combine_decodes, decode, make_graph, score, train_lm, transcribe
from steps.core.cli import MissingInput, UserError
from steps.core.datadir import Utterance, write_data_dir
from steps.core.exports import check_sums, read_sums, shipped_bytes
from steps.core.outdir import sha256_file, write_text
from steps.data.feature_config import FeatureConfig
from steps.deploy.graph_files import check_graph, ship_graph
from steps.deploy.runtimes.outside import HubWriter
from steps.deploy.spellings import read_lexicon, spell
from steps.lm.arpa import read_arpa
from steps.lm.config import LmConfig
from steps.make_graph import choose
from tests.made_up_recogniser import TOKENS, FakeRecogniser, features_of

TEXTS = {"s1-a": "AB CAD", "s1-b": "CAD", "s2-a": "BAD DAB", "s2-b": "AB BED"}


def run(monkeypatch, program, *args):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, args)])
    program.main()


def write_set(folder, texts, heard=None):
    audio = folder.parent / "a.wav"
    folder.mkdir(parents=True)
    soundfile.write(audio, np.zeros(8000), 16000)
    write_data_dir(folder, [Utterance(u, u[:2], text, str(audio), duration_s=0.5) for u, text in texts.items()])
    ark = {u: features_of(text) for u, text in (texts | (heard or {})).items()}
    kaldiio.save_ark(str(folder / "f.ark"), ark, scp=str(folder / "feats.scp"))


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Data folders, a word list, and an exported folder with the made-up recogniser."""
    write_set(tmp_path / "dev", TEXTS, {"s2-a": "BAE DAB"})
    write_set(tmp_path / "train", TEXTS | {f"s3-{i}": "AB CAD BAD DAB" for i in range(9)} | {"s4-a": "BED CAD"})
    (tmp_path / "words.txt").write_text("AB\nCAD\nBAD\nDAB\nBED\n")
    export = tmp_path / "m" / "export"
    export.mkdir(parents=True)
    (export / "model.onnx").write_bytes(b"x" * 1000)
    (export / "README.md").write_text("A recogniser.\n\nOr: sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(...)\n")
    write_text(export / "SHA256SUMS", f"{sha256_file(export / 'model.onnx')}  model.onnx\n")
    for program in (decode, make_graph, transcribe):
        monkeypatch.setattr(program, "load_recogniser", lambda *args, **kwargs: FakeRecogniser())
    return SimpleNamespace(root=tmp_path, export=export, lm=tmp_path / "lm/lm.arpa", out=tmp_path / "out")


def train(monkeypatch, setup, *more, source=None):
    words = ["--words", setup.root / "words.txt"] if source is None else []
    source = source or ["--data", setup.root / "train"]
    run(monkeypatch, train_lm, *source, *words, "--dev", setup.root / "dev", "--out", setup.root / "lm", *more)


def make(monkeypatch, setup, *more):
    run(monkeypatch, make_graph, "--export", setup.export, "--lm", setup.lm, "--dev", setup.root / "dev", *more)


def settings(setup, text):
    (setup.root / "lm.yaml").write_text(text)
    return "--config", setup.root / "lm.yaml"


def test_a_model_is_trained_without_what_dev_holds(setup, monkeypatch, capsys):
    train(monkeypatch, setup)
    said = capsys.readouterr().out
    assert "4 utterances of" in said and "left out, which dev holds, too" in said
    assert "10 transcripts; 0 of 4 of dev are among them, word for word" in said
    model, facts = read_arpa(setup.lm), json.loads((setup.root / "lm/lm.json").read_text())
    assert ("<s>", "BED", "CAD") in model.probs[2] and ("BAD", "DAB", "</s>") in model.probs[2]
    assert ("<s>", "BAD") not in model.probs[1], "only dev says so"
    assert facts["ngrams"] == [len(grams) for grams in model.probs] and facts["sha256"] == sha256_file(setup.lm)
    assert f"perplexity {facts['dev']['perplexity']:.2f} a word (4 sentences, 11 words" in said


def test_copies_for_more_weight_in_training_count_once(setup, monkeypatch):
    train(monkeypatch, setup)
    alone = setup.lm.read_bytes()
    texts = TEXTS | {f"s3-{i}": "AB CAD BAD DAB" for i in range(9)} | {"s4-a": "BED CAD"}
    shutil.rmtree(setup.root / "train")
    texts |= {f"copy{n}-{utt_id}": text for n in (2, 3) for utt_id, text in texts.items()}
    write_set(setup.root / "train", dict(sorted(texts.items())))
    train(monkeypatch, setup)
    assert setup.lm.read_bytes() == alone


def test_a_model_that_knows_few_words_of_dev_is_told_of_tokens(setup, monkeypatch, capsys):
    told = "warning: it knows less than half of the words of dev; one of tokens (ngram: {unit: token})"
    for text, expected in (("AB CAD", False), ("AB BAD", True), ("AB", True)):
        # dev says AB twice, CAD twice, and BAD, DAB, BED
        (setup.root / "text").write_text(f"{text}\n")
        train(monkeypatch, setup, source=["--text", setup.root / "text"])
        assert (told in capsys.readouterr().out) == expected, text


def test_a_text_file_and_a_finished_model_are_taken_too(setup, monkeypatch, capsys):
    (setup.root / "text").write_text("\ufeff" + "AB CAD\n\nCAD OTHER AB\n" * 5)
    source = ["--text", setup.root / "text"]
    train(monkeypatch, setup, *settings(setup, "ngram: {order: 2}"), source=source)
    assert {("OTHER",), ("AB",)} <= (known := read_arpa(setup.lm).probs[0].keys()) and ("\ufeffAB",) not in known
    assert "unknown words left out" in capsys.readouterr().out
    train(monkeypatch, setup, "--words", setup.root / "words.txt", source=source)
    model = read_arpa(setup.lm)
    assert ("<unk>",) in model.probs[0] and ("OTHER",) not in model.probs[0] and ("BED",) in model.probs[0]
    shutil.copy(setup.lm, setup.root / "other.arpa")
    train(monkeypatch, setup, source=["--arpa", setup.root / "other.arpa"])
    assert setup.lm.read_bytes() == (setup.root / "other.arpa").read_bytes()
    train(monkeypatch, setup, *settings(setup, "ngram: {prune: 0.3}"), source=["--arpa", setup.root / "other.arpa"])
    assert "n-grams left out" in capsys.readouterr().out and read_arpa(setup.lm).order < model.order
    capsys.readouterr()
    (setup.root / "text").write_text("ab cad\nAB\n")
    train(monkeypatch, setup, "--words", setup.root / "words.txt", source=source)
    said = capsys.readouterr().out
    assert (
        "warning: 2 of 3 words of " in said and "count as <unk>: spell and case the text as the transcripts are" in said
    )
    (setup.root / "text").write_bytes(b"A\n\xff\n")
    with pytest.raises(UserError, match="text:2: not UTF-8"):
        train(monkeypatch, setup, source=source)


def test_a_text_that_holds_what_is_scored_is_warned_of(setup, monkeypatch, capsys):
    source = ["--text", setup.root / "sentences"]
    scored = ["--held-out", setup.root / "train"]
    (setup.root / "sentences").write_text("OTHER WORDS\n")
    train(monkeypatch, setup, *scored, source=source)
    assert "word for word" not in capsys.readouterr().out
    texts = dict(line.split(" ", 1) for line in (setup.root / "train/text").read_text().splitlines())
    held = next(iter(texts.values()))
    (setup.root / "sentences").write_text(f"OTHER WORDS\n{held}\n{held}\n")
    train(monkeypatch, setup, *scored, source=source)
    known, said = [*texts.values()].count(held), capsys.readouterr().out
    assert f"warning: {source[1]} holds {known} of the {len(texts)} transcripts of {scored[1]}, word for word" in said
    with pytest.raises(SystemExit):
        train(monkeypatch, setup, *scored)


@pytest.mark.parametrize(
    "text, message",
    [
        ("ngram: {order: 7}", "order must be 1 to 6"),
        ("ngram: {order: 2, min_counts: [1, 1, 1]}", "min_counts must be"),
        ("ngram: {min_counts: [1, 3, 2]}", "at least the count of a shorter one"),
        ("ngram: {min_counts: [1, true, 2]}", "min_counts"),
        ("ngram: {min_counts: [2, 2, 2]}", "of which words have 1"),
        ("graph: {lm_scale: []}", "lm_scale must be a list"),
        ("graph: {lm_scale: [-1.0]}", "0 or more"),
        ("graph: {word_score: [1000.0]}", "numbers up to 100"),
        ("graph: {hotwords: {AB: much}}", "hotwords"),
        ("graph: {lm_scales: [1.0]}", "did you mean 'lm_scale'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setup, monkeypatch, text, message):
    with pytest.raises(UserError, match=message):
        train(monkeypatch, setup, *settings(setup, text))


def test_the_settings_of_conf_are_the_defaults():
    from steps.core.config import load_config, to_dict

    assert to_dict(load_config(LmConfig, "conf/lm.yaml")) == to_dict(LmConfig())


@pytest.fixture
def shipped(setup, monkeypatch):
    pytest.importorskip("kaldi_decoder")
    train(monkeypatch, setup)
    make(monkeypatch, setup)
    return setup


def test_the_graph_ships_and_its_bytes_count_for_its_column_only(shipped):
    check_sums(shipped.export)
    assert list(read_sums(shipped.export)) == ["model.onnx", "HLG.fst", "words.txt"]
    assert shipped_bytes(shipped.export) == {"model.onnx": 1000}
    with_graph = shipped_bytes(shipped.export, graph=True)
    assert with_graph == {name: (shipped.export / name).stat().st_size for name in read_sums(shipped.export)}
    assert (shipped.export / "words.txt").read_text().startswith("<eps> 0\nAB 1\n")
    readme = (shipped.export / "README.md").read_text()
    assert (
        readme.startswith(
            "A recogniser.\n\nOr: sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(...)\n\nWith a language model:"
        )
        and readme.count("ctc_graph") == 1
    )


def test_weights_are_chosen_on_dev_and_written_down(shipped, monkeypatch, capsys):
    facts = json.loads((shipped.export / "graph.json").read_text())
    tried = facts["dev"]["tried"]
    assert len(tried) == 24 and {one["words"] for one in tried} == {7}
    assert (facts["lm_scale"], facts["word_score"]) == tuple(choose(tried)[key] for key in ("lm_scale", "word_score"))
    before = (shipped.export / "HLG.fst").read_bytes()
    make(monkeypatch, shipped)
    assert (shipped.export / "HLG.fst").read_bytes() == before
    assert "warning: under 20 errors on dev tell little" in capsys.readouterr().out
    make(monkeypatch, shipped, *settings(shipped, "graph: {lm_scale: [0.5], word_score: [-1.0]}"))
    facts = json.loads((shipped.export / "graph.json").read_text())
    assert (facts["lm_scale"], facts["word_score"], facts["dev"]["tried"]) == (0.5, -1.0, [])
    assert (shipped.export / "HLG.fst").read_bytes() != before
    assert "lm_scale 0.5, word_score -1 nats" in (shipped.export / "README.md").read_text()


def test_of_equal_weights_those_win_in_which_the_language_model_weighs_least():
    pairs = [(3, 0.1, 0.0), (2, 0.5, 1.0), (2, 0.3, -2.0), (2, 0.3, 1.0), (2, 1.0, 0.0)]
    tried = [dict(zip(("errors", "lm_scale", "word_score"), pair, strict=True)) for pair in pairs]
    assert choose(tried) == tried[3]


def test_decoding_has_a_third_column_that_is_never_mixed_with_the_others(shipped, monkeypatch):
    options = ["--model", shipped.export, "--data", shipped.root / "dev", "--out", shipped.out]
    both = ["--graph", shipped.export, "--words", shipped.root / "words.txt"]
    run(monkeypatch, decode, *options, *both)
    facts = json.loads((shipped.out / "decode.json").read_text())
    assert facts["graph"] == {"words": 5, "sha256": sha256_file(shipped.export / "HLG.fst")}
    assert list(facts["hypotheses_sha256"]) == ["greedy", "lexicon", "lm"]
    assert (shipped.out / "greedy.txt").read_text().splitlines()[2] == "s2-a BAE DAB"
    assert (shipped.out / "lm.txt").read_text() == "s1-a AB CAD\ns1-b CAD\ns2-a BAD DAB\ns2-b AB BED\n"
    run(monkeypatch, score, "--decode", shipped.out, "--data", shipped.root / "dev")
    errors = {
        kind: json.loads((shipped.out / f"score_{kind}.json").read_text())["words"]["errors"]
        for kind in ("greedy", "lm")
    }
    assert errors == {"greedy": 1, "lm": 0}
    names = ("greedy.txt", "lexicon.txt", "lm.txt", "decode.json")
    whole = {name: (shipped.out / name).read_bytes() for name in names}
    for shard in (1, 2):
        run(monkeypatch, decode, *options, *both, "--shard", shard, "--num-shards", 2)
    run(monkeypatch, combine_decodes, "--data", shipped.root / "dev", "--decode", shipped.out, "--num-shards", 2)
    assert {name: (shipped.out / name).read_bytes() for name in names} == whole
    run(monkeypatch, decode, *options)
    assert not (shipped.out / "lm.txt").exists() and "graph" not in json.loads(
        (shipped.out / "decode.json").read_text()
    )
    run(monkeypatch, score, "--decode", shipped.out, "--data", shipped.root / "dev")
    assert not (shipped.out / "score_lm.json").exists()


def test_hotwords_come_more_easily_and_unknown_ones_are_refused(shipped, monkeypatch):
    def said(hotwords):
        text = f"graph: {{lm_scale: [0.3], word_score: [0.0], hotwords: {hotwords}}}"
        make(monkeypatch, shipped, *settings(shipped, text))
        recogniser = FakeRecogniser()
        recogniser.use_graph(shipped.export)
        return recogniser.recognise(features_of("DAD"), "u")["lm"]

    def about():
        return (shipped.export / "README.md").read_text()

    assert said("{}") != "BAD" and "word_score 0 nats.\n" in about()
    # whoever gets the folder sees why that word comes so easily
    assert said("{BAD: 20.0}") == "BAD" and "word_score 0 nats; hotwords, in nats: BAD +20.\n" in about()
    with pytest.raises(
        UserError, match=r"yaml: hotwords: XY: not among the words of .*lm.arpa .*; add them to its text"
    ):
        said("{XY: 1.0}")


def test_a_language_model_in_other_letters_is_refused_by_name(shipped, monkeypatch, capsys):
    shipped.lm.write_text(shipped.lm.read_text().lower())
    with pytest.raises(
        UserError, match="lm.arpa: no word can be spelled in the tokens of .*export; take a text in the"
    ):
        make(monkeypatch, shipped)
    # a model from a hub has the letters that it has; the rest of its chain can have a graph
    (shipped.export.parent / "model.json").write_text('{"step": "import_model", "origin": {}}')
    make(monkeypatch, shipped)
    assert "warning: no graph for a model with units of its own: " in capsys.readouterr().out


def test_words_with_several_spellings_come_out_as_the_word(shipped, monkeypatch, tmp_path):
    (tmp_path / "lexicon").write_text("BED B E D\nBED D E E\n\n")
    make(monkeypatch, shipped, "--lexicon", tmp_path / "lexicon")
    recogniser = FakeRecogniser()
    recogniser.use_graph(shipped.export)
    for heard in ("BED", "DEE"):
        assert recogniser.recognise(features_of(heard), "u")["lm"] == "BED"


def test_spellings_are_the_tokens_or_what_a_lexicon_says(tmp_path):
    found = spell(["AB", "AX", "DEE"], tmp_path, TOKENS, 0)
    assert found.words == {"AB": [[3, 4]], "DEE": [[6, 7, 7]]} and found.lacking == ["AX"] and found.space_id == 2
    (tmp_path / "lexicon").write_text("AX A B\nAX A \u2581\nAX A B\nAB B \u2581\n")
    found = spell(["AB", "AX"], tmp_path, TOKENS, 0, tmp_path / "lexicon")
    assert found.words == {"AX": [[3, 4], [3]], "AB": [[4]]}, "spaces at the ends are the graph's"
    phones = ["<blk>", "<unk>", "\u2581AH", "\u2581B"]
    (tmp_path / "lexicon").write_text("\ufeffup AH\r\nup \u2581AH \u2581B\n")
    assert read_lexicon(tmp_path / "lexicon", phones, {0, 1}) == {"up": [[2], [2, 3]]}
    for line, message in (("A <unk>", "'<unk>' is not in tokens.txt"), ("A", "without tokens")):
        (tmp_path / "lexicon").write_text(f"up AH\n{line}\n")
        with pytest.raises(UserError, match=f"lexicon:2: .*{message}"):
            read_lexicon(tmp_path / "lexicon", phones, {0, 1})


def test_words_that_cannot_be_spelled_are_named(setup, monkeypatch, capsys):
    pytest.importorskip("kaldi_decoder")
    (setup.root / "text").write_text("AB XYZ\nAB CAD\n")
    train(monkeypatch, setup, source=["--text", setup.root / "text"])
    make(monkeypatch, setup)
    assert "1 of 3 words of" in capsys.readouterr().out
    assert json.loads((setup.export / "graph.json").read_text())["not_spelled"] == ["XYZ"]


def test_files_that_do_not_belong_together_are_refused(shipped, monkeypatch):
    with pytest.raises(MissingInput, match="HLG.fst: no such file; steps.make_graph"):
        FakeRecogniser().use_graph(shipped.root)
    with pytest.raises(UserError, match="HLG.fst: an arc's ilabel"):
        check_graph(shipped.export, TOKENS[:5])
    # as many tokens in another order: other words, without a sign
    write_text(shipped.export / "tokens.txt", "".join(f"{token} {i}\n" for i, token in enumerate(TOKENS)))
    check_graph(shipped.export, TOKENS)
    with pytest.raises(UserError, match="tokens.txt: the graph is for these tokens, and the model has others"):
        check_graph(shipped.export, [TOKENS[0], *reversed(TOKENS[1:])])
    recogniser = FakeRecogniser()
    recogniser.tokens = [TOKENS[0], *reversed(TOKENS[1:])]
    with pytest.raises(UserError, match="the model has others"):
        recogniser.use_graph(shipped.export)
    (shipped.export / "tokens.txt").unlink()
    write_text(shipped.export / "words.txt", "<eps> 0\nAB 1\n")
    with pytest.raises(UserError, match="words.txt: not the file that"):
        check_graph(shipped.export, TOKENS)
    (shipped.export / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="HLG.fst: an arc's olabel"):
        check_graph(shipped.export, TOKENS)
    monkeypatch.setitem(sys.modules, "kaldi_decoder", None)
    with pytest.raises(UserError, match="pip install -r requirements-lm.txt"):
        make(monkeypatch, shipped)


def test_recognisers_without_posteriors_take_no_graph(shipped, monkeypatch, capsys):
    writer = HubWriter.__new__(HubWriter)
    writer.features = FeatureConfig()
    writer.kinds = ("greedy",)
    monkeypatch.setattr(transcribe, "load_recogniser", lambda *args, **kwargs: writer)
    with pytest.raises(UserError, match="cannot be weighed by a language model; leave out --graph"):
        run(monkeypatch, transcribe, shipped.export, shipped.root / "a.wav", "--graph", shipped.export)
    monkeypatch.setattr(FakeRecogniser, "use_graph", lambda *_: None)
    run(
        monkeypatch,
        decode,
        "--model",
        shipped.export,
        "--data",
        shipped.root / "dev",
        "--graph",
        shipped.export,
        "--out",
        shipped.out,
    )
    assert "onnxruntime takes no graph for" in capsys.readouterr().out and not (shipped.out / "lm.txt").exists()
    monkeypatch.setattr(make_graph, "load_recogniser", lambda *args, **kwargs: writer)
    before = (shipped.export / "SHA256SUMS").read_bytes()
    make(monkeypatch, shipped)
    assert "only CTC models with units to spell in are decoded along a graph; none is made" in capsys.readouterr().out
    assert (shipped.export / "SHA256SUMS").read_bytes() == before


def test_a_second_graph_takes_the_place_of_the_first(shipped):
    facts = {"lm": {"ngrams": [1]}, "lm_scale": 1.0, "word_score": 0.0, "hotwords": {}, "words": 1}
    content = (shipped.export / "HLG.fst").read_bytes()
    ship_graph(shipped.export, content, ["<eps>", "AB", "BAD", "BED", "CAD", "DAB"], facts)
    assert (shipped.export / "README.md").read_text().count("With a language model") == 1
    assert len(read_sums(shipped.export)) == 3


def test_a_folder_left_half_way_is_one_without_a_graph(shipped, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("steps.deploy.graph_files.atomic_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make(monkeypatch, shipped)
    check_sums(shipped.export)
    assert list(read_sums(shipped.export)) == ["model.onnx"]
