"""Codes of less than a byte in a graph: packed constants and the nodes that unpack them, which onnxruntime folds when it loads the file.

What a runtime computes with are the codes as 8-bit integers: the file is small, and products run as fast as with a byte a code.
A byte holds whole digits: 8 of base 2, 4 of base 4, 2 of base 16, or 5 of base 3. Other numbers of bits are the sum of two or
three such parts (3 bits: 2 and 1). For each part there is a table of all bytes, computed in the graph and shared between
layers; it is looked up byte by byte. All of it are operators that every runtime has: no shifts, no bitwise ones.
"""

from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper

from steps.models.blocks import BLOCK, round_to_blocks, to_blocks
from steps.models.codes import TERNARY_IN_A_BYTE, CodeFormat, Codes

# parts of a code in bits, the highest first
PARTS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
# digits that all numbers in a byte, 5 and 8, divide
FILLED_TO = 40
# bytes that the nodes of floats in blocks take, and each piece that is no whole number of blocks
WORTH_BLOCKS, GAP_BYTES = 250, 8
# the largest code whose products with 8 bits are exact in every kernel, two of them in 16 bits
LARGEST_INT8 = 63


class Unpacking:
    """Nodes and constants that hold the codes of a graph's layers.

    Packed, all codes of one format are one constant, and all float16 numbers another, which a few nodes cut into pieces: no
    constant with a name and a shape of its own for each layer, nor a node.

    Args:       packed: whether codes take their bits and scales are float16, or codes take a byte and scales are float32.
    Attributes: nodes: to be put in front of all others.   constants: by name.   Both are complete after `finish`.
    """

    def __init__(self, packed: bool = True) -> None:
        self.packed = packed
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        # pieces of the constants, by the name of the value that each becomes
        self.levels: dict[CodeFormat, dict[str, np.ndarray]] = {}
        self.short: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        """A constant that others may share. Returns: its name."""
        name = f"c/{array.dtype}/{array.shape}/{array.tobytes().hex()}"
        self.constants[name] = array
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node, unless one of this name is there. Returns: the name of its output."""
        if not any(name in node.output for node in self.nodes):
            self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def zero_point(self, format: CodeFormat) -> np.integer:
        """What `codes` adds to codes of a format, in the type that it gives them."""
        return np.int8(0) if format.largest <= LARGEST_INT8 else np.uint8(128)

    def codes(self, name: str, codes: Codes, order: np.ndarray) -> str:
        """A matrix in integers.

        Args:    name: for its constants.   order: its codes (int8) as the graph's layout has them, any shape.
        Returns: name of the value: codes and zero point, of the same shape.
        """
        if not self.packed or codes.format.bits == 8:
            own, zero = f"{name}.bytes" if self.packed else f"{name}.codes", self.zero_point(codes.format)
            self.constants[own] = (order.astype(np.int16) + zero).astype(zero.dtype)
            return own
        levels = (order.astype(np.int32) + codes.format.largest) // codes.format.code_step
        # a scale for each row or for several: the same codes
        kind = CodeFormat(codes.format.bits, codes.format.grid)
        self.levels.setdefault(kind, {})[f"{name}/codes"] = levels
        return f"{name}/codes"

    def floats(self, name: str, array: np.ndarray) -> str:
        """A float constant, stored as float16, or in blocks (steps/models/blocks.py) where that loses nothing.

        Args: array: of numbers that float16 has.  Returns: name of the float32 value.
        """
        self.short[name] = array.astype(np.float16)
        return name

    def scales(self, name: str, codes: Codes, shape: tuple[int, ...] | None = None) -> str:
        """What one more in a code adds to a weight. Args: shape: of the value; default: as in `codes`.  Returns: its name."""
        steps = codes.scales.numpy() / np.float32(codes.format.code_step)
        steps = steps if shape is None else steps.reshape(shape)
        return self.numbers(f"{name}/scales", steps)

    def numbers(self, name: str, array: np.ndarray) -> str:
        """A float constant, stored as float16 where codes are packed; its numbers are such, then. Returns: name of the float32 value."""
        if self.packed:
            return self.floats(name, array)
        self.constants[name] = array
        return name

    def finish(self) -> None:
        """Put the constants that layers share and the nodes that cut them in front."""
        later, self.nodes = self.nodes, []
        for format, pieces in self.levels.items():
            self.cut_columns(format, pieces)
        blocks = {name: piece for name, piece in self.short.items() if _lies_in_blocks(piece)}
        if sum(piece.nbytes - _bytes_in_blocks(piece.size) for piece in blocks.values()) > WORTH_BLOCKS:
            self.cut(self.numbers_of(blocks), blocks, BLOCK)
            self.short = {name: piece for name, piece in self.short.items() if name not in blocks}
        if self.short:
            numbers = np.concatenate([piece.ravel() for piece in self.short.values()])
            self.constants["short"] = np.pad(numbers, (0, -len(numbers) % FILLED_TO))
            self.cut(self.node("Cast", ["short"], "long", to=TensorProto.FLOAT), self.short)
        self.nodes += later
        self.levels, self.short = {}, {}

    def cut_columns(self, format: CodeFormat, pieces: dict[str, np.ndarray]) -> None:
        """Unpack all codes of a format, matrices with as many rows side by side. Args: pieces: levels by name, two axes or more."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, piece in pieces.items():
            alike.setdefault(piece.shape[:-1], []).append(name)
        groups = {names[0] if len(names) == 1 else f"{names[0]}/wide": names for names in alike.values()}
        wide = {group: np.concatenate([pieces[name] for name in names], axis=-1) for group, names in groups.items()}
        self.cut(self.unpacked(format, np.concatenate([piece.ravel() for piece in wide.values()])), wide)
        for group, names in groups.items():
            if len(names) > 1:
                widths = self.constant(np.array([pieces[name].shape[-1] for name in names]))
                self.nodes.append(helper.make_node("Split", [group, widths], names, axis=wide[group].ndim - 1))

    def unpacked(self, format: CodeFormat, levels: np.ndarray) -> str:
        """All codes of a format, of all layers. Args: levels: numbers of their levels, (N,).  Returns: name of (>= N,) integers."""
        parts, zero = _digits(format), self.zero_point(format)
        own, kind = f"{format.grid}{format.bits}", helper.np_dtype_to_tensor_dtype(zero.dtype)
        levels = np.pad(levels, (0, -len(levels) % FILLED_TO))
        values: list[str] = []
        for base, count, low in parts:
            digits = levels if base == 3 else (levels >> low) & (base - 1)
            self.constants[f"{own}.{low}"] = pack_digits(digits, base, count)
            first = int(zero) - format.largest if not values else 0
            # one part gives the codes, several are added up
            table = self.table(
                base, count, format.code_step << low, first, kind if len(parts) == 1 else TensorProto.INT32
            )
            index = self.node("Cast", [f"{own}.{low}"], f"{own}/{low}/i", to=TensorProto.INT32)
            looked_up = self.node("Gather", [table, index], f"{own}/{low}/g")
            values.append(self.node("Reshape", [looked_up, self.constant(np.array([-1]))], f"{own}/{low}"))
        total = values[0]
        for place, value in enumerate(values[1:]):
            total = self.node("Add", [total, value], f"{own}/sum{place}")
        return total if len(values) == 1 else self.node("Cast", [total], own, to=kind)

    def numbers_of(self, pieces: dict[str, np.ndarray]) -> str:
        """Floats that lie in blocks as whole numbers and powers of two. Args: pieces: by name.  Returns: name of the vector, each piece
        filled up to whole blocks, and the whole to FILLED_TO."""
        both = [to_blocks(torch.from_numpy(piece)) for piece in pieces.values()]
        numbers, exponents = (torch.cat(parts).numpy() for parts in zip(*both, strict=True))
        # whole blocks of zeros
        missing = -len(exponents) % (FILLED_TO // BLOCK)
        known, places = np.unique(np.pad(exponents, (0, missing), mode="edge"), return_inverse=True)
        self.constants["eighths"] = np.pad(numbers, ((0, missing), (0, 0)))
        self.constants["places"], self.constants["powers"] = (
            places.astype(np.uint8),
            np.ldexp(np.float32(1), known).astype(np.float16),
        )
        index = self.node("Cast", ["places"], "places/i", to=TensorProto.INT32)
        steps = self.node("Gather", ["powers", index], "steps")
        column = self.node("Reshape", [steps, self.constant(np.array([-1, 1]))], "steps/c")
        whole, step = (self.node("Cast", [name], f"{name}/f", to=TensorProto.FLOAT) for name in ("eighths", column))
        return self.node(
            "Reshape", [self.node("Mul", [whole, step], "blocks"), self.constant(np.array([-1]))], "blocks/1"
        )

    def cut(self, value: str, pieces: dict[str, np.ndarray], multiple: int = 1) -> None:
        """Split a vector into pieces of some sizes, whatever is left over, and give them their shapes.

        Args: pieces: by name.   multiple: what each is filled up to.
        """
        ends: dict[str, int] = {}
        for name, piece in pieces.items():
            ends[name if piece.ndim == 1 else f"{name}/flat"] = piece.size
            if gap := -piece.size % multiple:
                ends[f"{name}/gap"] = gap
        if filling := -sum(ends.values()) % FILLED_TO:
            ends[f"{value}/rest"] = filling
        self.nodes.append(helper.make_node("Split", [value, self.constant(np.array([*ends.values()]))], [*ends]))
        for name, piece in pieces.items():
            if piece.ndim != 1:
                self.node("Reshape", [f"{name}/flat", self.constant(np.array(piece.shape))], name)

    def table(self, base: int, count: int, step: int, first: int, kind: int) -> str:
        """What the digits of every byte stand for. Returns: name of a (256, count) value of type `kind`: digit * step + first."""
        whole = [self.constant(np.array(number, dtype=np.int32)) for number in (0, 256, 1, base, step, first)]
        name = f"table{base}"
        column = self.node("Range", whole[:3], "bytes")
        column = self.node("Reshape", [column, self.constant(np.array([256, 1]))], "column")
        powers = self.constant(base ** np.arange(count, dtype=np.int32))
        digits = self.node("Mod", [self.node("Div", [column, powers], f"{name}/d"), whole[3]], f"{name}/m")
        name += f"x{step}+{first}"
        added = self.node("Add", [self.node("Mul", [digits, whole[4]], f"{name}/x"), whole[5]], f"{name}/{first}")
        return self.node("Cast", [added], f"{name}/{kind}", to=kind)

    def weights(self, name: str, codes: Codes, shape: tuple[int, ...], by_column: bool) -> str:
        """What the codes stand for, in float.

        Args:    shape: of the value, that of (O, I) or, with `by_column`, (I, O).
        Returns: its name.
        """
        rows, columns = codes.codes.shape
        if self.packed and codes.format.bits < 8:
            own, zero = self.codes(name, codes, codes.codes.numpy()), float(self.zero_point(codes.format))
        else:
            own, zero = f"{name}.bytes", 0.0
            self.constants[own] = codes.codes.numpy()
        value = self.node("Cast", [own], f"{name}/f", to=TensorProto.FLOAT)
        if zero:
            value = self.node("Sub", [value, self.constant(np.float32(zero))], f"{name}/c")
        scales = self.scales(name, codes, (rows, codes.format.groups(columns)))
        if codes.format.group is not None:
            scales = self.repeated(scales, (rows, codes.format.groups(columns), codes.format.group), columns)
        value = self.node("Mul", [value, scales], f"{name}/w")
        if by_column:
            value = self.node("Transpose", [value], f"{name}/t", perm=(1, 0))
        if shape in ((rows, columns), (columns, rows)):
            return value
        return self.node("Reshape", [value, self.constant(np.array(shape))], f"{name}/r")

    def repeated(self, scales: str, shape: tuple[int, int, int], columns: int) -> str:
        """The scale of each weight from one for each group. Args: shape: rows, groups, weights in each; columns: of the matrix."""
        rows, groups, size = shape
        value = self.node("Reshape", [scales, self.constant(np.array([rows, groups, 1]))], f"{scales}/3")
        value = self.node("Expand", [value, self.constant(np.array(shape))], f"{scales}/x")
        value = self.node("Reshape", [value, self.constant(np.array([rows, -1]))], f"{scales}/2")
        ends = [self.constant(np.array([end])) for end in (0, columns, 1)]
        return self.node("Slice", [value, *ends], f"{scales}/s") if groups * size > columns else value


def _bytes_in_blocks(size):
    """What so many numbers take, and what names that which fills up the last block."""
    return -(-size // BLOCK) * (BLOCK + 1) + (GAP_BYTES if size % BLOCK else 0)


def _lies_in_blocks(array):
    """Whether a float16 array stays as it is in blocks, and takes fewer bytes there."""
    tensor = torch.from_numpy(array.astype(np.float32))
    if _bytes_in_blocks(array.size) >= array.nbytes:
        return False
    try:
        return torch.equal(round_to_blocks(tensor), tensor)
    except ValueError:
        return False


def pack_digits(digits: np.ndarray, base: int, count: int) -> np.ndarray:
    """Bytes of `count` digits each, the first one lowest, filled up with zeros. Args: digits (D,).  Returns: (B,) uint8."""
    filled = np.pad(digits, (0, -len(digits) % count)).reshape(-1, count)
    return (filled * base ** np.arange(count)).sum(axis=1).astype(np.uint8)


def _digits(format):
    """The parts of a code: (base, digits in a byte, bits below it)."""
    if format.grid == "ternary":
        return [(3, TERNARY_IN_A_BYTE, 0)]
    parts, low = [], format.bits
    for bits in PARTS[format.bits]:
        low -= bits
        parts.append((2**bits, 8 // bits, low))
    return parts
