"""How far an error rate can be trusted: bootstrap intervals over speakers, alone and for differences.

The errors of one speaker go together, so whole speakers are drawn; with fewer than five speakers, utterances are.
"""

import dataclasses

import numpy as np

MIN_SPEAKERS = 5


@dataclasses.dataclass(frozen=True)
class Interval:
    """An error rate, or a difference of two, with its bootstrap interval; percent (or percentage points)."""

    percent: float
    low: float
    high: float
    drawn: str  # what was drawn with replacement: "speakers" or "utterances"
    groups: int  # how many of them there are

    @property
    def excludes_zero(self):
        return self.low > 0 or self.high < 0


def wer_interval(errors, words, speakers=None, resamples=10000, seed=0, level=0.95):
    """Percentile bootstrap interval of a pooled error rate.

    Args:   errors, words: (U,) counts per utterance (errors, reference length).   speakers: (U,) names, or None.
            resamples: bootstrap samples.   seed: of the drawing.   level: coverage, between 0 and 1.
    Returns: Interval in percent.
    Raises:  ValueError when shapes differ or there is no reference word.
    Source:  Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
             with speakers in place of utterances.
    """
    errors, words = _checked(errors, words)
    return _bootstrap(errors, words, speakers, resamples, seed, level)


def paired_difference(errors_a, errors_b, words, speakers=None, resamples=10000, seed=0, level=0.95):
    """Percentile bootstrap interval of the difference in error rate, A minus B, of two systems on the same utterances.

    Args:   errors_a, errors_b, words: (U,) counts per utterance, in the same order; the rest as in `wer_interval`.
    Returns: Interval in percentage points; below 0 means A has fewer errors.
    Raises, Source: as in `wer_interval`; the same draws serve both systems, so what they share cancels.
    """
    errors_a, words = _checked(errors_a, words)
    errors_b, words = _checked(errors_b, words)
    return _bootstrap(errors_a - errors_b, words, speakers, resamples, seed, level)


def _checked(errors, words):
    errors, words = np.asarray(errors, dtype=np.int64), np.asarray(words, dtype=np.int64)
    if errors.ndim != 1 or errors.shape != words.shape:
        raise ValueError(f"expected two (U,) arrays of counts, not {errors.shape} and {words.shape}")
    if words.sum() <= 0:
        raise ValueError("no reference words")
    return errors, words


def _bootstrap(errors, words, speakers, resamples, seed, level):
    errors, words, drawn = _group(errors, words, speakers)
    groups = len(words)
    rng = np.random.default_rng(seed)
    rates = []
    chunk = max(1, 4_000_000 // groups)  # keeps the weights below about 32 MB
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)  # (size, groups)
        totals = weights @ words
        rates.append((weights @ errors)[totals > 0] / totals[totals > 0])
    tail = (1.0 - level) / 2.0
    low, high = 100.0 * np.quantile(np.concatenate(rates), [tail, 1.0 - tail])
    return Interval(float(100.0 * errors.sum() / words.sum()), float(low), float(high), drawn, groups)


def _group(errors, words, speakers):
    """Sum the counts of each speaker, unless there are too few of them."""
    if speakers is not None:
        if len(speakers) != len(words):
            raise ValueError(f"{len(speakers)} speakers for {len(words)} utterances")
        names, index = np.unique(np.asarray(speakers), return_inverse=True)
        if len(names) >= MIN_SPEAKERS:
            sums = np.zeros((2, len(names)), dtype=np.int64)
            np.add.at(sums[0], index, errors)
            np.add.at(sums[1], index, words)
            return sums[0], sums[1], "speakers"
    return errors, words, "utterances"
