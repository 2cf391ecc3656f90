"""Lean Conformer blocks compute what the blocks do, and halves are only moved where the file can hold them."""

import pytest
import torch
from torch import nn

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.deploy.lean import LeanBlocks, halve_, lean_blocks_, with_halves
from steps.models.attention import SelfAttention
from steps.models.codes import CodeFormat
from steps.models.context import Context
from steps.models.quant_layers import QuantLinear
from steps.models.ranges import ActivationRange


@pytest.mark.parametrize("heads", [1, 3])
def test_lean_blocks_give_what_the_blocks_give(make, heads):
    model = make("conformer", block={"heads": heads, "ff1": 48, "ff2": 32, "conv_channels": 24}).double()
    twin = with_halves(model)
    assert all(block.ff1.gives_half and block.ff2.gives_half for block in twin.blocks)
    lean_blocks_(twin)
    torch.manual_seed(0)
    x, context = torch.randn(3, 29, 32, dtype=torch.float64), Context.of(torch.tensor([29, 0, 12]), 29)
    expected = x
    with torch.no_grad():
        for block in model.blocks:
            expected = block(expected, context)
        (lean,) = twin.blocks
        found = lean(x, context)
    # both have tables of positions in float32
    torch.testing.assert_close(found[~context.is_pad], expected[~context.is_pad], rtol=1e-6, atol=1e-6)


def test_blocks_that_are_not_known_stay(make):
    class Other(SelfAttention):
        """Attention of another kind."""

    model = make("conformer")
    model.blocks[1].attention.__class__ = Other
    lean_blocks_(model)
    assert not isinstance(model.blocks[0], LeanBlocks)


@pytest.mark.parametrize(("bias", "is_exact"), [(0.3, True), (2.0**-24, False)])
def test_halves_are_exact_or_left(bias, is_exact):
    layer = QuantLinear(3, 2, format=CodeFormat(2, "half"))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.25, bias]).half().float())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert halve_(layer, short=True) is is_exact
    share = 0.5 if is_exact else 1.0
    assert torch.equal(layer.weight_scales, share * before["weight_scales"])
    assert torch.equal(layer.bias, share * before["bias"])
    assert torch.equal(layer.weight_codes, before["weight_codes"])


def test_scales_that_a_packed_file_could_not_halve_are_left():
    layer = QuantLinear(3, 2, format=CodeFormat(2, "half"))
    # a quarter of it is no number of float16
    layer.weight_scales.fill_(2.0**-13 * (1 + 1 / 1024))
    assert not halve_(layer, short=True)
    assert halve_(layer, short=False)
    # rest: float32 has biases that float16 never held
    layer.bias = nn.Parameter(torch.full((2,), 0.1))
    layer.weight_scales.fill_(0.5)
    assert halve_(layer, short=True)


def test_the_model_that_is_exported_is_left_alone(make):
    from tests.deploy.test_export import build_graph

    model = quantize_model(make("conformer"), QuantizeConfig(bits=2, rest="float16"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    build_graph(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_fixed_scales_of_what_is_halved_are_halved():
    layer = QuantLinear(6, 5, format=CodeFormat(7))
    layer.input, layer.output = ActivationRange(-1.0, 2.0), ActivationRange(-3.0, 1.0)
    random = torch.Generator().manual_seed(0)
    layer.weight_codes.copy_(torch.randint(-63, 64, (5, 6), generator=random))
    layer.weight_scales.fill_(0.02)
    x = torch.randn(200, 6, generator=random)
    with torch.no_grad():
        layer.bias.copy_(torch.randn(5, generator=random))
        expected = 0.5 * layer(x)
        assert halve_(layer, short=False)
        assert torch.equal(layer(x), expected) and len(expected.unique()) > 50
