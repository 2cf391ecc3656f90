"""Products that run on packed codes: com.microsoft's MatMulNBits, for which a row is blocks of 16 to 256 weights with a scale each.

The file holds the codes as the operator takes them, so that nothing is unpacked when it is loaded and weights take their bits in
memory, too. Activations stay float (the operator's accuracy_level is left out).
"""

import numpy as np
from onnx import NodeProto, helper

from steps.core.cli import UserError
from steps.deploy.packed import Unpacking, pack_digits
from steps.models.asr_model import AsrModel
from steps.models.codes import CodeFormat, Codes
from steps.models.quant_layers import QuantLinear, quantized_layers
from steps.models.ranges import ActivationRange

MICROSOFT = "com.microsoft"
BLOCKS = (16, 32, 64, 128, 256)
# bits and grid -> the first onnxruntime that runs them, found by trial of 1.15.0 to 1.31.1
FIRST_RUNTIME = {
    (4, "symmetric"): "1.16.2",
    (4, "half"): "1.18",
    (8, "symmetric"): "1.23",
    (2, "symmetric"): "1.24",
    (2, "half"): "1.27",
}


def keep_packed_(model: AsrModel, where: str) -> None:
    """Let every Linear in codes stay packed in the graphs that are made of the model; LSTMs and convolutions stay as they are.

    Args:   where: the model folder, for messages.
    Raises: UserError naming the first layer whose format the operator does not take.
    """
    layers = {name: layer for name, layer in quantized_layers(model).items() if isinstance(layer, QuantLinear)}
    remedy = "quantize with bits: 4 and group: 32, say"
    if not layers:
        raise UserError(f"{where}: --matmul nbits: no Linear of the model is in codes; {remedy}")
    for name, layer in layers.items():
        if misfit := _misfit(layer):
            raise UserError(f"{where}: --matmul nbits: {name} has {misfit}; {remedy}")
        layer.stays_packed = True


def oldest_runtime(model: AsrModel, otherwise: str) -> str:
    """The first onnxruntime that runs a model's graphs. Args: otherwise: that of graphs without MatMulNBits."""
    formats = [layer.format for layer in quantized_layers(model).values() if getattr(layer, "stays_packed", False)]
    versions = [FIRST_RUNTIME[one.bits, one.grid] for one in formats]
    return max(versions, default=otherwise, key=lambda version: [int(part) for part in version.split(".")])


def nbits_product(node: NodeProto, name: str, weight: Codes, unpacking: Unpacking) -> list[NodeProto]:
    """Nodes in place of a MatMul or Gemm. Args: name: of the layer.   weight: of a format that fits."""
    (rows, columns), format = weight.codes.shape, weight.format
    assert format.group is not None
    unpacking.constants[f"{name}.blocks"] = blocks(weight)
    # of a level, not of a code
    scales = unpacking.numbers(f"{name}/scales", weight.scales.numpy().ravel())
    inputs = [node.input[0], f"{name}.blocks", scales]
    if format.grid == "half":
        count = unpacking.constant(np.array([rows * format.groups(columns)]))
        middle = unpacking.constant(np.float32((2**format.bits - 1) / 2))
        inputs.append(unpacking.node("Expand", [middle, count], f"{name}/middle"))
    outputs = list(node.output) if len(node.input) == 2 else [f"{name}/product"]
    sizes = {"K": columns, "N": rows, "bits": format.bits, "block_size": format.group}
    nodes = [helper.make_node("MatMulNBits", inputs, outputs, domain=MICROSOFT, **sizes)]
    # of a Gemm
    if len(node.input) > 2:
        nodes.append(helper.make_node("Add", [outputs[0], node.input[2]], list(node.output)))
    return nodes


def blocks(weight: Codes) -> np.ndarray:
    """Codes as the operator takes them: levels from 0 up, the first of a byte lowest, rows filled up to whole blocks.

    Returns: (O, G, bytes of a block) uint8.
    """
    (rows, columns), format = weight.codes.shape, weight.format
    assert format.group is not None
    codes, groups = weight.codes.numpy().astype(np.int64), format.groups(columns)
    # what stands for zero is 2 ** (bits - 1), unless it is said otherwise
    levels = (codes + format.largest) // 2 if format.grid == "half" else codes + 2 ** (format.bits - 1)
    filled = np.pad(levels, ((0, 0), (0, groups * format.group - columns)))
    return pack_digits(filled.ravel(), 2**format.bits, 8 // format.bits).reshape(rows, groups, -1)


def _misfit(layer: QuantLinear) -> str | None:
    """What of a layer the operator does not take."""
    format: CodeFormat = layer.format
    if isinstance(layer.input, ActivationRange):
        return "fixed scales of activations"
    if (format.bits, format.grid) not in FIRST_RUNTIME:
        return f"{format.bits} bits on grid {format.grid}, not {' or '.join(f'{b} {g}' for b, g in FIRST_RUNTIME)}"
    if format.group not in BLOCKS:
        return f"{'a scale for each row' if format.group is None else f'group {format.group}'}, not group {_either(BLOCKS)}"
    return None


def _either(numbers):
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
