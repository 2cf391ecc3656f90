"""Filterbank features: the one definition used for training, offline extraction, on-the-fly computation and export."""

import os
from fractions import Fraction

import numpy as np
import soundfile
import torch
import torchaudio

from steps.core.cli import MissingInput, UserError
from steps.core.datacheck import OVERSHOOT_S
from steps.core.datadir import Utterance

MOST_TAPS = 20_000_000  # numbers of a resampler's filters: so many only between rates that nobody uses
LOUDEST = 8.0  # beyond this, samples are surely not meant to lie in [-1, 1]


def load_audio(path, sample_rate_hz, start_s=0.0, end_s=None):
    """Read one stretch of a sound file; of several channels the first is taken.

    Args:    path: any file libsndfile reads (WAV, FLAC, NIST SPHERE, Ogg, ...); commands are refused.
             sample_rate_hz: rate of the result; a file of another rate is resampled.
             start_s, end_s: limits in seconds; end_s None: to the end. Up to 0.5 s beyond the end is cut off.
    Returns: (S,) float32, within [-1, 1] but for overshoot.
    Raises:  UserError for a file that is missing, unreadable, empty, cut short, or holds anything but finite samples.
    """
    if path.endswith("|") or path.startswith("|"):
        raise UserError(f"{path}: commands in wav.scp are not run; make the sound files once and list those")
    samples, rate_hz = _read_samples(path, start_s, end_s)
    loudest = float(np.abs(samples).max())
    if not loudest <= LOUDEST:  # also true for NaN
        what = "not scaled to [-1, 1]" if np.isfinite(samples).all() else "not finite"
        raise UserError(f"{path}: samples are {what} (largest: {loudest:g})")
    ratio = Fraction(rate_hz, sample_rate_hz)
    if ratio.numerator * ratio.denominator > MOST_TAPS:
        raise UserError(f"{path}: {rate_hz} Hz is no usual rate, too costly to resample; convert the file first")
    return _resample(torch.from_numpy(samples), ratio)


def _read_samples(path, start_s, end_s):
    """Returns: ((S,) float32 array with S > 0, rate in Hz)."""
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz, total = file.samplerate, file.frames
            first = round(start_s * rate_hz)
            last = total if end_s is None else round(end_s * rate_hz)
            if total <= 0 or last > total + OVERSHOOT_S * rate_hz or first >= min(last, total):
                limits = "" if end_s is None and not start_s else f"; {start_s} s to {end_s} s was asked for"
                raise UserError(f"{path}: the sound file has {total / rate_hz:.2f} s{limits}")
            file.seek(first)
            wanted = min(last, total) - first
            samples = file.read(wanted, dtype="float32", always_2d=True)[:, 0]
    except (soundfile.SoundFileError, OSError) as error:
        if not os.path.exists(path):
            raise MissingInput(f"{path}: no such sound file") from None
        reason = getattr(error, "error_string", error)
        raise UserError(f"{path}: not a readable sound file ({reason})") from None
    if len(samples) != wanted:
        raise UserError(f"{path}: cut short: {len(samples)} of {wanted} samples are there")
    return np.ascontiguousarray(samples), rate_hz


def _resample(samples, ratio):
    """Resample (S,) by a Fraction of old to new rate; torchaudio's windowed sinc."""
    if ratio == 1:
        return samples
    return torchaudio.functional.resample(samples, ratio.numerator, ratio.denominator)


def change_speed(samples, factor):
    """Play samples faster (factor above 1) or slower, pitch included, as `sox speed` does.

    Args:    samples: (S,) float.   factor: > 0; taken as the nearest fraction with a denominator up to 100.
    Returns: (about S / factor,) float.
    """
    return _resample(samples, Fraction(factor).limit_denominator(100))


def compute_features(samples, config):
    """Compute the features of one stretch of speech.

    Args:    samples: (S,) float32 in [-1, 1] at config.sample_rate_hz.
    Returns: (T, D) float32; T = round(S / shift) unless snip_edges.
    Raises:  ValueError when the samples do not fill one frame.
    Source:  Kaldi's feat/feature-fbank.cc and feature-mfcc.cc as torchaudio.compliance.kaldi redoes them.
    """
    if samples.dim() != 1 or len(samples) < config.frame_length_ms / 1000 * config.sample_rate_hz:
        shape = tuple(samples.shape)
        raise ValueError(f"expected (S,) samples filling a frame of {config.frame_length_ms} ms, not {shape}")
    options = {
        "sample_frequency": float(config.sample_rate_hz),
        "num_mel_bins": config.num_mel_bins,
        "frame_length": config.frame_length_ms,
        "frame_shift": config.frame_shift_ms,
        "low_freq": config.low_freq_hz,
        "high_freq": config.high_freq_hz,
        "window_type": config.window,
        "snip_edges": config.snip_edges,
        "dither": 0.0,
    }
    waveform = samples.unsqueeze(0)  # (1, S)
    if config.kind == "fbank":
        return torchaudio.compliance.kaldi.fbank(waveform, **options)
    return torchaudio.compliance.kaldi.mfcc(waveform, num_ceps=config.num_ceps, **options)


def utterance_samples(utt: Utterance, sample_rate_hz: int) -> torch.Tensor:
    """Read and cut the audio of one utterance and change its speed. Returns: (S,) float32 in [-1, 1].

    Raises: UserError naming the file.
    """
    samples = load_audio(utt.audio, sample_rate_hz, utt.start_s, utt.end_s)
    return change_speed(samples, utt.speed) if utt.speed != 1.0 else samples


def utterance_features(utt: Utterance, config, change=None):
    """Read, cut, change the speed of, and analyse one utterance: what is stored offline and computed on the fly.

    Args:    change: function (S,) float32 array -> the same shape, applied last before the analysis; None: none.
    Returns: (T, D) float32.   Raises: UserError naming the utterance or its file.
    """
    samples = utterance_samples(utt, config.sample_rate_hz)
    if change is not None:
        samples = torch.from_numpy(change(samples.numpy()))
    try:
        return compute_features(samples, config)
    except ValueError:
        seconds = len(samples) / config.sample_rate_hz
        raise UserError(f"{utt.audio}: utterance {utt.utt_id} has {seconds:.3f} s, less than one frame") from None
