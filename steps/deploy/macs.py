"""Multiply-accumulates of an exported file, counted from onnxruntime's own profile of what it ran, fusions included.
Padding to the width of this processor's vectors is left out."""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from steps.core.cli import UserError
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.base import FeatureRecogniser

FRAMES_PER_SECOND = 100
PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul", "MatMulNBits", "TransposeMatMul", "QLinearMatMul", "QGemm"}  # fmt: skip
CONVOLUTIONS = {"Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"}
RECURRENT = {"LSTM", "DynamicQuantizeLSTM"}
KNOWN = PRODUCTS | CONVOLUTIONS | RECURRENT
# with fixed scales: activations, their scale and zero point, then weights
FIXED = {"QLinearMatMul", "QGemm", "QLinearConv"}
INTEGER = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "ConvInteger",
    "DynamicQuantizeLSTM",
} | FIXED
SUSPECTS = ("matmul", "gemm", "conv", "lstm", "gru", "rnn", "attention", "einsum")


def count_macs(folder: str | Path, seconds: float = 10.0) -> float:
    """Run one utterance of zeros and add up the multiply-accumulates of every node.

    Args:    folder: exported folder.   seconds: length of the utterance; attention grows with its square. Of a model that runs
             in chunks as many whole ones are counted as begin in it.
    Returns: multiply-accumulates per second of audio.
    Raises:  UserError for a node that multiplies in a way not known here.
    """
    found, counted_s = profiled_macs(folder, seconds)
    return sum(macs for _, macs in found) / counted_s


def quantized_fraction(folder: str | Path) -> tuple[float, dict[str, float]]:
    """How much of an exported file multiplies integers, on an utterance of ten seconds.

    Returns: share of the multiply-accumulates, 0..1; of those in float the shares by operator, largest first.
    """
    found, _ = profiled_macs(folder, 10.0)
    total, shares = sum(macs for _, macs in found), dict[str, float]()
    for name, macs in found:
        if name not in INTEGER and macs:
            kind = name.removeprefix("Fused")
            shares[kind] = shares.get(kind, 0.0) + macs / total
    return max(0.0, 1.0 - sum(shares.values())), dict(sorted(shares.items(), key=lambda item: -item[1]))


def profiled_macs(folder: str | Path, seconds: float) -> tuple[list[tuple[str, int]], float]:
    """Operator and multiply-accumulates of every node that ran, for one utterance of zeros; the seconds of audio that they are of."""
    with tempfile.TemporaryDirectory() as temp:
        recogniser = cast(FeatureRecogniser, load_recogniser(folder, profile_prefix=f"{temp}/profile"))
        frames, counted = frames_to_run(recogniser, round(seconds * FRAMES_PER_SECOND))
        recogniser.run_all(np.zeros((frames, recogniser.features.dim), dtype=np.float32))
        profiles = [Path(path).read_text(encoding="utf-8") for path in recogniser.end_profiling()]
    events = [event for profile in profiles for event in json.loads(profile)]
    nodes = [event["args"] for event in events if event["name"].endswith("_kernel_time")]
    return [(node["op_name"], node_macs(node)) for node in nodes], counted / FRAMES_PER_SECOND


def frames_to_run(recogniser: FeatureRecogniser, frames: int) -> tuple[int, int]:
    """Feature frames to run, and those that the work is for: in chunks fewer, because each reads frames that the next one gives.

    Args: frames: of the utterance.
    """
    network = getattr(recogniser, "network", None)
    if network is None:
        return frames, frames
    chunks = -(-frames // network.shift)
    return network.width + (chunks - 1) * network.shift, chunks * network.shift


def node_macs(node: Mapping[str, Any]) -> int:
    """Multiply-accumulates of one profiled node. Args: "args" of its event: op_name, input_ and output_type_shape."""
    name = node["op_name"]
    if name not in KNOWN:
        if any(word in name.lower() for word in SUSPECTS):
            raise UserError(f"multiply-accumulates of the operator {name} cannot be counted")
        return 0
    inputs, outputs = (
        [next(iter(entry.values())) for entry in node[f"{key}_type_shape"]] for key in ("input", "output")
    )
    if name in FIXED:
        inputs[1] = inputs[3]
    # x (T, N, I), then both weights
    if name in RECURRENT:
        return inputs[0][0] * inputs[0][1] * (math.prod(inputs[1]) + math.prod(inputs[2]))
    # weight (O, I / groups, ...)
    if name in CONVOLUTIONS:
        return math.prod(outputs[0]) * math.prod(inputs[1][1:])
    # x (..., K); the weight is packed
    if name == "MatMulNBits":
        return math.prod(outputs[0]) * inputs[0][-1]
    # (B, M, K) times (B, K, N) = (B, M, N): B M K and B K N numbers, in whatever order of axes, fewer where one serves the whole batch
    rows, columns = outputs[0][-2:]
    return max(math.prod(inputs[0]) * columns, math.prod(inputs[1]) * rows)
