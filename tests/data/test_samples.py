"""Features of kind samples: 10 ms of the samples themselves a frame, and nothing that would have no effect on them."""

import numpy as np
import pytest
import torch
import yaml

from steps.core.cli import UserError
from steps.data.augment import SpecAugmentConfig
from steps.data.dataset import count_frames
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.data.wave_augment import WaveAugmentConfig
from steps.deploy.pieces import cut_features, cut_samples

SAMPLES = FeatureConfig(kind="samples")


def test_a_frame_is_10_ms_of_samples_in_their_order():
    """The last samples, which fill no frame, are left out."""
    samples = torch.randn(1699, generator=torch.Generator().manual_seed(0))
    feats = compute_features(samples, SAMPLES)
    assert SAMPLES.dim == 160 and feats.shape == (10, 160) and torch.equal(feats.flatten(), samples[:1600])


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="kind samples has no num_mel_bins"):
        FeatureConfig(kind="samples", num_mel_bins=40)
    with pytest.raises(ValueError, match="a multiple of 100"):
        FeatureConfig(kind="samples", sample_rate_hz=11025)
    saved = yaml.safe_load(yaml.safe_dump(vars(FeatureConfig(kind="samples", sample_rate_hz=8000))))
    assert FeatureConfig(**saved).dim == 80


def test_lengths_on_the_fly_are_those_of_the_features():
    for samples in (400, 1599, 1600, 1759, 16080):
        counted = count_frames(np.array([samples / 16000]), SAMPLES)
        assert counted[0] == len(compute_features(torch.zeros(samples), SAMPLES))


def test_masks_without_a_frequency_axis_are_refused():
    with pytest.raises(UserError, match="set freq_masks: 0"):
        SpecAugmentConfig().check_features(FeatureConfig(kind="samples"), "a.yaml", "f.yaml")
    with pytest.raises(UserError, match="vtlp warps mel energies; f.yaml makes mfcc"):
        SpecAugmentConfig(vtlp=0.1).check_features(FeatureConfig(kind="mfcc"), "a.yaml", "f.yaml")
    SpecAugmentConfig(freq_masks=0).check_features(FeatureConfig(kind="samples"), "a.yaml", "f.yaml")
    SpecAugmentConfig(vtlp=0.1).check_features(FeatureConfig(), "a.yaml", "f.yaml")


def test_a_gain_that_features_take_back_is_refused():
    louder = SpecAugmentConfig(wave=WaveAugmentConfig(volume_db=[-6, 6]))
    louder.check_features(FeatureConfig(), "a.yaml", "f.yaml")
    with pytest.raises(UserError, match="a.yaml: augment.wave.volume_db has no effect: by level_dbfs f.yaml brings"):
        louder.check_features(FeatureConfig(level_dbfs=-25.0), "a.yaml", "f.yaml")


def test_long_sound_is_cut_where_samples_would_be_cut():
    """In its pauses, whether it comes as samples or as frames of them."""
    random = np.random.default_rng(0)
    samples = random.standard_normal(35 * 16000).astype(np.float32)
    for pause_s in (6.1, 12.3, 18.9, 25.2, 31.0):
        samples[int(pause_s * 16000) :][:8000] *= 1e-3
    pieces = cut_features(samples.reshape(-1, 160), SAMPLES)
    assert [160 * len(piece) for piece in pieces] == [len(piece) for piece in cut_samples(samples, 16000)]
    assert len(pieces) > 4
