"""Training with rounded weights, as the program does it: interrupted anywhere it ships the same bytes; what is shipped is what was
trained."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
import soundfile
import torch

from steps import quantize_model as program
from steps.compress.sparsity import measured_sparsity, sparsify_
from steps.core.cli import Interrupted, UserError
from steps.core.config import load_config, save_config
from steps.core.exports import shipped_bytes
from steps.data.cmvn import read_cmvn
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.data.tokenizer import Tokenizer
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.models.build import build_model, load_model, new_spec, read_spec, save_model
from steps.models.fixed_point import activation_ranges, float_products
from steps.models.quant_layers import float_like, quantized_layers
from steps.training import setup as training_setup
from tests.training.test_loop import SIZES

QAT = """
bits: {bits}
method: qat
layers: {{output: 8}}
convolutions: 8
rest: float16
loop: {{epochs: 2, max_batch_frames: 700, average_last: 2, dev_every: 1, save_every_s: 1000}}
optim: {{peak_lr: 2.0e-3, optimizer: {optimizer}}}
"""


@pytest.fixture(scope="module")
def parents(corpus, tmp_path_factory):
    """Folder with float models: conformer, and the same with half of its weights zero."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parents")
    tokenizer, features = Tokenizer.load(corpus.tokenizer), load_config(FeatureConfig, corpus.features)
    torch.manual_seed(0)
    model = build_model(new_spec("conformer", SIZES, features.dim, tokenizer.vocab_size, "test"))
    cmvn = read_cmvn(corpus.train / "cmvn.json", features.dim)
    model.set_cmvn_(cmvn["mean"], cmvn["std"])
    carried = {name: corpus.tokenizer / name for name in ("tokenizer.model", "tokens.txt")}
    save_config(folder / "features.yaml", features)
    carried["features.yaml"] = folder / "features.yaml"
    save_model(folder / "dense", model, carried)
    sparsify_(model, 0.5)
    save_model(folder / "sparse", model, carried)
    return folder


@pytest.fixture
def quantize(corpus, parents, tmp_path, monkeypatch):
    """Function (name, settings, stop_at=None, parent) -> its folder; stops at that update as if asked to."""

    def run(name, settings, stop_at=None, parent="dense"):
        (tmp_path / "q.yaml").write_text(settings)
        polls = iter(range(1, 10_000))
        stop = SimpleNamespace(poll=lambda: 75 if next(polls) == stop_at else 0)
        monkeypatch.setattr(training_setup, "StopRequest", lambda: stop)
        options = {"model": parents / parent, "teacher": parents / "dense", "data": corpus.train, "dev": corpus.dev}
        options |= {"tokenizer": corpus.tokenizer, "features": corpus.features, "config": tmp_path / "q.yaml"}
        options |= {"out": tmp_path / name, "device": "cpu", "num-threads": 1}
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["quantize_model", *words])
        program.main()
        return tmp_path / name

    return run


