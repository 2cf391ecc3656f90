"""How far an error rate can be trusted: intervals over speakers, paired differences, what a test set can show at all.

The errors of one speaker are correlated, so speakers are the units; with fewer than five speakers, utterances are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy.special import betaincinv, gammaincinv, ndtr, stdtrit

from steps.core.tables import counted

MIN_SPEAKERS = 5
# percentage points; less is rounding
NO_SPREAD = 1e-9
# of a bootstrap
RESAMPLES = 10_000
# probability that a difference of the size `detectable` is found
POWER = 0.8
# one number or name per utterance
Counts: TypeAlias = Sequence[int] | np.ndarray
Names: TypeAlias = Sequence[str] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Interval:
    """An error rate, or a difference of two, with its interval; percent (or percentage points)."""

    percent: float
    low: float
    high: float
    # the units taken as independent: "speakers" or "utterances"
    over: str
    # how many of them there are
    groups: int

    @property
    def units(self) -> str:
        """`10 speakers`, `1 utterance`."""
        return counted(self.groups, self.over.removesuffix("s"))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def few_speakers(speakers: int) -> str | None:
    """A warning when so few speakers were measured that the intervals leave out the spread between voices; else None."""
    if speakers >= MIN_SPEAKERS:
        return None
    voices = "this voice" if speakers == 1 else "these voices"
    return (
        f"{counted(speakers, 'speaker')}: the intervals cover {voices} only, not new ones; "
        "cross-validation: utils/fold_data_dir.py."
    )


def wer_interval(
    errors: Counts, words: Counts, speakers: Names | None = None, level: float = 0.95, runs: int = 1
) -> Interval:
    """Interval of a pooled error rate, honest for few speakers and few errors; without an error it is the exact bound.

    The Clopper-Pearson interval for the number of words that would be as informative if words were independent: the
    design effect comes from the spread between speakers, Student's t in place of the normal makes up for few of them.
    Without an error there is no spread to see; then words count as independent.

    Args:   errors, words: (U,) counts per utterance (errors, reference length).   speakers: (U,) names, or None.
            level: coverage, between 0 and 1.   runs: number of runs that the counts are added up over; a word heard in
            each of them is one word.
    Returns: Interval in percent.
    Raises:  ValueError when shapes differ or there is no reference word.
    Source:  Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive
             counts estimated from survey data". Where a unit has more errors than words (insertions), a rate is no
             proportion: then the t interval of the ratio; without any spread the exact one of a Poisson count (Garwood 1936,
             "Fiducial limits for the Poisson distribution").
    """
    errors, words = _checked(errors, words)
    errors, words, over = group(errors, words, speakers)
    groups, total = len(words), int(words.sum())
    rate, variance = errors.sum() / total, ratio_variance(errors, words)
    tail = (1.0 - level) / 2.0
    if np.any(errors > words) and not variance:
        count = float(errors.sum()) / runs
        low, high = (
            runs * float(bound) / total for bound in (gammaincinv(count, tail), gammaincinv(count + 1, 1 - tail))
        )
    elif np.any(errors > words):
        half = _t(1.0 - tail, groups - 1) * math.sqrt(variance)
        low, high = max(0.0, rate - half), rate + half
    else:
        effective = total / runs
        if variance > 0 and effective > 1:
            shrink = _t(1.0 - tail, effective - 1) / _t(1.0 - tail, groups - 1)
            effective = min(effective, rate * (1.0 - rate) / variance * shrink**2)
        low, high = clopper_pearson(rate * effective, effective, level)
    return Interval(float(100 * rate), float(100 * low), float(100 * high), over, groups)


def clopper_pearson(hits: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion; `hits` and `trials` need not be whole. Returns: (low, high) between 0 and 1."""
    tail = (1.0 - level) / 2.0
    low = float(betaincinv(hits, trials - hits + 1.0, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1.0, trials - hits, 1.0 - tail)) if trials > hits else 1.0
    return low, high


