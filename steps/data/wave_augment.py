"""Reverberation, noise and volume on samples: a pure function of (seed, epoch, utterance), so a resumed run repeats it.

Changes of speed are not here: they are copies of the training set (utt2speed), because they change how long a batch is. Of
noises and impulse responses with several channels the first is taken: any of them is a noise of its own.
"""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steps.core.cli import UserError
from steps.core.config import check
from steps.core.folders import walk
from steps.core.sound import SUFFIXES
from steps.data.features import load_audio

# Louder results are scaled down to it.
PEAK = 0.99


def _check_range(name, limits, least, most):
    ordered = len(limits) == 2 and least <= limits[0] <= limits[1] <= most
    check(ordered, f"{name} must be two numbers from {least} to {most}, the smaller one first, not {limits}")


@dataclass
class NoiseConfig:
    """share: of the utterances, 0..1.  folder: of recordings; empty: noise is generated, white to brown.  snr_db: limits of
    the ratio of speech to noise power over the whole utterance."""

    share: float = 0.5
    folder: str = ""
    snr_db: list[float] = field(default_factory=lambda: [5.0, 20.0])

    def __post_init__(self):
        check(0 <= self.share <= 1, f"share must be in [0, 1], not {self.share}")
        _check_range("snr_db", self.snr_db, -30, 100)


@dataclass
class ReverbConfig:
    """share: of the utterances, 0..1.  folder: of measured impulse responses; empty: simulated ones with a reverberation time
    rt60_s and a ratio of direct to reverberant energy drr_db within these limits."""

    share: float = 0.3
    folder: str = ""
    rt60_s: list[float] = field(default_factory=lambda: [0.15, 0.6])
    drr_db: list[float] = field(default_factory=lambda: [0.0, 15.0])

    def __post_init__(self):
        check(0 <= self.share <= 1, f"share must be in [0, 1], not {self.share}")
        _check_range("rt60_s", self.rt60_s, 0.01, 10)
        _check_range("drr_db", self.drr_db, -30, 60)


@dataclass
class WaveAugmentConfig:
    """Applied in this order; null: not at all.  volume_db: limits of a gain."""

    reverb: ReverbConfig | None = None
    noise: NoiseConfig | None = None
    volume_db: list[float] | None = None

    def __post_init__(self):
        if self.volume_db is not None:
            _check_range("volume_db", self.volume_db, -60, 60)


class WaveAugment:
    """Changes samples by the settings. Args: config: WaveAugmentConfig.   rate_hz: of the samples.

    Raises: UserError for a folder without sound files. Its files should stay the same during a training.
    """

    def __init__(self, config: WaveAugmentConfig, rate_hz: int):
        self.config, self.rate_hz = config, rate_hz
        self.noises = list_sounds(config.noise.folder if config.noise else "")
        self.rooms = list_sounds(config.reverb.folder if config.reverb else "")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Args: samples (S,) float, left as they are; rng: numpy Generator.   Returns: (S,) float32."""
        config, changed = self.config, np.asarray(samples, dtype=np.float64)
        if config.reverb and rng.random() < config.reverb.share:
            changed = reverberate(changed, self._room(rng))
        if config.noise and rng.random() < config.noise.share:
            changed = add_noise(changed, self._noise(len(changed), rng), rng.uniform(*config.noise.snr_db))
        if config.volume_db:
            changed = changed * 10 ** (rng.uniform(*config.volume_db) / 20)
        loudest = float(np.abs(changed).max(initial=0.0))
        return (changed * min(1.0, PEAK / loudest) if loudest else changed).astype(np.float32)

    def _room(self, rng):
        if not self.rooms:
            config = self.config.reverb
            return simulated_response(rng.uniform(*config.rt60_s), rng.uniform(*config.drr_db), self.rate_hz, rng)
        response = _load(self.rooms[rng.integers(len(self.rooms))], self.rate_hz)
        # The direct sound comes first, so that nothing moves in time.
        return response[np.argmax(np.abs(response)) :]

    def _noise(self, count, rng):
        if not self.noises:
            return coloured_noise(count, rng.uniform(0, 2), rng)
        noise = _load(self.noises[rng.integers(len(self.noises))], self.rate_hz)
        return noise[(int(rng.integers(len(noise))) + np.arange(count)) % len(noise)]


def list_sounds(folder: str) -> list[str]:
    """Sound files of a folder and its subfolders, sorted, links followed, hidden ones left out; none for no folder."""
    if not folder:
        return []
    paths = [path for _, _, files in walk(folder) for path in files]
    found = sorted(path for path in paths if Path(path).suffix.lower() in SUFFIXES and os.path.isfile(path))
    if not found:
        raise UserError(f"{folder}: no sound files ({', '.join(SUFFIXES)}) to augment with")
    return found


@functools.lru_cache(maxsize=256)
def _load(path, rate_hz):
    samples = load_audio(path, rate_hz, channel=1).numpy().astype(np.float64)
    if not samples.any():
        raise UserError(f"{path}: silence; leave it out of the folder")
    return samples


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a ratio of mean powers. Args: samples, noise (S,); snr_db: decibels.  Returns: (S,). Silence stays silent."""
    noise_power = float(np.mean(np.square(noise)))
    # A pause in a recording of noise.
    if noise_power == 0:
        return samples
    power = float(np.mean(np.square(samples)))
    return samples + noise * np.sqrt(power / noise_power * 10 ** (-snr_db / 10))


def coloured_noise(count: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power falls as 1 / frequency**exponent: 0 white, 1 pink, 2 brown. Returns: (count,) float64."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, count)


def simulated_response(rt60_s: float, drr_db: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a room: the direct sound, then Gaussian noise that decays by 60 dB in `rt60_s`.

    Returns: (S,) float64, the first sample 1.   Source: Polack 1988, La transmission de l'energie sonore dans les salles.
    """
    time_s = np.arange(1, max(2, round(rt60_s * rate_hz))) / rate_hz
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / rt60_s)
    tail *= np.sqrt(10 ** (-drr_db / 10) / np.sum(np.square(tail)))
    return np.concatenate([[1.0], tail])


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve, keep the length and the mean power. Args: samples (S,); response (R,).  Returns: (S,)."""
    # Here, because it takes a second that only reverberation should cost.
    from scipy.signal import fftconvolve

    wet = fftconvolve(samples, response)[: len(samples)]
    power = float(np.mean(np.square(wet)))
    return wet * np.sqrt(float(np.mean(np.square(samples))) / power) if power else samples
