"""Search with a transducer: one unit a frame at most, each conditioned on the last units that were emitted."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

# the last units, (N, context) int64, -1 before the first and the blank for it -> (N, J)
Predict = Callable[[np.ndarray], np.ndarray]
# (N, J) of a frame and (N, J) of the last units -> (N, V), unnormalised
Join = Callable[[np.ndarray, np.ndarray], np.ndarray]
BLANK_ID = 0
# last units that a predictor may see
MOST_CONTEXT = 8


def last_units(ids: list[int], context: int) -> list[int]:
    """What the predictor gets after some units: the last ones, before the first unit the blank and -1. Args: context: how many."""
    return [*[-1] * (context - 1), BLANK_ID, *ids][-context:]


def greedy_search(
    encoded: np.ndarray,
    lengths: np.ndarray,
    predict: Predict,
    join: Join,
    context: int,
    never: Collection[int] = (),
    before: Sequence[list[int]] | None = None,
) -> list[list[int]]:
    """The best unit of each frame, given those before it.

    Args:    encoded (N, T, J) float32; lengths (N,) int, frames that are not padding; context: last units that `predict` gets.
             never: units that count as the blank.   before: token ids that earlier frames of each utterance emitted.
    Returns: token ids of each of the N utterances, those before included.
    Raises:  ValueError when a score is not finite.
    """
    ids: list[list[int]] = [list(row) for row in before] if before else [[] for _ in encoded]
    silent, counts = {BLANK_ID, *never}, np.asarray(lengths)
    predicted = predict(np.array([last_units(row, context) for row in ids], dtype=np.int64)) if ids else encoded
    for frame in range(int(max(lengths, default=0))):
        logits = join(encoded[:, frame], predicted)
        spoken = frame < counts
        check_finite(logits[spoken])
        best = logits.argmax(axis=1).tolist()
        emitting = [row for row, unit in enumerate(best) if spoken[row] and unit not in silent]
        for row in emitting:
            ids[row].append(best[row])
        if emitting:
            predicted = predict(np.array([last_units(row, context) for row in ids], dtype=np.int64))
    return ids


def emissions(
    encoded: np.ndarray, predict: Predict, join: Join, context: int, never: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """What greedy search emits, and when.

    Args:    encoded (T, J) float32, of one utterance.   others: as for `greedy_search`.
    Returns: token ids, and the frame of each.   Raises: ValueError when a score is not finite.
    """
    ids: list[int] = []
    frames: list[int] = []
    for frame in range(len(encoded)):
        before, one = ids, encoded[None, frame : frame + 1]
        (ids,) = greedy_search(one, [1], predict, join, context, never, [before])
        frames += [frame] * (len(ids) - len(before))
    return ids, frames


def beam_search(
    encoded: np.ndarray, predict: Predict, join: Join, context: int, paths: int, never: Collection[int] = ()
) -> list[int]:
    """Modified beam search: the best `paths` of all transcripts so far are kept from frame to frame; alignments of the same
    transcript are added up; at the end the probability per unit decides.

    Args:    encoded (T, J) float32, of one utterance.   paths: at least 1.   others: as for `greedy_search`.
    Returns: token ids.   Raises: ValueError when a score is not finite.
    Source:  Kang et al. 2023 (arXiv:2211.00484), section 3.3, as in icefall and sherpa-onnx, whose measure at the end counts the
             units of the first context, too.
    """
    kept: dict[tuple[int, ...], float] = {(): 0.0}
    silent = {BLANK_ID, *never}
    for frame in encoded:
        logits = join(
            np.repeat(frame[None], len(kept), axis=0),
            predict(np.array([last_units(list(ids), context) for ids in kept], dtype=np.int64)),
        ).astype(np.float64)
        check_finite(logits)
        log_probs = log_softmax(logits)
        scores = (np.array(list(kept.values()))[:, None] + log_probs).ravel()
        best = np.argsort(-scores, kind="stable")[:paths]
        before, kept = list(kept), {}
        for place in best.tolist():
            path, unit = divmod(place, log_probs.shape[1])
            ids = before[path] if unit in silent else (*before[path], unit)
            kept[ids] = float(np.logaddexp(kept.get(ids, -np.inf), scores[place]))
    best, _ = max(kept.items(), key=lambda path: path[1] / (len(path[0]) + context))
    return list(best)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities. Args: logits (N, V).  Returns: (N, V)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def check_finite(logits: np.ndarray) -> None:
    """Raise ValueError when a score is not finite."""
    if not np.isfinite(logits).all():
        raise ValueError("scores that are not finite")
