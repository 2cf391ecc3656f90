"""Packed codes in exported files: onnxruntime unpacks them when it opens the file, to the folder's codes, and multiplies integers."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from rapidfuzz.distance import Levenshtein

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import block_tensors, quantize_model
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.deploy.export import export_folder
from steps.deploy.graphs.ctc import compare
from steps.deploy.integer import onnx_gates
from steps.deploy.packed import Unpacking, pack_digits
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.onnx_model import OnnxModel, open_session
from steps.deploy.runtimes.sherpa import SherpaProcess
from steps.deploy.screen import screen
from steps.models.blocks import round_to_blocks
from steps.models.build import load_model
from steps.models.codes import CodeFormat, Codes
from steps.models.quant_layers import QuantConv, QuantLinear, quantized_layers
from steps.search.greedy import greedy_search
from tests.deploy.conftest import DIM, TOKENS
from tests.deploy.test_export import build_graph, operators

SETTINGS = {"method": "mse", "layers": {"output": 8}, "convolutions": 8, "rest": "float16"}
BITS = [8, 7, 6, 5, 4, 3, 2, "ternary", 1]


def small_model(make, kind, bits, **changes):
    return quantize_model(make(kind), QuantizeConfig(bits=bits, **SETTINGS | changes))


def loaded(graph, path):
    """The graph as onnxruntime runs it, after folding and fusing."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.intra_op_num_threads = str(path), 1
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def matrices(layer):
    """The codes of a layer in a graph's layout, as (in, out)."""
    if isinstance(layer, QuantLinear):
        return [layer.weight_codes.numpy().T]
    return [onnx_gates(codes.codes.numpy()).T for codes in layer.matrices().values()]


@pytest.mark.parametrize(("kind", "bits"), [*(("dnn", bits) for bits in BITS), ("rnn", 3), ("rnn", "ternary")])
def test_what_runs_are_the_folders_codes_in_integer_kernels(make, tmp_path, kind, bits):
    model = small_model(make, kind, bits)
    graph = build_graph(model)
    screen(graph.SerializeToString())
    ran = loaded(graph, tmp_path / "loaded.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in ran.graph.initializer}
    found = collections.Counter()
    for node in ran.graph.node:
        if node.op_type in ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM"):
            for name in [node.input[1]] if "MatMul" in node.op_type else node.input[1:3]:
                array = tensors[name].astype(np.int16) - (128 if tensors[name].dtype == np.uint8 else 0)
                found[array.reshape(array.shape[-2:]).tobytes()] += 1
    layers = quantized_layers(model).values()
    dense = [codes for layer in layers if not isinstance(layer, QuantConv) for codes in matrices(layer)]
    assert found == collections.Counter(np.ascontiguousarray(codes, np.int16).tobytes() for codes in dense)
    counts = operators(ran)
    assert not {"Mod", "MatMulInteger", "DynamicQuantizeLinear", "LSTM"} & set(counts)
    assert not [name for name, array in tensors.items() if array.dtype == np.float16]


@pytest.mark.parametrize("bits", [4, 1])
def test_a_conformers_graph_follows_it(make, bits):
    model = small_model(make, "conformer", bits)
    graph = build_graph(model)
    _, snr_db = compare(model, OnnxModel(graph.SerializeToString()))
    assert snr_db > 25
    counts = operators(graph)
    assert counts["DynamicQuantizeMatMul"] == sum(isinstance(x, QuantLinear) for x in quantized_layers(model).values())


def run_constants(unpacking, values):
    """Numbers of some values of a graph without inputs. Args: values: their names."""
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in unpacking.constants.items()]
    ends = [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values]
    graph = onnx.helper.make_graph(unpacking.nodes, "g", [], ends, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return dict(zip(values, open_session(model.SerializeToString()).run(None, {}), strict=True))


@pytest.mark.parametrize("sizes", [[(72,), (3, 11), (29,), (400,), (5,)], [(512,)], [(13,), (600,)]])
def test_floats_in_eight_bits_come_out_as_they_are(sizes):
    random = np.random.default_rng(1)
    arrays = {f"a{n}": random.normal(0, 10.0 ** (n - 2), size).astype(np.float32) for n, size in enumerate(sizes)}
    rounded = {name: round_to_blocks(torch.from_numpy(array)).numpy() for name, array in arrays.items()}
    unpacking = Unpacking()
    for name, array in rounded.items():
        unpacking.floats(name, array)
    # not in eight bits, and stays in float16
    other = random.normal(0, 1, 50).astype(np.float16)
    unpacking.floats("other", other.astype(np.float32))
    unpacking.finish()
    for name, array in run_constants(unpacking, [*rounded, "other"]).items():
        np.testing.assert_array_equal(array, other if name == "other" else rounded[name])
    assert unpacking.constants["powers"].dtype == np.float16
    stored = sum(array.nbytes for name, array in unpacking.constants.items() if not name.startswith("c/"))
    assert stored <= 9 / 8 * sum(array.size + 8 for array in rounded.values()) + 2 * (50 + 40) + 2 * 29 + 60


def test_few_floats_stay_in_float16():
    """The nodes for eight bits take more bytes than they save."""
    unpacking = Unpacking()
    unpacking.floats("a", np.ones(72, np.float32))
    unpacking.finish()
    assert unpacking.constants["short"].dtype == np.float16 and "eighths" not in unpacking.constants


def test_many_pieces_that_end_within_a_block_stay_in_float16():
    """What fills each up has a name and a size, which take more than is saved."""
    unpacking = Unpacking()
    for number in range(40):
        unpacking.floats(f"a{number}", np.ones(9, np.float32))
    unpacking.finish()
    assert "eighths" not in unpacking.constants


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_a_graph_with_the_rest_in_eight_bits_follows_its_model(make, save, tmp_path, kind):
    model = make(kind)
    with torch.no_grad():
        # norms and biases as a training leaves them
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    sizes = {}
    for rest in ("float16", "int8"):
        small = quantize_model(model, QuantizeConfig(bits=3, **SETTINGS | {"rest": rest}))
        folder = save(tmp_path / rest, small)
        again, graph = load_model(folder), build_graph(small)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items())
        _, snr_db = compare(again, OnnxModel(graph.SerializeToString()))
        assert snr_db > 25
        sizes[rest] = graph.ByteSize()
    assert sizes["int8"] < sizes["float16"]
    for name, tensor in small.state_dict().items():
        if name in block_tensors(small):
            assert torch.equal(round_to_blocks(tensor), tensor) and (tensor > 0).all() >= name.endswith("_scales")


