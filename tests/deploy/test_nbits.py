"""Exports with MatMulNBits: the folder's codes, as they lie in memory, and numbers that are torch's."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.cli import UserError
from steps.deploy.export import export_folder
from steps.deploy.graphs.ctc import compare
from steps.deploy.nbits import FIRST_RUNTIME, MICROSOFT, keep_packed_, nbits_product, oldest_runtime
from steps.deploy.packed import Unpacking
from steps.deploy.runtimes.onnx_model import OnnxModel, open_session
from steps.models.codes import CodeFormat, Codes
from steps.models.quant_layers import quantized_layers
from tests.deploy.test_export import build_graph, operators
from tests.deploy.test_fixed_point import fixed
from tests.deploy.test_packed import loaded

FORMATS = sorted(FIRST_RUNTIME)


def in_blocks(model, bits, grid, group=16, **settings):
    """The model with codes that the operator takes, in packed files. Rows of 24 and 40 do not fill their blocks."""
    config = QuantizeConfig(
        bits=bits, grid=grid, group=group, **{"method": "mse", "convolutions": 6, "rest": "float16"} | settings
    )
    small = quantize_model(model, config)
    keep_packed_(small, "m")
    return small


@pytest.mark.parametrize(("bits", "grid"), FORMATS)
def test_the_operator_has_the_folders_codes_and_computes_what_torch_does(make, tmp_path, bits, grid):
    model = in_blocks(make("dnn"), bits, grid)
    graph = build_graph(model)
    difference, _ = compare(model, OnnxModel(graph.SerializeToString()))
    assert difference < 1e-5
    ran = loaded(graph, tmp_path / "loaded.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in ran.graph.initializer}
    nodes = [node for node in ran.graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) == len(quantized_layers(model)) and "DynamicQuantizeMatMul" not in operators(ran)
    found = {}
    for node in nodes:
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        # the bias, which the runtime puts behind them, is of no interest here
        stored, scales, *middle = (tensors[name] for name in node.input[1:4] if name)
        assert stored.dtype == np.uint8 and stored.shape == (sizes["N"], -(-sizes["K"] // 16), 2 * bits)
        # by the operator's documentation: the first of a byte is lowest
        levels = np.stack([(stored >> place) & (2**bits - 1) for place in range(0, 8, bits)], axis=-1)
        zero = middle[0].reshape(sizes["N"], -1, 1) if middle else 2 ** (bits - 1)
        values = (levels.astype(np.int32).reshape(*stored.shape[:2], -1) - zero) * scales.reshape(sizes["N"], -1, 1)
        found[values.reshape(sizes["N"], -1)[:, : sizes["K"]].astype(np.float32).tobytes()] = sizes
    for layer in quantized_layers(model).values():
        assert layer.dequantized()["weight"].numpy().tobytes() in found


@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_what_the_operator_does_not_do_is_as_ever(make, kind):
    model = make(kind)
    names = [name for name, layer in model.named_modules() if type(layer).__name__ == "LSTM"]
    small = in_blocks(model, 4, "symmetric", layers={name: {"bits": 7, "group": None} for name in names})
    graph = build_graph(small)
    counts = operators(graph)
    assert counts["DynamicQuantizeLSTM"] == len(names) and counts["Conv"] and not counts["Gemm"]
    _, snr_db = compare(small, OnnxModel(graph.SerializeToString()))
    assert snr_db > (25 if names else 100)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gemm_keeps_its_bias(bias):
    random = torch.Generator().manual_seed(0)
    codes = Codes(
        torch.randint(-7, 8, (5, 40), generator=random, dtype=torch.int8), torch.rand(5, 3), CodeFormat(4, group=16)
    )
    unpacking, added = Unpacking(packed=False), np.arange(5, dtype=np.float32)
    gemm = helper.make_node("Gemm", ["x", "w", "bias"][: 2 + bias], ["y"], transB=1)
    nodes = nbits_product(gemm, "layer", codes, unpacking)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", size)) for name, size in (("x", 40), ("y", 5))]
    constants = [
        numpy_helper.from_array(array, name) for name, array in (unpacking.constants | {"bias": added}).items()
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants[: None if bias else -1])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)], ir_version=8
    )
    x = torch.randn(3, 40, generator=random)
    (y,) = open_session(model.SerializeToString()).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(y, (x @ codes.dequantized().T).numpy() + bias * added, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_transducers_three_files(make, save, tmp_path):
    settings = {"bits": 4, "group": 32, "method": "mse", "convolutions": 8}
    folder = save(tmp_path / "m", quantize_model(make("dnn", head="transducer"), QuantizeConfig(**settings)))
    report = export_folder(folder, folder / "export", matmul="nbits")
    assert report.snr_db > 100 and len(report.files) == 3


def test_a_folder_says_what_it_needs_and_computes(make, save, tmp_path):
    config = QuantizeConfig(bits=4, group=32, method="mse")
    folder = save(tmp_path / "m", quantize_model(make("dnn"), config))
    export_folder(folder, folder / "export", matmul="nbits")
    page = " ".join((folder / "export/README.md").read_text().split())
    assert "Needs onnxruntime 1.16.2 or later" in page and "com.microsoft" in page
    assert "Activations are float, and so are all products." in page and "no integer kernel" not in page
    assert "of MatMulNBits stay packed" in page
    with pytest.raises(UserError, match=r"0\.0% of the multiplications are of integers"):
        export_folder(folder, folder / "other", min_quantized_fraction=0.1, matmul="nbits")


def test_the_newest_of_its_formats_decides_which_runtime_is_needed(make):
    model = in_blocks(make("dnn"), 4, "symmetric", layers={"output": {"bits": 2, "group": 16}})
    assert oldest_runtime(model, "1.15") == "1.27"
    assert oldest_runtime(make("dnn"), "1.15") == "1.15"


def test_a_format_that_does_not_fit_is_named(make):
    def refused(model, why):
        with pytest.raises(UserError, match=rf"^m: --matmul nbits: {why}; quantize with bits: 4 and group: 32, say$"):
            keep_packed_(model, "m")

    model = make("dnn")
    refused(model, "no Linear of the model is in codes")
    refused(
        quantize_model(model, QuantizeConfig(bits=4)), r"frontend\.linear has a scale for each row, not group 16, .*"
    )
    mixed = QuantizeConfig(bits=4, group=32, layers={"output": {"bits": 4, "group": 24}})
    refused(quantize_model(model, mixed), "output has group 24, not group 16, 32, 64, 128 or 256")
    refused(
        quantize_model(model, QuantizeConfig(bits=3, group=32)),
        r"frontend\.linear has 3 bits on grid symmetric, not .*",
    )
    refused(fixed(model, bits=4), r"frontend\.linear has fixed scales of activations")
