"""Features of other people's models: filterbanks or samples that differ from ours in scale, mel filters or normalisation."""

from dataclasses import dataclass, fields

import torch
import torchaudio

from steps.core.config import check
from steps.core.datadir import Utterance
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features, utterance_samples

PREEMPHASIS = 0.97
EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class ForeignFeatures(FeatureConfig):
    """features.yaml beside a foreign model: the keys of FeatureConfig, and these."""

    # What samples in [-1, 1] are multiplied with: 32768 for models trained on 16-bit numbers.
    sample_scale: float = 1.0
    # kaldi; or slaney: filters as librosa makes them, frames not freed of their mean.
    mel: str = "kaldi"
    # none; per_feature or all_features: mean and deviation of each utterance, per bin or of all. Of samples: all_features, as
    # wav2vec 2.0's do_normalize.
    normalise: str = "none"

    def __post_init__(self):
        super().__post_init__()
        check(self.sample_scale > 0, "sample_scale must be above 0")
        check(self.mel in ("kaldi", "slaney"), f"mel must be kaldi or slaney, not {self.mel!r}")
        check(self.mel == "kaldi" or self.kind == "fbank", "mel: slaney needs kind: fbank")
        as_recorded = self.mel == "kaldi" and self.sample_scale == 1
        check(self.level_dbfs is None or as_recorded, "level_dbfs goes with neither mel: slaney nor sample_scale")
        check(self.mel == "kaldi" or not self.snip_edges, "mel: slaney needs snip_edges: false")
        check(self.mel == "kaldi" or self.window == "hanning", "mel: slaney needs window: hanning")
        check(
            self.normalise in ("none", "per_feature", "all_features"), f"normalise: no way is called {self.normalise!r}"
        )
        bins = self.kind != "samples" or self.normalise != "per_feature"
        check(bins, "normalise: per_feature is of bins, which kind: samples has none of; use all_features")

    def plain(self) -> FeatureConfig:
        """Ours, where they are no different; else as they are."""
        if (self.sample_scale, self.mel, self.normalise) != (1.0, "kaldi", "none"):
            return self
        return FeatureConfig(**{field.name: getattr(self, field.name) for field in fields(FeatureConfig)})


def foreign_features(samples: torch.Tensor, config: ForeignFeatures) -> torch.Tensor:
    """Features of one utterance. Args: samples (S,) float32 in [-1, 1].  Returns: (T, D).  Raises: ValueError for less than a frame."""
    samples = samples * config.sample_scale
    own = ForeignFeatures(**{field.name: getattr(config, field.name) for field in fields(FeatureConfig)})
    feats = slaney_fbank(samples, config) if config.mel == "slaney" else compute_features(samples, own)
    if config.normalise == "none":
        return feats
    over = 0 if config.normalise == "per_feature" else (0, 1)
    if config.kind == "samples":
        variance, mean = torch.var_mean(feats, correction=0)
        return (feats - mean) / (variance + 1e-7).sqrt()
    deviation, mean = torch.std_mean(feats, dim=over, correction=0, keepdim=True)
    return (feats - mean) / (deviation + 1e-5)


def slaney_fbank(samples: torch.Tensor, config: FeatureConfig) -> torch.Tensor:
    """Log energies of librosa's mel filters, on frames as Kaldi cuts them.

    Args:    samples (S,) float32.   Returns: (T, D) float32.   Raises: ValueError for less than a frame.
    Source:  kaldi-native-fbank with is_librosa, as sherpa-onnx computes the features of NeMo's models.
    """
    rate = config.sample_rate_hz
    length, shift = (int(rate * ms / 1000) for ms in (config.frame_length_ms, config.frame_shift_ms))
    total = len(samples)
    if total < length:
        raise ValueError(f"expected at least {length} samples, not {total}")
    frames = (total + shift // 2) // shift
    starts = torch.arange(frames) * shift + shift // 2 - length // 2
    at = starts[:, None] + torch.arange(length)
    # mirrored at both ends, the outermost samples twice
    at = torch.where(at < 0, -at - 1, at)
    at = torch.where(at >= total, 2 * total - 1 - at, at)
    cut = samples[at]
    cut = cut - PREEMPHASIS * torch.cat([cut[:, :1], cut[:, :-1]], dim=1)
    size = 1 << (length - 1).bit_length()
    power = torch.fft.rfft(cut * torch.hann_window(length), n=size).abs() ** 2
    high = config.high_freq_hz if config.high_freq_hz > 0 else rate / 2 + config.high_freq_hz
    mel = torchaudio.functional.melscale_fbanks(
        size // 2 + 1, config.low_freq_hz, high, config.num_mel_bins, rate, norm="slaney", mel_scale="slaney"
    )
    return (power @ mel).clamp(min=EPSILON).log()


def heard_features(utt: Utterance, config: ForeignFeatures) -> torch.Tensor:
    """Read and analyse one utterance at its own speed. Returns: (T, D) float32.  Raises: UserError, ValueError."""
    return foreign_features(utterance_samples(utt, config.sample_rate_hz), config)
