"""Codes of less than a byte in a graph: packed constants and the nodes that unpack them, which onnxruntime folds when it loads the file.

What a runtime computes with are the codes as 8-bit integers: the file is small, and products run as fast as with a byte a code.
A byte holds whole digits: 8 of base 2, 4 of base 4, 2 of base 16, or 5 of base 3. Other numbers of bits are the sum of two or
three such parts (3 bits: 2 and 1). For each part there is a table of all bytes, computed in the graph and shared between
layers; it is looked up byte by byte. All of it are operators that every runtime has: no shifts, no bitwise ones.
"""

import math
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from steps.models.codes import TERNARY_IN_A_BYTE, CodeFormat, Codes

# parts of a code in bits, the highest first
PARTS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
# the largest code whose products with 8 bits are exact in every kernel, two of them in 16 bits
LARGEST_INT8 = 63


class Unpacking:
    """Nodes and constants that hold the codes of a graph's layers.

    Args:       packed: whether codes take their bits and scales are float16, or codes take a byte and scales are float32.
    Attributes: nodes: to be put in front of all others.   constants: by name.
    """

    def __init__(self, packed: bool = True) -> None:
        self.packed = packed
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

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
        zero = self.zero_point(codes.format)
        if not self.packed or codes.format.bits == 8:
            own = f"{name}.bytes" if self.packed else f"{name}.codes"
            self.constants[own] = (order.astype(np.int16) + zero).astype(zero.dtype)
            return own
        shift, kind = int(zero), helper.np_dtype_to_tensor_dtype(zero.dtype)
        levels = (order.astype(np.int32) + codes.format.largest) // codes.format.code_step
        parts = []
        for place, (base, count, low) in enumerate(_digits(codes.format)):
            digits = levels % 3 if base == 3 else (levels >> low) & (base - 1)
            self.constants[f"{name}.packed{place}"] = pack_digits(digits.ravel(), base, count)
            first = shift - codes.format.largest if place == 0 else 0
            # one part gives the codes, several are added up
            wanted = kind if len(_digits(codes.format)) == 1 else TensorProto.INT32
            table = self.table(base, count, codes.format.code_step << low, first, wanted)
            bytes_ = self.node("Cast", [f"{name}.packed{place}"], f"{name}/i{place}", to=TensorProto.INT32)
            looked_up = self.node("Gather", [table, bytes_], f"{name}/g{place}")
            parts.append(self.shaped(looked_up, order.shape, count, f"{name}/p{place}"))
        total = parts[0]
        for place, part in enumerate(parts[1:], start=1):
            total = self.node("Add", [total, part], f"{name}/a{place}")
        return total if len(parts) == 1 else self.node("Cast", [total], f"{name}/codes", to=kind)

    def shaped(self, value: str, shape: tuple[int, ...], count: int, name: str) -> str:
        """Give digits, `count` to a byte, their shape, without those that fill up the last byte."""
        size = math.prod(shape)
        if size % count:
            flat = self.node("Reshape", [value, self.constant(np.array([-1]))], f"{name}/flat")
            ends = [self.constant(np.array([end])) for end in (0, size)]
            value = self.node("Slice", [flat, *ends], f"{name}/cut")
        return self.node("Reshape", [value, self.constant(np.array(shape, dtype=np.int64))], name)

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

    def floats(self, name: str, array: np.ndarray) -> str:
        """A float constant, stored as float16. Args: array: of numbers that float16 has.  Returns: name of the float32 value."""
        self.constants[f"{name}.short"] = array.astype(np.float16)
        return self.node("Cast", [f"{name}.short"], name, to=TensorProto.FLOAT)

    def scales(self, name: str, codes: Codes, shape: tuple[int, ...] | None = None) -> str:
        """What one more in a code adds to a weight. Args: shape: of the value; default: as in `codes`.  Returns: its name."""
        steps = codes.scales.numpy() / np.float32(codes.format.code_step)
        steps = steps if shape is None else steps.reshape(shape)
        if self.packed:
            return self.floats(f"{name}/scales", steps)
        self.constants[f"{name}.scales"] = steps
        return f"{name}.scales"

    def weights(self, name: str, codes: Codes, shape: tuple[int, ...], by_column: bool) -> str:
        """What the codes stand for, in float.

        Args:    shape: of the value, that of (O, I) or, with `by_column`, (I, O).
        Returns: its name.
        """
        rows, columns = codes.codes.shape
        value = self.node("Cast", [self.codes(name, codes, codes.codes.numpy())], f"{name}/f", to=TensorProto.FLOAT)
        zero = self.zero_point(codes.format)
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
