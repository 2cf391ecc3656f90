"""How often the intervals contain the truth, found by simulating test sets of a given design."""

import dataclasses

import numpy as np

from steps.scoring.significance import Counts, Names, paired_difference, wer_interval


@dataclasses.dataclass(frozen=True)
class Design:
    """What a test set is like. words, speaker: (U,) reference length and speaker index of each utterance.

    rate: true word error rate.   speaker_spread: standard deviation of the speakers' rates, divided by `rate`.
    clumping: correlation of two errors within an utterance, given its speaker.
    """

    words: np.ndarray
    speaker: np.ndarray
    rate: float
    speaker_spread: float
    clumping: float


def estimate_design(errors: Counts, words: Counts, speakers: Names) -> Design:
    """The design of a test set, its spreads estimated from one model's errors by the method of moments.

    Args: (U,) counts and names, as for `wer_interval`.   Returns: the design; a rate of 0 or 1 is moved inside.
    """
    errors, words = np.asarray(errors, dtype=float), np.asarray(words, dtype=float)
    _, speaker = np.unique(np.asarray(speakers), return_inverse=True)
    rate = float(np.clip(errors.sum() / words.sum(), 0.5 / words.sum(), 0.9))
    by_speaker = np.bincount(speaker, errors), np.bincount(speaker, words)
    spoken = by_speaker[1] > 0
    rates = by_speaker[0][spoken] / by_speaker[1][spoken]
    own = np.zeros(len(by_speaker[1]))
    own[spoken] = np.minimum(rates, 1.0)
    # words of the utterance's speaker
    total = by_speaker[1][speaker]
    noise = (errors - own[speaker] * words) ** 2
    # the share of the noise that remains, because the speaker's rate is estimated with it
    lost = 1 - words / np.maximum(total, 1)
    binomial = own[speaker] * (1 - own[speaker]) * total / np.maximum(total - 1, 1) * words * lost
    clumping = (noise.sum() - binomial.sum()) / max((binomial * (words - 1)).sum(), 1e-9)
    clumping = float(np.clip(clumping, 0.0, 0.5))
    within = np.bincount(speaker, noise / np.maximum(lost, 1e-9))[spoken] / by_speaker[1][spoken] ** 2
    between = max(0.0, float(rates.var(ddof=1) - within.mean())) if len(rates) > 1 else 0.0
    return Design(
        words.astype(np.int64), speaker, rate, min(between**0.5 / rate, 0.95 * (1 / rate - 1) ** 0.5), clumping
    )


def simulate(design: Design, rng: np.random.Generator, rate: np.ndarray | None = None) -> np.ndarray:
    """Errors of one simulated test set, (U,): beta-binomial, with speakers that differ. rate: (S,) of the speakers; None: drawn."""
    if rate is None:
        rate = speaker_rates(design, rng)
    chances = rate[design.speaker]
    if design.clumping > 0:
        strength = 1.0 / design.clumping - 1.0
        chances = rng.beta(np.maximum(chances * strength, 1e-9), np.maximum((1 - chances) * strength, 1e-9))
    return rng.binomial(design.words, chances)


def speaker_rates(design: Design, rng: np.random.Generator) -> np.ndarray:
    """Draw the error rate of every speaker, (S,)."""
    count = int(design.speaker.max()) + 1
    if design.speaker_spread <= 0:
        return np.full(count, design.rate)
    strength = (1.0 - design.rate) / design.rate / design.speaker_spread**2 - 1.0
    return rng.beta(design.rate * strength, (1.0 - design.rate) * strength, size=count)


def wer_coverage(design: Design, sets: int = 1000, seed: int = 0, level: float = 0.95) -> float:
    """Share of simulated test sets whose interval contains the true rate, in percent."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(sets):
        interval = wer_interval(simulate(design, rng), design.words, design.speaker, level)
        hits += interval.low <= 100 * design.rate <= interval.high
    return 100.0 * hits / sets


def difference_coverage(
    design: Design, ratio: float = 1.2, sets: int = 1000, seed: int = 0, resamples: int = 1000
) -> float:
    """Share of simulated pairs of systems whose interval contains their true difference, in percent.

    Args: ratio: rate of the second system over that of the first; the gap varies between speakers as their rates do.
    """
    rng = np.random.default_rng(seed)
    hits, truth = 0, 100 * design.rate * (1 - ratio)
    for number in range(sets):
        rates = speaker_rates(design, rng)
        a, b = simulate(design, rng, rates), simulate(design, rng, np.minimum(ratio * rates, 1.0))
        interval = paired_difference(a, b, design.words, design.speaker, resamples, number)
        hits += interval.low <= truth <= interval.high
    return 100.0 * hits / sets
