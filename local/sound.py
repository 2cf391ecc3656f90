"""Treating recordings before training: voice-activity trimming and denoising. Inputs are never changed.

Trimming only moves the limits of an utterance. Denoising, and what no other program would read as it is (several channels,
damaged files) make a new file, FLAC of 16 bits with one channel at the rate of the original.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from steps.core.cli import say
from steps.core.config import check
from steps.core.datadir import SOUND_FILE, Utterance
from steps.core.outdir import atomic_file, write_json
from steps.core.sound import CHANNELS, Damaged, ManyChannels, OutOfRange, read_sound, sound_info

VAD_RATE_HZ = 16000


@dataclass(frozen=True)
class SoundConfig:
    """What is done to the audio of all sets, test sets too. A model trained on it must hear the same in use, where no program
    of ours does this: `tell_what_stays_here` warns. What can travel with a model is a setting of the features."""

    channel: object = None  # of files with several: 1, 2 or mix, their mean; None: such files are refused
    damaged: str = "refuse"  # files whose header and content disagree; accept: what can be decoded is taken
    trim: bool = False  # cut off what a voice-activity detector (Silero) takes for silence at both ends
    trim_pad_s: float = 0.2  # kept of it
    denoise: float = 0.0  # 0 to 1: share of the estimated noise to take away (spectral gating)
    level_dbfs: float | None = None  # refused: belongs to the features

    def __post_init__(self):
        known = self.channel in CHANNELS and not isinstance(self.channel, (bool, float))
        check(known, f"channel must be 1, 2 or mix, not {self.channel!r}")
        check(self.damaged in ("refuse", "accept"), f"damaged must be refuse or accept, not {self.damaged!r}")
        check(0 <= self.denoise <= 1, f"denoise must be in [0, 1], not {self.denoise}")
        check(self.trim_pad_s >= 0, f"trim_pad_s must be >= 0, not {self.trim_pad_s}")
        why = f"put `level_dbfs: {self.level_dbfs}` into features.yaml instead, which travels with the model"
        check(self.level_dbfs is None, f"level_dbfs: a model must hear it in use, too; {why}")


def tell_what_stays_here(config: SoundConfig, out: Path) -> None:
    """Warn of treatments that change what a model hears and do not travel with it; write them down for the report.

    Args: out: folder of the data folders, for sound.json: {setting: value}, empty where nothing stays here.
    """
    found = {name: value for name, value in (("trim", config.trim), ("denoise", config.denoise)) if value}
    write_json(out / SOUND_FILE, found)
    if found:
        say(
            f"warning: sound: {' and '.join(found)}: not part of the model; error rates are those of recordings treated "
            "like this, so whatever uses the model must treat them, too"
        )


def treat(utt, config, folder):
    """Treat one utterance. Args: folder: for a new file. Returns: Utterance, or why it is dropped (str)."""
    if config == SoundConfig(channel=config.channel) and sound_info(utt.audio, guess=True).channels == 1:
        return utt
    try:
        samples, rate_hz, copy = read_samples(utt, config)
    except OutOfRange:
        if config.damaged == "refuse":
            raise
        return "its sound file ends before it"
    if config.trim:
        speech = speech_limits(samples, rate_hz)
        if speech is None:
            return "no speech found"
        first = max(0, round((speech[0] - config.trim_pad_s) * rate_hz))
        samples = samples[first : round((speech[1] + config.trim_pad_s) * rate_hz)]
        start_s, seconds = round(utt.start_s + first / rate_hz, 6), round(len(samples) / rate_hz, 6)
        utt = replace(utt, start_s=start_s, end_s=round(start_s + seconds, 6), duration_s=seconds)
    if not copy and not config.denoise:
        return utt
    if not np.any(samples):
        return "digital silence"
    if config.denoise:
        samples = reduce_noise(samples, rate_hz, config.denoise)
    path = Path(folder) / f"{hashlib.sha256(utt.utt_id.encode()).hexdigest()[:24]}.flac"
    write_flac(path, samples, rate_hz)
    return replace(utt, audio=str(path), start_s=0.0, end_s=None, duration_s=round(len(samples) / rate_hz, 6))


def read_samples(utt: Utterance, config: SoundConfig) -> tuple[np.ndarray, int, bool]:
    """Samples of an utterance, and whether they need a file of their own, because later programs would refuse theirs.

    Returns: ((S,) float32, rate in Hz, bool).   Raises: UserError.
    """
    try:
        return *read_sound(utt.audio, utt.start_s, utt.end_s), False
    except (ManyChannels, Damaged):
        if config.channel is None and config.damaged == "refuse":
            raise
    return *read_sound(utt.audio, utt.start_s, utt.end_s, config.channel, config.damaged == "accept"), True


def write_flac(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    """Write sound as FLAC of 16 bits. Args: samples: (S,) or (S, C) float; beyond [-1, 1] they are clipped."""
    with atomic_file(path, "wb") as file:
        soundfile.write(file, np.clip(samples, -1.0, 1.0), rate_hz, subtype="PCM_16", format="FLAC")


def reduce_noise(samples, rate_hz, share):
    """Stationary spectral gating. Source: noisereduce (Sainburg, Zorea 2024, arXiv:2412.17851)."""
    import noisereduce  # only here: loads torch and scipy

    reduced = noisereduce.reduce_noise(y=samples, sr=rate_hz, stationary=True, prop_decrease=share)
    return np.asarray(reduced, dtype=np.float32)


@functools.cache
def _detector():
    from silero_vad import load_silero_vad  # only here: loads torch

    return load_silero_vad(onnx=True)


def speech_limits(samples, rate_hz):
    """First and last moment of speech. Returns: (start_s, end_s), or None when there is none. Source: Silero VAD."""
    import torch
    from silero_vad import get_speech_timestamps

    torch.set_num_threads(1)
    count = round(len(samples) * VAD_RATE_HZ / rate_hz)
    at = np.linspace(0, len(samples) - 1, max(count, 1))
    resampled = (
        np.interp(at, np.arange(len(samples)), samples).astype(np.float32) if rate_hz != VAD_RATE_HZ else samples
    )
    found = get_speech_timestamps(torch.from_numpy(resampled.copy()), _detector(), sampling_rate=VAD_RATE_HZ)
    if not found:
        return None
    return found[0]["start"] / VAD_RATE_HZ, min(found[-1]["end"] / VAD_RATE_HZ, len(samples) / rate_hz)
