"""Features of sound that is still arriving: those of the whole, however it comes and wherever it ends."""

import numpy as np
import pytest
import torch

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features
from steps.data.online_features import OnlineFeatures, chunk_by_chunk

DIM = 20
CONFIGS = {
    "default": FeatureConfig(num_mel_bins=DIM),
    "snip": FeatureConfig(num_mel_bins=DIM, snip_edges=True),
    "mfcc, 8 kHz": FeatureConfig(kind="mfcc", num_mel_bins=DIM, num_ceps=13, sample_rate_hz=8000),
    "a fraction of a sample": FeatureConfig(num_mel_bins=DIM, sample_rate_hz=22050),
    "short frames": FeatureConfig(num_mel_bins=DIM, frame_length_ms=8.0),
    "short frames, snip": FeatureConfig(num_mel_bins=DIM, frame_length_ms=8.0, snip_edges=True),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 79, 80, 300, 4000, 8123])
def test_features_of_arriving_sound_are_those_of_the_whole(name, length):
    config, random = CONFIGS[name], np.random.default_rng(length)
    sound = random.uniform(-0.3, 0.3, length).astype(np.float32)
    shift = config.sample_rate_hz // 100
    whole = np.concatenate([sound, np.zeros(7 * shift, np.float32)])
    expected = compute_features(torch.from_numpy(whole), config).numpy()
    online, start, parts = OnlineFeatures(config), 0, []
    while start < length:
        step = int(random.integers(1, 900))
        online.accept(sound[start : start + step])
        start += step
        if online.ready >= 3:
            parts.append(online.take(3))
    online.finish(7)
    parts.append(online.take(online.ready))
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=5e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [399, 400, 479, 8123])
def test_sound_that_ends_with_nothing_behind_it_has_the_frames_of_the_whole(name, length):
    config, random = CONFIGS[name], np.random.default_rng(length)
    sound = random.uniform(-0.3, 0.3, length).astype(np.float32)
    online, parts = OnlineFeatures(config), []
    for piece in np.split(sound, [300, 310, 390]):
        online.accept(piece)
        if online.ready:
            parts.append(online.take(1))
    online.end()
    if length < config.frame_length_ms * config.sample_rate_hz / 1000:
        # which no features are computed of
        assert online.ready == 0
        return
    if online.ready:
        parts.append(online.take(online.ready))
    assert online.ready == 0
    expected = compute_features(torch.from_numpy(sound), config).numpy()
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=5e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frames", [1, 2, 19])
def test_so_many_samples_make_so_many_frames_and_one_less_does_not(name, frames):
    online = OnlineFeatures(CONFIGS[name])
    count = online.samples_of(frames)
    online.accept(np.zeros(count - 1, np.float32))
    assert online.ready == frames - 1
    online.accept(np.zeros(1, np.float32))
    assert online.ready == frames


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [300, 479, 3040, 3200, 16123])
@pytest.mark.parametrize(("read", "advanced"), [(19, 16), (16, 16), (30, 8)])
def test_chunks_overlap_and_compute_every_frame_once(monkeypatch, name, length, read, advanced):
    config, random = CONFIGS[name], np.random.default_rng(length)
    sound, computed, take = random.uniform(-0.3, 0.3, length).astype(np.float32), [], OnlineFeatures.take

    def counted(self, count):
        computed.append(count)
        return take(self, count)

    monkeypatch.setattr(OnlineFeatures, "take", counted)
    chunks = list(chunk_by_chunk(np.split(sound, range(160, length, 160)), config, read, advanced))
    if length < config.frame_length_ms * config.sample_rate_hz / 1000:
        assert chunks == []
        return
    expected = compute_features(torch.from_numpy(sound), config).numpy()
    assert sum(computed) == len(expected) and len(computed) == len(chunks)
    assert len(chunks) == max(0, -(-(len(expected) - read) // advanced)) + 1
    for number, chunk in enumerate(chunks):
        np.testing.assert_allclose(chunk, expected[number * advanced :][:read], atol=5e-4)


def test_features_that_need_the_whole_sound_are_refused():
    for config in (FeatureConfig(level_dbfs=-25.0), FeatureConfig(kind="samples")):
        with pytest.raises(UserError, match="are not computed while sound arrives"):
            OnlineFeatures(config)


def test_one_frame_alone_can_be_taken_where_frames_are_no_whole_samples():
    """551 samples of 551.25, as torchaudio has it."""
    online = OnlineFeatures(FeatureConfig(num_mel_bins=DIM, sample_rate_hz=22050))
    online.accept(np.full(3000, 0.1, np.float32))
    assert all(online.take(1).shape == (1, DIM) for _ in range(3))
