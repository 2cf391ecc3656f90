"""Quantized weights: integer codes of 1 to 8 bits, the grid they stand for, one scale per row or per group within a row."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from steps.core.config import check

GRIDS = ("symmetric", "half")
# version 0.1 wrote layers of these bit widths, with one number for the whole model
WHOLE_BYTE_BITS = (8, 7)


@dataclass(frozen=True)
class CodeFormat:
    """How the weights of one layer are coded.

    bits: per code, 1 to 8.   grid: `symmetric`, the integers from -n to n, n = 2 ** (bits - 1) - 1; `half`, odd multiples of
    0.5 (-1.5, -0.5, 0.5, 1.5 for 2 bits), which leaves no code unused.   group: how many neighbours in a row share a scale;
    None: the whole row.
    """

    bits: int = 8
    grid: str = "symmetric"
    group: int | None = None

    def __post_init__(self):
        check(type(self.bits) is int and 1 <= self.bits <= 8, f"bits must be 1 to 8, not {self.bits!r}")
        check(self.grid in GRIDS, f"grid must be {' or '.join(GRIDS)}, not {self.grid!r}")
        check(self.grid == "half" or self.bits > 1, "grid symmetric needs 2 bits or more: with one bit it has only 0")
        check(self.grid == "symmetric" or self.bits < 8, "grid half needs 7 bits or fewer: codes are stored as int8")
        check(self.group is None or (type(self.group) is int and self.group >= 1), "group must be 1 or more")

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its negative. Codes of grid `half` are odd numbers, twice what they stand for."""
        return 2 ** (self.bits - 1) - 1 if self.grid == "symmetric" else 2**self.bits - 1

    @property
    def code_step(self) -> int:
        """Distance from one code to the next."""
        return 1 if self.grid == "symmetric" else 2

    def groups(self, columns: int) -> int:
        """Number of scales for a row of this many weights."""
        return 1 if self.group is None else -(-columns // self.group)

    def code_bytes(self, rows: int, columns: int) -> int:
        """Bytes of packed codes; every row starts on a byte boundary."""
        return rows * (-(-columns * self.bits // 8))

    def to_dict(self) -> dict[str, Any]:
        """The form that model.json holds."""
        return asdict(self)


@dataclass(frozen=True)
class Codes:
    """A weight matrix in codes.

    codes: (O, I) int8.   scales: (O,) float, or (O, G) with a group size.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    format: CodeFormat

    def dequantized(self) -> torch.Tensor:
        """The weights that the codes stand for. Returns: (O, I), in the scales' dtype."""
        values = self.codes.to(self.scales.dtype)
        if self.format.grid == "half":
            values = values / 2
        if self.format.group is None:
            return values * self.scales.unsqueeze(1)
        return values * self.scales.repeat_interleave(self.format.group, dim=1)[:, : values.shape[1]]

    def pack(self) -> torch.Tensor:
        """The codes, packed into `bits` bits each. Returns: (O, B) uint8, B = ceil(I * bits / 8), low bits first."""
        rows, columns = self.codes.shape
        bits = self.format.bits
        levels = (self.codes.to(torch.int16) + self.format.largest) // self.format.code_step
        planes = (levels.unsqueeze(-1) >> torch.arange(bits)) & 1
        stream = planes.view(rows, columns * bits).to(torch.uint8)
        stream = torch.nn.functional.pad(stream, (0, -columns * bits % 8)).view(rows, -1, 8)
        return (stream << torch.arange(8, dtype=torch.uint8)).sum(dim=-1, dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: torch.Tensor, scales: torch.Tensor, format: CodeFormat, columns: int) -> "Codes":
        """The inverse of `pack`. Args: packed (O, B) uint8; columns: I.   Raises: ValueError when B does not fit."""
        rows, bits = len(packed), format.bits
        if packed.numel() != format.code_bytes(rows, columns):
            raise ValueError(f"{packed.numel()} bytes of codes for {rows} x {columns} of {bits} bits")
        stream = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
        planes = stream.view(rows, -1)[:, : columns * bits].view(rows, columns, bits).to(torch.int16)
        levels = (planes << torch.arange(bits, dtype=torch.int16)).sum(dim=-1, dtype=torch.int16)
        codes = levels * format.code_step - format.largest
        return cls(codes.to(torch.int8), scales, format)

    def size_bytes(self) -> int:
        """Bytes of packed codes and scales."""
        return self.format.code_bytes(*self.codes.shape) + self.scales.nbytes


def read_formats(quantization: dict[str, Any]) -> dict[str, CodeFormat]:
    """The formats of a model's quantized layers.

    Args:   quantization: the entry in model.json, {"layers": {name: format}} or, from version 0.1, {"bits", "layers": [name]}.
    Raises: ValueError, KeyError, TypeError when it is neither.
    """
    layers = quantization["layers"]
    if isinstance(layers, dict):
        return {name: CodeFormat(**fields) for name, fields in layers.items()}
    bits = quantization["bits"]
    check(bits in WHOLE_BYTE_BITS, f"bits must be 8 or 7, not {bits!r}")
    return dict.fromkeys(layers, CodeFormat(bits))


def describe_formats(formats: dict[str, CodeFormat]) -> dict[str, Any]:
    """The formats as model.json holds them."""
    return {"layers": {name: format.to_dict() for name, format in formats.items()}}
