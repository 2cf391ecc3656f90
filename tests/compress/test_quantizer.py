"""Quantization: rounding stays within half a step, what is quantized is named, what stays float is listed."""

import dataclasses
import json
import sys

import pytest
import torch

from steps import quantize_model as program
from steps.compress.footprint import predict
from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import (
    choose_formats,
    float_tensors,
    layer_noise,
    quantizable_layers,
    quantize_model,
    select_layers,
)
from steps.compress.rounding import largest_scales, round_to_codes
from steps.compress.sparsity import sparsify_
from steps.core.cli import UserError
from steps.core.provenance import write_run_record
from steps.models.build import CARRIED, load_model, read_spec, save_model
from steps.models.codes import CodeFormat
from steps.models.quant_layers import quantized_layers


def quantize_weight(weight, format):
    """As method rtn does it."""
    return round_to_codes(weight, largest_scales(weight, format), format)


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
    with pytest.raises(UserError, match="the model: is quantized; quantize one trained without"):
        quantize_model(quantize_model(model, QuantizeConfig()), QuantizeConfig())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 9}, "bits must be 1 to 8 or ternary, not 9"),
        ({"bits": "two"}, "bits must be 1 to 8 or ternary, not 'two'"),
        ({"grid": "log"}, "grid must be auto, symmetric or half"),
        ({"bits": "ternary", "grid": "half"}, "bits ternary has grid auto"),
        ({"bits": 1, "grid": "symmetric"}, "2 bits or more"),
        ({"method": "magic"}, "method must be one of auto, rtn, mse, gptq, qat"),
        ({"layers": {"output": {"bits": 4, "gird": "half"}}}, "layers: output: unknown key 'gird'"),
        ({"layers": {"output": None}, "bits": 9}, "bits must be 1 to 8"),
        ({"calibration_batches": 3, "method": "mse"}, "calibration_batches: of method gptq, activations, target_kb"),
        ({"layers": {"output": [8]}}, "layers: output: bits must be"),
        ({"rest": "int4"}, "rest must be one of float32, float16, int8"),
        ({"convolutions": 1}, "convolutions must be 2 to 8 bits"),
        ({"convolutions": 9}, "bits must be 1 to 8"),
    ],
)
def test_settings_that_are_none_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        QuantizeConfig(**settings)


def test_the_method_fits_the_target_where_none_is_named():
    assert QuantizeConfig().method == "rtn" and QuantizeConfig(target_bits=3).method == "mse"
    assert QuantizeConfig(target_kb=3, method="rtn").method == "rtn"
    assert dataclasses.replace(QuantizeConfig(target_kb=3), target_kb=None).method == "mse"


def test_each_layer_has_the_format_of_the_longest_name_that_covers_it(make):
    layers = {"blocks.0": 4, "blocks.0.ff1.up": {"bits": 3, "group": 8}, "output": 8, "blocks.1.ff2": "ternary"}
    config = QuantizeConfig(bits=2, group=16, layers=layers, skip=["frontend"], convolutions=8)
    formats = choose_formats(make("conformer", conv_norm="layer"), config)
    assert formats["blocks.0.ff1.up"] == CodeFormat(3, "symmetric", 8)
    assert formats["blocks.0.ff1.down"] == formats["blocks.0.attention.qkv"] == CodeFormat(4, "symmetric", 16)
    assert formats["blocks.1.ff1.down"] == CodeFormat(2, "half", 16)
    assert formats["blocks.1.ff2.up"] == CodeFormat(2, "ternary", 16)
    assert formats["output"].bits == formats["blocks.1.convolution.depthwise"].bits == 8
    assert not [name for name in formats if name.startswith("frontend")]


@pytest.mark.parametrize(("bits", "grid"), [(3, "half"), (2, "symmetric")])
def test_only_other_bits_take_an_entry_off_the_grid(make, bits, grid):
    layers = {"output": {"group": 16}, "blocks.0": bits, "blocks.1": {"bits": bits}, "blocks.2": 5, "blocks.2.up": None}
    formats = choose_formats(make("dnn"), QuantizeConfig(bits=bits, grid=grid, layers=layers))
    assert formats["output"] == CodeFormat(bits, grid, 16)
    assert {formats[name] for name in ("blocks.0.up", "blocks.1.up", "blocks.2.up")} == {CodeFormat(bits, grid)}
    assert formats["blocks.2.down"] == CodeFormat(5, "symmetric")


@pytest.mark.parametrize("entry", [None, {}, {"group": 8}])
def test_an_entry_without_bits_leaves_convolutions_theirs(make, entry):
    layers = {"blocks": 4, "blocks.0": entry, "frontend": {"bits": 3}}
    config = QuantizeConfig(bits=6, grid="half", convolutions=8, layers=layers)
    formats = choose_formats(make("conformer", conv_norm="layer"), config)
    group = (entry or {}).get("group")
    assert formats["blocks.0.convolution.depthwise"] == CodeFormat(8, "symmetric", group)
    assert formats["blocks.0.ff1.up"] == CodeFormat(6, "half", group)
    assert formats["blocks.1.convolution.depthwise"] == CodeFormat(4)
    assert formats["frontend.conv1"] == CodeFormat(3)


