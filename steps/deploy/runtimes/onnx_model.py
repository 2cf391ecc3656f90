"""The exported file of a CTC model, run by onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from steps.core.cli import MissingInput, UserError

# type and rank of inputs, then of outputs
KINDS = [("tensor(float)", 3), ("tensor(int64)", 1)] * 2
ORT_ERRORS = tuple(
    value for value in vars(ort_errors).values() if isinstance(value, type) and issubclass(value, Exception)
)


def find_graph(source: str | Path | bytes) -> Path | bytes:
    """The ONNX file of an exported folder; a file or its content is taken as it is. Raises: MissingInput."""
    if isinstance(source, bytes):
        return source
    path = Path(source) / "model.onnx" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise MissingInput(f"{path}: no such file; export the model (steps.export_model)")
    return path


def open_session(
    model: str | Path | bytes, num_threads: int = 1, profile_prefix: str | None = None
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU whose threads do not spin while they wait.

    Args:   model: path of an ONNX file, or its content.   num_threads: threads of one operator; operators run in turn.
            profile_prefix: beginning of the path to which `end_profiling` writes the shapes of all that ran, the same on
            every processor.
    Raises: UserError when onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", "0")
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
        # the profile leaves out weights that are packed
        options.add_session_config_entry("session.disable_prepacking", "1")
        # not ENABLE_ALL: its layouts pad channels, and so the shapes, to the width of this processor's vectors
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        name = "the graph" if isinstance(model, bytes) else model
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: onnxruntime cannot load it ({reason}); export the model again") from None


class OnnxModel:
    """An exported CTC model.

    Args: source: exported folder, ONNX file, or the file's content.   num_threads: CPU threads.
          profile_prefix: see `open_session`.
    Attributes: feature_dim: D.   vocab_size: V.   sessions: the one InferenceSession.
    """

    def __init__(self, source: str | Path | bytes, num_threads: int = 1, profile_prefix: str | None = None):
        source = find_graph(source)
        session = open_session(source, num_threads, profile_prefix)
        self.sessions = [session]
        name = "the graph" if isinstance(source, bytes) else source
        inputs, outputs = session.get_inputs(), session.get_outputs()
        kinds = [(value.type, len(value.shape)) for value in (*inputs, *outputs)]
        if kinds != KINDS or not isinstance(inputs[0].shape[2], int) or not isinstance(outputs[0].shape[2], int):
            raise UserError(f"{name}: not a CTC model from steps.export_model, by its inputs and outputs")
        self.feature_dim, self.vocab_size = inputs[0].shape[2], outputs[0].shape[2]
        self._inputs = [value.name for value in inputs]

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        log_probs, out_lengths = self.sessions[0].run(None, dict(zip(self._inputs, (feats, lengths), strict=True)))
        return log_probs, out_lengths
