"""Exports with fixed scales of activations: every product in integers, and what onnxruntime computes is what torch does."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from steps.compress.calibrate import ActivationConfig, calibrate_
from steps.compress.footprint import macs_per_second
from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.cli import UserError
from steps.data.batches import Batch
from steps.deploy.export import export_folder
from steps.deploy.graphs.ctc import compare, measure
from steps.deploy.macs import count_macs, quantized_fraction
from steps.deploy.runtimes.onnx_model import OnnxModel
from steps.models.build import load_model
from steps.models.fixed_point import activation_ranges
from steps.models.quant_layers import QuantConv, bias_codes, quantized_layers
from tests.deploy.test_export import build_graph, in_order, operators
from tests.deploy.test_packed import loaded

FLOAT_PRODUCTS = {
    "MatMul",
    "Gemm",
    "Conv",
    "FusedConv",
    "FusedMatMul",
    "FusedGemm",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
}


def heard(model, lengths=(60, 97), seed=0):
    """A padded batch around the corpus mean."""
    random = torch.Generator().manual_seed(seed)
    feats = torch.randn(len(lengths), max(lengths), 20, generator=random) / model.feature_scale + model.feature_mean
    return Batch([""] * len(lengths), feats, torch.tensor(lengths), None, None)


def fixed(model, how="minmax", **settings):
    """The model with codes, and scales fixed by some random features."""
    config = QuantizeConfig(**{"bits": 7, "activations": ActivationConfig(how)} | settings)
    small = quantize_model(model, config)
    calibrate_(small, [heard(small)], config.activations)
    return small


@pytest.fixture(scope="module")
def folder(make, save, tmp_path_factory):
    """Model folder and export of a conformer."""
    folder = save(tmp_path_factory.mktemp("fixed") / "m", fixed(make("conformer")))
    export_folder(folder, folder / "export", min_quantized_fraction=1.0)
    return folder


def test_all_that_multiplies_are_integers_with_the_folders_codes(folder, tmp_path):
    model, graph = load_model(folder), onnx.load(folder / "export/model.onnx")
    onnx.checker.check_model(graph)
    ran = loaded(graph, tmp_path / "loaded.onnx")
    counts, layers = operators(ran), quantized_layers(model)
    assert not FLOAT_PRODUCTS & set(counts)
    # two of the front end, one in each block
    assert counts["QLinearConv"] == sum(isinstance(layer, QuantConv) for layer in layers.values()) == 4
    assert counts["QGemm"] == len(layers) - 4
    # scores and values of two blocks
    assert counts["QLinearMatMul"] == counts["MatMulIntegerToFloat"] == 2
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in ran.graph.initializer}
    found = [
        (tensors[node.input[3]].reshape(-1), tensors[node.input[8 if node.op_type == "QLinearConv" else 6]])
        for node in ran.graph.node
        if node.op_type in ("QGemm", "QLinearConv")
    ]
    expected = []
    for layer in layers.values():
        codes = layer.weight_codes.numpy()
        expected.append(((codes if isinstance(layer, QuantConv) else codes.T).reshape(-1), bias_codes(layer).numpy()))
    for pair, wanted in zip(in_order(found), in_order(expected), strict=True):
        np.testing.assert_array_equal(pair[0], wanted[0])
        np.testing.assert_array_equal(pair[1], wanted[1])
    assert quantized_fraction(folder / "export") == (1.0, {})
    assert count_macs(folder / "export") == pytest.approx(macs_per_second(model), rel=1e-6)


def test_torch_and_the_file_agree_and_batches_change_nothing(folder):
    model, exported = load_model(folder), OnnxModel(folder / "export")
    batch = heard(model, (97, 30, 61), seed=1)
    together, lengths = exported.log_probs(batch.feats.numpy(), batch.lengths.numpy())
    with torch.inference_mode():
        expected = model(batch.feats, batch.lengths)[0].numpy()
    for row, (feats, length) in enumerate(zip(batch.feats, batch.lengths, strict=True)):
        alone, _ = exported.log_probs(feats[None, :length].numpy(), length[None].numpy())
        end = lengths[row]
        assert measure(alone[0], together[row, :end])[1] > 25
        assert measure(expected[row, :end], together[row, :end])[1] > 25
    with torch.inference_mode():
        one = model(batch.feats[1:2, :30], batch.lengths[1:2])[0]
    assert measure(one[0].numpy(), expected[1, : lengths[1]])[1] > 25


def test_what_stays_float_is_written_down(folder):
    text = (folder / "export/README.md").read_text()
    assert "Products in float: none. Other operators that compute in float: Add, " in text
    assert "LayerNormalization, LogSoftmax, Mul, " in text and "Softmax" not in text.replace("LogSoftmax", "")
    assert "Activations have 8 bits" in text and "Weights have 7 bits, stored in a byte each" in text


def test_products_that_were_left_float_are_named_and_can_be_forbidden(make, save, tmp_path):
    skip = ["blocks.0.attention", "frontend.conv2"]
    folder = save(tmp_path / "m", fixed(make("conformer"), skip=skip))
    with pytest.raises(
        UserError, match=r"% of the multiplications are of integers, .*% Conv in float, .*; --min-quant"
    ):
        export_folder(folder, tmp_path / "out", min_quantized_fraction=1.0)
    export_folder(folder, tmp_path / "out", min_quantized_fraction=0.3)
    named = "frontend.conv2, blocks.0.attention.qkv, blocks.0.attention.out, blocks.0.attention.scores, blocks.0.attention.mixed"
    assert f"Products in float: {named}." in (tmp_path / "out/README.md").read_text()


CASES = {
    "packed-low-rank": ("conformer", 3, {"blocks.0.ff1.down": 6, "blocks.1.attention.out": 6, "frontend.linear": 9}),
    "feed-forward": ("dnn", 8, {"blocks.0.up": 8}),
    "packed": ("dnn", 3, {"blocks.1.down": 8}),
}


@pytest.mark.parametrize("case", [pytest.param("packed-low-rank", marks=pytest.mark.slow), "feed-forward", "packed"])
def test_other_kinds_of_models_run_in_integers_too(make, save, tmp_path, case):
    kind, bits, ranks = CASES[case]
    small = fixed(
        factorise(make(kind), ranks),
        "mse" if kind == "dnn" else "minmax",
        bits=bits,
        rest="float16" if bits == 3 else "float32",
    )
    folder = save(tmp_path / "m", small)
    again = load_model(folder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items())
    graph = build_graph(again)
    assert compare(again, OnnxModel(graph.SerializeToString()))[1] > 25
    assert not FLOAT_PRODUCTS & set(operators(loaded(graph, tmp_path / "loaded.onnx")))
    # a thin factor is rounded once, where the thick one takes it
    assert not [name for name in activation_ranges(again) if name.endswith("first.output")]
