"""What all graphs of streaming models share: where the next chunk begins, and the comparison of a file with its model."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from steps.core.cli import UserError
from steps.deploy.graphs.ctc import check_same
from steps.deploy.runtimes.onnx_model import ORT_ERRORS
from steps.deploy.runtimes.streaming import ChunkNetwork
from steps.models.asr_model import AsrModel

# chunks: of single streams that are compared, and of two streams in one batch, the second begun so many chunks later
CHUNKS, LATER = 12, 3


class Exported(ChunkNetwork, Protocol):
    """A network of onnxruntime. states: name, type and shape of each."""

    states: list[tuple[str, Any, list]]


def chunk_shift(model: AsrModel) -> int:
    """Feature frames from one chunk to the next."""
    return model.frontend.stride * model.chunk


def compare_chunks(
    model: AsrModel, exported: Exported, probe: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[float, float]:
    """Compare torch's masked forward pass with onnxruntime's chunks, two streams of which one begins later in the same batch.

    Args:    probe: as the head's, of what onnxruntime gives for all chunks.
    Returns: largest difference, nats; signal-to-noise ratio, dB.   Raises: UserError when the two differ too much.
    """
    random = torch.Generator().manual_seed(0)
    frames = chunk_shift(model) * (CHUNKS - 1) + model.chunk_frames()
    shape = (2, frames, model.spec["feature_dim"])
    feats = model.feature_mean + torch.randn(shape, generator=random) / model.feature_scale
    with torch.inference_mode():
        # of frames that the last chunk hears ahead nothing has come out
        outputs = model(feats, torch.tensor([frames, frames]))[0][:, : CHUNKS * model.chunk]
        expected = model.head.probe(model, outputs).numpy()
    try:
        found = probe(run_two(exported, feats.numpy(), LATER))
    except ORT_ERRORS as error:
        raise UserError(f"export: the graph does not run ({' '.join(str(error).split())[:200]}); not usable") from None
    if found.shape != expected.shape:
        raise UserError(f"export: the graph gives {found.shape}, the model {expected.shape}; not usable")
    flat = (-1, expected.shape[-1])
    return check_same(model, expected.reshape(flat), found.reshape(flat))


def run_two(exported: Exported, feats: np.ndarray, later: int) -> np.ndarray:
    """Both utterances in one batch, the second one begun `later` chunks after the first.

    Args: feats (2, T, D), whole chunks.   Returns: (2, T', ...) float32.
    """
    width, shift = exported.width, exported.shift
    chunks = [feats[:, start : start + width] for start in range(0, feats.shape[1] - width + 1, shift)]
    states: tuple[list[np.ndarray], list[np.ndarray]] = (exported.first_states(), exported.first_states())
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    axes = [shape.index("N") if "N" in shape else 0 for _, _, shape in exported.states]
    for turn in range(len(chunks) + later):
        going = [n for n, place in enumerate((turn, turn - later)) if 0 <= place < len(chunks)]
        batch = np.concatenate([chunks[turn - later * n][n : n + 1] for n in going])
        joined = [
            np.concatenate(kept, axis=axis) for *kept, axis in zip(*(states[n] for n in going), axes, strict=True)
        ]
        given, after = exported.step(np.ascontiguousarray(batch), joined)
        for place, n in enumerate(going):
            parts[n].append(given[place])
            states[n][:] = [np.take(state, [place], axis=axis) for state, axis in zip(after, axes, strict=True)]
    return np.stack([np.concatenate(part) for part in parts])
