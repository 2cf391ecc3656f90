"""Training with rounded weights: the gradient is that of the paper, and what is converted computes what was trained."""

import pytest
import torch
from torch import nn

from steps.compress import fake_quant
from steps.compress.fake_quant import Rounded, RoundedLinear, RoundedLSTM, convert, prepare_
from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, describe, rounding_coder
from steps.compress.rounding import short_scales, shortener
from steps.models.codes import CodeFormat
from steps.models.quant_layers import quantized_layers

FORMATS = [
    CodeFormat(4),
    CodeFormat(2, "half"),
    CodeFormat(2, "ternary"),
    CodeFormat(1, "half"),
    CodeFormat(3, group=5),
]


def by_hand(weight, scale, format):
    """Level, and slope of the level times the scale in the scale, of one weight."""
    top, ratio = format.largest / format.code_step, weight / scale
    nearest = round(ratio - 0.5) + 0.5 if format.grid == "half" else round(ratio)
    level = min(max(nearest, -top), top)
    return level, level - ratio if abs(ratio) <= top + 0.5 else level


@pytest.mark.parametrize("format", [f for f in FORMATS if f.group is None], ids=str)
def test_gradients_by_hand(format):
    weight = torch.tensor([[0.13, -0.72, 1.9, -40.0], [0.2, 0.41, -0.9, 3.3]], requires_grad=True)
    scales = torch.tensor([[0.5], [0.7]], requires_grad=True)
    out = Rounded.apply(weight, scales, format, 0.25)
    above = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 5.0, 0.5, 2.0]])
    (out * above).sum().backward()
    for row in range(2):
        pairs = [by_hand(w, scales[row].item(), format) for w in weight[row].tolist()]
        expected = torch.tensor([level * scales[row].item() for level, _ in pairs])
        torch.testing.assert_close(out[row], expected)
        slope = 0.25 * sum(float(a) * slope for a, (_, slope) in zip(above[row], pairs, strict=True))
        torch.testing.assert_close(scales.grad[row, 0], torch.tensor(slope))
        reach = format.largest / format.code_step + 0.5
        inside = (weight[row] / scales[row]).abs() <= reach
        torch.testing.assert_close(weight.grad[row], above[row] * inside)
    assert (weight.grad == 0).any() and (weight.grad != 0).any()


def prepared(make, kind, **settings):
    """A prepared model after some updates, and what `convert` needs."""
    config = QuantizeConfig(**settings)
    model = make(kind, conv_norm="layer") if kind == "conformer" else make(kind)
    if kind == "dnn":
        model = factorise(model, {"blocks.0.up": 8})
    formats = choose_formats(model, config)
    quantization = describe(formats, config)
    prepare_(model, formats, shortener(quantization))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    feats, lengths = torch.randn(2, 60, 20), torch.tensor([60, 41])
    for _ in range(3):
        model.train()(feats, lengths)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), quantization, formats, (feats, lengths)


CASES = [("conformer", {"bits": 2}), ("conformer", {"bits": 4, "group": 8}), ("rnn", {"bits": 1}), ("rnn", {"bits": 8})]
CASES += [("dnn", {"bits": "ternary"}), ("dnn", {"bits": 3})]


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_the_converted_model_computes_what_the_trained_one_did(make, kind, settings):
    model, quantization, formats, inputs = prepared(make, kind, **settings)
    with torch.no_grad():
        expected = model(*inputs)[0]
        small = convert(model, quantization, formats, rounding_coder("mse", shortener(quantization)))
        assert torch.equal(small(*inputs)[0], expected)
    assert quantized_layers(small).keys() == formats.keys()
    assert small.spec["quantization"] == quantization
    assert not [name for name in small.state_dict() if "log_scales" in name]


def test_names_of_parameters_stay_and_scales_do_not_decay(make):
    plain = {name: p.shape for name, p in make("rnn").named_parameters()}
    model = make("rnn")
    prepare_(model, choose_formats(model, QuantizeConfig(bits=2, group=8)), shorten=short_scales)
    now = {name: p.shape for name, p in model.named_parameters()}
    added = now.keys() - plain.keys()
    assert {name: now[name] for name in plain} == plain
    assert added and all(name.endswith("_log_scales") and len(now[name]) == 1 for name in added)
    counts = sum(isinstance(m, RoundedLinear) + 2 * isinstance(m, RoundedLSTM) for m in model.modules())
    assert len(added) == counts


def test_scales_learn_whatever_their_size():
    """Twice the weights, twice the scales and twice the codes' distance: the same share is learnt."""
    moved = []
    for size in (1.0, 64.0):
        torch.manual_seed(0)
        layer = nn.Linear(16, 4, bias=False)
        with torch.no_grad():
            layer.weight.mul_(size)
        rounded = RoundedLinear(layer, CodeFormat(2, "half"), shorten=None)
        start = rounded.weight_log_scales.detach().clone()
        (rounded(torch.ones(3, 16)) / size).sum().backward()
        moved.append(rounded.weight_log_scales.grad.clone())
        assert torch.isfinite(start).all()
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)


def test_scales_move_by_the_root_of_weights_and_levels_less(monkeypatch):
    layer = nn.Linear(32, 4, bias=False)
    shrunk = []
    monkeypatch.setattr(fake_quant.Rounded, "apply", lambda w, s, f, shrink: shrunk.append(shrink) or w)
    for format in (CodeFormat(2, "half"), CodeFormat(4), CodeFormat(4, group=8)):
        RoundedLinear(layer, format, shorten=None)(torch.ones(1, 32))
    assert shrunk == pytest.approx([64**-0.5, 256**-0.5, 64**-0.5])


def test_the_log_says_how_weights_lie(make):
    model = make("dnn")
    prepare_(model, choose_formats(model, QuantizeConfig(bits=2)), shorten=short_scales)
    assert "codes: " in (text := fake_quant.describe_state(model)) and "dB" in text
    with torch.no_grad():
        model.output.weight.mul_(30)
    worse = fake_quant.describe_state(model)
    assert "output" in worse and worse != text
