"""SpecAugment: each mask is a pure function of (seed, epoch, utterance), so that a resumed run repeats it exactly."""

import hashlib
from dataclasses import dataclass

import numpy as np

from steps.core.config import check


@dataclass
class SpecAugmentConfig:
    """Masks per utterance. freq_width: bins, at most.  time_width: frames, at most.  time_share: of the utterance, at most, 0..1."""

    freq_masks: int = 2
    freq_width: int = 20
    time_masks: int = 3
    time_width: int = 25
    time_share: float = 0.15

    def __post_init__(self):
        check(
            min(self.freq_masks, self.freq_width, self.time_masks, self.time_width) >= 0,
            "masks and widths must be >= 0",
        )
        check(0 <= self.time_share <= 1, "time_share must be in [0, 1]")


def utterance_rng(seed, epoch, utt_id):
    """Random generator that depends on these three alone."""
    digest = hashlib.sha256(f"{seed} {epoch} {utt_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def spec_augment(feats, config, fill, rng):
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
