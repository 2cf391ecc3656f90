"""How far an error rate can be trusted: intervals over speakers, paired differences, what a test set can show at all.

The errors of one speaker go together, so speakers are the units; with fewer than five speakers, utterances are.
"""

import dataclasses
import math

import numpy as np
from scipy.special import betaincinv, ndtr, stdtrit

from steps.core.tables import counted

MIN_SPEAKERS = 5
RESAMPLES = 10_000  # of a bootstrap
POWER = 0.8  # with which a difference of the size `detectable` is found


@dataclasses.dataclass(frozen=True)
class Interval:
    """An error rate, or a difference of two, with its interval; percent (or percentage points)."""

    percent: float
    low: float
    high: float
    over: str  # the units taken as independent: "speakers" or "utterances"
    groups: int  # how many of them there are

    @property
    def units(self):
        """`10 speakers`, `1 utterance`."""
        return counted(self.groups, self.over.removesuffix("s"))

    @property
    def excludes_zero(self):
        return self.low > 0 or self.high < 0


def few_speakers(speakers):
    """What to say of intervals from so few speakers (a number) that they leave out the spread between voices, or None."""
    if speakers >= MIN_SPEAKERS:
        return None
    voices = "this voice" if speakers == 1 else "these voices"
    return (
        f"{counted(speakers, 'speaker')}: the intervals cover {voices} only, not new ones; "
        "cross-validation: utils/fold_data_dir.py."
    )


def wer_interval(errors, words, speakers=None, level=0.95, runs=1):
    """Interval of a pooled error rate, honest for few speakers and few errors; without an error it is the exact bound.

    The Clopper-Pearson interval for the number of words that would be as informative were words independent: the
    design effect comes from the spread between speakers, Student's t in place of the normal makes up for few of them.
    Without an error no spread is seen; then words count as independent.

    Args:   errors, words: (U,) counts per utterance (errors, reference length).   speakers: (U,) names, or None.
            level: coverage, between 0 and 1.   runs: over how many runs the counts are sums; a word heard in each is one.
    Returns: Interval in percent.
    Raises:  ValueError when shapes differ or there is no reference word.
    Source:  Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive
             counts estimated from survey data". Where a unit has more errors than words (insertions), a rate is no
             proportion: then the t interval of the ratio.
    """
    errors, words = _checked(errors, words)
    errors, words, over = group(errors, words, speakers)
    groups, total = len(words), int(words.sum())
    rate, variance = errors.sum() / total, ratio_variance(errors, words)
    tail = (1.0 - level) / 2.0
    if np.any(errors > words):
        half = _t(1.0 - tail, groups - 1) * math.sqrt(variance)
        low, high = max(0.0, rate - half), rate + half
    else:
        effective = total / runs
        if variance > 0 and effective > 1:
            shrink = _t(1.0 - tail, effective - 1) / _t(1.0 - tail, groups - 1)
            effective = min(effective, rate * (1.0 - rate) / variance * shrink**2)
        low, high = clopper_pearson(rate * effective, effective, level)
    return Interval(float(100 * rate), float(100 * low), float(100 * high), over, groups)


def clopper_pearson(hits, trials, level=0.95):
    """Exact interval of a proportion; `hits` and `trials` need not be whole. Returns: (low, high) between 0 and 1."""
    tail = (1.0 - level) / 2.0
    low = float(betaincinv(hits, trials - hits + 1.0, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1.0, trials - hits, 1.0 - tail)) if trials > hits else 1.0
    return low, high


