"""From a model in torch to a lean ONNX graph: traced, constants folded, stripped of everything but the computation."""

import copy
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steps.models.asr_model import AsrModel
from steps.models.conformer import ConvolutionModule
from steps.models.quant_layers import float_like, quantized_layers

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
    """A copy of the model in float, for tracing: weights dequantized, batch norms folded into their convolutions."""
    twin = copy.deepcopy(model).cpu().eval()
    for name, layer in quantized_layers(twin).items():
        twin.set_submodule(name, float_like(layer))
    for module in twin.modules():
        if isinstance(module, ConvolutionModule) and isinstance(module.conv_norm, nn.BatchNorm1d):
            module.depthwise = fuse_conv_bn_eval(module.depthwise, module.conv_norm)
            module.conv_norm = nn.Identity()
    return twin.eval()


def trace(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[Value],
    outputs: list[Value],
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Trace a module whose layers are all float.

    Args: module: an AsrModel, as `float_twin` returns it, or a part of one.   example: one tensor for each input.
          opset: the one the graph needs, including operators put in later.
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
            opset_version=opset,
            input_names=[value.name for value in inputs],
            output_names=[value.name for value in outputs],
            dynamic_axes={value.name: free_axes(value) for value in (*inputs, *outputs)},
        )
    graph = fold_constants(file.getvalue())
    for declared, values in ((graph.graph.input, inputs), (graph.graph.output, outputs)):
        for place, value in zip(declared, values, strict=True):
            place.CopyFrom(onnx.helper.make_tensor_value_info(value.name, value.element, value.shape))
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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        # fused, a MatMul and its bias would no longer be found by the int8 rewriting
        onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
        )
        return onnx.load(path)


def strip_(graph: onnx.ModelProto, name: str) -> None:
    """Remove names, documentation and metadata, and number what is left: the same model gives the same bytes.

    The IR version becomes the lowest that knows the graph's opset. Names of inputs and outputs stay, and those that
    `integer_graph_` gives, which end in .codes or .scales.

    Args: name: name of the graph, the head's.
    """
    body = graph.graph
    for field in ("doc_string", "producer_name", "producer_version", "domain"):
        graph.ClearField(field)
    del graph.metadata_props[:]
    body.name = name
    body.ClearField("doc_string")
    del body.value_info[:], body.metadata_props[:], body.quantization_annotation[:]
    names = {kept: kept for kept in ("", *(value.name for value in (*body.input, *body.output)))}
    for node in body.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for values in (node.input, node.output):
            values[:] = [names.setdefault(name, name if is_kept(name) else f"v{len(names)}") for name in values]
    constants = {names[tensor.name]: tensor for tensor in body.initializer if tensor.name in names}
    for name, tensor in constants.items():
        tensor.name = name
        tensor.ClearField("doc_string")
    ordered = [constants[name] for name in names.values() if name in constants]
    del body.initializer[:]
    body.initializer.extend(ordered)
    opset = opset_of(graph)
    used = {node.domain for node in body.node} | {""}
    del graph.opset_import[:]
    graph.opset_import.extend(onnx.helper.make_opsetid(name, 1 if name else opset) for name in sorted(used))
    graph.ir_version = onnx.helper.find_min_ir_version_for(graph.opset_import, ignore_unknown=True)


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a graph asks for."""
    return next(entry.version for entry in graph.opset_import if not entry.domain)


def is_kept(name: str) -> bool:
    """Whether a value's name is one that `integer_graph_` gave."""
    return name.endswith((".codes", ".scales"))
