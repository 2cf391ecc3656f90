"""Layers whose weights are int8 codes with one scale per output channel.

In torch only the weights are quantized: the forward pass multiplies codes by scales and computes in float. The exported
graph quantizes the activations too, to 8 bits with a scale chosen for each input, and multiplies in integers.
"""

import torch
from torch import nn
from torch.nn import functional

LARGEST_CODE = {8: 127, 7: 63}  # by bits


class QuantLinear(nn.Module):
    """x -> x W^T + b with W = weight_codes * weight_scales.

    Buffers: weight_codes (O, I) int8, as far as LARGEST_CODE; weight_scales (O,) float32.  bias: (O,) parameter or None.
    """

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight_codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scales", torch.ones(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def dequantized(self):
        """The Linear's tensors in float. Returns: {"weight": (O, I), "bias": (O,) or absent}."""
        tensors = {"weight": _dequantize(self.weight_codes, self.weight_scales)}
        return tensors if self.bias is None else tensors | {"bias": self.bias}

    def forward(self, x):
        """Args: x (..., in_features) float.  Returns: (..., out_features)."""
        return functional.linear(x, _dequantize(self.weight_codes, self.weight_scales), self.bias)


class QuantLSTM(nn.Module):
    """A one-layer, one-way, batch-first LSTM with quantized gate matrices; a scale for each row of a matrix.

    Buffers: weight_ih_codes (4H, I), weight_hh_codes (4H, H) int8; weight_ih_scales, weight_hh_scales (4H,) float32; in
    torch's order of gates (input, forget, cell, output).  bias_ih, bias_hh: (4H,) parameters.
    """

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = 4 * hidden_size
        for name, columns in (("ih", input_size), ("hh", hidden_size)):
            self.register_buffer(f"weight_{name}_codes", torch.zeros(rows, columns, dtype=torch.int8))
            self.register_buffer(f"weight_{name}_scales", torch.ones(rows))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(rows)))

    def dequantized(self):
        """The LSTM's tensors in float, under the names nn.LSTM gives them. Returns: dict."""
        return {
            "weight_ih_l0": _dequantize(self.weight_ih_codes, self.weight_ih_scales),
            "weight_hh_l0": _dequantize(self.weight_hh_codes, self.weight_hh_scales),
            "bias_ih_l0": self.bias_ih,
            "bias_hh_l0": self.bias_hh,
        }

    def forward(self, x):
        """Args: x (N, T, input_size).  Returns: (N, T, H) and the last state (h, c), each (1, N, H)."""
        zeros = x.new_zeros(1, x.shape[0], self.hidden_size)
        weights = list(self.dequantized().values())
        # arguments after the weights: has_biases, num_layers, dropout, train, bidirectional, batch_first
        output, hidden, cell = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, True)
        return output, (hidden, cell)


def _dequantize(codes, scales):
    return codes.to(scales.dtype) * scales.unsqueeze(1)


def quantized_like(layer):
    """An empty quantized layer of the same sizes as a Linear or LSTM.

    Raises: TypeError for another layer, ValueError for an LSTM that is not one-layer, one-way, batch-first with biases.
    """
    if isinstance(layer, nn.Linear):
        return QuantLinear(layer.in_features, layer.out_features, layer.bias is not None)
    if not isinstance(layer, nn.LSTM):
        raise TypeError(f"{type(layer).__name__} cannot be quantized; only Linear and LSTM can")
    special = layer.num_layers > 1 or layer.bidirectional or layer.proj_size or not layer.batch_first or not layer.bias
    if special:
        raise ValueError(f"{layer}: only one-layer, one-way, batch-first LSTMs with biases can be quantized")
    return QuantLSTM(layer.input_size, layer.hidden_size)


def float_like(layer):
    """The Linear or LSTM with the weights a quantized layer stands for. Returns: nn.Linear or nn.LSTM."""
    if isinstance(layer, QuantLinear):
        twin = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    else:
        twin = nn.LSTM(layer.input_size, layer.hidden_size, batch_first=True)
    twin.load_state_dict(layer.dequantized())
    return twin
