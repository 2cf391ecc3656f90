"""Peak resident memory of an exported model, measured in a new process that opens it and runs utterances.

The child is `python3 -m steps.deploy.memory FOLDER FEATURES.npz FIRST.onnx`; it prints one line of JSON.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steps.core.cli import UserError
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.onnx_model import open_session

ROOT = Path(__file__).resolve().parents[2]


def measure_memory(folder: str | Path, feats: Sequence[np.ndarray]) -> dict[str, int]:
    """Run utterances one by one, on one thread, in a new process.

    Args:    folder: exported folder.   feats: (T, D) float32 arrays.
    Returns: {"peak_memory_bytes": peak of the whole process, "model_memory_bytes": the part of it above what Python and
             onnxruntime took to run a graph without weights}.
    Raises:  UserError when the process fails.
    """
    with tempfile.TemporaryDirectory() as temp:
        np.savez(f"{temp}/feats.npz", *feats)
        Path(f"{temp}/first.onnx").write_bytes(graph_without_weights())
        arguments = [str(Path(folder).resolve()), f"{temp}/feats.npz", f"{temp}/first.onnx"]
        command = [sys.executable, "-m", "steps.deploy.memory", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{folder}: its memory could not be measured ({lines[-1]})")
    before, peak = json.loads(done.stdout)
    return {"peak_memory_bytes": peak, "model_memory_bytes": peak - before}


def graph_without_weights() -> bytes:
    """An ONNX file whose output y is its input x, both (1,) float32."""
    # here, because the child has no use for it
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "first", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def peak_bytes() -> int:
    """The most memory this process has held so far. (getrusage would count the process it was forked from, too.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main(folder: str, feats_path: str, first_path: str) -> None:
    """Print [bytes before the model was opened, peak bytes] as JSON. Args: first_path: of `graph_without_weights`."""
    feats = np.load(feats_path, allow_pickle=False)
    arrays = [feats[name] for name in feats.files]
    # the first graph costs memory that all later ones share, which is not the model's
    open_session(first_path).run(None, {"x": np.zeros(1, np.float32)})
    before = peak_bytes()
    recogniser = load_recogniser(folder, num_threads=1)
    for array in arrays:
        recogniser.run(array)
    print(json.dumps([before, peak_bytes()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
