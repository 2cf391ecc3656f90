"""Transcripts that say one thing over and over, as decoders do that have lost the sound."""

from collections.abc import Hashable, Sequence

import numpy as np

# Words or characters of what is repeated; bounds the work on a text without end.
LONGEST_LOOP = 500
# A stretch of characters that says one thing over and over is at least so long: `hahahaha` and `100000` are none.
LEAST_STRETCH = 20


def loops(text: str, most: int) -> bool:
    """Whether some words come `most` times in a row, or some characters that fill LEAST_STRETCH by that."""
    return _repeats(text.split(), most, 1) or _repeats(text, most, LEAST_STRETCH)


def _repeats(items: Sequence[Hashable], most: int, least: int) -> bool:
    """Whether up to LONGEST_LOOP items come `most` times in a row, on a stretch of `least` items."""
    numbers: dict[Hashable, int] = {}
    ids = np.array([numbers.setdefault(item, len(numbers)) for item in items])
    for length in range(1, min(len(ids) // most, LONGEST_LOOP) + 1):
        # a stretch of n items repeats its first `length` ones where n - length in a row equal those `length` later
        differ = np.flatnonzero(ids[length:] != ids[:-length])
        runs = np.diff(differ, prepend=-1, append=len(ids) - length) - 1
        if runs.max() >= max(length * most, least) - length:
            return True
    return False
