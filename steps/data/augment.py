"""Augmentation on the fly: each change is a pure function of (seed, epoch, utterance), so a resumed run repeats it exactly."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from steps.core.cli import UserError
from steps.core.config import check
from steps.data.feature_config import FeatureConfig
from steps.data.wave_augment import WaveAugment, WaveAugmentConfig


@dataclass
class SpecAugmentConfig:
    """Masks per utterance. freq_width: bins, at most.  time_width: frames, at most.  time_share: of the utterance, at most, 0..1.
    masks_from: share of the epochs that passes before there are masks, 0..1; null: none. A training whose loss stays where next
    to nothing is output learns sooner without them.
    vtlp: vocal tracts are made shorter or longer by up to this share; 0.1 suits corpora of few speakers, 0 is off.
    wave: changes of the samples before features are computed; needs `source: on_the_fly`."""

    freq_masks: int = 2
    freq_width: int = 20
    time_masks: int = 3
    time_width: int = 25
    time_share: float = 0.15
    masks_from: float | None = None
    vtlp: float = 0.0
    wave: WaveAugmentConfig | None = None

    def __post_init__(self):
        check(
            min(self.freq_masks, self.freq_width, self.time_masks, self.time_width) >= 0,
            "masks and widths must be >= 0",
        )
        check(0 <= self.time_share <= 1, "time_share must be in [0, 1]")
        check(self.masks_from is None or 0 <= self.masks_from < 1, "masks_from must be in [0, 1)")
        check(0 <= self.vtlp < 0.5, "vtlp must be in [0, 0.5)")

    def in_epoch(self, epoch: int, epochs: int) -> "SpecAugmentConfig":
        """What is done in one epoch. Args: epoch: from 0.   epochs: of the whole training."""
        if epoch < (self.masks_from or 0) * epochs:
            return dataclasses.replace(self, freq_masks=0, time_masks=0)
        return self

    def check_features(self, config: FeatureConfig, where: str, features: str) -> None:
        """Raise UserError when a change needs a frequency axis that such features lack, or is undone by them.

        Args: where, features: files.
        """
        if self.vtlp and config.kind != "fbank":
            raise UserError(f"{where}: augment.vtlp warps mel energies; {features} makes {config.kind}")
        if self.freq_masks and config.kind == "samples":
            raise UserError(
                f"{where}: augment.freq_masks hide mel bins; {features} makes samples, so set freq_masks: 0"
            )
        if self.wave and self.wave.volume_db and config.level_dbfs is not None:
            raise UserError(
                f"{where}: augment.wave.volume_db has no effect: by level_dbfs {features} brings all to one level"
            )


def utterance_rng(seed: int, epoch: int, utt_id: str) -> np.random.Generator:
    """Random generator that depends on these three alone."""
    digest = hashlib.sha256(f"{seed} {epoch} {utt_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def warp_frequency(feats: np.ndarray, factor: float, centres_hz: np.ndarray) -> np.ndarray:
    """The log mel energies of the same speech from a vocal tract 1 / factor as long.

    Args:    feats (T, D) float32, left as it is; factor: of all frequencies below about 4800 Hz, beyond that a line leads to
             the last bin; centres_hz (D,) of the mel bins.
    Returns: (T, D) float32 copy, linear between the bins.
    Source:  Jaitly & Hinton 2013, Vocal Tract Length Perturbation (VTLP) improves speech recognition, section 3, here on the
             energies of the bins instead of on the filters.
    """
    edge = min(4800.0, 0.6 * centres_hz[-1]) * min(factor, 1.0) / factor
    knees = ([0.0, edge, centres_hz[-1]], [0.0, edge * factor, centres_hz[-1]])
    source = np.interp(np.interp(centres_hz, knees[1], knees[0]), centres_hz, np.arange(len(centres_hz)))
    left = np.minimum(source.astype(np.int64), len(centres_hz) - 2)
    share = (source - left).astype(np.float32)
    return feats[:, left] * (1 - share) + feats[:, left + 1] * share


def augment_wave(samples: np.ndarray, augment: WaveAugment, seed: int, epoch: int, utt_id: str) -> np.ndarray:
    """Change the samples of one utterance. Args: samples (S,) float array; augment: WaveAugment.  Returns: (S,) float32."""
    return augment(samples, utterance_rng(seed, epoch, f"wave {utt_id}"))


def spec_augment(
    feats: np.ndarray, config: SpecAugmentConfig, fill: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Mask bands of bins and spans of frames.

    Args:    feats (T, D) float32, left as it is; fill (D,) value of a masked bin, the corpus mean; rng: numpy Generator.
    Returns: (T, D) float32 copy.
    Source:  Park et al. 2019 (arXiv:1904.08779), section 2, without time warping: it would move frames against the teacher's.
    """
    masked = feats.copy()
    frames, bins = feats.shape
    for _ in range(config.freq_masks):
        width = int(rng.integers(0, min(config.freq_width, bins) + 1))
        start = int(rng.integers(0, bins - width + 1))
        masked[:, start : start + width] = fill[start : start + width]
    longest = min(config.time_width, int(config.time_share * frames))
    for _ in range(config.time_masks):
        width = int(rng.integers(0, longest + 1))
        start = int(rng.integers(0, frames - width + 1))
        masked[start : start + width] = fill
    return masked
