"""GPTQ: what a layer gives is nearer than with plain rounding, whatever stands in the padding; zeros of sparse models stay."""

import copy
from types import SimpleNamespace

import pytest
import torch

from steps.compress.gptq import compensated, gptq_coder, second_moments, stages
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, quantize_model, rounding_coder
from steps.compress.rounding import least_squares_scales, round_to_codes, short_scales
from steps.compress.sparsity import sparsify_
from steps.models.build import build_model, new_spec
from steps.models.codes import CodeFormat

FORMATS = [
    CodeFormat(4),
    CodeFormat(3, group=8),
    CodeFormat(2, "half"),
    CodeFormat(2, "ternary"),
    CodeFormat(1, "half"),
]


def draw():
    """A matrix, and inputs of few directions."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 32, generator=random)
    inputs = torch.randn(400, 6, generator=random) @ torch.randn(6, 32, generator=random)
    return weight, inputs + 0.1 * torch.randn(400, 32, generator=random)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_outputs_are_nearer_than_with_plain_rounding(format):
    weight, inputs = draw()
    scales = short_scales(least_squares_scales(weight, format))
    plain = round_to_codes(weight, scales, format)
    codes = compensated(weight, (inputs.T @ inputs / 400).double(), format, shorten=short_scales)
    assert torch.equal(codes.scales, scales) and codes.format == format
    errors = [((found.dequantized() - weight) @ inputs.T).square().sum() for found in (codes, plain)]
    assert errors[0] < (0.6 if format.bits > 1 else 0.8) * errors[1]
    assert codes.codes.abs().max() <= format.largest


def test_inputs_that_say_nothing_of_each_other_leave_plain_rounding():
    weight, _ = draw()
    format = CodeFormat(3)
    codes = compensated(weight, torch.eye(32, dtype=torch.float64), format, shorten=None)
    assert torch.equal(codes.codes, round_to_codes(weight, least_squares_scales(weight, format), format).codes)


def batches(model, padding=0.0):
    random = torch.Generator().manual_seed(1)
    feats = torch.randn(2, 90, 20, generator=random)
    feats[1, 60:] = padding
    return [SimpleNamespace(feats=feats, lengths=torch.tensor([90, 60]))]


def one_by_one(model):
    """The utterances of `batches` without padding."""
    (batch,) = batches(model)
    pairs = zip(batch.feats, batch.lengths, strict=True)
    return [SimpleNamespace(feats=feats[None, :length], lengths=length[None]) for feats, length in pairs]


def frames_heard(model, length):
    """Encoder frames of an utterance; those that blocks hear, some of them twice where chunks hear ahead."""
    frames = int(model.output_lengths(torch.tensor(length)))
    chunk, heard = (model.chunk, model.chunk + model.ahead) if model.ahead else (frames, frames)
    return frames, sum(min(heard, frames - begin) for begin in range(0, frames, chunk))


AHEAD = {"streaming": {"chunk_ms": 160, "left_chunks": 2, "ahead_ms": 80}}


@pytest.mark.parametrize(("kind", "sizes"), [("conformer", {}), ("conformer", AHEAD), ("rnn", {}), ("dnn", {})])
def test_every_matrix_is_listened_to_once_and_without_padding(make, kind, sizes):
    model = make(kind, **sizes)
    formats = choose_formats(model, QuantizeConfig(bits=2, convolutions=8))
    groups = list(stages(model, formats))
    assert groups[0] == ["frontend.linear"] and groups[-1] == ["output"]
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name in formats if "conv1" not in name and "conv2" not in name)
    found = second_moments(model, names, batches(model, padding=30.0))
    alone = [second_moments(model, names, [one]) for one in one_by_one(model)]
    counts = [frames_heard(model, int(one.lengths)) for one in one_by_one(model)]
    for (name, matrix), moment in found.items():
        layer = model.get_submodule(name)
        assert len(moment) == (layer.weight.shape[1] if matrix == "weight" else getattr(layer, f"{matrix}_l0").shape[1])
        own = [one[name.startswith("blocks.")] for one in counts]
        mean = sum(count * one[name, matrix] for count, one in zip(own, alone, strict=True)) / sum(own)
        torch.testing.assert_close(moment, mean, rtol=1e-4, atol=1e-4)
    assert len(found) == sum(len([n for n in model.get_submodule(x).state_dict() if "weight" in n]) for x in names)


def test_a_lstms_own_output_is_heard_a_frame_late(make):
    model = make("rnn")
    layer = model.blocks[0].forwards.lstm
    seen = {}
    layer.register_forward_hook(lambda _, inputs, outputs: seen.update(h=outputs[0].detach()))
    batch = batches(model)[0]
    batch.feats, batch.lengths = batch.feats[:1], batch.lengths[:1]
    moment = second_moments(model, ["blocks.0.forwards.lstm"], [batch])["blocks.0.forwards.lstm", "weight_hh"]
    hidden = seen["h"][0].double()
    torch.testing.assert_close(moment, hidden[:-1].T @ hidden[:-1] / len(hidden))


@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_a_whole_model_hears_better(make, kind):
    config = QuantizeConfig(bits=3, method="gptq", convolutions=8, rest="float16")
    batch = batches(make(kind))[0]
    batch.feats = batch.feats[..., :4] @ torch.randn(4, 20, generator=torch.Generator().manual_seed(3))
    model = make(kind)
    expected = model(batch.feats, batch.lengths)[0][0]
    fallback = rounding_coder("mse", shorten=short_scales)
    coder = gptq_coder(make(kind), choose_formats(model, config), [batch], short_scales, fallback)
    errors = [
        (quantize_model(model, config, code)(batch.feats, batch.lengths)[0][0] - expected).square().mean()
        for code in (coder, fallback)
    ]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("bits", [4, "ternary"])
def test_zeros_of_a_sparse_model_stay(make, bits):
    model = make("rnn")
    sparsify_(model, 0.5, "local")
    config = QuantizeConfig(bits=bits, method="gptq", rest="float16")
    formats = choose_formats(model, config)
    fallback = rounding_coder("mse", shorten=short_scales)
    small = quantize_model(
        model, config, gptq_coder(copy.deepcopy(model), formats, batches(model), short_scales, fallback)
    )
    changed = 0
    for name in formats:
        plain, codes = model.get_submodule(name).state_dict(), small.get_submodule(name).matrices()
        for matrix, found in codes.items():
            weight = plain[matrix if matrix in plain else f"{matrix}_l0"]
            assert not found.codes[weight == 0].any(), name
            changed += int((found.codes != fallback(name, matrix, weight, found.format).codes).sum())
    assert changed > 100


def test_what_zeros_would_have_taken_on_goes_to_later_weights():
    weight, inputs = draw()
    weight[:, ::3] = 0.0
    format, moment = CodeFormat(3), (inputs.T @ inputs / 400).double()
    codes = compensated(weight, moment, format, shorten=short_scales, keep_zeros=True)
    plain = round_to_codes(weight, codes.scales, format)
    errors = [((found.dequantized() - weight) @ inputs.T).square().sum() for found in (codes, plain)]
    assert not codes.codes[:, ::3].any() and errors[0] < 0.7 * errors[1]


HUB = {
    "d_model": 32,
    "head_dim": 8,
    "num_blocks": 1,
    "wave": {"channels": [8] * 7, "position_kernel": 4, "position_groups": 2},
}
WHOLE = {"style": "conformer", "block": {"heads": 4, "ff": 24, "ff2": 24, "conv_channels": 16}}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # hears the channels of each head
        ("gate", HUB | {"positions": "gated", "left": 3, "right": 3, "block": {"heads": 4, "ff": 24}}),
        # hears distances between frames, once for all utterances
        ("position", HUB | WHOLE | {"positions": "sinusoid"}),
    ],
)
@pytest.mark.parametrize("utterances", [1, 2])
def test_attention_of_a_hub_model_is_listened_to(name, sizes, utterances):
    torch.manual_seed(0)
    model = build_model(new_spec("hub", sizes, 160, 11, "test")).eval()
    layer = f"blocks.0.attention.{name}"
    batch = SimpleNamespace(feats=torch.randn(utterances, 60, 160), lengths=torch.tensor([60, 40][:utterances]))
    seen = []
    model.get_submodule(layer).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().double()))
    moment = second_moments(model, [layer], [batch])[layer, "weight"]
    frames = model.output_lengths(batch.lengths).tolist()
    if name == "gate":
        rows = torch.cat([one[:length].flatten(0, 1) for one, length in zip(seen[0], frames, strict=True)])
        assert len(rows) == 4 * sum(frames)
    else:
        rows = seen[0].view(-1, 32)
        assert len(rows) == 2 * frames[0] - 1
    torch.testing.assert_close(moment, rows.T @ rows / len(rows))


@pytest.mark.parametrize("layer", ["blocks.0.ff.up", "widening.linear"])
def test_blocks_at_half_the_rate_are_listened_to_without_padding(layer):
    torch.manual_seed(0)
    sizes = HUB | {"style": "post", "squeeze": 2, "block": {"heads": 4, "ff": 24}}
    model = build_model(new_spec("hub", sizes, 160, 11, "test")).eval()
    batch = SimpleNamespace(feats=torch.randn(2, 60, 160), lengths=torch.tensor([60, 40]))
    seen = []
    model.get_submodule(layer).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().double()))
    moment = second_moments(model, [layer], [batch])[layer, "weight"]
    frames = (model.output_lengths(batch.lengths) // 2).tolist()
    rows = torch.cat([one[:length] for one, length in zip(seen[0], frames, strict=True)])
    assert frames[0] > frames[1] and len(rows) == sum(frames)
    torch.testing.assert_close(moment, rows.T @ rows / len(rows))
