"""Filterbank features: the one definition used for training, offline extraction, on-the-fly computation and export."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
import torchaudio

from steps.core.cli import UserError
from steps.core.datadir import Utterance
from steps.core.sound import read_sound
from steps.data.feature_config import FeatureConfig

# Numbers of a resampler's filters: so many only between rates that nobody uses.
MOST_TAPS = 20_000_000


class TooShort(UserError):
    """Sound that does not fill one frame."""


def load_audio(
    path: str,
    sample_rate_hz: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | str | None = None,
    damaged: bool = False,
) -> torch.Tensor:
    """Read one stretch of one channel of a sound file, at the rate that is wanted.

    Args:    path: any file that steps.core.sound reads; commands are refused.
             sample_rate_hz: rate of the result; a file of another rate is resampled.
             start_s, end_s, channel, damaged: see steps.core.sound.read_sound.
    Returns: (S,) float32, within [-1, 1] but for overshoot.   Raises: as read_sound, all of them UserError.
    """
    samples, rate_hz = read_sound(path, start_s, end_s, channel, damaged)
    return _resample(torch.from_numpy(samples), rate_ratio(rate_hz, sample_rate_hz, path))


def rate_ratio(from_hz: int, to_hz: int, name: str) -> Fraction:
    """Old to new rate. Args: name: for messages.  Raises: UserError for a rate whose filters would need much memory."""
    ratio = Fraction(from_hz, to_hz)
    if ratio.numerator * ratio.denominator > MOST_TAPS:
        raise UserError(f"{name}: {from_hz} Hz is no usual rate, too costly to resample; convert the file first")
    return ratio


def _resample(samples, ratio):
    """Resample (S,) by a Fraction of old to new rate; torchaudio's windowed sinc."""
    if ratio == 1:
        return samples
    return torchaudio.functional.resample(samples, ratio.numerator, ratio.denominator)


def change_speed(samples: torch.Tensor, factor: float) -> torch.Tensor:
    """Play samples faster (factor above 1) or slower, pitch included, as `sox speed` does.

    Args:    samples: (S,) float.   factor: > 0; taken as the nearest fraction with a denominator up to 100.
    Returns: (about S / factor,) float.
    """
    return _resample(samples, Fraction(factor).limit_denominator(100))


def set_level(samples: torch.Tensor, dbfs: float) -> torch.Tensor:
    """Scale a sound to a root mean square of `dbfs` decibels below full scale; digital silence stays.

    Args:    samples: (S,) float.   Returns: (S,) of the same type, beyond [-1, 1] where peaks need it.
    """
    rms = float(samples.double().square().mean().sqrt())
    return samples * (10 ** (dbfs / 20) / rms) if rms else samples


def compute_features(samples: torch.Tensor, config: FeatureConfig) -> torch.Tensor:
    """Compute the features of one stretch of speech, scaled to config.level_dbfs first where that is set.

    Args:    samples: (S,) float32 in [-1, 1] at config.sample_rate_hz.
    Returns: (T, D) float32; T = round(S / shift) unless snip_edges; for kind samples S // shift, and the rest is left out.
    Raises:  ValueError when the samples do not fill one frame.
    Source:  Kaldi's feat/feature-fbank.cc and feature-mfcc.cc as torchaudio.compliance.kaldi redoes them.
    """
    if samples.dim() != 1 or len(samples) < config.frame_samples:
        shape = tuple(samples.shape)
        raise ValueError(f"expected (S,) samples filling a frame of {config.frame_length_ms} ms, not {shape}")
    if config.level_dbfs is not None:
        samples = set_level(samples, config.level_dbfs)
    if config.kind == "samples":
        return samples[: len(samples) // config.dim * config.dim].view(-1, config.dim)
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
    # (1, S)
    waveform = samples.unsqueeze(0)
    if config.kind == "fbank":
        return torchaudio.compliance.kaldi.fbank(waveform, **options)
    return torchaudio.compliance.kaldi.mfcc(waveform, num_ceps=config.num_ceps, **options)


def piece_features(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """`compute_features` of an array. Args: samples (S,) float32, that fill a frame.   Returns: (T, D) float32."""
    return compute_features(torch.from_numpy(samples), config).numpy()


def utterance_samples(
    utt: Utterance, sample_rate_hz: int, channel: int | str | None = None, damaged: bool = False
) -> torch.Tensor:
    """Read and cut the audio of one utterance and change its speed.

    Args:    channel, damaged: see steps.core.sound.read_sound.
    Returns: (S,) float32 in [-1, 1].   Raises: UserError naming the file.
    """
    recorded, rate_hz = read_sound(utt.audio, utt.start_s, utt.end_s, channel, damaged)
    return _as_spoken(recorded, rate_hz, utt, sample_rate_hz)


def _as_spoken(recorded: np.ndarray, rate_hz: int, utt: Utterance, sample_rate_hz: int) -> torch.Tensor:
    """An utterance's stretch of its file, at the rate that is wanted and the utterance's speed."""
    samples = _resample(torch.from_numpy(recorded), rate_ratio(rate_hz, sample_rate_hz, utt.audio))
    return change_speed(samples, utt.speed) if utt.speed != 1.0 else samples


def fitted(recorded: np.ndarray, rate_hz: int, utt: Utterance, config: FeatureConfig) -> np.ndarray:
    """What `utterance_samples` gives, of sound that is read already, at config.level_dbfs where that is set.

    Args:    recorded: (S,) float32, the utterance's stretch of its file.   rate_hz: of the file.
    Returns: (S,) float32.   Raises: as rate_ratio.
    """
    samples = _as_spoken(recorded, rate_hz, utt, config.sample_rate_hz)
    return (samples if config.level_dbfs is None else set_level(samples, config.level_dbfs)).numpy()


def utterance_features(
    utt: Utterance,
    config: FeatureConfig,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    channel: int | str | None = None,
) -> torch.Tensor:
    """Read, cut, change the speed of, and analyse one utterance: what is stored offline and computed on the fly.

    Args:    change: function (S,) float32 array -> the same shape, applied last before the analysis; None: none.
             channel: see steps.core.sound.read_sound.
    Returns: (T, D) float32.   Raises: UserError naming the utterance or its file.
    """
    samples = utterance_samples(utt, config.sample_rate_hz, channel)
    if change is not None:
        samples = torch.from_numpy(change(samples.numpy()))
    try:
        return compute_features(samples, config)
    except ValueError:
        seconds = len(samples) / config.sample_rate_hz
        raise TooShort(f"{utt.audio}: utterance {utt.utt_id} has {seconds:.3f} s, less than one frame") from None
