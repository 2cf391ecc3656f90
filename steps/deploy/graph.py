"""From a model in torch to a lean ONNX graph: traced, constants folded, stripped of all that is not computation."""

import copy
import io
import tempfile
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steps.models.conformer import ConvolutionModule
from steps.models.quant_layers import QuantLinear, QuantLSTM, float_like

OPSET = 20
IR_VERSION = 10
INPUTS = {"x": ("N", "T"), "x_lens": ("N",)}
OUTPUTS = {"log_probs": ("N", "U"), "log_probs_lens": ("N",)}
EXAMPLE_LENGTHS = (101, 87)


def quantized_layers(model):
    """The quantized layers of a model by name. Returns: dict of QuantLinear and QuantLSTM."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (QuantLinear, QuantLSTM))}


def float_twin(model):
    """A copy of the model in float, for tracing: weights dequantized, batch norms folded into their convolutions."""
    twin = copy.deepcopy(model).cpu().eval()
    for name, layer in quantized_layers(twin).items():
        twin.set_submodule(name, float_like(layer))
    for module in twin.modules():
        if isinstance(module, ConvolutionModule) and isinstance(module.conv_norm, nn.BatchNorm1d):
            module.depthwise = fuse_conv_bn_eval(module.depthwise, module.conv_norm)
            module.conv_norm = nn.Identity()
    return twin.eval()


def float_graph(model):
    """Trace a model whose layers are all float.

    Args:    model: CtcModel, as `float_twin` returns it.
    Returns: onnx.ModelProto: inputs x (N, T, D) float32, x_lens (N,) int64; outputs log_probs (N, U, V) float32,
             log_probs_lens (N,) int64.
    """
    feats = torch.linspace(-1.0, 1.0, 2 * max(EXAMPLE_LENGTHS) * model.spec["feature_dim"])
    feats = feats.view(2, max(EXAMPLE_LENGTHS), model.spec["feature_dim"])
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # dynamo=False: half a second instead of ten or more. What tracing bakes in is found out by `export.compare`,
        # at several lengths and batch sizes.
        torch.onnx.export(
            model,
            (feats, torch.tensor(EXAMPLE_LENGTHS)),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={name: dict(enumerate(axes)) for name, axes in (INPUTS | OUTPUTS).items()},
        )
    graph = fold_constants(file.getvalue())
    set_shapes_(graph, model.spec["feature_dim"], model.spec["vocab_size"])
    return graph


def fold_constants(content):
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


def set_shapes_(graph, feature_dim, vocab_size):
    """State the shapes of inputs and outputs, with names for the free dimensions."""
    sizes = {"x": (*INPUTS["x"], feature_dim), "log_probs": (*OUTPUTS["log_probs"], vocab_size)}
    for value in (*graph.graph.input, *graph.graph.output):
        element = onnx.TensorProto.FLOAT if value.name in sizes else onnx.TensorProto.INT64
        shape = sizes.get(value.name, ("N",))
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element, shape))


def strip_(graph):
    """Remove names, documentation and metadata, and number what is left: the same model gives the same bytes.

    Names that end in .codes or .scales, which `integer_graph_` gives, stay, and those of inputs and outputs.
    """
    body = graph.graph
    for field in ("doc_string", "producer_name", "producer_version", "domain"):
        graph.ClearField(field)
    del graph.metadata_props[:]
    body.name = "ctc"
    body.ClearField("doc_string")
    del body.value_info[:], body.metadata_props[:], body.quantization_annotation[:]
    names = {name: name for name in ("", *INPUTS, *OUTPUTS)}
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
    graph.ir_version = IR_VERSION
    used = {node.domain for node in body.node} | {""}
    del graph.opset_import[:]
    graph.opset_import.extend(onnx.helper.make_opsetid(name, 1 if name else OPSET) for name in sorted(used))


def is_kept(name):
    """Whether a value's name is one that `integer_graph_` gave."""
    return name.endswith((".codes", ".scales"))
