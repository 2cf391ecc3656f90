"""Long sound is cut in its pauses, whole, and short sound is left alone."""

import numpy as np
import pytest

from steps.data.feature_config import FeatureConfig
from steps.deploy.pieces import cut_features, cut_points, cut_samples

RATE = 8000


def speech(pauses_s, total_s, seed=0):
    """Noise with pauses of 0.5 s at these times. Returns: (S,) float32."""
    samples = np.random.default_rng(seed).standard_normal(int(total_s * RATE)).astype(np.float32) * 0.1
    for begin in pauses_s:
        samples[int(begin * RATE) : int((begin + 0.5) * RATE)] *= 1e-3
    return samples


def test_cuts_lie_in_the_pauses_and_lose_nothing():
    pauses = [6.0, 12.0, 19.0, 24.0, 30.0]
    samples = speech(pauses, 37.0)
    pieces = cut_samples(samples, RATE)
    assert np.array_equal(np.concatenate(pieces), samples)
    cuts = np.cumsum([len(piece) / RATE for piece in pieces])[:-1]
    assert len(cuts) == 5 and all(begin < cut < begin + 0.5 for begin, cut in zip(pauses, cuts, strict=True))


@pytest.mark.parametrize("total_s", [0.0, 1.0, 30.0])
def test_what_is_short_enough_is_one_piece(total_s):
    samples = speech([], total_s)
    (piece,) = cut_samples(samples, RATE)
    assert piece is samples
    feats = np.zeros((int(100 * total_s), 4), np.float32)
    (whole,) = cut_features(feats, FeatureConfig(num_mel_bins=4))
    assert whole is feats


def test_without_a_pause_no_piece_is_too_long_or_tiny():
    pieces = cut_samples(speech([], 200.0), RATE)
    assert all(len(piece) <= 8 * RATE for piece in pieces)
    assert all(len(piece) >= 4 * RATE for piece in pieces[:-1])


def test_features_are_cut_where_they_are_quiet():
    feats = np.zeros((3100, 4), np.float32)
    for begin in range(600, 3000, 600):
        feats[begin : begin + 50] = -9.0
    pieces = cut_features(feats, FeatureConfig(num_mel_bins=4))
    cuts = np.cumsum([len(piece) for piece in pieces])[:-1]
    assert len(cuts) == 4 and all(0 <= cut - begin < 50 for cut, begin in zip(cuts, range(600, 3000, 600), strict=True))
    assert np.array_equal(np.concatenate(pieces), feats)


def test_cuts_rise_for_any_levels():
    random = np.random.default_rng(0)
    for _ in range(200):
        levels = random.standard_normal(int(random.integers(1, 400)))
        longest, pause = int(random.integers(1, 60)), int(random.integers(1, 40))
        bounds = [0, *cut_points(levels, longest, pause), len(levels)]
        assert all(0 < b - a <= longest for a, b in zip(bounds, bounds[1:], strict=False))
