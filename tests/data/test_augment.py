"""SpecAugment: what is masked, how much, and that it depends on nothing but seed, epoch and utterance."""

import numpy as np
import pytest

from steps.data.augment import SpecAugmentConfig, spec_augment, utterance_rng, warp_frequency
from steps.data.feature_config import FeatureConfig

FEATS = np.random.default_rng(0).normal(size=(120, 40)).astype(np.float32)
FILL = np.arange(7, 47, dtype=np.float32)  # another one in each bin


def masked(seed=0, epoch=0, utt_id="a", **settings):
    return spec_augment(FEATS, SpecAugmentConfig(**settings), FILL, utterance_rng(seed, epoch, utt_id))


def test_the_same_seed_epoch_and_utterance_give_the_same_masks():
    before = FEATS.copy()
    assert np.array_equal(masked(), masked())
    assert np.array_equal(before, FEATS)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"utt_id": "b"}])
def test_anything_else_gives_others(other):
    assert not np.array_equal(masked(), masked(**other))


def test_values_are_kept_or_filled_in_whole_bands_and_spans():
    for epoch in range(30):
        result = masked(epoch=epoch, freq_masks=1, time_masks=1, freq_width=10, time_width=20)
        changed = result != FEATS
        assert np.array_equal(result[changed], np.broadcast_to(FILL, FEATS.shape)[changed])
        bins, frames = changed.all(axis=0), changed.all(axis=1)
        assert np.array_equal(changed, bins[None, :] | frames[:, None])
        assert bins.sum() <= 10
        assert frames.sum() <= 0.15 * 120


def test_nothing_to_mask_changes_nothing():
    assert np.array_equal(masked(freq_masks=0, time_masks=0), FEATS)


def test_short_utterances_survive():
    config = SpecAugmentConfig(time_width=50, time_share=1.0, freq_width=200)
    assert spec_augment(FEATS[:2], config, FILL, utterance_rng(0, 0, "x")).shape == (2, 40)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="time_share"):
        SpecAugmentConfig(time_share=1.5)


CENTRES_HZ = FeatureConfig().centres_hz


def peaks(feats):
    return CENTRES_HZ[feats.argmax(axis=1)]


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.2])
def test_a_warped_formant_stands_at_its_frequency_times_the_factor(factor):
    formants_hz = np.array([500.0, 1000.0, 2000.0, 3000.0])
    feats = -np.abs(np.log(CENTRES_HZ / formants_hz[:, None])).astype(np.float32)
    before = feats.copy()
    assert np.allclose(peaks(warp_frequency(feats, factor, CENTRES_HZ)), factor * formants_hz, rtol=0.04)
    assert np.array_equal(before, feats)


def test_a_warp_by_one_changes_nothing_and_none_invents_energy():
    feats = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    assert np.allclose(warp_frequency(feats, 1.0, CENTRES_HZ), feats, atol=1e-5)
    for factor in (0.6, 1.4):
        warped = warp_frequency(feats, factor, CENTRES_HZ)
        assert warped.dtype == np.float32
        assert warped.min() >= feats.min() and warped.max() <= feats.max()
        assert np.allclose(warped[:, -1], feats[:, -1], atol=1e-5)