@pytest.mark.parametrize(("bits", "optimizer"), [(2, "adamw"), (1, "muon")])
def test_stopped_anywhere_the_same_bytes_ship(quantize, capsys, bits, optimizer):
    settings = QAT.format(bits=bits, optimizer=optimizer)
    whole = quantize("whole", settings)
    said = capsys.readouterr().out
    for stop in (1, 3, 2):
        with pytest.raises(Interrupted):
            quantize("pieces", settings, stop_at=stop)
    pieces = quantize("pieces", settings)
    for name in ("model.safetensors", "model.json", "quantization.json"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()
    assert said.count("\ncodes: ") == 2 and "clipped; worst" in said
    assert not (whole / "checkpoints").exists()
    spec = read_spec(whole)
    assert spec["step"] == "quantize_model" and spec["parent"]["name"] == "dense"
    assert {row["bits"] for row in json.loads((whole / "quantization.json").read_text())["layers"]} == {bits, 8}


def test_rounding_at_once_replaces_nothing_that_was_trained(quantize, tmp_path, parents, monkeypatch):
    with pytest.raises(Interrupted):
        quantize("pieces", QAT.format(bits=2, optimizer="adamw"), stop_at=2)
    before = {path: path.read_bytes() for path in (tmp_path / "pieces").rglob("*") if path.is_file()}
    (tmp_path / "rtn.yaml").write_text("bits: 4\n")
    words = ["--model", parents / "dense", "--config", tmp_path / "rtn.yaml", "--out", tmp_path / "pieces"]
    monkeypatch.setattr(sys, "argv", ["quantize_model", *map(str, words)])
    with pytest.raises(UserError, match="pieces was started with method qat; choose another --out"):
        program.main()
    assert {path: path.read_bytes() for path in (tmp_path / "pieces").rglob("*") if path.is_file()} == before


def test_training_moves_codes_and_dev_is_measured_on_what_ships(quantize, parents, capsys):
    trained = load_model(quantize("trained", QAT.format(bits=2, optimizer="adamw")))
    last = capsys.readouterr().out
    settings = "bits: 2\nmethod: gptq\nrest: float16\nloop: {max_batch_frames: 700}\noptim: {peak_lr: 1.0}\n"
    rounded = quantize("rounded", settings)
    changed = [
        (layer.weight_codes != load_model(rounded).get_submodule(name).weight_codes).float().mean()
        for name, layer in quantized_layers(trained).items()
        if layer.format.bits == 2
    ]
    assert min(changed) > 0
    run = json.loads((rounded.parent / "trained/run.json").read_text())
    assert f"loss {run['dev_loss']:.4f}" in last.split("dev average")[1]
    assert "calibration: " in (said := capsys.readouterr().out) and "--teacher: not used" in said
    assert "optim: not used, method gptq does not train" in said
    assert read_spec(rounded)["parent"]["name"] == "dense"


def test_zeros_of_a_sparse_model_stay(quantize, parents):
    small = load_model(quantize("sparse", QAT.format(bits="ternary", optimizer="adamw"), parent="sparse"))
    for name, layer in quantized_layers(small).items():
        small.set_submodule(name, float_like(layer))
    parent = load_model(parents / "sparse")
    for name, tensor in parent.named_parameters():
        if name.endswith("weight") and tensor.dim() > 1:
            assert (small.get_parameter(name)[tensor == 0] == 0).all(), name
    assert measured_sparsity(small) >= measured_sparsity(parent) > 0.49


FIXED = """
bits: 7
method: gptq
activations: {static: minmax}
calibration_batches: 2
loop: {max_batch_frames: 700}
"""


def test_fixed_scales_are_those_of_the_features_that_ship(quantize, corpus, capsys):
    folder = quantize("fixed", FIXED)
    said = capsys.readouterr().out
    assert "products in float: blocks.0.convolution.depthwise" in said or "products in float: none" in said
    listed = json.loads((folder / "quantization.json").read_text())
    model = load_model(folder)
    ranges = activation_ranges(model)
    assert [row["name"] for row in listed["activations"]] == list(ranges)
    assert listed["float_products"] == float_products(model)
    assert read_spec(folder)["quantization"]["activations"] == {"bits": 8, "static": "minmax"}
    export_folder(folder, folder / "export")
    recogniser = load_recogniser(folder / "export")
    # from the sound, by what the export ships; the whole training set, of which two batches were heard
    seen = []
    for line in (corpus.train / "wav.scp").read_text().splitlines():
        samples, _ = soundfile.read(line.split(maxsplit=1)[1], dtype="float32")
        feats = compute_features(torch.from_numpy(samples), recogniser.features)
        seen.append((feats - model.feature_mean) * model.feature_scale)
    (row,) = [row for row in listed["activations"] if row["name"] == "frontend.conv1.input"]
    lows, highs = [float(one.min()) for one in seen], [float(one.max()) for one in seen]
    assert (
        min(abs(row["smallest"] - low) for low in lows) < 1e-3
        and min(abs(row["largest"] - high) for high in highs) < 1e-3
    )
    assert row["smallest"] > min(lows) - 1e-3 and row["largest"] < max(highs) + 1e-3


@pytest.mark.slow
def test_scales_are_fixed_behind_training_with_rounded_weights(quantize):
    folder = quantize("trained", QAT.format(bits=4, optimizer="adamw") + "activations: {static: mse}\n")
    ranges = activation_ranges(load_model(folder))
    assert ranges and all(float(one.scale) != 1 for one in ranges.values())
    export_folder(folder, folder / "export", min_quantized_fraction=0.9)


BUDGET = """
{target}
method: mse
layers: {{output: 8}}
rest: float16
loop: {{max_batch_frames: 700}}
"""


@pytest.mark.parametrize("more", ["", pytest.param("activations: {static: minmax}\n", marks=pytest.mark.slow)])
def test_a_file_of_the_size_that_was_asked_for(quantize, capsys, monkeypatch, more):
    with monkeypatch.context() as patch:
        # before anything is measured
        patch.setattr(program.budget, "measure_options", None)
        with pytest.raises(UserError, match=r"target_kb: 3, but the smallest export has \d+\.\d kB") as refused:
            quantize("none", BUDGET.format(target="target_kb: 3") + more)
        with pytest.raises(UserError, match=r"target_bits: 0\.5, but the fewest are 1\.0"):
            quantize("none", BUDGET.format(target="target_bits: 0.5") + more)
    target = float(re.search(r"has (\S+) kB", str(refused.value))[1]) + 2.5
    folder = quantize("small", BUDGET.format(target=f"target_kb: {target}") + more)
    export_folder(folder, folder / "export")
    size = sum(shipped_bytes(folder / "export").values())
    found = json.loads((folder / "budget.json").read_text())
    assert size <= found["export_bytes"] <= 1000 * target
    assert size == found["export_bytes"] or (more and found["export_bytes"] - 500 < size)
    bits = {name: format["bits"] for name, format in read_spec(folder)["quantization"]["layers"].items()}
    kernels = dict.fromkeys(bits.keys() - found["chosen"]["layers"].keys() - {"output"}, 8)
    assert bits == found["chosen"]["layers"] | {"output": 8} | kernels and bool(kernels) is bool(more)
    assert len(set(found["chosen"]["layers"].values())) > 1
    assert "budget: " in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "method"), [("", "mse"), ("method: rtn\n", "rtn"), ("method: mse\n", "mse")])
