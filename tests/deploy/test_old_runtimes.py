"""Exported files run in the oldest onnxruntime that the README of an export promises, in an environment of its own."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.deploy.graph import OLDEST_ONNXRUNTIME, OPSET
from steps.deploy.graphs.ctc import measure
from steps.deploy.nbits import FIRST_RUNTIME
from steps.deploy.repeats import nodes_of
from steps.deploy.runtimes.onnx_model import OnnxModel
from tests.deploy.test_export import VARIANTS, build_graph
from tests.deploy.test_fixed_point import fixed
from tests.deploy.test_nbits import in_blocks

WHEELS = {(3, 11): "1.15.0", (3, 12): "1.17.0"}  # the oldest of each Python
# the oldest with MatMulNBits of 4 bits, of each Python
WHEELS_OF_BLOCKS = {(3, 11): "1.16.2", (3, 12): "1.17.0"}
LENGTHS = np.array([97, 8, 41], dtype=np.int64)

# Runs in the other environment: onnxruntime and numpy, nothing of ours.
CHILD = """
import sys
import numpy as np
import onnxruntime
folder = sys.argv[1]
feats, lengths = np.load(f"{folder}/feats.npy"), np.load(f"{folder}/lengths.npy")
for name in sys.argv[2:]:
    try:
        session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", providers=["CPUExecutionProvider"])
        log_probs, out_lengths = session.run(None, {"x": feats, "x_lens": lengths})
    except Exception as error:
        print(name, "failed:", " ".join(str(error).split())[:200])
        continue
    np.savez(f"{folder}/{name}.npz", log_probs=log_probs, lengths=out_lengths)
print("onnxruntime", onnxruntime.__version__)
"""


def graphs(make):
    """Every kind of model that is exported, float and quantized: {name: onnx.ModelProto}."""
    made = {}
    for name, variant in VARIANTS.items():
        model = variant(make)
        made[name] = build_graph(model)
        made[f"{name}-int8"] = build_graph(quantize_model(model, QuantizeConfig()))
        made[f"{name}-int7"] = build_graph(quantize_model(model, QuantizeConfig(bits=7)))
        packed = QuantizeConfig(bits=3, convolutions=8, rest="int8")
        made[f"{name}-int3"] = build_graph(quantize_model(model, packed))
        if model.kind != "rnn":
            made[f"{name}-int-fixed"] = build_graph(fixed(model, bits=7))
            made[f"{name}-int-fixed3"] = build_graph(fixed(model, bits=3, rest="float16"))
    return made


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
@pytest.mark.parametrize("quantized", [False, True, "packed"])
def test_no_graph_asks_for_more_than_it_uses(make, kind, quantized):
    model = make(kind, quantized is True, num_blocks=5)
    if quantized == "packed":
        model = quantize_model(model, QuantizeConfig(bits=3, convolutions=8, rest="int8"))
    graph = build_graph(model)
    assert bool(graph.functions) is (quantized == "packed")
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    used = {node.op_type for node in nodes_of(graph) if not node.domain}
    needed = max(onnx.defs.get_schema(name, OPSET).since_version for name in used)
    assert opsets[""] == needed == OPSET == 17 and graph.ir_version == 8
    assert set(opsets) == {node.domain for node in (*graph.graph.node, *nodes_of(graph))}
    for function in graph.functions:
        own = {entry.domain: entry.version for entry in function.opset_import}
        assert own.items() <= opsets.items() and {node.domain for node in function.node} <= set(own)


def python_with(wheels, folder):
    """Python of a new environment with an old onnxruntime, and its version; skipped where it cannot be had."""
    if (version := wheels.get(sys.version_info[:2])) is None:
        pytest.skip(
            f"which onnxruntime is the oldest for Python {sys.version_info[0]}.{sys.version_info[1]} is not known"
        )
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python3"
    wanted = [f"onnxruntime=={version}", "numpy<2"]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot install {' '.join(wanted)}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return python, version


def compare_with_old(python, version, made, folder, refused=()):
    """Run graphs, {name: onnx.ModelProto}, in the other environment; all but those `refused` give what they do here."""
    feats = np.random.default_rng(0).standard_normal((len(LENGTHS), LENGTHS.max(), 20)).astype(np.float32) * 3 - 6
    np.save(folder / "feats.npy", feats)
    np.save(folder / "lengths.npy", LENGTHS)
    for name, graph in made.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
    done = subprocess.run([python, "-c", CHILD, folder, *made], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert told[-1] == f"onnxruntime {version}"
    assert [line.split()[0] for line in told if "failed" in line] == list(refused), done.stdout
    for name in made.keys() - set(refused):
        log_probs, lengths = OnnxModel(made[name].SerializeToString()).log_probs(feats, LENGTHS)
        old = np.load(folder / f"{name}.npz")
        assert np.array_equal(old["lengths"], lengths)
        valid = np.arange(log_probs.shape[1]) < lengths[:, None]
        difference, snr_db = measure(log_probs[valid], old["log_probs"][valid])
        # with fixed scales one other rounding leads to more
        enough = difference < 1e-4 if "-int" not in name else snr_db > (20 if "-fixed" in name else 30)
        assert enough, (name, difference, snr_db)


@pytest.mark.slow
def test_every_export_runs_in_the_oldest_runtime(make, tmp_path):
    made = graphs(make)
    too_new = onnx.ModelProto()
    too_new.CopyFrom(made["dnn"])
    too_new.ir_version = 10
    python = python_with(WHEELS, tmp_path / "venv")
    compare_with_old(*python, made | {"too-new": too_new}, tmp_path, refused=["too-new"])


@pytest.mark.slow
def test_products_on_packed_codes_run_in_the_runtime_that_is_named(make, tmp_path):
    made = {kind: build_graph(in_blocks(make(kind), 4, "symmetric")) for kind in ("conformer", "rnn", "dnn")}
    compare_with_old(*python_with(WHEELS_OF_BLOCKS, tmp_path / "venv"), made, tmp_path)


def test_the_promise_is_the_oldest_that_is_tested():
    assert WHEELS[3, 11].startswith(f"{OLDEST_ONNXRUNTIME}.")
    assert WHEELS_OF_BLOCKS[3, 11] == FIRST_RUNTIME[4, "symmetric"]
