"""Posteriors moved in time: what greedy search reads stays the same, peaks stay whole."""

import numpy as np
import pytest

from steps.losses.spikes import resample, retime


def posteriors(rng, frames, units):
    """(T, V) log-probabilities, blanks more often than not."""
    logits = rng.normal(size=(frames, units))
    logits[:, 0] += rng.uniform(0, 3)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def peaks(units, count=4):
    """(T, V) log-probabilities with one sure unit a frame."""
    probs = np.full((len(units), count), 0.01)
    probs[np.arange(len(units)), units] = 0.97
    return np.log(probs)


def read(log_probs):
    """Units that greedy search reads."""
    best = log_probs.argmax(axis=1)
    return best[np.r_[True, np.diff(best) != 0] & (best != 0)].tolist()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9, 1.0, 1.1, 2.0, 4.0])
def test_no_unit_is_lost_or_doubled_at_another_rate(ratio):
    rng, fitted = np.random.default_rng(int(100 * ratio)), 0
    for _ in range(60):
        log_probs = posteriors(rng, int(rng.integers(1, 60)), int(rng.integers(2, 5)))
        frames = max(1, round(len(log_probs) / ratio) + int(rng.integers(-1, 2)))
        places, units = resample(log_probs, frames, ratio), read(log_probs)
        needed = len(units) + sum(a == b for a, b in zip(units, units[1:], strict=False))
        assert (places is None) == (needed > frames)
        if places is not None:
            fitted += 1
            assert places.shape == (frames,) and places.min() >= 0 and places.max() < len(log_probs)
            assert read(log_probs[places]) == units
    assert fitted > 10


def test_a_spike_wins_its_window_and_blanks_are_the_surest():
    log_probs = peaks([0, 0, 0, 2, 0, 0, 0, 0])
    log_probs[[0, 5, 7], 0] = np.log(0.9)
    assert resample(log_probs, 4, 2.0).tolist() == [1, 3, 4, 6]


def test_two_spikes_in_one_window_go_apart():
    assert peaks([0, 0, 1, 2, 0, 0, 0, 0])[resample(peaks([0, 0, 1, 2, 0, 0, 0, 0]), 4, 2.0)].argmax(1).tolist() == [
        0,
        1,
        2,
        0,
    ]
    assert peaks([1, 0, 1, 0, 0, 0])[resample(peaks([1, 0, 1, 0, 0, 0]), 3, 2.0)].argmax(1).tolist() == [1, 0, 1]


def test_equal_frames_stay_as_they_are():
    rng = np.random.default_rng(0)
    for _ in range(20):
        log_probs = posteriors(rng, 30, 4)
        assert resample(log_probs, 30, 1.0).tolist() == list(range(30))


@pytest.mark.parametrize("shift", [-1, 1, 2])
def test_a_second_model_is_laid_on_the_first(shift):
    first = peaks([0, 0, 1, 0, 0, 2, 0, 0, 0, 3, 3, 0, 1, 0, 0])
    second = np.roll(first, shift, axis=0)
    assert read((np.exp(first) + np.exp(second)) / 2) != read(first) or shift == 1
    assert np.array_equal(second[retime(second, first)].argmax(axis=1), first.argmax(axis=1))


def test_where_they_differ_each_keeps_its_opinion_and_equal_ones_everything():
    first, second = peaks([0, 1, 0, 2, 0, 3, 0]), peaks([1, 0, 3, 0, 0, 0, 0, 3, 0])
    # 1, another one, 3
    assert second[retime(second, first)].argmax(axis=1).tolist() == [0, 1, 0, 3, 0, 3, 0]
    rng = np.random.default_rng(1)
    blurred = posteriors(rng, 30, 4)
    assert retime(blurred, blurred).tolist() == list(range(30))
    # nothing at all; nothing but units
    assert peaks([0, 0])[retime(peaks([0, 0]), first)].argmax(axis=1).tolist() == [0] * 7
    assert retime(peaks([1, 1, 1]), first).shape == (7,)