def test_an_entry_is_judged_by_the_bits_of_what_it_names(make):
    """On grid half 8 bits are too many, 4 are not."""
    half = {"frontend.conv1": {"grid": "half"}}
    formats = choose_formats(make("conformer"), QuantizeConfig(bits=8, convolutions=4, layers=half))
    assert formats["frontend.conv1"] == CodeFormat(4, "half")
    with pytest.raises(UserError, match="layers: frontend.conv1: grid half needs 7 bits or fewer"):
        choose_formats(make("conformer"), QuantizeConfig(bits=4, convolutions=8, layers=half))
    with pytest.raises(ValueError, match="layers: frontend.conv1: grid half needs 7 bits or fewer"):
        QuantizeConfig(bits=8, layers=half)


def test_a_convolution_that_a_batch_norm_is_folded_into_stays_float(make):
    formats = choose_formats(make("conformer"), QuantizeConfig(convolutions=8))
    assert "frontend.conv1" in formats and "blocks.0.convolution.depthwise" not in formats


def test_unknown_names_in_layers_are_errors(make):
    with pytest.raises(UserError, match="layers: no quantizable layer is called 'blocks.7'"):
        quantize_model(make("dnn"), QuantizeConfig(layers={"blocks.7": 4}))


def test_a_sparse_model_keeps_its_zeros_or_is_refused(make):
    model = make("dnn")
    sparsify_(model, 0.6)
    for settings in ({"bits": 1}, {"bits": 2, "grid": "half"}):
        with pytest.raises(UserError, match="cannot be zero; use bits: ternary, or more"):
            quantize_model(model, QuantizeConfig(**settings))
    small = quantize_model(model, QuantizeConfig(bits=2, method="mse"))
    assert {layer.format.grid for layer in quantized_layers(small).values()} == {"ternary"}
    for name, layer in quantized_layers(small).items():
        assert (layer.weight_codes[model.get_submodule(name).weight == 0] == 0).all()


@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_what_coding_cost_is_told_for_every_matrix(make, kind):
    model = make(kind)
    noise = {}
    for bits in (8, 4, 2):
        small = quantize_model(model, QuantizeConfig(bits=bits, method="mse", convolutions=8))
        rows = layer_noise(model, small)
        noise[bits] = {row.name: row.snr_db for row in rows}
        matrices = sum(len(layer.matrices()) for layer in quantized_layers(small).values())
        assert len(noise[bits]) == len(rows) == matrices
        assert all(row.bits in (bits, 8) for row in rows)
    # about 6 dB a bit
    dense = [name for name in noise[8] if "conv1" not in name and "conv2" not in name and "depthwise" not in name]
    assert all(noise[8][name] > noise[4][name] + 15 > noise[2][name] + 20 for name in dense)


def test_the_rest_is_rounded_to_float16_or_refused(make):
    model = make("dnn")
    small = quantize_model(model, QuantizeConfig(bits=4, rest="float16"))
    for name, tensor in small.state_dict().items():
        assert not tensor.is_floating_point() or torch.equal(tensor.half().float(), tensor), name
    assert not torch.equal(small.norm.weight, model.norm.weight)
    with torch.no_grad():
        model.norm.bias[0] = 1e5
    with pytest.raises(UserError, match=r"norm.bias: a number is too large for float16; set rest: float32"):
        quantize_model(model, QuantizeConfig(bits=4, rest="float16"))


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


def test_program_tells_what_a_method_needs_and_what_it_does_not_read(make, tmp_path, monkeypatch):
    save_folder(tmp_path / "m", make("dnn"))
    for text, options, words in (
        ("method: qat\n", [], "method qat reads data; --data, --dev, --tokenizer, --features missing"),
        ("method: gptq\n", ["--data", "d", "--dev", "d"], "method gptq reads data; --tokenizer, --features missing"),
        ("activations: {static: mse}\n", [], "activations reads data; --data, --dev, --tokenizer, --features missing"),
        ("method: mse\n", ["--data", "d"], "method mse reads no data; leave out --data"),
        ("method: rtn\n", ["--teacher", "d"], "method rtn reads no data; leave out --teacher"),
        ("loop: {epochs: 3}\n", [], "unknown key 'loop'"),
    ):
        (tmp_path / "q.yaml").write_text(text)
        args = ["--model", tmp_path / "m", "--config", tmp_path / "q.yaml", "--out", tmp_path / "out", *options]
        monkeypatch.setattr(sys, "argv", ["quantize_model", *map(str, args)])
        with pytest.raises(UserError, match=words):
            program.main()
    assert not (tmp_path / "out").exists()


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
