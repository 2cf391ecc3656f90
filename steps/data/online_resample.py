"""Sound that is still arriving at another rate: the samples that resampling the whole would give."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import torch
import torchaudio

from steps.data.features import rate_ratio

# periods of the lower rate on each side that torchaudio's windowed sinc reaches, and a little more
REACH = 8


class OnlineResampler:
    """Takes samples in pieces of any length and gives them at another rate.

    Args: ratio: of old to new rate.
    """

    def __init__(self, ratio: Fraction):
        self.old, self.new = ratio.numerator, ratio.denominator
        self.resample = torchaudio.transforms.Resample(self.old, self.new)
        # old samples on each side of what is resampled; in whole periods of both rates, as all that is taken at once
        self.context = self.old * math.ceil((REACH * self.old / min(self.old, self.new) + 1) / self.old)
        self.samples = np.empty(0, np.float32)
        # of them, those that were resampled already
        self.before = 0

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """More sound. Args: samples (S,) float32.  Returns: (S',) float32, as many as do not depend on what is still to come."""
        self.samples = np.concatenate([self.samples, samples.astype(np.float32, copy=False)])
        ready = max(0, len(self.samples) - self.before - self.context) // self.old * self.old
        if not ready:
            return np.empty(0, np.float32)
        done = self.before + ready
        found = self._resampled(self.samples[: done + self.context])
        start, end = (place // self.old * self.new for place in (self.before, done))
        kept = max(0, done - self.context)
        self.samples, self.before = self.samples[kept:], done - kept
        return found[start:end]

    def finish(self) -> np.ndarray:
        """The sound has ended. Returns: (S',) float32, the rest."""
        return self._resampled(self.samples)[self.before // self.old * self.new :]

    def _resampled(self, samples):
        return self.resample(torch.from_numpy(samples)).numpy() if len(samples) else samples


def resampled(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int, name: str) -> Iterator[np.ndarray]:
    """Blocks of sound at another rate. Args: blocks: (S,) float32; name: for messages.  Raises: UserError for an unusual rate."""
    ratio = rate_ratio(from_hz, to_hz, name)
    if ratio == 1:
        yield from blocks
        return
    online = OnlineResampler(ratio)
    for block in blocks:
        yield online.accept(block)
    yield online.finish()
