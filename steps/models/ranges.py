"""Activations rounded to 8 bits with a scale that is fixed beforehand."""

from collections.abc import Callable

import torch
from torch import nn

from steps.core.config import check

# of a code; the smallest is 0
LARGEST = 255


class ActivationRange(nn.Module):
    """Rounds activations to the nearest of 256 numbers, evenly spaced, of which one is zero; what is beyond them becomes the last.

    In an exported graph it is QuantizeLinear and DequantizeLinear, with the same numbers.

    Args:       low, high: what it covers whatever the data; left out, calibration finds it.
    Buffers:    scale: () float32, above 0, from one number to the next.   zero_point: () int32, 0..255, the code of zero.
    Attributes: is_given: whether calibration leaves it alone.   listen: None or, while calibration looks on, called with
                activations, which are then not rounded.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.listen: Callable[[torch.Tensor], None] | None = None
        self.is_given = low is not None and high is not None
        if low is not None and high is not None:
            self.set_(low, high)

    def set_(self, low: float, high: float) -> None:
        """Cover the numbers from `low` to `high`, and zero."""
        scale, zero_point = scale_of(low, high)
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number that it gives."""
        scale, zero_point = float(self.scale), int(self.zero_point)
        return -zero_point * scale, (LARGEST - zero_point) * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x, any shape, float.  Returns: the same shape, rounded."""
        if self.listen is not None:
            self.listen(x)
            return x
        if torch.onnx.is_in_onnx_export():
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, LARGEST)
        codes = (x / self.scale).round() + self.zero_point
        return (codes.clamp(0, LARGEST) - self.zero_point) * self.scale


def scale_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point for numbers from `low` to `high`, and zero. Returns: float above 0; 0..255."""
    low, high = min(low, 0.0), max(high, 0.0)
    # on the CPU whatever the default device
    scale = float(torch.tensor((high - low) / LARGEST, dtype=torch.float32, device="cpu"))
    if not scale:
        # nothing but zeros, or numbers next to it
        return 1.0, 0
    return scale, min(LARGEST, max(0, round(-low / scale)))


def check_range(scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    """Raise ValueError for what a file has no business to hold."""
    check(bool(torch.isfinite(scale)) and float(scale) > 0, "a scale of activations is not above 0")
    check(0 <= int(zero_point) <= LARGEST, f"a zero point of activations is not 0 to {LARGEST}")