def test_bits_are_chosen_by_the_loss_of_the_codes_that_ship(quantize, parents, monkeypatch, asked, method):
    coders, measure = [], program.budget.measure_options

    def watched(model, formats, coder, *more):
        coders.append(coder)
        return measure(model, formats, coder, *more)

    monkeypatch.setattr(program.budget, "measure_options", watched)
    folder = quantize("small", BUDGET.format(target="target_bits: 2.5").replace("method: mse\n", asked))
    assert json.loads((folder / "quantization.json").read_text())["method"] == method
    float_model = load_model(parents / "dense")
    for name, layer in quantized_layers(load_model(folder)).items():
        shipped, weight = layer.matrices()["weight"], float_model.get_submodule(name).weight.detach()
        measured = coders[0](name, "weight", weight.flatten(1), shipped.format)
        assert torch.equal(measured.codes, shipped.codes) and torch.equal(measured.scales, shipped.scales)


@pytest.mark.parametrize(("settings", "later"), [("method: gptq\n", 9), ("target_bits: 2.5\n", 25)])
def test_what_only_measures_can_be_stopped_too(quantize, settings, later, tmp_path):
    settings = f"bits: 3\nrest: float16\nloop: {{max_batch_frames: 700}}\n{settings}"
    whole = quantize("whole", settings)
    for stop in (1, later):
        with pytest.raises(Interrupted):
            quantize("pieces", settings, stop_at=stop)
        assert not (tmp_path / "pieces/model.json").exists()
        assert json.loads((tmp_path / "pieces/train_state.json").read_text())["stopped_for"] == 75
    known = tmp_path / "pieces/measured.json"
    assert known.is_file() == ("target" in settings) and (not known.is_file() or json.loads(known.read_text()))
    pieces = quantize("pieces", settings)
    for name in ("model.safetensors", "model.json", "quantization.json"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()
    assert not known.exists() and not (pieces / "train_state.json").exists()


def test_a_training_that_goes_on_keeps_the_bits_it_chose(quantize, monkeypatch):
    settings = QAT.format(bits=8, optimizer="adamw") + "target_bits: 2.5\n"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        # the first to ask is the training
        patch.setattr(program, "Asking", lambda batches, _: batches)
        quantize("pieces", settings, stop_at=2)
    monkeypatch.setattr(program, "choose_bits", None)
    folder = quantize("pieces", settings)
    found = json.loads((folder / "budget.json").read_text())
    chosen = found["chosen"]
    assert chosen["bits"] <= 2.5
    # of norms and biases that are all alike training makes different ones
    export_folder(folder, folder / "export")
    size = sum(shipped_bytes(folder / "export").values())
    assert found["export_bytes"] - 500 < size <= found["export_bytes"]
    spec = read_spec(folder)["quantization"]["layers"]
    assert {name: spec[name]["bits"] for name in chosen["layers"]} == chosen["layers"]