def test_numbers_that_fit_in_no_block_are_exported(make):
    model = make("dnn")
    with torch.no_grad():
        model.output.bias[0] = 40_000.0
    small = quantize_model(model, QuantizeConfig(bits=4, **SETTINGS))
    graph = build_graph(small)
    assert any((numpy_helper.to_array(tensor) == 40_000).any() for tensor in graph.graph.initializer)


@pytest.mark.parametrize("kind", ["rnn"])
def test_layers_with_groups_multiply_in_float_what_the_codes_stand_for(make, kind):
    model = small_model(make, kind, 3, group=7, layers={})
    difference, _ = compare(model, OnnxModel(build_graph(model).SerializeToString()))
    assert difference < 1e-5
    assert model.output.weight_scales.shape[1] == -(-24 // 7)


FORMATS = [CodeFormat(bits, "symmetric") for bits in range(2, 9)] + [CodeFormat(bits, "half") for bits in range(1, 8)]


@pytest.mark.parametrize("format", [*FORMATS, CodeFormat(2, "ternary")], ids=str)
def test_every_code_is_unpacked_whatever_the_number_of_them(format):
    values = np.arange(-format.largest, format.largest + 1, format.code_step, dtype=np.int8)
    for rows, columns in ((1, len(values)), (3, 7)):
        order = np.resize(values, (rows, columns))
        unpacking = Unpacking()
        codes = Codes(torch.from_numpy(order), torch.ones(rows), format)
        value = unpacking.codes("w", codes, order.T)
        unpacking.finish()
        zero = unpacking.zero_point(format)
        kind = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
        constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in unpacking.constants.items()]
        end = onnx.helper.make_tensor_value_info(value, kind, order.T.shape)
        nodes = unpacking.nodes or [onnx.helper.make_node("Identity", [value], ["same"])]
        end.name = nodes[-1].output[0]
        assert not unpacking.nodes or end.name == value
        graph = onnx.helper.make_graph(nodes, "g", [], [end], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        (unpacked,) = open_session(model.SerializeToString()).run(None, {})
        np.testing.assert_array_equal(unpacked.astype(np.int16) - zero, order.T)
        assert abs(unpacked.astype(np.int16) - zero).max() <= 63 or unpacked.dtype == np.uint8
        stored = sum(array.nbytes for name, array in unpacking.constants.items() if not name.startswith("c/"))
        assert stored <= format.bits_per_code * (order.size + 39) / 8


def test_digits_by_hand():
    assert pack_digits(np.array([1, 0, 3, 2, 1]), 4, 4).tolist() == [1 + 3 * 16 + 2 * 64, 1]


@pytest.fixture(scope="module")
def sounds():
    random = np.random.default_rng(0)
    return [random.uniform(-0.2, 0.2, int(16000 * seconds)).astype(np.float32) for seconds in (0.5, 1.0, 2.3)]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "matmul"), [*((bits, "unpacked") for bits in BITS), (4, "nbits")])
@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_torch_onnxruntime_and_sherpa_onnx_write_alike(make, save, tmp_path, sounds, kind, bits, matmul):
    pytest.importorskip("sherpa_onnx")
    config = QuantizeConfig(bits=bits, **SETTINGS | ({"group": 16, "layers": {}} if matmul == "nbits" else {}))
    model = make(kind)
    features = [compute_features(torch.from_numpy(samples), FeatureConfig(num_mel_bins=DIM)) for samples in sounds]
    with torch.no_grad():
        model.output.weight.mul_(20)
        small = quantize_model(model, config)
        # letters, not only blanks, and all of them
        model.output.bias -= small(features[2][None], torch.tensor([len(features[2])]))[0].mean(dim=(0, 1))
        model.output.bias[:3] = -100.0
    folder = save(tmp_path / "m", quantize_model(model, config))
    export_folder(folder, folder / "export", matmul=matmul)
    recogniser, torch_model = load_recogniser(folder / "export"), load_model(folder)
    letters, wrong = 0, {"sherpa-onnx": 0, "torch": 0}
    with SherpaProcess(folder / "export") as process, torch.no_grad():
        for samples, feats in zip(sounds, features, strict=True):
            ours = recogniser.recognise(feats.numpy(), "u")["greedy"]
            (path,) = greedy_search(*torch_model(feats[None], torch.tensor([len(feats)])), 0)
            theirs = "".join(TOKENS[token] for token in path)
            for name, text in (("sherpa-onnx", process.recognise(samples, "u")["greedy"]), ("torch", theirs)):
                wrong[name] += Levenshtein.distance(ours, text)
            letters += len(ours)
    # torch does not round activations, which turns letters of noise that are nearly as likely; nine of ten differ by chance
    assert letters > 50 and wrong["sherpa-onnx"] < 0.2 * letters and wrong["torch"] < 0.5 * letters
