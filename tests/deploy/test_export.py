"""Exported files compute what the model does, carry nothing else, and the integer ones hold the folder's codes."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.compress.sparsity import sparsify_
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.core.exports import model_hashes, read_sums
from steps.deploy.export import export_folder
from steps.deploy.graph import float_twin
from steps.deploy.graphs.ctc import CtcGraphs, compare, measure, same_path
from steps.deploy.integer import integer_graph_, onnx_gates
from steps.deploy.runtimes.onnx_model import OnnxModel, open_session
from steps.models.codes import CodeFormat
from steps.models.quant_layers import QuantLinear, QuantLSTM, quantized_layers

ROOT = Path(__file__).resolve().parents[2]


def build_graph(model):
    """The one graph of a CTC model."""
    return CtcGraphs().build(model)["model.onnx"]


def pruned(make):
    model = make("conformer")
    kept = {"blocks.0.ff1.width": [0, 3, 4, 7, 30], "blocks.1.attention.heads": [1], "frontend.conv1": [0, 2, 5]}
    return shrink(model, kept)


def sparse(make):
    model = make("dnn")
    sparsify_(model, 0.7)
    return model


VARIANTS = {
    "conformer": lambda make: make("conformer"),
    "conformer-batch-norm": lambda make: make("conformer", conv_norm="batch"),
    "pruned": pruned,
    "low-rank": lambda make: factorise(make("conformer"), {"blocks.0.ff1.up": 5, "frontend.linear": 9}),
    "rnn": lambda make: make("rnn"),
    "rnn-one-way": lambda make: make("rnn", block={"cells_forward": 24, "cells_backward": 0}),
    "rnn-low-rank": lambda make: factorise(make("rnn"), {"blocks.0.forwards.proj": 5}),
    "dnn": lambda make: make("dnn"),
    "dnn-no-splice": lambda make: make("dnn", block={"units": 40, "splice": 0}),
    "sparse": sparse,
}


def operators(graph):
    """How often each comes in a graph, with those of functions in every place where they are called."""
    return collections.Counter(node.op_type for node in onnx.inliner.inline_local_functions(graph).graph.node)


def constants(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_and_integer_graphs_follow_the_model(make, variant):
    model = VARIANTS[variant](make)
    graph = build_graph(model)
    difference, _ = compare(model, OnnxModel(graph.SerializeToString()))
    assert difference < 1e-5
    assert not {"BatchNormalization", "Identity", "Dropout", "Constant"} & set(operators(graph))

    small = quantize_model(model, QuantizeConfig())
    integer = build_graph(small)
    _, snr_db = compare(small, OnnxModel(integer.SerializeToString()))
    assert snr_db > 25
    layers = quantized_layers(small)
    counts = operators(integer)
    assert counts["DynamicQuantizeMatMul"] == sum(isinstance(layer, QuantLinear) for layer in layers.values())
    assert counts["DynamicQuantizeLSTM"] == sum(isinstance(layer, QuantLSTM) for layer in layers.values())
    assert counts["LSTM"] == counts["ConvInteger"] == 0
    assert counts["Conv"] == operators(graph)["Conv"]
    assert counts["MatMul"] == (4 if model.kind == "conformer" else 0)  # scores and values of two blocks
    # of each kind of feed-forward module one half, in the layer before
    assert not any(np.array_equal(array, 0.5) for array in constants(graph).values())


@pytest.mark.parametrize(("bits", "offset"), [(8, 128), (7, 0)])
@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_the_codes_in_the_graph_are_the_folders(make, kind, bits, offset):
    model = quantize_model(make(kind), QuantizeConfig(bits=bits))
    graph = build_graph(model)
    tensors = constants(graph)
    found = []
    for node in graph.graph.node:
        places = {"DynamicQuantizeMatMul": [(1, 2)], "DynamicQuantizeLSTM": [(1, 8), (2, 10)]}
        for codes, scales in places.get(node.op_type, []):
            found.append((tensors[node.input[codes]].astype(np.int32) - offset, tensors[node.input[scales]]))
    expected = []
    for name, layer in quantized_layers(model).items():
        if isinstance(layer, QuantLinear):
            # half of what feed-forward modules give is added, and their last layers give that
            share = 0.5 if name.endswith(("ff1.down", "ff2.down")) else 1.0
            expected.append((layer.weight_codes.T.numpy(), share * layer.weight_scales.numpy()))
        else:
            for codes in layer.matrices().values():
                expected.append(tuple(onnx_gates(t.numpy()).T[None] for t in (codes.codes, codes.scales.unsqueeze(1))))
    assert len(found) == len(expected)
    for pair, wanted in zip(in_order(found), in_order(expected), strict=True):
        np.testing.assert_array_equal(pair[0], wanted[0])
        np.testing.assert_array_equal(pair[1].ravel(), wanted[1].ravel())
    largest_float = max(array.size for array in tensors.values() if array.dtype == np.float32)
    assert largest_float <= model.frontend.conv2.weight.numel()  # no weight is there a second time


def in_order(pairs):
    """Matrices sorted by their content."""
    return sorted(pairs, key=lambda pair: np.ascontiguousarray(pair[0], np.int32).tobytes())


def matmul_graph(weight):
    """Graph of x @ weight."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("bits", "largest", "kind"), [(8, 127, np.uint8), (7, 63, np.int8)])
