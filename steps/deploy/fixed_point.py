"""Graphs whose activations have fixed scales, in QDQ form: a product stands between DequantizeLinear, of activations, weights and
bias, and QuantizeLinear, and runtimes take the whole for one operator of integers.

The roundings of activations are traced from the model (steps/models/ranges.py); weights and biases are put in here.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper

from steps.deploy.packed import Unpacking
from steps.models.quant_layers import QuantConv, QuantLinear, bias_codes, product_steps

# operators that move numbers or count, and compute none
MOVES = {"Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "Unsqueeze", "Squeeze", "Pad", "Expand", "Cast", "Shape",
         "Range", "ConstantOfShape", "Identity", "Less", "Greater", "GreaterOrEqual", "Not", "And", "Where", "Equal"}  # fmt: skip
QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
MOVING = {"Reshape", "Transpose"}
PRODUCTS = {"MatMul", "Gemm", "Conv"}


def fixed_product(
    node: NodeProto, name: str, layer: QuantLinear | QuantConv, unpacking: Unpacking, codes: str, axis: int
) -> list[NodeProto]:
    """Nodes in place of a MatMul, Gemm or Conv: DequantizeLinear of weights and of the bias, int32, and the product.

    Args: codes: name of the weights in integers, as the node takes them; of a Gemm not transposed.   axis: of output channels.
    """
    weight = layer.matrices()["weight"]
    scales, zero = unpacking.scales(name, weight), unpacking.zero_point(weight.format)
    zeros = unpacking.constant(np.full(len(weight.codes), zero))
    nodes = [helper.make_node("DequantizeLinear", [codes, scales, zeros], [f"{name}/w"], axis=axis)]
    inputs = [node.input[0], f"{name}/w"]
    if layer.bias is not None:
        unpacking.constants[f"{name}.bias"] = bias_codes(layer).numpy()
        steps = f"{name}/steps"
        if unpacking.packed:
            nodes.append(helper.make_node("Mul", [scales, unpacking.constant(layer.input.scale.numpy())], [steps]))
        else:
            unpacking.constants[steps] = product_steps(layer).numpy()
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.bias", steps], [f"{name}/b"], axis=0))
        inputs.append(f"{name}/b")
    product = helper.make_node(node.op_type, inputs, list(node.output))
    product.attribute.extend(attribute for attribute in node.attribute if attribute.name != "transB")
    return [*nodes, product]


def rounded_at_source(nodes: list[NodeProto], constants: Mapping[str, np.ndarray]) -> list[NodeProto]:
    """Round what a product gives right behind it, where runtimes look for that.

    Numbers that are only turned and reshaped before they are rounded are rounded before that, too. A Relu in front of a rounding
    whose smallest number is zero is left out. Both change no number.

    Args: nodes: in order.   constants: of the graph, by name.   Returns: the nodes.
    """
    made_by = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    # pairs of nodes by the value behind which they are put; what is read instead of the output of a Relu
    pairs: dict[str, list[NodeProto]] = {}
    instead: dict[str, str] = {}
    for node in nodes:
        if node.op_type != "QuantizeLinear":
            continue
        chain, name = [node], node.input[0]
        while name in made_by and _is_passed(made_by[name], chain[-1], readers, not constants[node.input[2]]):
            chain.append(made_by[name])
            name = chain[-1].input[0]
        if len(chain) == 1 or name not in made_by or made_by[name].op_type not in PRODUCTS:
            continue
        # others may want it unrounded, or rounded otherwise
        if any(reader is not chain[-1] and reader.op_type != "Shape" for reader in readers[name]):
            continue
        rounded = name
        if any(one.op_type in MOVING for one in chain):
            codes, rounded = f"{name}/codes", f"{name}/rounded"
            ends = [("QuantizeLinear", name, codes), ("DequantizeLinear", codes, rounded)]
            pairs[name] = [helper.make_node(kind, [taken, *node.input[1:]], [given]) for kind, taken, given in ends]
            # a product has one reader, or runtimes leave it float
            for reader in readers[name]:
                reader.input[0] = rounded
        for one in chain[1:]:
            if one.op_type == "Relu":
                instead[one.output[0]] = one.input[0]
    kept = [node for node in nodes if node.output[0] not in instead]
    for node in kept:
        node.input[:] = [instead.get(name, name) for name in node.input]
    return [one for node in kept for one in (node, *(new for name in node.output for new in pairs.get(name, [])))]


def _is_passed(node, reader, readers, no_negatives):
    """Whether numbers may as well be rounded in front of this node as behind it. Args: reader: the next one of the chain."""
    if node.op_type in MOVING:
        return True
    others = [other for other in readers[node.output[0]] if other is not reader]
    return node.op_type == "Relu" and no_negatives and all(other.op_type == "Shape" for other in others)


def float_operators(graph: ModelProto) -> list[str]:
    """Names of the operators that compute in float; a MatMul, Gemm or Conv only where it takes float numbers."""
    made_by = {name: node.op_type for node in graph.graph.node for name in node.output}
    found = set()
    for node in graph.graph.node:
        is_integer = all(made_by.get(name) == "DequantizeLinear" for name in node.input)
        if node.op_type not in MOVES | QUANTIZING and not (node.op_type in PRODUCTS and is_integer):
            found.add(node.op_type)
    return sorted(found)
