"""Bootstrap intervals: coverage, pairing, grouping by speaker, speed."""

import time

import numpy as np
import pytest

from steps.scoring.significance import paired_difference, wer_interval


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
    assert (interval.drawn, interval.groups) == ("speakers", 10)
    assert wer_interval(errors, words, names) == interval
    assert wer_interval(errors, words, names, seed=1) != interval


def test_width_is_the_textbook_one():
    rng = np.random.default_rng(1)
    errors, words = rng.binomial(1, 0.1, size=4000), np.ones(4000, dtype=int)
    interval = wer_interval(errors, words)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.1 * 0.9 / 4000), rel=0.1)
    assert interval.drawn == "utterances"


def test_few_speakers_fall_back_to_utterances():
    errors, words, names = draw(np.random.default_rng(2), speakers=4)
    assert wer_interval(errors, words, names) == wer_interval(errors, words)
    assert wer_interval(errors, words, names).drawn == "utterances"


def test_whole_speakers_are_drawn():
    """Splitting a speaker's words over more utterances changes nothing when speakers are drawn."""
    errors, words, names = draw(np.random.default_rng(3))
    split = wer_interval(np.append(errors, 0), np.append(words, 0), np.append(names, names[0]))
    assert split == wer_interval(errors, words, names)


def test_no_errors_and_all_errors():
    words, names = np.full(20, 3), [f"s{i // 2}" for i in range(20)]
    none, all_wrong = wer_interval(0 * words, words, names), wer_interval(words, words, names)
    assert (none.low, none.high, all_wrong.low, all_wrong.high) == (0, 0, 100, 100)


def test_paired_difference_uses_what_is_shared():
    """One more error in every speaker is certain, however much speakers differ."""
    rng = np.random.default_rng(4)
    errors, words, names = draw(rng)
    words = np.full_like(words, 12)
    worse = errors + 1
    difference = paired_difference(worse, errors, words, names)
    assert difference.percent == pytest.approx(100 / 12)
    assert difference.low == pytest.approx(100 / 12) and difference.high == pytest.approx(100 / 12)
    same = paired_difference(errors, errors, words, names)
    assert (same.low, same.percent, same.high) == (0, 0, 0) and not same.excludes_zero


def test_paired_difference_changes_sign_with_its_order():
    rng = np.random.default_rng(5)
    a, words, names = draw(rng)
    b = rng.binomial(words, 0.12)
    ab, ba = paired_difference(a, b, words, names), paired_difference(b, a, words, names)
    assert ab.percent == -ba.percent
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))


def test_covers_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(200):
        errors, words, names = draw(rng, speakers=30)
        interval = wer_interval(errors, words, names, resamples=500)
        hits += interval.low <= 10.0 <= interval.high
    assert 0.85 <= hits / 200 <= 0.99


def test_fast_enough_for_every_report():
    errors, words, _ = draw(np.random.default_rng(7))
    start = time.process_time()
    wer_interval(errors, words)
    assert time.process_time() - start < 1.0


def test_refuses_what_is_no_count():
    for errors, words, names in (([1, 2], [3], None), ([0], [0], None), ([1, 1], [3, 3], ["a"])):
        with pytest.raises(ValueError):
            wer_interval(errors, words, names)
