"""Quantized weights: integer codes of 1 to 8 bits, the grid they stand for, one scale per row or per group within a row."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from steps.core.cli import UserError
from steps.core.config import check

GRIDS = ("symmetric", "half", "ternary")
# how a packed file holds what is neither code nor scale
REST = ("float32", "float16", "int8")
# version 0.1 wrote layers of these bit widths, with one number for the whole model
WHOLE_BYTE_BITS = (8, 7)
# 3 ** 5 is 243
TERNARY_IN_A_BYTE = 5


def check_float(spec: Mapping[str, Any], name: str, what: str) -> None:
    """Raise UserError for a model in codes. Args: spec: its model.json.  name: of its folder.  what: to do with another, a verb."""
    if spec.get("quantization"):
        parent = (spec.get("parent") or {}).get("name")
        other = (
            f"its float parent, {parent}"
            if parent
            else "one trained without the section `quantization`: this was never float"
        )
        raise UserError(f"{name}: is quantized; {what} {other}")


@dataclass(frozen=True)
class CodeFormat:
    """How the weights of one layer are coded.

    bits: per code, 1 to 8.   grid: `symmetric`, the integers from -n to n, n = 2 ** (bits - 1) - 1; `half`, odd multiples of
    0.5 (-1.5, -0.5, 0.5, 1.5 for 2 bits), which leaves no code unused; `ternary`, -1, 0 and 1, five of them in a byte, with
    bits 2, which is what they would take one by one.   group: how many neighbours in a row share a scale; None: the whole row.
    """

    bits: int = 8
    grid: str = "symmetric"
    group: int | None = None

    def __post_init__(self):
        check(type(self.bits) is int and 1 <= self.bits <= 8, f"bits must be 1 to 8, not {self.bits!r}")
        check(self.grid in GRIDS, f"grid must be {' or '.join(GRIDS)}, not {self.grid!r}")
        check(self.grid == "half" or self.bits > 1, "grid symmetric needs 2 bits or more: with one bit it has only 0")
        check(self.grid != "half" or self.bits < 8, "grid half needs 7 bits or fewer: codes are stored as int8")
        check(self.grid != "ternary" or self.bits == 2, "grid ternary has bits 2")
        check(self.group is None or (type(self.group) is int and self.group >= 1), "group must be 1 or more")

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its negative. Codes of grid `half` are odd numbers, twice what they stand for."""
        return 2**self.bits - 1 if self.grid == "half" else 2 ** (self.bits - 1) - 1

    @property
    def code_step(self) -> int:
        """Distance from one code to the next."""
        return 2 if self.grid == "half" else 1

    @property
    def bits_per_code(self) -> float:
        """Bits that a packed code takes."""
        return 8 / TERNARY_IN_A_BYTE if self.grid == "ternary" else self.bits

    def groups(self, columns: int) -> int:
        """Number of scales for a row of this many weights."""
        return 1 if self.group is None else -(-columns // self.group)

    def code_bytes(self, rows: int, columns: int) -> int:
        """Bytes of packed codes; every row starts on a byte boundary."""
        return rows * (-(-columns // TERNARY_IN_A_BYTE) if self.grid == "ternary" else -(-columns * self.bits // 8))

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
        """The codes in as few bits as their format says, first ones lowest. Returns: (O, format.code_bytes(1, I)) uint8."""
        levels = (self.codes.to(torch.int16) + self.format.largest) // self.format.code_step
        if self.format.grid == "ternary":
            return _packed_digits(levels, 3, TERNARY_IN_A_BYTE)
        rows, bits = len(levels), self.format.bits
        planes = (levels.unsqueeze(-1) >> torch.arange(bits)) & 1
        return _packed_digits(planes.view(rows, -1), 2, 8)

    @classmethod
    def unpack(cls, packed: torch.Tensor, scales: torch.Tensor, format: CodeFormat, columns: int) -> "Codes":
        """The inverse of `pack`.

        Args:   packed: (O, B) uint8.   columns: I.
        Raises: ValueError when B does not fit, or bytes hold what is no code.
        """
        rows, bits = len(packed), format.bits
        if packed.numel() != format.code_bytes(rows, columns):
            raise ValueError(f"{packed.numel()} bytes of codes for {rows} x {columns} of {bits} bits")
        if format.grid == "ternary":
            levels = _digits(packed, 3, TERNARY_IN_A_BYTE)[:, :columns]
        else:
            planes = _digits(packed, 2, 8)[:, : columns * bits].view(rows, columns, bits)
            levels = (planes << torch.arange(bits, dtype=torch.int16)).sum(dim=-1, dtype=torch.int16)
        codes = levels * format.code_step - format.largest
        if not codes.is_meta and bool((codes > format.largest).any()):
            raise ValueError(f"a code above {format.largest}")
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
    if is_packed(quantization):
        rest_type(quantization)
    if isinstance(layers, dict):
        return {name: CodeFormat(**fields) for name, fields in layers.items()}
    bits = quantization["bits"]
    check(bits in WHOLE_BYTE_BITS, f"bits must be 8 or 7, not {bits!r}")
    return dict.fromkeys(layers, CodeFormat(bits))


def describe_formats(formats: dict[str, CodeFormat]) -> dict[str, Any]:
    """The formats as model.json holds them."""
    return {"layers": {name: format.to_dict() for name, format in formats.items()}}


def describe_packed(formats: dict[str, CodeFormat], rest: str) -> dict[str, Any]:
    """The entry of a model whose file holds packed codes and float16 scales. Args: rest: of REST, all other tensors."""
    return {"packed": True, "rest": rest} | describe_formats(formats)


def is_packed(quantization: dict[str, Any] | None) -> bool:
    """Whether the file holds packed codes; otherwise a byte for each, and float32 scales. Args: the entry in model.json."""
    packed = (quantization or {}).get("packed", False)
    check(type(packed) is bool, "quantization: packed must be true or false")
    return packed


def rest_type(quantization: dict[str, Any]) -> torch.dtype:
    """Type of the tensors in the file that are neither codes nor scales; float16 has all numbers of eight bits."""
    rest = quantization.get("rest", "float32")
    check(rest in REST, f"quantization: rest must be one of {', '.join(REST)}, not {rest!r}")
    return torch.float32 if rest == "float32" else torch.float16


def _packed_digits(digits, base, count):
    """Bytes of `count` digits each, the first one lowest, rows filled up with zeros. Args: digits (O, D).  Returns: (O, B) uint8."""
    rows, columns = digits.shape
    digits = torch.nn.functional.pad(digits, (0, -columns % count)).view(rows, -1, count)
    return (digits * base ** torch.arange(count)).sum(dim=-1).to(torch.uint8)


def _digits(packed, base, count):
    """The inverse; a byte's last digit takes whatever is left. Returns: (O, count B) int16."""
    powers = base ** torch.arange(count, dtype=torch.int16)
    digits = packed.to(torch.int16).unsqueeze(-1) // powers
    digits[..., :-1] %= base
    return digits.view(len(packed), -1)
