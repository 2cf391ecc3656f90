"""Layers whose weights are codes (steps/models/codes.py).

In torch only the weights are quantized: the forward pass multiplies codes by scales and computes in float. The exported
graph quantizes the activations too, to 8 bits with a scale chosen for each input, and multiplies in integers. With fixed
scales (steps/models/fixed_point.py) both round their activations, and their biases.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import check
from steps.models.codes import CodeFormat, Codes
from steps.models.ranges import ActivationRange


class QuantLinear(nn.Module):
    """x -> x W^T + b, W in codes.

    Buffers: weight_codes (O, I) int8; weight_scales (O,) float32, or (O, G) with groups.  bias: (O,) parameter or None.
    Attributes: stays_packed: whether an exported graph multiplies by the codes as they lie in the file.
    """

    stays_packed = False

    def __init__(self, in_features: int, out_features: int, bias: bool = True, format: CodeFormat | None = None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.format = format or CodeFormat()
        register_codes(self, "weight", out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.input, self.output = nn.Identity(), nn.Identity()

    def matrices(self) -> dict[str, Codes]:
        """The layer's one matrix."""
        return {"weight": Codes(self.weight_codes, self.weight_scales, self.format)}

    def dequantized(self) -> dict[str, torch.Tensor]:
        """The Linear's tensors in float. Returns: {"weight": (O, I), "bias": (O,) or absent}."""
        tensors = {"weight": self.matrices()["weight"].dequantized()}
        return tensors if self.bias is None else tensors | {"bias": self.bias}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (..., in_features) float.  Returns: (..., out_features)."""
        weight = self.matrices()["weight"].dequantized()
        return self.output(functional.linear(self.input(x), weight, rounded_bias(self)))


class QuantLSTM(nn.Module):
    """A one-layer, one-way, batch-first LSTM with gate matrices in codes.

    Buffers: weight_ih_codes (4H, I), weight_hh_codes (4H, H) int8; weight_ih_scales, weight_hh_scales (4H,) float32, or
    (4H, G) with groups; in torch's order of gates (input, forget, cell, output).  bias_ih, bias_hh: (4H,) parameters.
    """

    def __init__(self, input_size: int, hidden_size: int, format: CodeFormat | None = None):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.format = format or CodeFormat()
        rows = 4 * hidden_size
        for name, columns in (("ih", input_size), ("hh", hidden_size)):
            register_codes(self, f"weight_{name}", rows, columns)
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(rows)))

    def matrices(self) -> dict[str, Codes]:
        """The gates' matrices for the input and for the previous output."""
        return {
            "weight_ih": Codes(self.weight_ih_codes, self.weight_ih_scales, self.format),
            "weight_hh": Codes(self.weight_hh_codes, self.weight_hh_scales, self.format),
        }

    def dequantized(self) -> dict[str, torch.Tensor]:
        """The LSTM's tensors in float, under the names nn.LSTM gives them."""
        return {
            **{f"{name}_l0": codes.dequantized() for name, codes in self.matrices().items()},
            "bias_ih_l0": self.bias_ih,
            "bias_hh_l0": self.bias_hh,
        }

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Args: x (N, T, input_size); state: h and c before it, zeros if left out.  Returns: (N, T, H) and the last state (h, c),
        each (1, N, H)."""
        zeros = x.new_zeros(1, x.shape[0], self.hidden_size)
        weights = list(self.dequantized().values())
        # arguments after the weights: has_biases, num_layers, dropout, train, bidirectional, batch_first
        output, hidden, cell = torch.lstm(x, state or (zeros, zeros), weights, True, 1, 0.0, False, False, True)
        return output, (hidden, cell)


class QuantConv(nn.Module):
    """A convolution over time, or over time and frequency, whose kernels are codes; it multiplies in float, unless its activations
    have fixed scales.

    Args: twin: the nn.Conv1d or nn.Conv2d whose sizes it takes, with zeros around its input, and not transposed.
    Buffers: weight_codes (O, I) int8, I the numbers in one output channel's kernel; weight_scales (O,) float32, or (O, G)
    with groups.  bias: (O,) parameter or None.
    """

    def __init__(self, twin: nn.Conv1d | nn.Conv2d, format: CodeFormat | None = None):
        super().__init__()
        # under the names that they have there
        for name in CONVOLUTION_SIZES:
            setattr(self, name, getattr(twin, name))
        self.kind, self.shape = type(twin), tuple(twin.weight.shape)
        self.format = format or CodeFormat()
        register_codes(self, "weight", self.shape[0], math.prod(self.shape[1:]))
        self.bias = nn.Parameter(torch.zeros(self.shape[0])) if twin.bias is not None else None
        self.input, self.output = nn.Identity(), nn.Identity()

    def matrices(self) -> dict[str, Codes]:
        """The layer's one matrix: a kernel a row."""
        return {"weight": Codes(self.weight_codes, self.weight_scales, self.format)}

    def dequantized(self) -> dict[str, torch.Tensor]:
        """The convolution's tensors in float. Returns: {"weight": as nn.Conv1d and nn.Conv2d have it, "bias": (O,) or absent}."""
        tensors = {"weight": self.matrices()["weight"].dequantized().view(self.shape)}
        return tensors if self.bias is None else tensors | {"bias": self.bias}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, C, T) or (N, C, T, F) float.  Returns: as of the convolution."""
        convolve = functional.conv1d if self.kind is nn.Conv1d else functional.conv2d
        weight = self.dequantized()["weight"]
        sizes = (self.stride, self.padding, self.dilation, self.groups)
        return self.output(convolve(self.input(x), weight, rounded_bias(self), *sizes))

    def twin(self) -> nn.Module:
        """A float convolution of the same sizes, with fresh weights."""
        sizes = {name: getattr(self, name) for name in CONVOLUTION_SIZES}
        return self.kind(**sizes, bias=self.bias is not None)


CONVOLUTION_SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
# in codes; sums of products take the other half of what 32 bits hold
LARGEST_BIAS = 2**30
# layers whose weights are codes
Quantized = QuantLinear | QuantLSTM | QuantConv


def product_steps(layer: QuantLinear | QuantConv) -> torch.Tensor:
    """What one more in a sum of products of integers adds to each output. Args: layer: with fixed scales.  Returns: (O,) float32."""
    return layer.input.scale * (layer.weight_scales / layer.format.code_step)


def bias_codes(layer: QuantLinear | QuantConv) -> torch.Tensor:
    """The bias of a layer with fixed scales as integers that products are added to.

    Args:    layer: with a bias.   Returns: (O,) int32.   Raises: ValueError when one does not fit.
    """
    assert layer.bias is not None
    codes = (layer.bias.detach() / product_steps(layer)).round()
    check(bool((codes.abs() <= LARGEST_BIAS).all()), "a bias is too large for its weights and activations in integers")
    return codes.to(torch.int32)


def rounded_bias(layer: QuantLinear | QuantConv) -> torch.Tensor | None:
    """The bias as the layer adds it: with fixed scales rounded, as `bias_codes` has it."""
    if layer.bias is None or not isinstance(layer.input, ActivationRange) or layer.input.listen is not None:
        return layer.bias
    steps = product_steps(layer)
    return (layer.bias / steps).round() * steps


def register_codes(layer: nn.Module, name: str, rows: int, columns: int) -> None:
    """Give a layer with a `format` the buffers of one matrix: all codes 0, all scales 1."""
    groups = layer.format.groups(columns)
    layer.register_buffer(f"{name}_codes", torch.zeros(rows, columns, dtype=torch.int8))
    layer.register_buffer(
        f"{name}_scales", torch.ones(rows) if layer.format.group is None else torch.ones(rows, groups)
    )


def quantized_layers(model: nn.Module) -> dict[str, Quantized]:
    """The quantized layers of a model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Quantized)}


