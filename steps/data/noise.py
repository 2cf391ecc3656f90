"""Noise to test models in: generated, so that nothing has to be fetched, and the same for the same seed."""

import numpy as np
import torch


def pink_noise(length, rng):
    """Noise whose power falls by 3 dB an octave, as that of rooms and machines does. Returns: (length,) float32, power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, length)
    return (noise / max(float(np.sqrt((noise**2).mean())), 1e-12)).astype(np.float32)


def add_noise(samples, snr_db, rng):
    """Add pink noise to one stretch of speech.

    Args:    samples: (S,) float32.   snr_db: power of the samples over that of the noise, in dB, over the whole stretch.
    Returns: (S,) float32; digital silence stays as it is.
    """
    power = float((samples.double() ** 2).mean())
    noise = torch.from_numpy(pink_noise(len(samples), rng))
    return samples + noise * (power / 10 ** (snr_db / 10)) ** 0.5
