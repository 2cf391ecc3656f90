"""What `rest: int8` rounds to eight bits, what it leaves alone, and scales, of which none becomes 0."""

import pytest
import torch

from steps.compress.budget import as_if_trained_
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import block_tensors, quantize_model
from steps.compress.rounding import largest_scales, round_to_codes, short_scales
from steps.core.cli import UserError
from steps.models.blocks import round_to_blocks
from steps.models.codes import CodeFormat


def test_the_rest_in_eight_bits_keeps_every_scale_above_zero(make):
    model = make("dnn")
    layer = model.blocks[0].up
    with torch.no_grad():
        # a thousandth of its neighbours in a block
        layer.weight[3] /= 1000
    small = quantize_model(model, QuantizeConfig(bits=4, rest="int8"))
    state = small.state_dict()
    assert all((state[name] > 0).all() for name in state if name.endswith("_scales"))
    blocks = block_tensors(small)
    assert {"norm.weight", "output.bias", "output.weight_scales", "blocks.0.up.weight_scales"} <= blocks
    assert not {"feature_mean", "feature_scale"} & blocks
    for name in blocks:
        assert torch.equal(round_to_blocks(state[name]), state[name]), name
    assert torch.equal(small.feature_scale, model.feature_scale.half().float())
    # codes are those of the scales that are stored
    again = round_to_codes(layer.weight, small.blocks[0].up.weight_scales, CodeFormat(4))
    assert torch.equal(again.codes, small.blocks[0].up.weight_codes)


@pytest.mark.parametrize("never", [-1e4, 40_000.0])
def test_a_number_that_says_never_leaves_its_neighbours_alone(make, never):
    """The bias of a unit that an imported model lacks: in one block with the others it would make zeros of them."""
    model = make("dnn")
    with torch.no_grad():
        model.output.bias[0], model.output.bias[1] = 2.0, never
    state = quantize_model(model, QuantizeConfig(bits=4, rest="int8")).state_dict()
    assert torch.equal(state["output.bias"], model.output.bias.half().float())
    assert torch.equal(round_to_blocks(state["norm.weight"]), state["norm.weight"])
    with torch.no_grad():
        model.output.bias[1] = 70_000.0
    with pytest.raises(UserError, match=r"output.bias: a number is too large for float16"):
        quantize_model(model, QuantizeConfig(bits=4, rest="int8"))


def test_a_model_as_if_trained_has_a_rest_of_its_kind(make):
    small = quantize_model(make("dnn"), QuantizeConfig(bits=4, rest="int8"))
    as_if_trained_(small)
    parameters = dict(small.named_parameters())
    blocks = parameters.keys() & block_tensors(small)
    assert blocks and all(torch.equal(round_to_blocks(parameters[name]), parameters[name]) for name in blocks)


def test_what_an_export_computes_with_stays_out_of_blocks(make):
    """Variances, which would become 0, and the kernels that they are folded into; gates, which change places."""
    small = quantize_model(make("conformer", conv_norm="batch"), QuantizeConfig(bits=4, rest="int8"))
    conv = "blocks.0.convolution"
    names = {
        f"{conv}.{part}" for part in ("conv_norm.running_var", "conv_norm.weight", "depthwise.bias", "depthwise.weight")
    }
    assert names <= small.state_dict().keys() and not names & block_tensors(small)
    model = make("rnn")
    small = quantize_model(model, QuantizeConfig(bits=4, rest="int8"))
    layer, before = small.blocks[0].forwards.lstm, model.blocks[0].forwards.lstm
    assert torch.equal(layer.weight_ih_scales, short_scales(largest_scales(before.weight_ih_l0, CodeFormat(4))))
    assert torch.equal(layer.bias_ih, before.bias_ih_l0.half().float())
