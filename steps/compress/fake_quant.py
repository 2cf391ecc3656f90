"""Training with rounded weights: layers that round in their forward pass and learn their scales, in a model that is else the same.

`prepare_` puts them in before training, `convert` turns the trained model into one with codes: exactly those that the last
forward pass computed with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steps.compress import rounding
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import Coder, coded_model, layer_suffix
from steps.core.config import check
from steps.models.asr_model import AsrModel
from steps.models.codes import CodeFormat, Codes


@dataclass(kw_only=True)
class RoundedConfig(QuantizeConfig):
    """Settings of a training that rounds its weights from the first update on: those of a quantization with method qat."""

    method: str = "qat"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.method == "qat", "method: a training rounds by qat; leave it out, or round the finished model")
        check(not self.has_target, "target_kb, target_bits: bits are chosen by a finished model's loss; name them here")


class Rounded(torch.autograd.Function):
    """Weights rounded to the levels of a format; the gradient passes through the rounding.

    Args:    weight (O, I); scales, broadcastable to it, > 0; the format; shrink, which the scales' gradient is multiplied by.
    Returns: (O, I), levels times scales.
    Source:  learned step size quantization, Esser et al. 2019 (arXiv:1902.08153), section 2. Ours: a weight gets its gradient
             until it is half a step beyond the outermost level, so that with one bit most weights do.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, scales: torch.Tensor, format: CodeFormat, shrink: float
    ) -> torch.Tensor:
        ratios, top = weight / scales, format.largest / format.code_step
        levels = ratios.floor() + 0.5 if format.grid == "half" else ratios.round()
        levels = levels.clamp(-top, top)
        inside = ratios.abs() <= rounding.reach(format)
        # what one more in the scale adds to the rounded weight
        ctx.save_for_backward(inside, levels - torch.where(inside, ratios, 0.0))
        ctx.shrink, ctx.shape = shrink, scales.shape
        return levels * scales

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        inside, slope = ctx.saved_tensors
        of_scales = grad * slope * ctx.shrink
        if ctx.shape[1] == 1:
            of_scales = of_scales.sum(dim=1, keepdim=True)
        return grad * inside, of_scales, None, None


class RoundedWeights(nn.Module):
    """What the layers below share: for each of their matrices a parameter of scales, as logarithms and in one dimension, so that
    optimizers treat them as they do biases; a step of the optimizer then changes a scale by the same share, whatever its size.

    Attributes: format: of the codes.   shorten: of their scales, see rounding.shortener.   matrices: names of the layer's, without `_l0`.
    """

    format: CodeFormat
    shorten: rounding.Shorten | None
    matrices: tuple[str, ...]

    def add_scales(self, name: str, weight: torch.Tensor) -> None:
        """Start at the scales of the least squares. Args: name: of the matrix among the layer's, without `_l0`."""
        scales = rounding.least_squares_scales(weight, self.format)
        self.register_parameter(f"{name}_log_scales", nn.Parameter(scales.clamp(min=1e-30).log().flatten()))

    def scales(self, name: str) -> torch.Tensor:
        """The scales of a matrix. Returns: (O,), or (O, G) with groups."""
        weight = getattr(self, name + layer_suffix(self))
        scales = getattr(self, f"{name}_log_scales").exp()
        if (shorten := rounding.of_matrix(self.shorten, name)) is not None:
            scales = scales + (shorten(scales.detach()) - scales.detach())
        return scales if self.format.group is None else scales.view(len(weight), -1)

    def rounded(self, name: str) -> torch.Tensor:
        """A matrix as its codes will have it. Returns: (O, I)."""
        weight = getattr(self, name + layer_suffix(self))
        scales = rounding.spread(self.scales(name), self.format, weight.shape[1])
        shrink = 1 / math.sqrt(min(self.format.group or math.inf, weight.shape[1]) * 2 ** (self.format.bits - 1))
        return Rounded.apply(weight, scales, self.format, shrink)

    def codes(self, name: str) -> Codes:
        """The codes of a matrix."""
        weight = getattr(self, name + layer_suffix(self))
        with torch.no_grad():
            return rounding.round_to_codes(weight, self.scales(name), self.format)


