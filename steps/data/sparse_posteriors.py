"""Posteriors with few numbers: per frame the most probable units, runs of blanks as one.

The mass of the units that are not kept, the tail, is what is missing from 1: to 5e-4, which a half of a log-probability allows.
"""

from dataclasses import dataclass

import numpy as np

# log-probability of a unit that nothing is left for; no loss may meet an infinity
FLOOR = -20.0
# frames that one row stands for, at most
LONGEST_RUN = 60_000


@dataclass(frozen=True)
class SparsePosteriors:
    """Rows, each of one frame, or of a run of frames where the blank (unit 0) alone is kept.

    vocabulary: V.   counts: (R,) units kept in a row, at least one.   units: (E,) row by row, rising in each.
    values: (E,) float16 log-probabilities.   runs: (B,) uint16 frames of the rows that keep the blank alone, in order.
    """

    vocabulary: int
    counts: np.ndarray
    units: np.ndarray
    values: np.ndarray
    runs: np.ndarray

    @classmethod
    def of(cls, log_probs: np.ndarray, keep: int | None, threshold: float) -> "SparsePosteriors":
        """Keep the best unit of each frame, and the up to `keep` best that have a probability of `threshold` or more.

        Args:    log_probs (T, V) float, normalised; T may be 0.   keep: at least 1; None: all V.   threshold: 0..1.
        Returns: rows; a run of blanks has the mean probability of its frames.
        """
        frames, vocabulary = log_probs.shape
        probs = np.exp(log_probs.astype(np.float64))
        kept = probs >= threshold
        if keep is not None and keep < vocabulary:
            best = np.argpartition(-log_probs, keep - 1, axis=1)[:, :keep]
            among = np.zeros_like(kept)
            np.put_along_axis(among, best, True, axis=1)
            kept &= among
        kept[np.arange(frames), log_probs.argmax(axis=1)] = True
        quiet = kept[:, 0] & (kept.sum(axis=1) == 1)
        begins = np.arange(frames) % LONGEST_RUN == 0
        begins[1:] |= ~(quiet[1:] & quiet[:-1])
        starts = np.flatnonzero(begins)
        lengths = np.diff(np.r_[starts, frames])
        rows, units = np.nonzero(kept[starts])
        values = log_probs[starts[rows], units].astype(np.float64)
        averaged = quiet[starts[rows]] & (lengths[rows] > 1)
        blank = np.add.reduceat(probs[:, 0], starts) / lengths
        values[averaged] = np.log(blank[rows[averaged]])
        halves = values.clip(-60_000.0, 0.0).astype(np.float16)
        counts, runs = kept[starts].sum(axis=1), lengths[quiet[starts]].astype(np.uint16)
        return cls(vocabulary, counts, units, halves, runs)

    def lengths(self) -> np.ndarray:
        """Frames of each row, (R,) int64."""
        lengths = np.ones(len(self.counts), np.int64)
        lengths[self._quiet()] = self.runs
        return lengths

    def _quiet(self):
        first = np.cumsum(self.counts) - self.counts
        return (self.counts == 1) & (self.units[first] == 0)

    def expand(self) -> np.ndarray:
        """Posteriors of every frame, the tail spread evenly over the units that were not kept.

        Returns: (T, V) float32 log-probabilities.
        """
        counts, others = self.counts, self.vocabulary - self.counts
        tails = 1 - np.add.reduceat(np.exp(self.values.astype(np.float64)), np.cumsum(counts) - counts)
        rest = np.log((tails / others.clip(1)).clip(np.exp(FLOOR))).astype(np.float32)
        dense = np.repeat(rest[:, None], self.vocabulary, axis=1)
        dense[np.repeat(np.arange(len(counts)), counts), self.units] = self.values
        return np.repeat(dense, self.lengths(), axis=0)

    def problem(self, frames: int) -> str | None:
        """What is wrong with numbers out of a file that say they are of so many frames; None: nothing."""
        if self.units.max(initial=0) >= self.vocabulary:
            return f"unit {self.units.max()} of {self.vocabulary}"
        if self._quiet().sum() != len(self.runs) or int(self.lengths().sum()) != frames:
            return f"its rows are not of {frames} frames"
        sound = np.isfinite(self.values).all() and (self.values <= 0).all()
        return None if sound else "numbers that are no log-probabilities"