def test_integer_products_do_not_saturate(bits, largest, kind):
    layer = QuantLinear(64, 8, bias=False, format=CodeFormat(bits))
    layer.weight_codes.fill_(largest)
    layer.weight_codes[4:] = -largest
    graph = matmul_graph(np.ascontiguousarray(layer.dequantized()["weight"].numpy().T))
    integer_graph_(graph, {"layer": layer})
    assert [numpy_helper.to_array(t).dtype for t in graph.graph.initializer if t.name == "layer.codes"] == [kind]
    (y,) = open_session(graph.SerializeToString()).run(None, {"x": np.ones((5, 64), np.float32)})
    np.testing.assert_allclose(y, np.repeat([[64.0 * largest] * 4 + [-64.0 * largest] * 4], 5, axis=0), rtol=1e-5)


def test_a_layer_that_is_not_in_the_graph_is_named():
    layer = QuantLinear(4, 3, bias=False)
    layer.weight_codes.fill_(1)
    graph = matmul_graph(np.zeros((4, 3), np.float32))
    with pytest.raises(UserError, match=r"not found in the graph: blocks\.7\.up"):
        integer_graph_(graph, {"blocks.7.up": layer})


def test_layers_with_equal_weights_are_all_rewritten(make):
    model = make("dnn", quantized=True)
    for block in model.blocks:
        block.up.weight_codes.zero_()
        block.down.weight_codes.zero_()
    assert operators(build_graph(model))["DynamicQuantizeMatMul"] == len(quantized_layers(model))


def test_a_graph_that_computes_something_else_is_refused(make):
    for quantized, factor in ((False, 1.001), (True, 1.5)):
        model = make("dnn", quantized=quantized)
        graph = build_graph(model)
        for tensor in graph.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.ndim == (1 if quantized else 2):
                tensor.CopyFrom(numpy_helper.from_array(array * np.float32(factor), tensor.name))
        with pytest.raises(UserError, match="not usable"):
            compare(model, OnnxModel(graph.SerializeToString()))


def test_measures():
    expected = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]], np.float32))
    difference, snr_db = measure(expected, expected)
    assert difference == 0 and snr_db > 200
    assert measure(expected, expected + np.float32(0.5))[0] == pytest.approx(0.5)
    assert np.isnan(measure(expected, expected * np.float32("nan"))).all()
    assert same_path(expected, expected)
    assert not same_path(expected, expected[:, [1, 0, 2]])


