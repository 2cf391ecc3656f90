"""Fixed scales of activations: what is covered, what rounding costs, and that nothing but the data is looked at."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from steps.compress.calibrate import BINS, ActivationConfig, Histogram, calibrate_
from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.compress.rounding import SMALLEST_SCALE
from steps.core.cli import UserError
from steps.data.batches import Batch
from steps.deploy.runtimes.onnx_model import open_session
from steps.models.fixed_point import activation_ranges, float_products
from steps.models.quant_layers import rounded_bias
from steps.models.ranges import ActivationRange, check_range


def heard(model, lengths, behind=0.0, **more):
    """A batch with something behind the end of each utterance."""
    random = torch.Generator().manual_seed(0)
    feats = torch.randn(len(lengths), max(lengths), 20, generator=random) / model.feature_scale + model.feature_mean
    for row, length in zip(feats, lengths, strict=True):
        row[length:] = behind
    return Batch([""] * len(lengths), feats, torch.tensor(lengths), None, None)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-1e-30, 1e-30), (0.0, 1e30)]
)
def test_rounding_is_that_of_quantize_linear(low, high):
    one = ActivationRange()
    one.set_(low, high)
    check_range(one.scale, one.zero_point)
    bottom, top = one.limits()
    assert bottom <= 0 <= top and (top - bottom == pytest.approx(max(high, 0) - min(low, 0), rel=1e-6) or high == low)
    random = torch.Generator().manual_seed(0)
    halves = (torch.arange(-5.0, 260.0) + 0.5) * one.scale
    x = torch.cat([torch.randn(500, generator=random) * max(abs(low), abs(high), 1e-3), halves, torch.zeros(1)])
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = {"s": one.scale.numpy(), "z": one.zero_point.to(torch.uint8).numpy()}
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = open_session(model.SerializeToString()).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(one(x).numpy(), expected)
    assert one(x)[-1] == 0


def test_histograms_by_hand():
    numbers = torch.cat([torch.linspace(-1, 1, 1_999_999), torch.tensor([-2.0, 3.0])])
    counted = Histogram(-2.0, 3.0)
    counted.add(numbers)
    assert counted.counts.sum() == 2_000_001
    width = 5 / BINS
    assert counted.ends(ActivationConfig("minmax")) == (-2, 3)
    low, high = counted.ends(ActivationConfig("percentile", percentile=99.9))
    assert (low, high) == pytest.approx((-1, 1), abs=2 * width)
    assert counted.ends(ActivationConfig("percentile", percentile=100)) == pytest.approx((-2, 3), abs=2 * width)
    low, high = counted.ends(ActivationConfig("mse"))
    # losing two numbers of two millions beats larger steps
    assert low == pytest.approx(-1, abs=0.2) and high == pytest.approx(1, abs=0.2)
    errors = {}
    for ends in ((-2.0, 3.0), (low, high)):
        one = ActivationRange()
        one.set_(*ends)
        errors[ends] = float((one(numbers) - numbers).square().mean())
        assert float(counted.errors([ends])[0]) == pytest.approx(errors[ends], rel=0.2)
    assert errors[low, high] < 0.5 * errors[-2.0, 3.0]
    noise = counted.noise("x", -1.0, 1.0)
    assert noise.clipped == pytest.approx(2 / 2_000_001, rel=1e-3) and (noise.smallest, noise.largest) == (-2, 3)


def test_padding_is_not_looked_at(make, monkeypatch):
    config = QuantizeConfig(bits=8, activations=ActivationConfig("mse"))
    small = quantize_model(make("dnn"), config)
    seen = []
    monkeypatch.setattr(
        Histogram, "add", lambda self, numbers, add=Histogram.add: (seen.append(numbers), add(self, numbers))
    )
    rows = calibrate_(small, [heard(small, (50, 31))], config.activations)
    found = {name: one.limits() for name, one in activation_ranges(small).items()}
    assert [row.name for row in rows] == list(found) and float_products(small) == []
    assert all(row.snr_db > 25 for row in rows)
    # of every place the encoder frames of one utterance, then of the other
    frames = [int(small.output_lengths(torch.tensor(length))) for length in (50, 31)]
    assert [numbers.shape[:2] for numbers in seen] == [(1, count) for count in frames for _ in found]
    batch = heard(small, (50, 31), behind=1e6)
    alone = [Batch([""], batch.feats[i : i + 1], batch.lengths[i : i + 1], None, None) for i in (1, 0)]
    calibrate_(small, alone, config.activations)
    for name, one in activation_ranges(small).items():
        assert one.limits() == pytest.approx(found[name], rel=1e-4), name


def test_the_bias_of_a_row_of_zeros_is_hardly_rounded(make):
    model = make("dnn")
    with torch.no_grad():
        model.blocks[1].up.weight[::2] = 0
        # a wide range of inputs, beside which biases are small
        model.blocks[1].up.weight.mul_(1e-2)
        model.blocks[1].norm.weight.mul_(1e2)
    config = QuantizeConfig(activations=ActivationConfig())
    small = quantize_model(model, config)
    assert (small.blocks[1].up.weight_scales[::2] == SMALLEST_SCALE).all()
    calibrate_(small, [heard(model, [40, 30])], config.activations)
    layer = small.blocks[1].up
    assert layer.input.scale > 0.1 * layer.bias.abs().max()
    assert ((rounded_bias(layer) - layer.bias).abs() <= 0.01 * layer.bias.abs().max()).all()


def test_a_number_that_is_not_finite_and_a_bias_beyond_integers_are_refused(make):
    config = QuantizeConfig(bits=7, activations=ActivationConfig())
    small = quantize_model(make("dnn"), config)
    batch = heard(small, (40,))
    with torch.no_grad():
        small.output.weight_scales[2] = 1e-14
    with pytest.raises(UserError, match=r"^output: a bias is too large for its weights .*; name it in skip$"):
        calibrate_(small, [batch], config.activations)
    batch.feats[0, 3, 3] = float("nan")
    with pytest.raises(UserError, match=r"frontend.linear.input: an activation is not finite"):
        calibrate_(small, [batch], config.activations)
    assert all(one.listen is None for one in activation_ranges(small).values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"static": "max"}, "static must be one of minmax, percentile, mse, not 'max'"),
        ({"percentile": 50}, "percentile must be above 50"),
        ({"percentile": 101}, "at most 100"),
        ({"static": "mse", "percentile": 99.9}, "percentile: of static: percentile; leave it out"),
    ],
)
def test_settings_that_are_none_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ActivationConfig(**settings)


def test_models_without_fixed_point_are_refused_in_one_line(make):
    config = QuantizeConfig(bits=7, activations=ActivationConfig())
    where = "activations: fixed scales are for CTC models of whole utterances on type conformer or dnn; this one"
    with pytest.raises(UserError, match=f"{where} is of type rnn"):
        quantize_model(make("rnn"), config)
    with pytest.raises(UserError, match=f"{where} streams"):
        quantize_model(make("conformer", conv_norm="layer", streaming={"chunk_ms": 320}), config)


def test_what_cannot_be_rounded_stays_float_and_is_named(make):
    layers = {"blocks.1.down": {"bits": 4, "group": 8}}
    small = quantize_model(
        make("dnn"), QuantizeConfig(bits=7, skip=["blocks.0.up"], layers=layers, activations=ActivationConfig())
    )
    assert float_products(small) == ["blocks.0.up", "blocks.1.down"]
    # what reads it rounds nothing, so it does
    assert "blocks.1.up.output" in activation_ranges(small) and "blocks.2.up.output" not in activation_ranges(small)
    # the second factor gives to what reads both
    small = quantize_model(
        factorise(make("dnn"), {"blocks.0.up": 8, "blocks.1.down": 8}),
        QuantizeConfig(bits=7, activations=ActivationConfig()),
    )
    rounded = activation_ranges(small)
    assert not {"blocks.0.up.first.output", "blocks.0.up.second.output", "blocks.1.up.output"} & rounded.keys()
    assert "blocks.1.down.second.output" in rounded
    # a batch norm is folded into the depthwise convolution
    small = quantize_model(make("conformer"), QuantizeConfig(bits=7, activations=ActivationConfig()))
    assert float_products(small) == ["blocks.0.convolution.depthwise", "blocks.1.convolution.depthwise"]


def test_what_could_round_nothing_is_refused(make):
    """Scales for groups within a row: no product of integers is left."""
    config = QuantizeConfig(bits=4, group=8, activations=ActivationConfig())
    with pytest.raises(UserError, match="^activations: no layer would multiply integers"):
        quantize_model(make("dnn"), config)