def quantized_like(layer: nn.Module, format: CodeFormat | None = None) -> Quantized:
    """An empty quantized layer of the same sizes as a Linear, LSTM or convolution.

    Raises: TypeError for another layer, ValueError for an LSTM that is not one-layer, one-way, batch-first with biases.
    """
    if isinstance(layer, nn.Linear):
        return QuantLinear(layer.in_features, layer.out_features, layer.bias is not None, format)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode == "zeros":
        return QuantConv(layer, format)
    if not isinstance(layer, nn.LSTM):
        raise TypeError(f"{type(layer).__name__} cannot be quantized; only Linear, LSTM and convolutions can")
    special = layer.num_layers > 1 or layer.bidirectional or layer.proj_size or not layer.batch_first or not layer.bias
    if special:
        raise ValueError(f"{layer}: only one-layer, one-way, batch-first LSTMs with biases can be quantized")
    return QuantLSTM(layer.input_size, layer.hidden_size, format)


def float_like(layer: Quantized) -> nn.Module:
    """The Linear, LSTM or convolution with the weights that a quantized layer stands for."""
    twin: nn.Module
    if isinstance(layer, QuantConv):
        twin = layer.twin()
    elif isinstance(layer, QuantLinear):
        twin = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    else:
        twin = nn.LSTM(layer.input_size, layer.hidden_size, batch_first=True)
    twin.load_state_dict(layer.dequantized())
    return twin
