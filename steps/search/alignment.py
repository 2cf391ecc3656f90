"""Finds the words of a known transcript in a recording, and the best places to cut between them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from steps.search.lexicon import SPACE

# frames x states of an alignment, one byte each
MOST_STATES = 2_000_000_000
# Scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class CannotAlign(Exception):
    """The transcript does not fit the recording."""


@dataclass(frozen=True)
class Unit:
    """A word, or a character of a script without spaces: tokens [first, last), frames [start, end) and their mean probability.

    complete: the first frame of its last token, with which greedy search has the whole of it.
    """

    first: int
    last: int
    start: int
    end: int
    score: float
    complete: int


def best_path(log_probs: np.ndarray, ids: Sequence[int], blank_id: int) -> np.ndarray:
    """The most probable CTC path of a transcript (Viterbi).

    Args:    log_probs (T, V) float array; ids: L tokens, at least one, none of them the blank.
    Returns: (T,) int array: 2 n + 1 where token n is emitted, even numbers for the blanks around them.
    Raises:  CannotAlign.
    Source:  Graves et al. 2006, section 4.1, with the maximum for the sum. torchaudio's forced_align (2.11) is not used: in long
             silences its path is not the best one.
    """
    count = 2 * len(ids) + 1
    if len(log_probs) * count > MOST_STATES:
        raise CannotAlign("too long to align in one piece")
    units = np.full(count, blank_id)
    units[1::2] = ids
    # the blank between two tokens may be skipped unless they are the same
    no_skip = np.ones(count, bool)
    no_skip[3::2] = units[3::2] == units[1:-2:2]
    score = np.full(count, -np.inf)
    score[:2] = log_probs[0, units[:2]]
    # how many states to go back
    came_from = np.zeros((len(log_probs), count), np.int8)
    options = np.full((3, count), -np.inf)
    for frame in range(1, len(log_probs)):
        options[0], options[1, 1:], options[2, 2:] = score, score[:-1], score[:-2]
        options[2, no_skip] = -np.inf
        came_from[frame] = options.argmax(axis=0)
        score = options.max(axis=0) + log_probs[frame, units]
    if score[-2:].max() == -np.inf:
        raise CannotAlign("too short for its transcript")
    path = np.empty(len(log_probs), np.int64)
    path[-1] = count - 2 + score[-2:].argmax()
    for frame in range(len(log_probs) - 1, 0, -1):
        path[frame - 1] = path[frame] - came_from[frame, path[frame]]
    return path


def align_units(log_probs: np.ndarray, ids: Sequence[int], pieces: Sequence[str], blank_id: int) -> list[Unit]:
    """Find the words of a transcript on the best path.

    Args:    log_probs (T, V) float array; ids: tokens of the transcript, at least one; pieces: text of each id, U+2581 for a
             space; in a transcript without any, every token is a unit where the script has none.
    Returns: the units, in order.   Raises: CannotAlign.
    """
    path = best_path(log_probs, ids, blank_id)
    numbers, frames = path // 2, np.flatnonzero(path % 2)
    units = []
    for first, last, spoken in spoken_tokens(ids, pieces):
        own = frames[(numbers[frames] >= spoken[0]) & (numbers[frames] <= spoken[-1])]
        probs = np.exp(log_probs[own, np.asarray(ids)[numbers[own]]])
        complete = own[numbers[own] == spoken[-1]][0]
        units.append(Unit(first, last, int(own[0]), int(own[-1]) + 1, float(probs.mean()), int(complete)))
    return units


def spoken_tokens(ids: Sequence[int], pieces: Sequence[str]) -> list[tuple[int, int, list[int]]]:
    """The words of a transcript. Args: see `align_units`.  Returns: of each, its tokens [first, last), and those that are no space."""
    starts: Sequence[int] = [i for i, token in enumerate(ids) if i and pieces[token].startswith(SPACE)]
    if not starts and any(UNSPACED.search(pieces[token]) for token in ids):
        starts = range(1, len(ids))
    units = []
    for first, last in pairwise([0, *starts, len(ids)]):
        spoken = [i for i in range(first, last) if pieces[ids[i]] != SPACE]
        units += [(first, last, spoken)] if spoken else []
    return units


def choose_cuts(units: Sequence[Unit], total: int, shortest: float, longest: float) -> list[int]:
    """Cut a recording at its longest pauses.

    Args:    total: frames of the recording.   shortest, longest: frames a piece should have.
    Returns: numbers of the units that begin a new piece. The next cut is always the longest pause (the last of equal ones)
             that leaves a piece within the limits; where there is none, the first pause after `shortest`.
    """
    cuts: list[int] = []
    begin = 0.0
    pauses = [((a.end + b.start) / 2, b.start - a.end, number) for number, (a, b) in enumerate(pairwise(units), 1)]
    while total - begin > longest:
        later = [pause for pause in pauses if pause[0] - begin >= shortest]
        if not later:
            break
        within = [pause for pause in later if pause[0] - begin <= longest]
        begin, _, number = max(within, key=lambda pause: (pause[1], pause[0])) if within else later[0]
        cuts.append(number)
    return cuts
