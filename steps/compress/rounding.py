"""From float weights and a format to codes: scales by the largest weight or by least squares, and rounding to the nearest level."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from steps.models.blocks import round_to_blocks
from steps.models.codes import CodeFormat, Codes, is_packed

# rounds scales
Shorten = Callable[[torch.Tensor], torch.Tensor]

# of scales in a packed file: half of one is exact in float16, too
SMALLEST_SCALE = 2.0**-13
# what the scale of the largest weight is multiplied by, in search of the least squares
FACTORS = [0.1 * 11 ** (step / 32) for step in range(33)]


@dataclass(frozen=True)
class Noise:
    """What rounding did to a matrix. snr_db: power of the weights against that of the error.   clipped: share of the weights beyond
    the outermost levels by more than half a step, 0..1."""

    snr_db: float
    clipped: float


def reach(format: CodeFormat) -> float:
    """Largest magnitude, in scales, that rounds to a level at most half a step away."""
    return format.largest / format.code_step + 0.5


def largest_scales(weight: torch.Tensor, format: CodeFormat) -> torch.Tensor:
    """Scales with which no weight is clipped: the largest of a row or group is the outermost level or, on grid half, which has no
    zero to keep, half a step beyond it.

    Args:    weight: (O, I) float, finite.
    Returns: (O,) float32, or (O, G) with groups; where all weights are zero, 1 or, without a zero on the grid, SMALLEST_SCALE.
    Raises:  ValueError when a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    # (O, G)
    largest = torch.stack([part.abs().amax(dim=1) for part in _parts(weight.detach().float(), format)], dim=1)
    scales = largest / (reach(format) if format.grid == "half" else format.largest)
    # rows of zeros, or of numbers so small that the division gave zero
    scales = torch.where(scales > 0, scales, SMALLEST_SCALE if format.grid == "half" else 1.0)
    return scales[:, 0] if format.group is None else scales


def least_squares_scales(weight: torch.Tensor, format: CodeFormat) -> torch.Tensor:
    """Scales with the least squared error: the best of some shares of the largest weight's, then refined in turns with the codes.

    Args, Returns, Raises: see `largest_scales`.
    Source:  clipping by mean squared error, Banner et al. 2019 (arXiv:1810.05723), section 3; the refinement is Lloyd's.
    """
    weight = weight.detach().float()
    base = largest_scales(weight, format)
    best, least = base, _errors(weight, base, format)
    for factor in FACTORS:
        best, least = _better(weight, best, least, base * factor, format)
    for _ in range(3):
        best, least = _better(weight, best, least, fitted_scales(weight, best, format), format)
    return best


def fitted_scales(weight: torch.Tensor, scales: torch.Tensor, format: CodeFormat) -> torch.Tensor:
    """The best scales for the codes that `scales` lead to. Returns: the same shape; `scales` where all codes are zero."""
    values = round_to_codes(weight, scales, format).codes.float() / format.code_step
    both = zip(_parts(weight, format), _parts(values, format), strict=True)
    # (O, G) each
    products, squares = (
        torch.stack(column, dim=1) for column in zip(*(((w * q).sum(1), (q * q).sum(1)) for w, q in both), strict=True)
    )
    fitted = (products / squares.clamp(min=1e-30)).view_as(scales)
    return torch.where(fitted > 0, fitted, scales)


def round_to_codes(weight: torch.Tensor, scales: torch.Tensor, format: CodeFormat) -> Codes:
    """Round every weight to the nearest level. Args: weight (O, I); scales (O,) or (O, G)."""
    ratios, largest = weight.detach().float() / spread(scales, format, weight.shape[1]), format.largest
    levels = ratios.floor() * 2 + 1 if format.grid == "half" else ratios.round()
    return Codes(levels.clamp(-largest, largest).to(torch.int8), scales, format)


def spread(scales: torch.Tensor, format: CodeFormat, columns: int) -> torch.Tensor:
    """The scale of each weight. Args: scales (O,) or (O, G).  Returns: (O, 1) or (O, I)."""
    if format.group is None:
        return scales.unsqueeze(1)
    return scales.repeat_interleave(format.group, dim=1)[:, :columns]


def short_scales(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to what a packed file holds, float16 numbers of at least SMALLEST_SCALE. Raises: ValueError for those beyond it."""
    short = scales.clamp(min=SMALLEST_SCALE).half().float()
    if not torch.isfinite(short).all():
        raise ValueError("its weights are too large for a scale in float16")
    return short


def block_scales(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to eight bits, more than 0 and at most what `short_scales` allows. Raises: ValueError for those beyond it."""
    return round_to_blocks(short_scales(scales), above_zero=True)


def shortener(quantization: dict[str, Any]) -> Shorten | None:
    """What rounds the scales of a model's codes, those of LSTMs apart; None: nothing. Args: quantization: the entry of model.json."""
    if not is_packed(quantization):
        return None
    return block_scales if quantization["rest"] == "int8" else short_scales


def of_matrix(shorten: Shorten | None, matrix: str) -> Shorten | None:
    """What rounds the scales of one matrix: gates of an LSTM change places in a graph, and blocks with them, so theirs are float16.

    Args: shorten: from `shortener`.   matrix: its name in the layer.
    """
    return shorten if shorten is None or matrix == "weight" else short_scales


def scales_in_use(codes: Codes) -> torch.Tensor:
    """The scales of codes, SMALLEST_SCALE where those of a row or group are all zero: its bias, which fixed point rounds to whole
    multiples of the scale, loses almost nothing then. Returns: (O,) or (O, G)."""
    largest = torch.stack([part.abs().amax(dim=1) for part in _parts(codes.codes, codes.format)], dim=1)
    return torch.where(largest.view_as(codes.scales) > 0, codes.scales, SMALLEST_SCALE)


def noise(weight: torch.Tensor, codes: Codes) -> Noise:
    """What codes cost a matrix. Args: weight (O, I), what they were made from."""
    weight = weight.detach().double()
    error = (codes.dequantized().double() - weight).square().sum().item()
    power = weight.square().sum().item()
    limits = reach(codes.format) * spread(codes.scales.double(), codes.format, weight.shape[1])
    # scales and limits have been rounded
    clipped = (weight.abs() > limits * (1 + 1e-3)).double().mean().item()
    return Noise(10 * math.log10(max(power, 1e-30) / max(error, 1e-30)), clipped)


def _parts(weight, format):
    """The groups of each row, the last perhaps shorter. Returns: tensors (O, <= group)."""
    return [weight] if format.group is None else weight.split(format.group, dim=1)


def _errors(weight, scales, format):
    """Squared error of each row or group. Returns: shape of the scales."""
    squares = (round_to_codes(weight, scales, format).dequantized() - weight).square()
    return torch.stack([part.sum(dim=1) for part in _parts(squares, format)], dim=1).view_as(scales)


def _better(weight, best, least, scales, format):
    """Of two scales the one with the smaller error, row by row."""
    errors = _errors(weight, scales, format)
    is_better = errors < least
    return torch.where(is_better, scales, best), torch.where(is_better, errors, least)
