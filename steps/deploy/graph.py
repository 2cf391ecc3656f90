"""From a model in torch to a lean ONNX graph: traced, constants folded, stripped of everything but the computation."""

import copy
import io
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steps.deploy.lean import lean_blocks_, ranged_like
from steps.deploy.repeats import DOMAIN, nodes_of, share_repeats_, short_names
from steps.models.asr_model import AsrModel
from steps.models.conformer import ConvolutionModule
from steps.models.quant_layers import quantized_layers

# the lowest with LayerNormalization; the rest needs 16 at most, and runtimes refuse what is newer than they are
OPSET = 17
# that exported files have been run with: the oldest wheel for Python 3.11
OLDEST_ONNXRUNTIME = "1.15"


@dataclass(frozen=True)
class Value:
    """An input or output. element: type, of onnx.TensorProto.   shape: sizes, and names of the free ones."""

    name: str
    element: int
    shape: tuple[str | int, ...]


def float_twin(model: AsrModel) -> AsrModel:
    """A copy of the model in float, for tracing: weights dequantized, batch norms folded into their convolutions, blocks lean.
    Activations are rounded where the model has fixed scales."""
    twin = copy.deepcopy(model).cpu().eval()
    for name, layer in quantized_layers(twin).items():
        twin.set_submodule(name, ranged_like(layer))
    for module in twin.modules():
        if isinstance(module, ConvolutionModule) and isinstance(module.conv_norm, nn.BatchNorm1d):
            module.depthwise = fuse_conv_bn_eval(module.depthwise, module.conv_norm)
            module.conv_norm = nn.Identity()
    lean_blocks_(twin)
    return twin.eval()


def trace(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[Value],
    outputs: list[Value],
) -> onnx.ModelProto:
    """Trace a module whose layers are all float.

    Args: module: an AsrModel, as `float_twin` returns it, or a part of one.   example: one tensor for each input.
    """
    # torch declares a path only; its tracing exporter writes to streams too
    file: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # dynamo=False: half a second instead of ten or more. Whatever tracing bakes in, the head's `compare` finds at
        # several lengths and batch sizes.
        torch.onnx.export(
            module,
            example,
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[value.name for value in inputs],
            output_names=[value.name for value in outputs],
            dynamic_axes={value.name: free_axes(value) for value in (*inputs, *outputs)},
        )
    graph = fold_constants(file.getvalue())
    for declared, values in ((graph.graph.input, inputs), (graph.graph.output, outputs)):
        for place, value in zip(declared, values, strict=True):
            place.CopyFrom(helper.make_tensor_value_info(value.name, value.element, value.shape))
    return graph


def free_axes(value: Value) -> dict[int, str]:
    """The axes of a value whose sizes are free, by their names."""
    return {axis: size for axis, size in enumerate(value.shape) if isinstance(size, str)}


def fold_constants(content: bytes) -> onnx.ModelProto:
    """Fold constants, drop duplicate nodes; standard operators only. Args: content: bytes of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # no QuantizeLinear is moved or removed
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        # fused, a MatMul and its bias would no longer be found by the int8 rewriting
        onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
        )
        return onnx.load(path)


def strip_(graph: onnx.ModelProto, name: str, share: bool = False) -> None:
    """Remove names, documentation, metadata and defaults, and name what is left shortly, what is named most often the shortest: the
    same model gives the same bytes.

    The IR version becomes the lowest that knows the graph's opset. Names of inputs and outputs stay.

    Args: name: name of the graph, the head's.   share: whether to write parts that come several times once (steps/deploy/repeats.py).
    """
    body = graph.graph
    for field in ("doc_string", "producer_name", "producer_version", "domain"):
        graph.ClearField(field)
    del graph.metadata_props[:]
    body.name = name
    body.ClearField("doc_string")
    del body.value_info[:], body.metadata_props[:], body.quantization_annotation[:]
    opset = opset_of(graph)
    same = same_constants(body.initializer)
    names = {kept: kept for kept in ("", *(value.name for value in (*body.input, *body.output)))}
    uses: Counter[str] = Counter()
    for node in body.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        del node.metadata_props[:]
        drop_defaults_(node, opset)
        node.input[:] = [same.get(name, name) for name in node.input]
    if share:
        share_repeats_(graph, opset)
    for node in body.node:
        uses.update((*node.input, *node.output))
    fresh = (name for name in short_names() if name not in names.copy())
    # of names used equally often the first comes first
    for name, _ in uses.most_common():
        if name not in names:
            names[name] = next(fresh)
    for node in body.node:
        for values in (node.input, node.output):
            values[:] = [names[name] for name in values]
    constants = {names[tensor.name]: tensor for tensor in body.initializer if tensor.name in names}
    for name, tensor in constants.items():
        tensor.name = name
        tensor.ClearField("doc_string")
        shorten_integers_(tensor)
    ordered = [constants[name] for name in names.values() if name in constants]
    del body.initializer[:]
    body.initializer.extend(ordered)
    used = {node.domain for node in nodes_of(graph)} | {""} | ({DOMAIN} if graph.functions else set())
    del graph.opset_import[:]
    graph.opset_import.extend(helper.make_opsetid(name, 1 if name else opset) for name in sorted(used))
    graph.ir_version = helper.find_min_ir_version_for(graph.opset_import, ignore_unknown=True)


def same_constants(tensors: Iterable[onnx.TensorProto]) -> dict[str, str]:
    """Name of the first constant with the same content, for every later one."""
    first: dict[tuple[Any, ...], str] = {}
    same = {}
    for tensor in tensors:
        content = (tensor.data_type, *tensor.dims, numpy_helper.to_array(tensor).tobytes())
        if first.setdefault(content, tensor.name) != tensor.name:
            same[tensor.name] = first[content]
    return same


def drop_defaults_(node: onnx.NodeProto, opset: int) -> None:
    """Remove the attributes of an operator of ONNX's own that say what holds without them."""
    if node.domain:
        return
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes
    for attribute in list(node.attribute):
        default = known[attribute.name].default_value
        # of these the schema does not say it
        silent = {"strides": 1, "dilations": 1, "pads": 0} if node.op_type == "Conv" else {}
        usual = set(attribute.ints) == {silent.get(attribute.name)}
        # a convolution's weight has it
        usual |= node.op_type == "Conv" and attribute.name == "kernel_shape"
        if usual or (default.type and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)):
            node.attribute.remove(attribute)


def shorten_integers_(tensor: onnx.TensorProto) -> None:
    """Store 64-bit integers as numbers of as many bytes as each needs, where that is less."""
    if tensor.data_type == onnx.TensorProto.INT64:
        numbers = numpy_helper.to_array(tensor).ravel().tolist()
        other = helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, numbers)
        if other.ByteSize() < tensor.ByteSize():
            tensor.CopyFrom(other)


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a graph asks for."""
    return next(entry.version for entry in graph.opset_import if not entry.domain)
