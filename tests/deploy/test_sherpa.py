"""sherpa-onnx reads exported folders as they are and says what onnxruntime says."""

import json
import subprocess

import numpy as np
import pytest
import torch

from steps.core.cli import UserError
from steps.core.exports import SHERPA_TOKENS, shipped_bytes
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.data.hub_vocabulary import spelling_model
from steps.data.tokenizer import Tokenizer, read_tokens
from steps.deploy.export import export_bytes, export_folder
from steps.deploy.graph_files import ship_graph
from steps.deploy.runtimes import load_recogniser, sherpa
from steps.deploy.runtimes.onnx_model import open_session
from steps.deploy.runtimes.sherpa import SherpaProcess, computes, takes_for_byte_bpe
from steps.lm.estimate import count_ngrams, estimate
from steps.lm.fst import write_fst
from steps.lm.graph import Weights, build_graph, build_token_graph
from steps.models.build import build_model, load_model, new_spec
from tests.models import hub_checks


@pytest.fixture
def exported(make, save, tmp_path):
    pytest.importorskip("sherpa_onnx")
    model = make("conformer")
    with torch.no_grad():  # letters, not only blanks
        model.output.bias[:3] = -100.0
    export_folder(save(tmp_path / "m", model), tmp_path / "m" / "export")
    return tmp_path / "m" / "export"


def test_texts_are_those_of_onnxruntime(exported):
    recogniser = load_recogniser(exported)
    random, texts = np.random.default_rng(0), []
    with SherpaProcess(exported) as process:
        for seconds in (0.5, 1.0, 2.3):
            samples = random.uniform(-0.2, 0.2, int(16000 * seconds)).astype(np.float32)
            feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
            texts.append(process.recognise(samples, "u")["greedy"])
            assert texts[-1] == recogniser.recognise(feats, "u")["greedy"]
    assert all(texts)


def test_a_process_that_gives_up_is_told_with_its_last_words(exported):
    (exported / "tokens.txt").write_text("a 0\nb 1\n")
    with SherpaProcess(exported) as process, pytest.raises(UserError, match="sherpa-onnx gave up at utt-1: status"):
        process.recognise(np.zeros(16000, dtype=np.float32), "utt-1")


def test_features_it_cannot_compute_and_a_missing_package_are_told(exported, monkeypatch):
    assert computes(FeatureConfig(num_mel_bins=40, sample_rate_hz=8000))
    assert not computes(FeatureConfig(snip_edges=True)) and not computes(FeatureConfig(kind="mfcc"))
    (exported / "features.yaml").write_text("num_mel_bins: 20\nsnip_edges: true\n")
    with pytest.raises(UserError, match="computes no such features"):
        SherpaProcess(exported)
    monkeypatch.setattr(sherpa.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="requirements-sherpa.txt"):
        SherpaProcess(exported)


WAVE = {"channels": [16] * 7, "kernels": [10, 3, 3, 3, 3, 2, 2], "strides": [5, 2, 2, 2, 2, 2, 2], "position_groups": 4}
HUB = {"d_model": 16, "head_dim": 8, "num_blocks": 2, "block": {"heads": 2, "ff": 24}}


def hub_folder(folder, settings):
    """A small random model that hears samples."""
    tokenizer = Tokenizer(spelling_model([(text, -1.0, False) for text in "\u2581abcd"], "char"))
    torch.manual_seed(0)
    model = build_model(new_spec("hub", HUB | settings, 160, tokenizer.vocab_size, "test")).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dim() > 1:
                tensor.copy_(torch.randn_like(tensor) * tensor[0].numel() ** -0.5)
        # letters, not only blanks
        model.output.weight.mul_(3.0)
        model.output.bias[:2] = -100.0
    return hub_checks.save(folder, model, tokenizer, FeatureConfig(kind="samples"))


