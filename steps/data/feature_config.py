"""What a model hears: the settings of its features, which go into every model and travel with every exported one."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from steps.core.config import LATER, check

WINDOWS = ("povey", "hanning", "hamming", "blackman", "rectangular")
# The frame rate is built into benchmark numbers and into what reads an exported folder.
FRAME_SHIFT_MS = 10.0


@dataclass(frozen=True)
class FeatureConfig:
    """Kaldi's fbank or MFCC, of samples in [-1, 1], without dither; or the samples themselves, 10 ms of them a frame."""

    # fbank: log mel energies, num_mel_bins of them; mfcc: num_ceps cepstra of these; samples: for models from a hub, whole
    # frames only, and the other settings keep their defaults.
    kind: str = "fbank"
    # 8000 to 192000; sound files of another rate are resampled.
    sample_rate_hz: int = 16000
    # 4 to 1024.
    num_mel_bins: int = 80
    # mfcc only; at most num_mel_bins.
    num_ceps: int = 40
    # 1 to 1000.
    frame_length_ms: float = 25.0
    # No other value, see FRAME_SHIFT_MS.
    frame_shift_ms: float = 10.0
    # Lower edge of the first mel bin.
    low_freq_hz: float = 20.0
    # Upper edge of the last mel bin; 0 or below: that much under half the sample rate.
    high_freq_hz: float = -400.0
    # povey, hanning, hamming, blackman or rectangular.
    window: str = "povey"
    # False: one frame per shift, mirrored at the ends; True: only frames that fit whole.
    snip_edges: bool = False
    # Root mean square that every sound is scaled to first, dB relative to full scale, such as -25; null: as recorded.
    level_dbfs: float | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        check(self.kind in ("fbank", "mfcc", "samples"), f"kind must be fbank, mfcc or samples, not {self.kind!r}")
        check(self.sample_rate_hz >= 8000, f"sample_rate_hz must be 8000 or more, not {self.sample_rate_hz}")
        check(self.sample_rate_hz <= 192000, f"sample_rate_hz must be 192000 or less, not {self.sample_rate_hz}")
        check(self.num_mel_bins >= 4, f"num_mel_bins must be 4 or more, not {self.num_mel_bins}")
        check(self.num_mel_bins <= 1024, f"num_mel_bins must be 1024 or less, not {self.num_mel_bins}")
        check(self.num_ceps >= 1, f"num_ceps must be at least 1, not {self.num_ceps}")
        fits = self.kind == "fbank" or self.num_ceps <= self.num_mel_bins
        check(fits, f"num_ceps ({self.num_ceps}) must not exceed num_mel_bins ({self.num_mel_bins})")
        check(1 <= self.frame_length_ms <= 1000, f"frame_length_ms must be 1 to 1000, not {self.frame_length_ms}")
        why = "benchmark numbers and the runtimes that read an exported folder count on it"
        fixed = self.frame_shift_ms == FRAME_SHIFT_MS
        check(fixed, f"frame_shift_ms must be {FRAME_SHIFT_MS}, not {self.frame_shift_ms}: {why}")
        check(self.window in WINDOWS, f"window must be one of {', '.join(WINDOWS)}, not {self.window!r}")
        if self.kind == "samples":
            whole = self.sample_rate_hz % 100 == 0
            check(whole, f"sample_rate_hz must be a multiple of 100 for samples, not {self.sample_rate_hz}")
            changed = {own.name for own in fields(FeatureConfig) if getattr(self, own.name) != own.default}
            unused = sorted(changed - {"kind", "sample_rate_hz"})
            check(not unused, f"kind samples has no {', '.join(unused)}; leave it out")
        high, nyquist = self.highest_hz, self.sample_rate_hz / 2
        inside = 0 <= self.low_freq_hz < high <= nyquist
        check(inside, f"low_freq_hz and high_freq_hz must satisfy 0 <= {self.low_freq_hz} < {high} <= {nyquist}")
        level = self.level_dbfs
        check(level is None or -60 <= level < 0, f"level_dbfs must be in [-60, 0), not {level}")

    @property
    def frame_samples(self) -> int:
        """Samples of one frame, as torchaudio.compliance.kaldi rounds them."""
        return int(self.sample_rate_hz * self.frame_length_ms * 0.001)

    @property
    def highest_hz(self) -> float:
        """Upper edge of the last mel bin, in Hz above 0."""
        return self.high_freq_hz if self.high_freq_hz > 0 else self.sample_rate_hz / 2 + self.high_freq_hz

    @property
    def centres_hz(self) -> np.ndarray:
        """Centre frequency of each mel bin, (num_mel_bins,) float64."""
        mels = [1127 * math.log1p(hz / 700) for hz in (self.low_freq_hz, self.highest_hz)]
        return 700 * np.expm1(np.linspace(*mels, self.num_mel_bins + 2)[1:-1] / 1127)

    @property
    def dim(self) -> int:
        """Numbers per frame, D."""
        if self.kind == "samples":
            return round(self.sample_rate_hz * self.frame_shift_ms / 1000)
        return self.num_mel_bins if self.kind == "fbank" else self.num_ceps


def differing(one: FeatureConfig, other: FeatureConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that two have not in common. Returns: {name: value of each}; None: it has no such setting."""
    names = dict.fromkeys(field.name for config in (one, other) for field in fields(config))
    pairs = {name: (getattr(one, name, None), getattr(other, name, None)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
