"""Intervals and paired differences: coverage, pairing, grouping by speaker, power, speed."""

import math
import time

import numpy as np
import pytest

from steps.scoring.coverage import Design, difference_coverage, estimate_design, simulate, wer_coverage
from steps.scoring.significance import (
    MIN_SPEAKERS,
    clopper_pearson,
    detectable,
    few_speakers,
    paired_difference,
    wer_interval,
)


def draw(rng, speakers=10, utterances=13, rate=0.1):
    """Errors, words and speakers of a made-up test set with some spread between speakers."""
    names = np.repeat([f"s{i}" for i in range(speakers)], utterances)
    words = rng.integers(1, 12, size=len(names))
    rates = np.repeat(np.clip(rng.normal(rate, rate / 3, size=speakers), 0, 1), utterances)
    return rng.binomial(words, rates), words, names


def test_interval_holds_the_rate_and_is_reproducible():
    errors, words, names = draw(np.random.default_rng(0))
    interval = wer_interval(errors, words, names)
    assert interval.low < interval.percent < interval.high
    assert interval.percent == pytest.approx(100 * errors.sum() / words.sum())
    assert (interval.over, interval.groups) == ("speakers", 10)
    assert wer_interval(errors, words, names) == interval
    wider = wer_interval(errors, words, names, level=0.99)
    assert wider.low < interval.low and wider.high > interval.high


def test_width_is_the_textbook_one():
    rng = np.random.default_rng(1)
    errors, words = rng.binomial(1, 0.1, size=4000), np.ones(4000, dtype=int)
    interval = wer_interval(errors, words)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.1 * 0.9 / 4000), rel=0.1)
    assert interval.over == "utterances"


def test_few_speakers_fall_back_to_utterances():
    errors, words, names = draw(np.random.default_rng(2), speakers=4)
    assert wer_interval(errors, words, names) == wer_interval(errors, words)
    assert wer_interval(errors, words, names).over == "utterances"


def test_whole_speakers_are_drawn():
    """Splitting a speaker's words over more utterances changes nothing when speakers are drawn."""
    errors, words, names = draw(np.random.default_rng(3))
    split = wer_interval(np.append(errors, 0), np.append(words, 0), np.append(names, names[0]))
    assert split == wer_interval(errors, words, names)


def test_no_errors_and_all_errors():
    """The exact bounds: with n words, the rate that leaves none wrong with a probability of 2.5 %."""
    words, names = np.full(20, 3), [f"s{i // 2}" for i in range(20)]
    none, all_wrong = wer_interval(0 * words, words, names), wer_interval(words, words, names)
    bound = 100 * (1 - 0.025 ** (1 / 60))
    assert (none.low, all_wrong.high) == (0, 100)
    assert (none.high, 100 - all_wrong.low) == pytest.approx((bound, bound))


def test_exact_interval_against_the_binomial():
    for hits, trials in ((1, 10), (3, 20), (50, 100)):
        low, high = clopper_pearson(hits, trials)
        below = sum(math.comb(trials, k) * high**k * (1 - high) ** (trials - k) for k in range(hits + 1))
        above = sum(math.comb(trials, k) * low**k * (1 - low) ** (trials - k) for k in range(hits, trials + 1))
        assert (below, above) == pytest.approx((0.025, 0.025))


def test_more_errors_than_words_are_allowed():
    rng = np.random.default_rng(8)
    errors, words = rng.integers(2, 9, size=40), np.full(40, 4)
    interval = wer_interval(errors, words)
    assert interval.low < interval.percent < interval.high and interval.percent > 100


@pytest.mark.parametrize(
    ("errors", "words", "runs"),
    [([3], [1], 1), ([2] * 6, [1] * 6, 1), ([4] * 6, [2] * 6, 2), ([28, 70, 126, 56], [10, 25, 45, 20], 1)],
)
def test_more_errors_than_words_without_a_spread_are_a_count_that_chance_moves(errors, words, runs):
    interval, count = wer_interval(errors, words, runs=runs), sum(errors) // runs
    once = sum(words) / runs / 100
    probability = lambda mean, counts: sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in counts)  # noqa: E731
    below, above = probability(interval.high * once, range(count + 1)), probability(interval.low * once, range(count))
    assert (below, 1 - above) == pytest.approx((0.025, 0.025))


def test_paired_difference_uses_what_is_shared():
    """One more error in every utterance is as sure as so many words can make it, however much speakers differ."""
    rng = np.random.default_rng(4)
    errors, words, names = draw(rng)
    words = np.full_like(words, 12)
    worse = errors + 1
    difference = paired_difference(worse, errors, words, names)
    assert difference.percent == pytest.approx(100 / 12)
    bound = 100 * (1 - 0.025 ** (1 / words.sum()))
    assert (difference.low, difference.high) == pytest.approx((100 / 12 - bound, 100 / 12 + bound))
    same = paired_difference(errors, errors, words, names)
    assert same.percent == 0 and same.low < 0 < same.high, "no difference seen is not no difference"
    assert (same.low, same.high) == pytest.approx((-bound, bound))


