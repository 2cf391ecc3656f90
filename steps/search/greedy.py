"""Greedy CTC search: the best token of every frame, repeats merged, blanks dropped."""

import numpy as np
from numpy.typing import ArrayLike


def greedy_search(log_probs: ArrayLike, lengths: ArrayLike, blank_id: int = 0) -> list[list[int]]:
    """Collapse the best path of each utterance of a batch.

    Args:   log_probs: (N, T, V) float, numpy array or tensor on any device; only the order within a frame matters.
            lengths: (N,) int, frames that are not padding.   blank_id: index of the blank in V.
    Returns: token ids of each of the N utterances.
    Raises:  ValueError when shapes or lengths do not fit.
    Source:  Graves et al. 2006, "Connectionist temporal classification", section 3.2, best path decoding.
    """
    log_probs, lengths = as_numpy(log_probs), as_numpy(lengths)
    if log_probs.ndim != 3 or lengths.shape != log_probs.shape[:1]:
        raise ValueError(f"expected (N, T, V) and (N,), not {log_probs.shape} and {lengths.shape}")
    n_frames = log_probs.shape[1]
    if np.any(lengths < 0) or np.any(lengths > n_frames):
        raise ValueError(f"lengths {lengths.tolist()} do not fit {n_frames} frames")
    if not 0 <= blank_id < log_probs.shape[2]:
        raise ValueError(f"blank id {blank_id} is not among {log_probs.shape[2]} tokens")
    # (N, T)
    best = log_probs.argmax(axis=-1)
    is_emitted = best != blank_id
    is_emitted[:, 1:] &= best[:, 1:] != best[:, :-1]
    is_emitted &= np.arange(n_frames) < lengths[:, None]
    return [row[keep].tolist() for row, keep in zip(best, is_emitted, strict=True)]


def continue_greedy(log_probs: np.ndarray, last: int, blank_id: int = 0) -> tuple[list[int], int]:
    """Greedy search that goes on where another part of the utterance ended.

    Args:    log_probs (T, V) float.   last: best token of the frame before; the blank where there is none.
    Returns: token ids that begin in this part; its last frame's best token, `last` for a part without frames.
    """
    best = log_probs.argmax(axis=-1)
    before = np.concatenate([[last], best])
    begins = (best != blank_id) & (best != before[:-1])
    return best[begins].tolist(), int(before[-1])


def emitted_log_probs(log_probs: np.ndarray, blank_id: int = 0) -> list[float]:
    """How probable each token of one utterance's best path is where it begins. Args: log_probs (T, V).  Returns: nats."""
    best = log_probs.argmax(axis=-1)
    begins = best != blank_id
    begins[1:] &= best[1:] != best[:-1]
    return log_probs[begins, best[begins]].tolist()


def as_numpy(values: ArrayLike) -> np.ndarray:
    """A numpy array of a tensor (on any device, with or without gradient) or of anything array-like."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)