def test_a_model_of_samples_says_in_sherpa_onnx_what_it_says_here(tmp_path):
    pytest.importorskip("sherpa_onnx")
    folder = hub_folder(tmp_path / "m", {"wave": WAVE})
    export_folder(folder, folder / "samples", "samples")
    recogniser, random, texts = load_recogniser(folder), np.random.default_rng(0), []
    with SherpaProcess(folder / "samples") as process:
        # what fills no frame counts for sherpa-onnx, which brings the sound to mean 0 and variance 1
        for length, level in ((8000, 0.2), (16077, 0.01), (40000, 0.9)):
            samples = (random.uniform(-level, level, length) + 0.1 * level).astype(np.float32)
            texts.append(process.recognise(samples, "u")["greedy"])
            assert texts[-1] == recogniser.recognise(samples[: length // 160 * 160].reshape(-1, 160), "u")["greedy"]
    assert all(texts) and len(set(texts)) == 3
    assert "from_omnilingual_asr_ctc" in (folder / "samples/README.md").read_text()


def test_quiet_sound_that_sherpa_onnx_has_normalised_is_not_normalised_again(tmp_path):
    """A model that normalises as sherpa-onnx does, with 1e-5 on the variance (OmniASR), hears what that gives."""
    folder = hub_folder(tmp_path / "m", {"wave": WAVE | {"norm": "layer", "bias": True, "variance_floor": 1e-5}})
    export_folder(folder, folder / "samples", "samples")
    quiet = hub_checks.noise(1, 90, 160) * 0.02
    with torch.no_grad():
        (expected,), _ = load_model(folder)(quiet, torch.tensor([90]))
    given = ((quiet - quiet.mean()) / (quiet.var(correction=0) + 1e-5).sqrt()).flatten(1).numpy()
    (found,) = open_session((folder / "samples/model_samples.onnx").read_bytes()).run(None, {"x": given})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_layout_of_samples_is_refused_where_it_says_something_else(tmp_path, make, save):
    loud = hub_folder(tmp_path / "loud", {"wave": WAVE | {"normalise": False}})
    with pytest.raises(UserError, match="what this model hears depends on its level"):
        export_folder(loud, loud / "samples", "samples")
    with pytest.raises(UserError, match="for CTC models that hear samples"):
        export_folder(save(tmp_path / "m", make("dnn")), tmp_path / "s", "samples")
    export_folder(loud, loud / "export")
    with pytest.raises(UserError, match="holds model.onnx, an export of another layout"):
        export_folder(loud, loud / "export", "samples")
    pytest.importorskip("sherpa_onnx")
    with pytest.raises(UserError, match="reads another layout: steps.export_model --layout samples"):
        SherpaProcess(loud / "export")


ALPHABETS = {  # letters, and whether sherpa-onnx misreads them
    "plain": ("abcdefgh", False),
    "Ewe": ("ƐƆƉƔƑAƁƘ", True),
    "Hausa": ("ƁƊƘABƳDE", True),
    "Hausa, lower case": ("ɓɗƙabcde", False),
    "German": ("äöüßabcd", False),
    "Latin Extended-A": ("ŐŰąćęłńó", False),
    "Greek": ("αβγδεζηθ", False),
    "Ewe and Greek": ("ƐƆαβγδεζ", False),
}


@pytest.fixture
def folder_of(make, save, tmp_path):
    """Function (letters) -> exported folder of a model with these letters."""

    def exported(letters):
        pytest.importorskip("sherpa_onnx")
        model = make("dnn")
        with torch.no_grad():  # letters, not only blanks
            model.output.bias[:3] = -100.0
            model.output.weight *= 20
        folder = save(tmp_path / "m", model)
        tokens = ["<blk>", "<unk>", "\u2581", *letters]
        (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)), "utf-8")
        spec = json.loads((folder / "model.json").read_text())
        spec["files_sha256"]["tokens.txt"] = sha256_file(folder / "tokens.txt")
        (folder / "model.json").write_text(json.dumps(spec))
        export_folder(folder, folder / "export")
        return folder / "export"

    return exported


def texts_of(folder):
    """What onnxruntime and sherpa-onnx read in the same whistles."""
    pieces = [np.sin(np.arange(4000) * hz / 2500) for hz in (100, 200, 400, 800, 1500, 2500, 4000, 6000)]
    samples = (0.2 * np.concatenate(pieces) + np.random.default_rng(0).normal(0, 0.01, 32000)).astype(np.float32)
    recogniser = load_recogniser(folder)
    feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
    with SherpaProcess(folder) as process:
        return recogniser.recognise(feats, "u")["greedy"], process.recognise(samples, "u")["greedy"]


def test_which_alphabets_are_misread():
    for letters, misread in ALPHABETS.values():
        assert takes_for_byte_bpe(["<blk>", "<unk>", "\u2581", *letters]) == misread
        assert takes_for_byte_bpe(["<blk>", *(f"\u2581{letter}" for letter in letters)]) == misread
    assert not takes_for_byte_bpe(["<blk>", "\u2581Ɛ", "Ɔ\u2581"]) and not takes_for_byte_bpe([])


@pytest.mark.parametrize("name", ["Ewe", "Hausa, lower case", "Ewe and Greek"])
def test_letters_that_sherpa_onnx_takes_for_byte_bpe_are_not_lost(folder_of, name):
    letters, misread = ALPHABETS[name]
    folder = folder_of(letters)
    ours, theirs = texts_of(folder)
    assert ours == theirs and len(set(ours) & set(letters)) > 2
    page, names = (folder / "README.md").read_text(), {path.name for path in folder.iterdir()}
    assert takes_for_byte_bpe(read_tokens(folder / "tokens.txt")) == misread
    assert (SHERPA_TOKENS in names) == (SHERPA_TOKENS in page) == ("byte-level BPE" in page) == misread
    assert (SHERPA_TOKENS in (folder / "SHA256SUMS").read_text()) == misread
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder).returncode == 0
    # what a quantization for a size reckons with
    assert sum(shipped_bytes(folder).values()) == export_bytes(load_model(folder.parent), folder.parent)


