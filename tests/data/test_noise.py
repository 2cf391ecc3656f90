"""Generated noise: its level, its colour, its seed."""

import numpy as np
import pytest

from steps.data.augment import utterance_rng
from steps.data.wave_augment import add_noise, coloured_noise


def hear(samples, snr_db, rng):
    return add_noise(samples, coloured_noise(len(samples), 1, rng), snr_db)


@pytest.mark.parametrize("snr_db", [20, 10, 0, -5])
def test_the_level_is_the_one_asked_for(snr_db):
    samples = np.sin(np.arange(16000) * 0.1) * 0.3
    noise = hear(samples, snr_db, np.random.default_rng(0)) - samples
    ratio = (samples**2).mean() / (noise**2).mean()
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)


def test_power_falls_by_three_decibels_an_octave():
    spectrum = np.abs(np.fft.rfft(coloured_noise(1 << 16, 1, np.random.default_rng(1)))) ** 2
    octaves = [spectrum[1 << k : 2 << k].sum() for k in range(6, 15)]
    assert max(octaves) / min(octaves) < 1.5  # as much in each octave


def test_the_same_utterance_hears_the_same_noise():
    samples = np.ones(4000)
    one, two, other = (hear(samples, 10, utterance_rng(0, 0, name)) for name in ("a", "a", "b"))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert np.array_equal(hear(np.zeros(100), 10, utterance_rng(0, 0, "a")), np.zeros(100))
