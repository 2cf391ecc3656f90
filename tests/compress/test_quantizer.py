"""Quantization: rounding stays within half a step, what is quantized is named, what stays float is listed."""

import json
import sys

import pytest
import torch

from steps import quantize_model as program
from steps.compress.footprint import predict
from steps.compress.lowrank import factorise
from steps.compress.quantizer import (
    QuantizeConfig,
    float_tensors,
    quantizable_layers,
    quantize_model,
    quantize_weight,
    select_layers,
)
from steps.core.cli import UserError
from steps.core.provenance import write_run_record
from steps.models.build import CARRIED, load_model, read_spec, save_model
from steps.models.codes import CodeFormat


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 63)])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1.0, 1e30])
def test_rounding_error_is_at_most_half_a_step(magnitude, bits, largest):
    weight = torch.randn(40, 33, generator=torch.Generator().manual_seed(0)) * magnitude
    weight[3] = 0
    weight[5, 1:] = 0  # one number alone in its row
    weight[7] = weight[7].abs()
    coded = quantize_weight(weight, CodeFormat(bits))
    codes, scales = coded.codes, coded.scales
    assert codes.dtype == torch.int8 and codes.abs().max() == largest and (scales > 0).all()
    error = (weight.double() - codes.double() * scales.double()[:, None]).abs()
    assert (error <= scales.double()[:, None] * (0.5 + 1e-5)).all()
    assert (codes[3] == 0).all()
    assert (codes.abs().amax(dim=1)[[0, 5, 7]] == largest).all()


def test_rows_too_small_for_a_scale_become_zero():
    coded = quantize_weight(torch.full((1, 4), 1e-45), CodeFormat(8))
    assert coded.codes.tolist() == [[0] * 4] and coded.scales.tolist() == [1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(make, bad):
    model = make("dnn")
    with torch.no_grad():
        model.output.weight[0, 0] = bad
    with pytest.raises(UserError, match="output: a weight is not finite"):
        quantize_model(model, QuantizeConfig())


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_every_linear_and_lstm_is_quantized_and_the_result_is_close(make, kind, bits):
    model = make(kind)
    small = quantize_model(model, QuantizeConfig(bits=bits))
    format = {"bits": bits, "grid": "symmetric", "group": None}
    assert small.spec["quantization"] == {"layers": dict.fromkeys(quantizable_layers(model), format)}
    assert model.spec["quantization"] is None and not quantizable_layers(small)
    feats, lengths = torch.randn(2, 60, 20), torch.tensor([60, 41])
    expected, log_probs = model(feats, lengths)[0], small(feats, lengths)[0]
    assert not torch.equal(expected, log_probs)
    assert (expected - log_probs).abs().mean() < 0.05 * expected.std()
    assert predict(small.spec) == predict(model.spec)  # same parameters, same multiply-accumulates


def test_both_factors_of_a_low_rank_layer_are_quantized(make):
    model = factorise(make("dnn"), {"blocks.0.up": 8})
    layers = quantize_model(model, QuantizeConfig()).spec["quantization"]["layers"]
    assert "blocks.0.up.first" in layers and "blocks.0.up.second" in layers and "blocks.0.up" not in layers


def test_skip_takes_layers_and_modules(make):
    small = quantize_model(make("conformer"), QuantizeConfig(skip=["output", "blocks.1"]))
    layers = small.spec["quantization"]["layers"]
    assert "blocks.0.attention.qkv" in layers
    assert not [name for name in layers if name == "output" or name.startswith("blocks.1.")]


def test_a_name_in_skip_is_whole():
    layers = dict.fromkeys(["blocks.1.up", "blocks.1.down", "blocks.10.up", "output"])
    assert select_layers(layers, ["blocks.1"]) == ["blocks.10.up", "output"]
    assert select_layers(layers, ["blocks.1.up"]) == ["blocks.1.down", "blocks.10.up", "output"]


@pytest.mark.parametrize("skip", [["outptu"], ["blocks.0.norm"], ["block"], [""], ["output."]])
def test_unknown_names_in_skip_are_errors(make, skip):
    with pytest.raises(UserError, match="no quantizable layer is called"):
        quantize_model(make("dnn"), QuantizeConfig(skip=skip))


def test_nothing_to_quantize_and_twice_are_errors(make):
    model = make("dnn")
    with pytest.raises(UserError, match="nothing would be quantized"):
        quantize_model(model, QuantizeConfig(skip=["frontend", "blocks", "output"]))
    with pytest.raises(UserError, match="already quantized"):
        quantize_model(quantize_model(model, QuantizeConfig()), QuantizeConfig())


def test_only_eight_and_seven_bits():
    with pytest.raises(ValueError, match="bits must be 8 or 7, not 4"):
        QuantizeConfig(bits=4)


def test_float_rows_and_codes_are_all_bytes(make):
    small = quantize_model(make("conformer"), QuantizeConfig())
    rows = float_tensors(small)
    codes = [tensor for name, tensor in small.state_dict().items() if name.endswith("_codes")]
    total = sum(tensor.nbytes for tensor in small.state_dict().values())
    counters = sum(tensor.nbytes for name, tensor in small.state_dict().items() if name.endswith("num_batches_tracked"))
    assert sum(row.size_bytes for row in rows) + sum(tensor.nbytes for tensor in codes) + counters == total
    assert all(row.share == row.size_bytes / total for row in rows)
    assert {"frontend.conv1.weight", "norm.weight", "output.bias", "output.weight_scales"} <= {row.name for row in rows}


def save_folder(folder, model):
    """Write a model folder whose carried files hold their own names."""
    folder.mkdir()
    for name in CARRIED:
        (folder / name).write_text(name)
    save_model(folder, model, {name: folder / name for name in CARRIED})


def run_program(monkeypatch, model, out):
    args = ["--model", model, "--config", "conf/quantize.yaml", "--out", out]
    monkeypatch.setattr(sys, "argv", ["quantize_model", *map(str, args)])
    program.main()


def test_program_writes_a_folder_that_loads(make, tmp_path, monkeypatch, capsys):
    save_folder(tmp_path / "m", make("rnn"))
    write_run_record(tmp_path / "m", seed=7)
    for _ in range(2):  # its own folder may be written again
        run_program(monkeypatch, tmp_path / "m", tmp_path / "q")
    run = json.loads((tmp_path / "q/run.json").read_text())
    assert (run["seed"], run["device"], run["torch"]) == (7, "cpu", torch.__version__)
    small, spec = load_model(tmp_path / "q"), read_spec(tmp_path / "m")
    assert small.spec["step"] == "quantize_model" and small.spec["parent"]["weights_sha256"] == spec["weights_sha256"]
    assert small.spec["parameters"] == spec["parameters"]
    assert (tmp_path / "q/model.safetensors").stat().st_size < 0.5 * (tmp_path / "m/model.safetensors").stat().st_size
    listed = json.loads((tmp_path / "q/quantization.json").read_text())
    assert {row["name"] for row in listed["float"]} == {row.name for row in float_tensors(small)}
    assert "frontend.conv2.weight" in capsys.readouterr().out


def test_program_replaces_no_model_of_another_step(make, tmp_path, monkeypatch):
    for name in ("m", "other"):
        save_folder(tmp_path / name, make("dnn"))
    (tmp_path / "link").symlink_to("m")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out, what in (("m", "same folder as --model"), ("link", "same folder"), ("other", "finished model of test")):
        with pytest.raises(UserError, match=what):
            run_program(monkeypatch, tmp_path / "m", tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_without_a_parents_record_there_is_no_seed(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert program.parent_seed(tmp_path) is None