def test_the_rule_is_that_of_sherpa_onnx(folder_of, monkeypatch):
    """Without the file of its own letters are lost: else it would not be needed."""
    folder = folder_of("ƐƆƉƔƑAƁƘ")
    for name in (SHERPA_TOKENS, "SHA256SUMS"):  # as an older export has neither
        (folder / name).unlink()
    with pytest.raises(UserError, match="drops letters; export the model again, which also writes tokens_sherpa.txt"):
        SherpaProcess(folder)
    monkeypatch.setattr(sherpa, "check_tokens", lambda _: None)
    ours, theirs = texts_of(folder)
    assert set("ƐƆƉƔƑƁƘ") & set(ours) and not set("ƐƆƉƔƑƁƘ") & set(theirs) and ours != theirs


def test_a_file_of_other_tokens_is_refused_and_an_old_one_removed(folder_of):
    folder = folder_of("ƐƆƉƔƑAƁƘ")
    (folder / SHERPA_TOKENS).write_text("<blk> 0\n")
    with pytest.raises(UserError, match="tokens_sherpa.txt: does not belong to tokens.txt beside it"):
        SherpaProcess(folder)
    model = folder.parent
    (model / "tokens.txt").write_text((model / "tokens.txt").read_text().replace("Ɛ", "é\u0301"))
    spec = json.loads((model / "model.json").read_text())
    spec["files_sha256"]["tokens.txt"] = sha256_file(model / "tokens.txt")
    (model / "model.json").write_text(json.dumps(spec))
    export_folder(model, folder)
    assert not (folder / SHERPA_TOKENS).exists()


def test_a_splinter_of_sound_is_no_end(exported):
    """From less than one frame on: every length gives what onnxruntime gives, and the next utterance is still recognised."""
    recogniser = load_recogniser(exported)
    random = np.random.default_rng(0)
    with SherpaProcess(exported) as process:
        for milliseconds in (5, 20, 30, 45, 60, 70, 80, 100, 110, 1000):
            samples = random.uniform(-0.2, 0.2, 16 * milliseconds).astype(np.float32)
            said = process.recognise(samples, "u")["greedy"]
            if milliseconds < 25:
                assert said == ""
                continue
            feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
            assert said == recogniser.recognise(feats, "u")["greedy"], milliseconds


def test_with_a_graph_it_says_what_onnxruntime_says(exported):
    pytest.importorskip("kaldi_decoder")
    words = {"a": [[3]], "ab": [[3, 4]], "bad": [[4, 3, 6]], "hag": [[10, 3, 9], [10, 5]]}
    model = estimate(count_ngrams([["a", "bad"], ["hag", "ab"], ["hag", "a"]], 2), [1, 1], words)
    fst, names = build_graph(model, words, Weights(0.5, 2.0), space_id=2)
    facts = {"lm": {"ngrams": [1, 1]}, "lm_scale": 0.5, "word_score": 2.0, "hotwords": {}, "words": 4}
    ship_graph(exported, write_fst(fst), names, facts)
    recogniser, random, texts = load_recogniser(exported), np.random.default_rng(0), []
    recogniser.use_graph(exported)
    with SherpaProcess(exported) as process:
        process.use_graph(exported)
        assert process.kinds == recogniser.kinds == ("greedy", "lm")
        for seconds in (0.5, 1.0, 2.3):
            samples = random.uniform(-0.2, 0.2, int(16000 * seconds)).astype(np.float32)
            feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
            texts.append(process.recognise(samples, "u"))
            assert texts[-1] == recogniser.recognise(feats, "u")
    assert all(text["lm"] and set(text["lm"].split()) <= set(words) for text in texts)
    # a graph of tokens, out of which any word can come
    text = [["a", "\u2581", "b", "\u2581", "h"], ["h", "\u2581", "g"]]
    model = estimate(count_ngrams(text, 2), [1, 1], recogniser.tokens[2:])
    graph = build_token_graph(model, recogniser.tokens, Weights(2.0, 6.0), space_id=2)
    ship_graph(exported, write_fst(graph), None, facts)
    recogniser.use_graph(exported)
    assert recogniser.graph.joined
    with SherpaProcess(exported) as process:
        process.use_graph(exported)
        for seconds in (0.5, 1.0, 2.3):
            samples = random.uniform(-0.2, 0.2, int(16000 * seconds)).astype(np.float32)
            feats = compute_features(torch.from_numpy(samples), recogniser.features).numpy()
            texts.append(process.recognise(samples, "u"))
            assert texts[-1] == recogniser.recognise(feats, "u")
    assert all(len(text["lm"]) > 1 and " " not in text["lm"] for text in texts[3:]), "tokens are joined"
    export_folder(exported.parent, exported)
    assert not (exported / "HLG.fst").exists() and "words.txt" not in (exported / "SHA256SUMS").read_text()
