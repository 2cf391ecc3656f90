"""Sound that is still arriving at another rate: the samples of the whole, however it comes."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torchaudio

from steps.core.cli import UserError
from steps.data.online_resample import OnlineResampler, resampled


@pytest.mark.parametrize("old_hz", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("length", [0, 1, 30, 5000])
def test_any_split_gives_the_samples_of_the_whole(old_hz, length):
    random = np.random.default_rng(length + old_hz)
    sound = random.uniform(-0.5, 0.5, length).astype(np.float32)
    ratio = Fraction(old_hz, 16000)
    expected = sound
    if length:
        expected = torchaudio.functional.resample(torch.from_numpy(sound), ratio.numerator, ratio.denominator).numpy()
    for longest in (1, 300, 2000) if length < 100 else (300, 2000):
        blocks, start = [], 0
        while start < length:
            blocks.append(sound[start : start + random.integers(0, longest + 1)])
            start += len(blocks[-1])
        found = list(resampled(blocks, old_hz, 16000, "a"))
        assert np.concatenate(found).shape == expected.shape
        # torchaudio computes its filters once in float64 here, each time in float32 there
        np.testing.assert_allclose(np.concatenate(found), expected, atol=5e-5)


def test_it_keeps_no_more_than_it_needs_and_waits_for_no_more():
    online = OnlineResampler(Fraction(3, 1))
    given = sum(len(online.accept(np.zeros(480, np.float32))) for _ in range(100))
    assert given > 16000 - 30 and len(online.samples) < 100


def test_the_same_rate_is_left_alone_and_odd_ones_are_refused():
    blocks = [np.ones(3, np.float32), np.zeros(2, np.float32)]
    assert list(map(id, resampled(blocks, 16000, 16000, "a"))) == list(map(id, blocks))
    with pytest.raises(UserError, match="a: 96001 Hz is no usual rate"):
        list(resampled(blocks, 96001, 16000, "a"))
