"""Rewrites a traced float graph so that its quantized layers hold the codes of the model folder and, where a row has one scale,
multiply integers.

A Linear becomes DynamicQuantizeMatMul and an LSTM DynamicQuantizeLSTM, both com.microsoft's: one node where ONNX's own operators
take five. Activations are quantized to 8 bits, one scale for each input tensor. Convolutions, and layers with a scale for each
group, keep their operator; their weights are computed from the codes when the file is loaded (or never, steps/deploy/nbits.py).
With fixed scales of activations all are in QDQ form instead (steps/deploy/fixed_point.py).

On processors with AVX2 or AVX-512 but without VNNI, onnxruntime adds two products of uint8 and int8 in 16 bits. With codes
beyond 63 that saturates and costs 10 to 25 dB, so these are stored as `code + 128` in uint8 with zero point 128, whose
kernels are exact and slower. Two products of 255 and 63 fit into 16 bits, so codes of 7 bits and less are int8.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from steps.core.cli import UserError
from steps.deploy.fixed_point import fixed_product, rounded_at_source
from steps.deploy.nbits import MICROSOFT, nbits_product
from steps.deploy.packed import Unpacking
from steps.models.codes import Codes
from steps.models.quant_layers import QuantConv, Quantized, QuantLinear, QuantLSTM
from steps.models.ranges import ActivationRange

FUSED = "DynamicQuantizeMatMul"
# numbers of a constant that are worth a piece of the one of float16, and with a shape of its own
WORTH_A_PIECE, WORTH_A_SHAPE = 4, 32


def integer_graph_(graph: ModelProto, layers: Mapping[str, Quantized], packed: bool = False) -> None:
    """Replace the float form of every quantized layer.

    Args:   graph: the float twin, traced.   layers: quantized layers by name.   packed: whether the folder's codes are packed
            and its scales float16; then those of the graph are, too, and so is what else is exact in float16.
    Raises: UserError naming layers that are not in the graph.
    """
    body = graph.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    # the float weight as the graph has it -> names of the layers with such a weight
    waiting: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        waiting.setdefault(_key(float_weight(layer)), []).append(name)
    nodes: list[NodeProto] = []
    unpacking = Unpacking(packed)
    for node in body.node:
        weight = constants.get(node.input[1]) if node.op_type in REWRITES else None
        names = waiting.get(_key(as_matrix(node, weight))) if weight is not None else None
        if weight is None or not names:
            nodes.append(node)
            continue
        name = names.pop(0)
        nodes += REWRITES[node.op_type](node, name, layers[name], unpacking, weight.shape)
    missing = [name for names in waiting.values() for name in names]
    if missing:
        raise UserError(f"export: these quantized layers were not found in the graph: {', '.join(missing)}")
    nodes = rounded_at_source(with_biases(nodes, constants), constants)
    if packed:
        shorten_(body, nodes, unpacking)
        unpacking.finish()
    for key, array in unpacking.constants.items():
        body.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), key))
    del body.node[:]
    body.node.extend(unpacking.nodes + nodes)


def with_biases(nodes: list[NodeProto], constants: Mapping[str, np.ndarray]) -> list[NodeProto]:
    """Let products add the bias that the next node would. Args: constants: of the graph, by name.  Returns: the nodes left."""
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    merged = []
    for node in nodes:
        after = readers.get(node.output[0], []) if node.op_type == FUSED else []
        if len(after) != 1 or after[0].op_type != "Add":
            continue
        (bias,) = [name for name in after[0].input if name != node.output[0]] or [""]
        if bias in constants and constants[bias].ndim == 1:
            node.input.append(bias)
            node.output[0] = after[0].output[0]
            merged.append(after[0].output[0])
    return [node for node in nodes if node.op_type != "Add" or node.output[0] not in merged]


def shorten_(body: Any, nodes: list[NodeProto], unpacking: Unpacking) -> None:
    """Store as float16 what loses nothing by it and is worth it. Args: body: the graph; its constants are changed."""
    used = {name for node in nodes for name in node.input}
    for tensor in list(body.initializer):
        array = numpy_helper.to_array(tensor)
        if tensor.name not in used or array.dtype != np.float32:
            continue
        if array.size < (WORTH_A_PIECE if array.ndim == 1 else WORTH_A_SHAPE):
            continue
        if np.array_equal(array.astype(np.float16).astype(np.float32), array):
            body.initializer.remove(tensor)
            unpacking.floats(tensor.name, array)


def _key(matrix):
    return matrix.shape, np.ascontiguousarray(matrix).tobytes()


def float_weight(layer: Quantized) -> np.ndarray:
    """The dequantized weight, (O, I); of an LSTM that for its input, gates in ONNX's order."""
    tensors = {name: tensor.detach().numpy() for name, tensor in layer.dequantized().items()}
    if isinstance(layer, QuantLSTM):
        return onnx_gates(tensors["weight_ih_l0"])
    return tensors["weight"].reshape(len(tensors["weight"]), -1)