class RoundedLinear(RoundedWeights, nn.Linear):
    """A Linear that rounds its weight. Args: layer: whose parameters it takes over."""

    matrices = ("weight",)

    def __init__(self, layer: nn.Linear, format: CodeFormat, shorten: rounding.Shorten | None):
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.format, self.shorten = format, shorten
        self.add_scales("weight", layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (..., I).  Returns: (..., O)."""
        return functional.linear(x, self.rounded("weight"), self.bias)


class RoundedLSTM(RoundedWeights, nn.LSTM):
    """A one-layer, one-way, batch-first LSTM that rounds its gate matrices. Args: layer: whose parameters it takes over."""

    matrices = ("weight_ih", "weight_hh")

    def __init__(self, layer: nn.LSTM, format: CodeFormat, shorten: rounding.Shorten | None):
        nn.LSTM.__init__(self, layer.input_size, layer.hidden_size, batch_first=True, device="meta")
        for name, parameter in layer.named_parameters():
            setattr(self, name, parameter)
        self.format, self.shorten = format, shorten
        for name in self.matrices:
            self.add_scales(name, getattr(layer, f"{name}_l0"))

    # narrower than nn.LSTM's on purpose: no packed sequences and no first state, which nothing here passes
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:  # type: ignore[override]
        """Args: x (N, T, I).  Returns: (N, T, H) and the last state (h, c), each (1, N, H)."""
        zeros = x.new_zeros(1, x.shape[0], self.hidden_size)
        weights = [*map(self.rounded, self.matrices), self.bias_ih_l0, self.bias_hh_l0]
        # arguments after the weights: has_biases, num_layers, dropout, train, bidirectional, batch_first
        output, hidden, cell = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, self.training, False, True)
        return output, (hidden, cell)


def prepare_(model: AsrModel, formats: Mapping[str, CodeFormat], shorten: rounding.Shorten | None) -> None:
    """Let every Linear and LSTM with a format round its weights; convolutions are rounded by `convert` only.

    Args:   formats: as `choose_formats` returns them.   shorten: of scales, see rounding.shortener.
    Raises: ValueError when a scale would not fit.
    """
    for name, format in formats.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, RoundedLinear(layer, format, shorten))
        elif isinstance(layer, nn.LSTM):
            model.set_submodule(name, RoundedLSTM(layer, format, shorten))


def convert(
    model: AsrModel, quantization: dict[str, Any], formats: Mapping[str, CodeFormat], fallback: Coder
) -> AsrModel:
    """The model with codes that a prepared one has become.

    Args:    quantization: the entry of model.json for these formats.   fallback: codes the layers that were not prepared.
    Returns: a new model in eval mode, on the CPU.
    """

    def code(name: str, matrix: str, weight: torch.Tensor, format: CodeFormat) -> Codes:
        layer = model.get_submodule(name)
        if not isinstance(layer, RoundedWeights):
            return fallback(name, matrix, weight, format)
        codes = layer.codes(matrix)
        return Codes(codes.codes.cpu(), codes.scales.cpu(), format)

    return coded_model(model, quantization, formats, code)


def describe_state(model: nn.Module) -> str:
    """How well the weights of a prepared model lie on their grids, in one line: rounding noise and clipped weights."""
    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, RoundedWeights):
            for matrix in layer.matrices:
                weight = getattr(layer, matrix + layer_suffix(layer))
                rows.append((rounding.noise(weight, layer.codes(matrix)), weight.numel(), name))
    total = sum(size for _, size, _ in rows)
    snr_db = sum(row.snr_db * size for row, size, _ in rows) / total
    clipped = sum(row.clipped * size for row, size, _ in rows) / total
    worst, _, name = min(rows, key=lambda row: row[0].snr_db)
    return f"codes: {snr_db:.1f} dB, {clipped:.2%} of the weights clipped; worst {worst.snr_db:.1f} dB, {name}"