def test_float_twin_leaves_the_model_alone(make):
    model = make("conformer", conv_norm="batch")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    float_twin(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def walk(message):
    """All protobuf messages below one."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if not hasattr(value, "ListFields") else [value]:
                yield from walk(part)


@pytest.mark.parametrize("quantized", [False, True])
def test_exported_folder(make, save, tmp_path, quantized):
    model = make("conformer", quantized=quantized)
    folder = save(tmp_path / "m", model)
    report = export_folder(folder, folder / "export")
    names = ["README.md", "SHA256SUMS", "export.json", "features.yaml", "model.onnx", "tokens.txt"]
    assert sorted(path.name for path in (folder / "export").iterdir()) == names
    # what tells of which model it is does not ship
    assert list(read_sums(folder / "export")) == ["tokens.txt", "features.yaml", "model.onnx"]
    assert json.loads((folder / "export/export.json").read_text()) == {"files": model_hashes(folder)}
    for name in ("tokens.txt", "features.yaml"):
        assert (folder / "export" / name).read_bytes() == (folder / name).read_bytes()
    content = (folder / "export/model.onnx").read_bytes()
    graph = onnx.load_from_string(content)
    onnx.checker.check_model(graph)
    ends = [*graph.graph.input, *graph.graph.output]
    assert [value.name for value in ends] == ["x", "x_lens", "log_probs", "log_probs_lens"]
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in ends]
    assert shapes == [["N", "T", 20], ["N"], ["N", "U", 11], ["N"]]
    for message in walk(graph):
        assert not any(getattr(message, key, "") for key in ("doc_string", "producer_name", "metadata_props"))
    assert not [word for word in (b"torch", b"steps", b"/home", b"site-packages") if word in content]
    assert report.size_bytes == len(content) > report.tensor_bytes
    assert report.integer_layers == len(quantized_layers(model))


def test_export_is_the_same_twice_and_in_another_process(make, save, tmp_path):
    folder = save(tmp_path / "m", make("rnn", quantized=True))
    export_folder(folder, tmp_path / "a")
    command = [sys.executable, "-m", "steps.export_model", "--model", folder, "--out", tmp_path / "b"]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("model.onnx", "README.md", "SHA256SUMS", "tokens.txt", "features.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_what_is_named_more_often_has_no_longer_name(make, kind):
    graph = build_graph(make(kind)).graph
    ends = {value.name for value in (*graph.input, *graph.output)}
    uses = collections.Counter(name for node in graph.node for name in (*node.input, *node.output) if name)
    lengths = [len(name) for name, _ in uses.most_common() if name not in ends]
    assert lengths == sorted(lengths) and len(lengths) == len({name for name in uses if name not in ends})


def test_a_failed_export_leaves_nothing_behind(make, save, tmp_path):
    folder = save(tmp_path / "m", make("dnn"))
    (folder / "tokens.txt").write_text("<blk> 0\na 1\n")
    spec = json.loads((folder / "model.json").read_text())
    del spec["files_sha256"]  # as older folders are
    (folder / "model.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="11 outputs, tokens.txt 2 tokens"):
        export_folder(folder, folder / "export")
    assert not (folder / "export").exists()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_a_few_frames_of_sound_do_not_break_the_graph(make, kind, quantized):
    """As runtimes run it, which fill nothing up: the same frames as torch has, none where there is not one."""
    model = make(kind, quantized=quantized)
    exported = OnnxModel(build_graph(model).SerializeToString())
    for length in range(1, 11):
        feats = np.random.default_rng(length).standard_normal((1, length, 20)).astype(np.float32) * 3 - 6
        log_probs, lengths = exported.log_probs(feats, np.array([length], dtype=np.int64))
        assert lengths == [max(0, ((length - 1) // 2 - 1) // 2)] and np.isfinite(log_probs).all()
        if not quantized:
            filled = torch.nn.functional.pad(torch.from_numpy(feats), (0, 0, 0, max(0, 8 - length)))
            with torch.inference_mode():
                expected = model(filled, torch.tensor([length]))[0].numpy()
            np.testing.assert_allclose(log_probs[0, : lengths[0]], expected[0, : lengths[0]], atol=1e-5)