def paired_difference(errors_a, errors_b, words, speakers=None, resamples=RESAMPLES, seed=0, level=0.95, runs=1):
    """Bootstrap interval of the difference in error rate, A minus B, of two systems on the same utterances.

    Percentiles of resampled differences, taken further out for few units so that the interval is as wide as Student's t
    makes it. Without any difference nothing is left to resample; then the exact bound for words.

    Args:   errors_a, errors_b, words: (U,) counts per utterance, in the same order.   speakers: (U,) names, or None.
            resamples: bootstrap samples.   seed: of the drawing.   level, runs: as in `wer_interval`.
    Returns: Interval in percentage points; below 0 means A has fewer errors.
    Raises:  ValueError when shapes differ or there is no reference word.
    Source:  Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation", with
             speakers in place of utterances; Hesterberg 2015, "What teachers should know about the bootstrap",
             section 5.2, the expanded percentile interval.
    """
    errors_a, words = _checked(errors_a, words)
    errors_b, words = _checked(errors_b, words)
    return bootstrap(errors_a - errors_b, words, speakers, resamples, seed, level, runs)


def bootstrap(errors, words, speakers=None, resamples=RESAMPLES, seed=0, level=0.95, runs=1):
    """Expanded percentile interval of 100 * sum(errors) / sum(words); `errors` may be differences, also of differences.

    Args, Returns: as in `paired_difference`.
    """
    if not np.any(errors):
        _, bound = clopper_pearson(0, words.sum() / runs, level)
        _, words, over = group(errors, words, speakers)
        return Interval(0.0, -100 * bound, 100 * bound, over, len(words))
    errors, words, over = group(errors, words, speakers)
    groups = len(words)
    rng = np.random.default_rng(seed)
    rates = []
    chunk = max(1, 4_000_000 // groups)  # keeps the weights below about 32 MB
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)  # (size, groups)
        totals = weights @ words
        rates.append((weights @ errors)[totals > 0] / totals[totals > 0])
    tail = expanded_tail((1.0 - level) / 2.0, groups)
    low, high = 100.0 * np.quantile(np.concatenate(rates), [tail, 1.0 - tail])
    return Interval(float(100.0 * errors.sum() / words.sum()), float(low), float(high), over, groups)


def expanded_tail(tail, groups):
    """The share of resamples to leave out at each end, for `groups` units, so that `tail` of the truth lies beyond."""
    if groups < 2:
        return tail
    return float(ndtr(_t(tail, groups - 1) * math.sqrt(groups / (groups - 1))))


def detectable(errors_a, errors_b, words, speakers=None, level=0.95, power=POWER):
    """The smallest true difference, in points, that a comparison like this one finds with probability `power`.

    Args:   as in `paired_difference`.
    Returns: percentage points; None when the two do not differ anywhere, so that no spread is seen.
    Source:  the usual two-sided t test: (t(1 - alpha / 2) + t(power)) times the standard error of the difference.
    """
    errors_a, words = _checked(errors_a, words)
    errors_b, words = _checked(errors_b, words)
    sums, words, _ = group(errors_a - errors_b, words, speakers)
    variance = ratio_variance(sums, words)
    if not variance:
        return None
    free = len(words) - 1
    return float(100 * (_t((1 + level) / 2, free) + _t(power, free)) * math.sqrt(variance))


def ratio_variance(errors, words):
    """Variance of sum(errors) / sum(words) over independent units, by linearisation. Args: (G,) sums of each unit."""
    groups, total = len(words), words.sum()
    if groups < 2:
        return 0.0
    residuals = errors - errors.sum() / total * words
    return float(groups / (groups - 1) * (residuals**2).sum() / total**2)


def _t(probability, freedom):
    """Quantile of Student's t; with no degree of freedom there is no spread to scale, so any number serves."""
    return float(stdtrit(freedom, probability)) if freedom > 0 else 0.0


def _checked(errors, words):
    errors, words = np.asarray(errors, dtype=np.int64), np.asarray(words, dtype=np.int64)
    if errors.ndim != 1 or errors.shape != words.shape:
        raise ValueError(f"expected two (U,) arrays of counts, not {errors.shape} and {words.shape}")
    if words.sum() <= 0:
        raise ValueError("no reference words")
    return errors, words


def group(errors, words, speakers):
    """Sum the counts of each speaker, unless there are too few of them. Returns: (G,) errors, (G,) words, unit."""
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