def paired_difference(
    errors_a: Counts,
    errors_b: Counts,
    words: Counts,
    speakers: Names | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    runs: int = 1,
) -> Interval:
    """Bootstrap interval of the difference in error rate, A minus B, of two systems on the same utterances.

    Percentiles of resampled differences, taken further out for few units so that the interval is as wide as Student's t
    makes it. Where all units differ alike (not at all, or by as many errors gone as new, or there is one unit only), there
    is no spread between them to see: then utterances are the units, and the interval is no narrower than the exact bound
    for not one word changed.

    Args:   errors_a, errors_b, words: (U,) counts per utterance, in the same order.   speakers: (U,) names, or None.
            resamples: bootstrap samples.   seed: random seed.   level, runs: as for `wer_interval`.
    Returns: Interval in percentage points; below 0 means A has fewer errors.
    Raises:  ValueError when shapes differ or there is no reference word.
    Source:  Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation", with
             speakers in place of utterances; Hesterberg 2015, "What teachers should know about the bootstrap",
             section 5.2, the expanded percentile interval; Hanley and Lippman-Hand 1983, "If nothing goes wrong, is
             everything all right?", for what it means that none of so many words changed.
    """
    errors_a, words = _checked(errors_a, words)
    errors_b, words = _checked(errors_b, words)
    return bootstrap(errors_a - errors_b, words, speakers, resamples, seed, level, runs)


def bootstrap(
    errors: np.ndarray,
    words: np.ndarray,
    speakers: Names | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    runs: int = 1,
) -> Interval:
    """Expanded percentile interval of 100 * sum(errors) / sum(words); `errors` may be differences, or differences of these.

    Args, Returns: as for `paired_difference`.
    """
    whole = errors, words
    errors, words, over = group(errors, words, speakers)
    groups = len(words)
    rng = np.random.default_rng(seed)
    rates = []
    # keeps the weights below about 32 MB
    chunk = max(1, 4_000_000 // groups)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # (size, groups)
        weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)
        totals = weights @ words
        rates.append((weights @ errors)[totals > 0] / totals[totals > 0])
    tail = expanded_tail((1.0 - level) / 2.0, groups)
    low, high = 100.0 * np.quantile(np.concatenate(rates), [tail, 1.0 - tail])
    percent = 100.0 * errors.sum() / words.sum()
    if high - low < NO_SPREAD:
        if over == "speakers":
            inner = bootstrap(*whole, None, resamples, seed, level, runs)
            low, high = inner.low, inner.high
        bound = 100.0 * clopper_pearson(0, words.sum() / runs, level)[1]
        low, high = min(low, percent - bound), max(high, percent + bound)
    return Interval(float(percent), float(low), float(high), over, groups)


def expanded_tail(tail: float, groups: int) -> float:
    """The share of resamples to leave out at each end, for `groups` units, so that the truth lies beyond with chance `tail`."""
    if groups < 2:
        return tail
    return float(ndtr(_t(tail, groups - 1) * math.sqrt(groups / (groups - 1))))


def detectable(
    errors_a: Counts,
    errors_b: Counts,
    words: Counts,
    speakers: Names | None = None,
    level: float = 0.95,
    power: float = POWER,
) -> float | None:
    """The smallest true difference, in points, that a comparison like this one finds with probability `power`.

    Args:   as for `paired_difference`.
    Returns: percentage points; None when all units differ alike, so that there is no spread to see.
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


def ratio_variance(errors: np.ndarray, words: np.ndarray) -> float:
    """Variance of sum(errors) / sum(words) over independent units, by linearisation. Args: (G,) sums over each unit."""
    groups, total = len(words), words.sum()
    if groups < 2:
        return 0.0
    residuals = errors - errors.sum() / total * words
    variance = float(groups / (groups - 1) * (residuals**2).sum() / total**2)
    # none but what rounding leaves
    return variance if 100 * math.sqrt(variance) >= NO_SPREAD else 0.0


def _t(probability, freedom):
    """Quantile of Student's t; without a degree of freedom there is no spread to scale, so any number will do."""
    return float(stdtrit(freedom, probability)) if freedom > 0 else 0.0


def _checked(errors, words):
    errors, words = np.asarray(errors, dtype=np.int64), np.asarray(words, dtype=np.int64)
    if errors.ndim != 1 or errors.shape != words.shape:
        raise ValueError(f"expected two (U,) arrays of counts, not {errors.shape} and {words.shape}")
    if words.sum() <= 0:
        raise ValueError("no reference words")
    return errors, words


def group(errors: np.ndarray, words: np.ndarray, speakers: Names | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Add up the counts of each speaker, unless there are too few speakers. Returns: (G,) errors, (G,) words, unit."""
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
