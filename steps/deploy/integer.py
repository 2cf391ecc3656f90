"""Rewrites a traced float graph so that its quantized layers multiply integers, the codes of the model folder.

A Linear becomes DynamicQuantizeLinear, MatMulInteger, and a multiplication by scales, which onnxruntime fuses; an LSTM
becomes com.microsoft's DynamicQuantizeLSTM. Activations are quantized to 8 bits, one scale for each input tensor.

On processors with AVX2 or AVX-512 but without VNNI, onnxruntime adds two products of uint8 and int8 in 16 bits. With codes
of 8 bits that saturates and costs 10 to 25 dB, so these are stored as `code + 128` in uint8 with zero point 128, whose
kernels are exact and slower. Two products of 255 and 63 fit into 16 bits, so codes of 7 bits are stored as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from steps.core.cli import UserError
from steps.models.codes import CodeFormat
from steps.models.quant_layers import QuantLinear, QuantLSTM

ZERO_POINT = "zero_point"
MICROSOFT = "com.microsoft"

# nodes, and their constants by name
Rewritten = tuple[list[NodeProto], dict[str, np.ndarray]]


def integer_graph_(graph: ModelProto, layers: Mapping[str, QuantLinear | QuantLSTM]) -> None:
    """Replace the float form of every quantized layer.

    Args:   graph: the float twin, traced.   layers: quantized layers by name.
    Raises: UserError naming layers that are not in the graph.
    """
    body = graph.graph
    bits = {layer.format.bits for layer in layers.values()}
    if (
        len(bits) > 1
        or min(bits) < 7
        or any(layer.format != CodeFormat(layer.format.bits) for layer in layers.values())
    ):
        raise UserError(
            "export: only codes of 8 or 7 bits, alike in all layers, with a scale for each row have a graph"
        )
    zero_point = np.uint8(128) if bits == {8} else np.int8(0)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    # content of the float weight as it stands in the graph -> names of the layers with such a weight
    waiting: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        waiting.setdefault(_key(float_weight(layer)), []).append(name)
    nodes: list[NodeProto] = []
    for node in body.node:
        weight = constants.get(node.input[1]) if node.op_type in ("MatMul", "LSTM") else None
        names = waiting.get(_key(weight)) if weight is not None else None
        if not names:
            nodes.append(node)
            continue
        name = names.pop(0)
        rewrite: Callable[..., Rewritten] = integer_matmul if node.op_type == "MatMul" else integer_lstm
        new_nodes, tensors = rewrite(node, name, layers[name], zero_point)
        nodes += new_nodes
        body.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(t), key) for key, t in tensors.items())
    missing = [name for names in waiting.values() for name in names]
    if missing:
        raise UserError(f"export: these quantized layers were not found in the graph: {', '.join(missing)}")
    body.initializer.append(numpy_helper.from_array(np.asarray(zero_point), ZERO_POINT))
    del body.node[:]
    body.node.extend(nodes)


def _key(array):
    return array.shape, np.ascontiguousarray(array).tobytes()


def float_weight(layer: QuantLinear | QuantLSTM) -> np.ndarray:
    """The dequantized weight in the layout of the graph: (I, O) for a MatMul, (1, 4H, I) for an LSTM."""
    tensors = {name: tensor.detach().numpy() for name, tensor in layer.dequantized().items()}
    if isinstance(layer, QuantLinear):
        return tensors["weight"].T
    return onnx_gates(tensors["weight_ih_l0"])[None]


def onnx_gates(rows: np.ndarray) -> np.ndarray:
    """Reorder the gates of (4H, ...) from torch's input, forget, cell, output to ONNX's input, output, forget, cell."""
    inputs, forget, cell, output = np.split(rows, 4)
    return np.concatenate([inputs, output, forget, cell])


def stored(codes: torch.Tensor, zero_point: np.integer) -> np.ndarray:
    """Codes as they stand in the file. Args: codes: int8; zero_point: uint8 or int8.  Returns: array of its type."""
    return (codes.numpy().astype(np.int16) + zero_point).astype(zero_point.dtype)


def integer_matmul(node: NodeProto, name: str, layer: QuantLinear, zero_point: np.integer) -> Rewritten:
    """Nodes in place of a MatMul."""
    weight = layer.matrices()["weight"]
    tensors = {f"{name}.codes": stored(weight.codes, zero_point).T, f"{name}.scales": weight.scales.numpy()}
    x, y = node.input[0], node.output[0]
    quantized, scale, zero, total, total_float, scales = (f"{name}/{part}" for part in "qsztfm")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [x], [quantized, scale, zero]),
        helper.make_node("MatMulInteger", [quantized, f"{name}.codes", zero, ZERO_POINT], [total]),
        helper.make_node("Cast", [total], [total_float], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, f"{name}.scales"], [scales]),
        helper.make_node("Mul", [total_float, scales], [y]),
    ]
    return nodes, tensors


def integer_lstm(node: NodeProto, name: str, layer: QuantLSTM, zero_point: np.integer) -> Rewritten:
    """Node in place of an LSTM; inputs and outputs stay."""
    tensors, extra = {}, []
    matrices = layer.matrices()
    for part, weight in (("input", matrices["weight_ih"]), ("hidden", matrices["weight_hh"])):
        rows = onnx_gates(stored(weight.codes, zero_point))
        # (1, I or H, 4H) and (1, 4H)
        tensors[f"{name}.{part}.codes"] = rows.T[None]
        tensors[f"{name}.{part}.scales"] = onnx_gates(weight.scales.numpy())[None]
        tensors[f"{name}.{part}.zero"] = np.full((1, len(rows)), zero_point)
        extra += [f"{name}.{part}.scales", f"{name}.{part}.zero"]
    inputs = [node.input[0], f"{name}.input.codes", f"{name}.hidden.codes", *node.input[3:]]
    inputs += [""] * (8 - len(inputs))
    new = helper.make_node("DynamicQuantizeLSTM", inputs + extra, list(node.output), domain=MICROSOFT)
    new.attribute.extend(attribute for attribute in node.attribute if attribute.name != "layout")
    return [new], tensors