@pytest.mark.parametrize("changed", [1, 3])
@pytest.mark.parametrize("size", [1, 4])
def test_errors_that_moved_within_a_speaker_are_a_change(changed, size):
    """Net differences of zero in every speaker: no narrower than if nothing had changed, wider the more did."""
    errors, words, names = np.full(130, 4), np.full(130, 8), np.repeat([f"s{i}" for i in range(10)], 13)
    moved = errors.copy()
    for speaker in range(changed):
        moved[13 * speaker] += size
        moved[13 * speaker + 1] -= size
    same, other = (paired_difference(errors, second, words, names) for second in (errors, moved))
    assert other.percent == 0 and (other.over, other.groups) == ("speakers", 10)
    assert other.low <= same.low < 0 < same.high <= other.high
    most = paired_difference(errors, moved, words)
    assert (other.low, other.high) == pytest.approx((min(most.low, same.low), max(most.high, same.high)))
    if size * changed > 4:
        assert other.high > 1.2 * same.high


def test_one_utterance_shows_no_spread_and_proves_nothing():
    interval = paired_difference([2], [1], [5])
    bound = 100 * (1 - 0.025 ** (1 / 5))
    assert (interval.percent, interval.low, interval.high) == pytest.approx((20, 20 - bound, 20 + bound))
    assert not interval.excludes_zero


def test_paired_difference_changes_sign_with_its_order():
    rng = np.random.default_rng(5)
    a, words, names = draw(rng)
    b = rng.binomial(words, 0.12)
    ab, ba = paired_difference(a, b, words, names), paired_difference(b, a, words, names)
    assert ab.percent == -ba.percent
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))


@pytest.mark.parametrize(("rate", "spread"), [(0.01, 0.5), (0.03, 0.5), (0.1, 0.5), (0.1, 0.8), (0.3, 0.3)])
@pytest.mark.parametrize("speakers", [30, 60])
def test_covers_the_truth_as_often_as_promised(speakers, rate, spread):
    design = made_design(speakers, rate, spread)
    assert 93 <= wer_coverage(design, sets=1000) <= 97


@pytest.mark.parametrize(("rate", "spread"), [(0.03, 0.5), (0.1, 0.5), (0.1, 0.8), (0.2, 0.4), (0.33, 0.3)])
def test_covers_the_truth_with_ten_speakers_of_thirteen_utterances(rate, spread):
    assert wer_coverage(made_design(10, rate, spread), sets=1000) >= 92


@pytest.mark.parametrize("speakers", [5, 6])
@pytest.mark.parametrize(("rate", "spread"), [(0.1, 0.5), (0.1, 0.8), (0.2, 0.4)])
def test_covers_the_truth_with_the_fewest_speakers(speakers, rate, spread):
    """Where the normal distribution in place of Student's would leave 88 to 90 %."""
    assert 93 <= wer_coverage(made_design(speakers, rate, spread), sets=1000) <= 98


@pytest.mark.parametrize(("speakers", "least"), [(5, 88), (6, 91), (10, 92)])
def test_differences_of_few_speakers_cover_the_truth(speakers, least):
    """Percentiles as they are would leave 82, 85 and 90 %."""
    assert least <= difference_coverage(made_design(speakers, 0.12, 0.45), sets=1000, resamples=500) <= 98


def test_differences_cover_the_truth():
    assert 92 <= difference_coverage(made_design(30, 0.12, 0.45), sets=1000, resamples=500) <= 98


def made_design(speakers, rate, spread):
    rng = np.random.default_rng(speakers)
    speaker = np.repeat(np.arange(speakers), 13)
    return Design(rng.integers(1, 12, size=len(speaker)), speaker, rate, spread, clumping=0.05)


def test_a_design_is_found_again_in_what_it_makes():
    design = made_design(400, 0.15, 0.5)
    found = estimate_design(simulate(design, np.random.default_rng(1)), design.words, design.speaker)
    assert found.rate == pytest.approx(0.15, rel=0.1)
    assert found.speaker_spread == pytest.approx(0.5, rel=0.15)
    assert found.clumping == pytest.approx(0.05, abs=0.02)


def test_what_can_be_detected_is_detected_as_often_as_said():
    rng = np.random.default_rng(9)
    words, names = np.full(400, 10), np.repeat(np.arange(40), 10)
    base = rng.binomial(words, 0.2)
    size = np.mean([detectable(rng.binomial(words, 0.2), rng.binomial(words, 0.2), words, names) for _ in range(20)])
    found = 0
    for seed in range(100):
        a, b = (rng.binomial(words, rate) for rate in (0.2 + size / 100, 0.2))
        found += paired_difference(a, b, words, names, resamples=400, seed=seed).excludes_zero
    assert 68 <= found <= 92  # 80 %, and chance
    assert detectable(base, base, words, names) is None


def test_fast_enough_for_every_report():
    errors, words, _ = draw(np.random.default_rng(7))
    start = time.process_time()
    paired_difference(errors, errors[::-1], words)
    assert time.process_time() - start < 1.0


def test_refuses_what_is_no_count():
    for errors, words, names in (([1, 2], [3], None), ([0], [0], None), ([1, 1], [3, 3], ["a"])):
        with pytest.raises(ValueError):
            wer_interval(errors, words, names)


def test_units_are_counted_in_the_right_number():
    assert wer_interval([1], [3]).units == "1 utterance"
    assert wer_interval([1, 0], [3, 3]).units == "2 utterances"
    assert wer_interval([1] * 5, [3] * 5, list("abcde")).units == "5 speakers"


def test_whoever_takes_utterances_for_units_is_warned():
    for count in range(1, 2 * MIN_SPEAKERS):
        interval = wer_interval([1] * count, [3] * count, [str(i) for i in range(count)])
        assert (few_speakers(count) is not None) == (interval.over == "utterances"), count
