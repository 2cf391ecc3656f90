"""Posteriors of CTC models moved in time: peaks are carried over whole, never averaged with the blanks around them.

A CTC model emits each unit on one frame or a few, blanks in between. Which frame, no two models agree on, so that a mean over
frames (of one model at another rate) or over models (at one frame) leaves blanks alone. Here every frame of a result is one
frame of the source; what is computed is which. Unit 0 is the blank.
"""

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Spikes:
    """Runs of frames with the same best unit, not the blank: what greedy search reads.

    units, first, last, peak: (K,) int64: the unit, its first and last frame, and its surest.   blank: (T,) log-probabilities.
    """

    units: np.ndarray
    first: np.ndarray
    last: np.ndarray
    peak: np.ndarray
    blank: np.ndarray

    @classmethod
    def of(cls, log_probs: np.ndarray) -> "Spikes":
        """Args: log_probs (T, V)."""
        best = log_probs.argmax(axis=1)
        edges = np.flatnonzero(np.diff(best)) + 1
        first, last = np.r_[0, edges], np.r_[edges, len(best)] - 1
        spoken = best[first] != 0
        first, last, sure = first[spoken], last[spoken], log_probs.max(axis=1)
        peak = np.array([a + int(sure[a : b + 1].argmax()) for a, b in zip(first, last, strict=True)], np.int64)
        return cls(best[first], first, last, peak, log_probs[:, 0])


def resample(log_probs: np.ndarray, frames: int, ratio: float) -> np.ndarray | None:
    """The frames of a model as those of another one, at another rate or of another number.

    A frame stands for the stretch of time in which the middle of a source frame may lie; a spike in it wins it, else the surest
    blank. Where two spikes share one, the later one moves on, as far as needed; between two of the same unit a blank is kept.
    What greedy search reads stays the same.

    Args:    log_probs (T, V).   frames: T', of the result.   ratio: length of a frame of the result / of a source frame, > 0.
    Returns: (T',) int64, the source frame for each; None when the spikes need more frames than there are.
    """
    spikes, total = Spikes.of(log_probs), len(log_probs)
    own = np.minimum(((np.arange(total) + 0.5) / ratio).astype(np.int64), frames - 1)
    # frames from one spike to the next, at least
    steps = 1 + (np.diff(spikes.units) == 0).astype(np.int64)
    places = _spread(own[spikes.peak], steps, frames)
    if places is None:
        return None
    result = np.minimum(((np.arange(frames) + 0.5) * ratio).astype(np.int64), total - 1)
    # the last of each stretch in this order is its surest blank
    order = np.lexsort((spikes.blank, own))
    ends = np.flatnonzero(np.r_[np.diff(own[order]), 1])
    result[own[order[ends]]] = order[ends]
    result[places] = spikes.peak
    for number in np.flatnonzero(steps == 2):
        _keep_apart(result, spikes, number, places)
    return result


def _keep_apart(result, spikes, number, places):
    """See to it that there is a blank between spike `number` and the next, which are of the same unit."""
    between = slice(places[number] + 1, places[number + 1])
    sources, last, following = result[between], spikes.last[number], spikes.first[number + 1]
    if not ((sources > last) & (sources < following)).any():
        later = np.flatnonzero(sources > last)
        blank = last + 1 + int(spikes.blank[last + 1 : following].argmax())
        sources[later[0] if len(later) else -1] = blank


def _spread(wanted, steps, frames):
    """Places from 0 to before `frames`, as near to the wanted ones as their least distances let them be, or None.

    Args: wanted (K,) int64, rising; steps (K - 1,) int64.
    """
    places = wanted.copy()
    for i, step in enumerate(steps):
        places[i + 1] = max(places[i + 1], places[i] + step)
    limit = frames - 1
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], limit)
        limit = places[i] - (steps[i - 1] if i else 0)
    return None if len(places) and places[0] < 0 else places


def retime(log_probs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The frames of one model laid where another one has its spikes, so that both speak of the same unit at the same frame.

    The units that greedy search reads from both are aligned by edit distance, whatever their times: a spike of the reference
    gets the peak of its counterpart (the same frame, where that speaks of it, too), everything else a blank near in time. What
    the reference does not have is left out. A model laid on itself stays as it is.

    Args:    log_probs (T, V); reference (T', V), of the model that sets the frames.
    Returns: (T',) int64, the frame of `log_probs` for each.
    """
    own, theirs = Spikes.of(log_probs), Spikes.of(reference)
    times = np.minimum(
        ((np.arange(len(reference)) + 0.5) * len(log_probs) / len(reference)).astype(np.int64), len(own.blank) - 1
    )
    result = _nearest(np.flatnonzero(log_probs.argmax(axis=1) == 0), times)
    for edit in Levenshtein.opcodes(own.units.tolist(), theirs.units.tolist()):
        if edit.tag in ("equal", "replace"):
            for i, j in zip(range(edit.src_start, edit.src_end), range(edit.dest_start, edit.dest_end), strict=False):
                run = slice(theirs.first[j], theirs.last[j] + 1)
                inside = (times[run] >= own.first[i]) & (times[run] <= own.last[i])
                result[run] = np.where(inside, times[run], own.peak[i])
    return result


def _nearest(places, times):
    """For each time the nearest of the places (rising); the times themselves where there is none."""
    if not len(places):
        return times.copy()
    after = np.searchsorted(places, times).clip(0, len(places) - 1)
    before = (after - 1).clip(0)
    return np.where(np.abs(places[before] - times) <= np.abs(places[after] - times), places[before], places[after])
