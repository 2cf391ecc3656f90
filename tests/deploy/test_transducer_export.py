"""A transducer's export: three files that say what the model folder says, in onnxruntime and in sherpa-onnx."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from steps import transcribe
from steps.compress.footprint import macs_per_second
from steps.core.cli import MissingInput, UserError
from steps.core.exports import SUMS, onnx_bytes, read_sums, shipped_bytes
from steps.data.features import compute_features
from steps.deploy.export import export_folder
from steps.deploy.macs import count_macs
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.deploy.runtimes.sherpa import SherpaProcess
from steps.models.build import build_model, new_spec
from steps.models.quant_layers import quantized_layers

FILES = ["decoder.onnx", "encoder.onnx", "joiner.onnx"]


def talkative(make, quantized=False):
    """A model that emits units, and not only one."""
    model = make("dnn", quantized, head="transducer")
    with torch.no_grad():
        if not quantized:
            model.output.weight *= 6
            model.embedding.weight *= 4
            model.output.bias[:2] = torch.tensor([0.5, -100.0])
    return model


@pytest.fixture(scope="module")
def folder(make, save, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("models") / "m", talkative(make))
    export_folder(path, path / "export")
    return path


def features(length, seed=0):
    return np.random.default_rng(seed).standard_normal((length, 20)).astype(np.float32) * 3 - 6


def test_what_ships_is_listed_counted_and_explained(folder):
    export = folder / "export"
    assert sorted(name for name in read_sums(export) if name.endswith(".onnx")) == FILES
    assert onnx_bytes(shipped_bytes(export)) == sum((export / name).stat().st_size for name in FILES)
    page = (export / "README.md").read_text()
    assert all(f"- {name}: inp" in page for name in FILES) and "from_transducer" in page and "at first -1, 0;" in page
    meta = {entry.key: entry.value for entry in onnx.load(export / "decoder.onnx").metadata_props}
    assert meta == {"vocab_size": "11", "context_size": "2"}


def test_another_model_in_its_place_is_the_one_that_runs(folder, make, save, tmp_path):
    export_folder(folder, tmp_path / "export")
    export_folder(save(tmp_path / "ctc", make("dnn")), tmp_path / "export")
    assert not any((tmp_path / "export" / name).exists() for name in FILES)
    assert load_recogniser(tmp_path / "export").kinds == ("greedy",)
    assert type(load_recogniser(tmp_path / "export")) is CtcRecogniser


def test_the_same_model_gives_the_same_files(folder, tmp_path):
    export_folder(folder, tmp_path / "again")
    assert (tmp_path / "again" / SUMS).read_bytes() == (folder / "export" / SUMS).read_bytes()


def test_torch_and_onnx_say_the_same_at_every_length(folder):
    recognisers = load_recogniser(folder), load_recogniser(folder / "export")
    for recogniser in recognisers:
        recogniser.use_beam(4)
    said = []
    for length in (1, 3, 6, 7, 8, 9, 64, 200):
        a, b = (recogniser.recognise(features(length), "u") for recogniser in recognisers)
        assert a == b and set(a) == {"greedy", "beam"}
        said.append(a["greedy"])
    assert said[0] == "" and len(set(said[-1])) > 3
    np.testing.assert_allclose(*(recogniser.probe(features(64)) for recogniser in recognisers), atol=1e-4)


def test_int8_holds_every_layer_that_ships_and_counts_the_same_work(make, save, tmp_path):
    model = make("dnn", True, head="transducer")
    report = export_folder(save(tmp_path / "m", model), tmp_path / "m" / "export")
    assert report.integer_layers == len(quantized_layers(model)) > 0 and "ctc_output" not in quantized_layers(model)
    for name, layer in (
        ("decoder.onnx", "embedding"),
        ("joiner.onnx", "output"),
        ("encoder.onnx", "encoder_to_joiner"),
    ):
        tensors = onnx.load(tmp_path / "m/export" / name).graph.initializer
        constants = [numpy_helper.to_array(tensor).astype(np.int32) for tensor in tensors if tensor.data_type in (2, 3)]
        (codes,) = (matrix.codes.int().numpy() for matrix in model.get_submodule(layer).matrices().values())
        # as int8, or plus 128 as uint8
        held = [np.array_equal(a, b + offset) for a in constants for b in (codes, codes.T) for offset in (0, 128)]
        assert sum(held) == 1
    work = macs_per_second(make("dnn", head="transducer"))
    assert count_macs(tmp_path / "m" / "export") == pytest.approx(work, rel=1e-6)


def test_features_or_scores_that_do_not_fit_are_one_line(folder):
    recogniser = load_recogniser(folder / "export")
    with pytest.raises(UserError, match=r"u: features \(5, 7\), the model wants \(T, 20\)"):
        recogniser.recognise(np.zeros((5, 7), np.float32), "u")
    with pytest.raises(UserError, match="u: the model returned scores that are not finite"):
        recogniser.recognise(np.full((50, 20), np.nan, np.float32), "u")


def test_parts_that_are_missing_or_of_another_model_are_one_line(folder, save, tmp_path):
    other = tmp_path / "e"
    other.mkdir()
    for path in (folder / "export").iterdir():
        if path.name not in (SUMS, "joiner.onnx"):
            (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(MissingInput, match="joiner.onnx: no such file"):
        load_recogniser(other)
    (other / "joiner.onnx").write_bytes((other / "decoder.onnx").read_bytes())
    with pytest.raises(UserError, match="joiner.onnx: not part of a transducer"):
        load_recogniser(other)
    torch.manual_seed(0)
    sizes = {"joiner": 40}
    wide = build_model(new_spec("dnn", {"num_blocks": 1}, 20, 11, "test", head="transducer", head_sizes=sizes)).eval()
    export_folder(save(tmp_path / "w", wide), tmp_path / "w/export")
    (other / "joiner.onnx").write_bytes((tmp_path / "w/export/joiner.onnx").read_bytes())
    with pytest.raises(UserError, match="its three files are not of one transducer"):
        load_recogniser(other)


def test_a_word_list_is_kept_to_by_torch_and_onnx(folder, tmp_path):
    (tmp_path / "words.txt").write_text("ab\n")
    recognisers, said = (load_recogniser(folder), load_recogniser(folder / "export")), set()
    for recogniser in recognisers:
        facts = recogniser.use_words(tmp_path / "words.txt", folder, word_score=1.0)
        assert facts["count"] == 1 and recogniser.kinds == ("greedy", "lexicon")
    for length in (1, 7, 64, 200):
        a, b = (recogniser.recognise(features(length), "u") for recogniser in recognisers)
        assert a == b and set(a) == {"greedy", "lexicon"}
        said |= set(a["lexicon"].split())
    assert said == {"ab"}
    (tmp_path / "words.txt").write_text("abc\nab?\n")
    with pytest.raises(UserError, match="words.txt: 1 of 2 words cannot be spelled with the tokens: ab[?]"):
        recognisers[1].use_words(tmp_path / "words.txt", folder)


def test_a_list_of_labels_is_refused_and_no_column_is_made_up(folder, monkeypatch):
    recogniser = load_recogniser(folder)
    assert recogniser.use_labels("l", folder) is recogniser.use_graph(folder) is None
    monkeypatch.setattr(sys, "argv", ["transcribe", str(folder), "a.wav", "--labels", "labels.txt"])
    with pytest.raises(UserError, match="cannot be limited to a list of labels; leave out --labels"):
        transcribe.main()


def whistles(seconds):
    pieces = [np.sin(np.arange(4000) * hz / 2500) for hz in (100, 200, 400, 800, 1500, 2500, 4000, 6000)]
    samples = 0.2 * np.concatenate(pieces) + np.random.default_rng(0).normal(0, 0.01, 32000)
    return samples[: int(16000 * seconds)].astype(np.float32)


def heard(recogniser, samples):
    return compute_features(torch.from_numpy(samples), recogniser.features).numpy()


def test_sherpa_onnx_says_the_same_of_any_length(folder):
    pytest.importorskip("sherpa_onnx")
    recogniser, said = load_recogniser(folder / "export"), []
    with SherpaProcess(folder / "export") as process:
        for seconds in (0.005, 0.03, 0.06, 0.07, 0.1, 0.5, 2.0):
            said.append(process.recognise(whistles(seconds), "u")["greedy"])
            if seconds > 0.025:
                assert said[-1] == recogniser.recognise(heard(recogniser, whistles(seconds)), "u")["greedy"], seconds
    assert said[0] == "" and len(set(said[-1])) > 2


BEAM = """
import sys, numpy, sherpa_onnx
names = {name: f"{sys.argv[1]}/{name}.onnx" for name in ("encoder", "decoder", "joiner")}
recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
    tokens=f"{sys.argv[1]}/tokens.txt", feature_dim=20, decoding_method="modified_beam_search", max_active_paths=4, **names)
stream = recogniser.create_stream()
stream.accept_waveform(16000, numpy.load(sys.argv[2]))
recogniser.decode_stream(stream)
print("|" + stream.result.text + "|")
"""


def test_beam_search_is_that_of_sherpa_onnx(folder, tmp_path):
    pytest.importorskip("sherpa_onnx")
    np.save(tmp_path / "whistles.npy", whistles(2.0))
    words = [sys.executable, "-c", BEAM, str(folder / "export"), str(tmp_path / "whistles.npy")]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip().strip("|")
    recogniser = load_recogniser(folder / "export")
    recogniser.use_beam(4)
    texts = recogniser.recognise(heard(recogniser, whistles(2.0)), "u")
    assert texts["beam"] == " ".join(said.split()) != texts["greedy"]