def as_matrix(node: NodeProto, weight: np.ndarray) -> np.ndarray:
    """The weight of a node as (O, I)."""
    if node.op_type == "MatMul":
        return weight.T
    if node.op_type == "Gemm":
        return weight if is_transposed(node) else weight.T
    weight = weight[0] if node.op_type == "LSTM" else weight
    return weight.reshape(len(weight), -1)


def is_transposed(node: NodeProto) -> bool:
    """Whether a Gemm has its weight as (O, I)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def onnx_gates(rows: np.ndarray) -> np.ndarray:
    """Reorder the gates of (4H, ...) from torch's input, forget, cell, output to ONNX's input, output, forget, cell."""
    inputs, forget, cell, output = np.split(rows, 4)
    return np.concatenate([inputs, output, forget, cell])


def integer_matmul(
    node: NodeProto, name: str, layer: QuantLinear, unpacking: Unpacking, shape: tuple[int, ...]
) -> list[NodeProto]:
    """Node in place of a MatMul or Gemm."""
    weight = layer.matrices()["weight"]
    if layer.stays_packed:
        return nbits_product(node, name, weight, unpacking)
    if isinstance(layer.input, ActivationRange):
        codes = unpacking.codes(name, weight, weight.codes.numpy().T)
        return fixed_product(node, name, layer, unpacking, codes, axis=1)
    if weight.format.group is not None:
        by_column = node.op_type == "MatMul" or not is_transposed(node)
        node.input[1] = unpacking.weights(name, weight, shape, by_column)
        return [node]
    codes = unpacking.codes(name, weight, weight.codes.numpy().T)
    inputs = [node.input[0], codes, unpacking.scales(name, weight)]
    inputs += [unpacking.constant(np.asarray(unpacking.zero_point(weight.format))), *node.input[2:]]
    return [helper.make_node(FUSED, inputs, list(node.output), domain=MICROSOFT)]


def integer_lstm(
    node: NodeProto, name: str, layer: QuantLSTM, unpacking: Unpacking, shape: tuple[int, ...]
) -> list[NodeProto]:
    """Node in place of an LSTM; inputs and outputs stay."""
    extra, weights = [], []
    for part, matrix in (("input", layer.matrices()["weight_ih"]), ("hidden", layer.matrices()["weight_hh"])):
        rows, scales = (onnx_gates(tensor.numpy()) for tensor in (matrix.codes, matrix.scales))
        own, weight = f"{name}.{part}", Codes(torch.from_numpy(rows), torch.from_numpy(scales), matrix.format)
        if matrix.format.group is not None:
            weights.append(unpacking.weights(own, weight, (1, *rows.shape), by_column=False))
            continue
        # (1, I or H, 4H) and (1, 4H)
        weights.append(unpacking.codes(own, weight, rows.T[None]))
        zero = unpacking.constant(np.full((1, len(rows)), unpacking.zero_point(weight.format)))
        extra += [unpacking.scales(own, weight, (1, len(rows))), zero]
    if not extra:
        node.input[1:3] = weights
        return [node]
    inputs = [node.input[0], *weights, *node.input[3:]]
    inputs += [""] * (8 - len(inputs))
    new = helper.make_node("DynamicQuantizeLSTM", inputs + extra, list(node.output), domain=MICROSOFT)
    new.attribute.extend(attribute for attribute in node.attribute if attribute.name != "layout")
    return [new]


def float_convolution(
    node: NodeProto, name: str, layer: QuantConv, unpacking: Unpacking, shape: tuple[int, ...]
) -> list[NodeProto]:
    """The same node, its kernels computed from codes; with fixed scales one of integers."""
    weight = layer.matrices()["weight"]
    if isinstance(layer.input, ActivationRange):
        codes = unpacking.codes(name, weight, weight.codes.numpy().reshape(shape))
        return fixed_product(node, name, layer, unpacking, codes, axis=0)
    node.input[1] = unpacking.weights(name, weight, shape, by_column=False)
    return [node]


# operator of the traced graph -> what is put in its place
REWRITES: dict[str, Callable[..., list[NodeProto]]] = {
    "MatMul": integer_matmul,
    "Gemm": integer_matmul,
    "LSTM": integer_lstm,
    "Conv": float_convolution,
}
