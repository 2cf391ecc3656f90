"""Quantized layers compute what their dequantized twins do and are drop-in replacements."""

import pytest
import torch
from torch import nn

from steps.models.quant_layers import QuantLinear, QuantLSTM, float_like, quantized_like


def fill_(layer):
    """Random codes, scales and biases."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith("_codes"):
                tensor.copy_(torch.randint(-127, 128, tensor.shape, generator=random))
            elif name.endswith("_scales"):
                tensor.copy_(torch.rand(tensor.shape, generator=random) * 0.01 + 0.001)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=random))
    return layer.eval()


LAYERS = [nn.Linear(7, 5), nn.Linear(7, 5, bias=False), nn.LSTM(7, 5, batch_first=True)]


@pytest.mark.parametrize("layer", LAYERS, ids=["linear", "linear-no-bias", "lstm"])
def test_forward_is_that_of_the_float_twin(layer):
    quantized = fill_(quantized_like(layer))
    twin = float_like(quantized)
    assert type(twin) is type(layer) and repr(twin) == repr(layer)
    x = torch.randn(3, 11, 7)
    got, expected = quantized(x), twin(x)
    if isinstance(layer, nn.LSTM):
        assert all(torch.equal(a, b) for a, b in zip(got[1], expected[1], strict=True))
        got, expected = got[0], expected[0]
    assert got.abs().sum() > 0 and torch.equal(got, expected)


CONVOLUTIONS = [nn.Conv1d(6, 6, 5, padding=2, groups=6), nn.Conv2d(2, 5, 3, stride=2, bias=False)]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=["depthwise", "two-dimensional"])
def test_a_convolution_of_codes_is_that_of_what_they_stand_for(layer):
    quantized = fill_(quantized_like(layer))
    twin = float_like(quantized)
    assert repr(twin) == repr(layer) and quantized.kernel_size == layer.kernel_size
    kernel = quantized.weight_codes * quantized.weight_scales.unsqueeze(1)
    assert torch.equal(twin.weight.flatten(1), kernel)
    x = torch.randn(3, layer.in_channels, *[11] * (layer.weight.dim() - 2))
    assert torch.equal(quantized(x), twin(x)) and quantized(x).abs().sum() > 0


def test_scales_belong_to_output_channels():
    layer = fill_(QuantLinear(4, 3, bias=False))
    before = layer(torch.ones(4))
    layer.weight_scales[1] *= 2
    ratio = layer(torch.ones(4)) / before
    torch.testing.assert_close(ratio, torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("layer", LAYERS, ids=["linear", "linear-no-bias", "lstm"])
def test_state_is_codes_scales_and_biases(layer):
    quantized = quantized_like(layer)
    state = quantized.state_dict()
    codes = {name: tensor for name, tensor in state.items() if name.endswith("_codes")}
    matrices = {name: tensor for name, tensor in layer.state_dict().items() if tensor.dim() == 2}
    assert sorted(t.shape for t in codes.values()) == sorted(t.shape for t in matrices.values())
    assert all(tensor.dtype == torch.int8 for tensor in codes.values())
    assert {name for name, _ in quantized.named_parameters()} == {name for name in state if "bias" in name}
    with pytest.raises(RuntimeError, match="size mismatch"):
        quantized.load_state_dict({name: tensor[:-1] for name, tensor in state.items()})


UNFIT = [
    (nn.LSTM(4, 3), ValueError),
    (nn.LSTM(4, 3, batch_first=True, bidirectional=True), ValueError),
    (nn.LSTM(4, 3, num_layers=2, batch_first=True), ValueError),
    (nn.LSTM(4, 3, batch_first=True, bias=False), ValueError),
    (nn.Conv1d(4, 3, 1, padding=1, padding_mode="reflect"), TypeError),
    (nn.ConvTranspose1d(4, 3, 1), TypeError),
    (QuantLSTM(4, 3), TypeError),
]


@pytest.mark.parametrize(("layer", "error"), UNFIT)
def test_other_layers_are_refused(layer, error):
    with pytest.raises(error):
        quantized_like(layer)
