"""Long sound is recognised in pieces, cut in its pauses: attention over an hour would need more memory than there is."""

import itertools
from collections.abc import Iterator

import numpy as np

from steps.data.feature_config import FeatureConfig

# what is longer is cut
LONGEST_S = 30.0
# into pieces of at most this length, about what models are trained on: in longer ones they make more errors
PIECE_S = 8.0
# a pause is the quietest stretch of this length in the second half of what a piece may hold
PAUSE_S = 0.3
# between two measurements of the level of samples
LEVEL_S = 0.01
# in which recorded sound is fed to what streams, in turn
FED_MS = (10, 20, 50, 100, 200, 500)


def cut_points(levels: np.ndarray, longest: int, pause: int) -> list[int]:
    """Where to cut, so that no piece is longer than `longest` and each cut lies in the quietest place within reach.

    Args:    levels: (T,) float, loudness; any monotonic scale.   longest, pause: in frames of it, 1 or more.
    Returns: rising frame numbers, none for T <= longest.
    """
    cuts, start = [], 0
    total = np.concatenate([[0.0], np.cumsum(levels, dtype=np.float64)])
    while len(levels) - start > longest:
        places = np.arange(start + max(1, longest // 2), start + longest + 1)
        begin, end = np.maximum(places - pause // 2, 0), np.minimum(places + pause // 2 + 1, len(levels))
        start = int(places[((total[end] - total[begin]) / (end - begin)).argmin()])
        cuts.append(start)
    return cuts


def cut_samples(samples: np.ndarray, rate_hz: int) -> list[np.ndarray]:
    """Pieces of a recording. Args: samples (S,) float.  Returns: views that add up to it; one for S within LONGEST_S."""
    step = max(1, round(rate_hz * LEVEL_S))
    if len(samples) <= LONGEST_S * rate_hz:
        return [samples]
    frames = len(samples) // step
    levels = np.empty(frames, np.float32)
    # a minute at a time, so that no copy of the whole is made
    block = 6000
    for begin in range(0, frames, block):
        part = samples[begin * step : min(frames, begin + block) * step].reshape(-1, step)
        levels[begin : begin + len(part)] = np.log(np.square(part).mean(axis=1) + 1e-10)
    cuts = cut_points(levels, int(PIECE_S / LEVEL_S), round(PAUSE_S / LEVEL_S))
    return np.split(samples, [cut * step for cut in cuts])


def cut_features(feats: np.ndarray, features: FeatureConfig) -> list[np.ndarray]:
    """Pieces of a feature matrix. Args: feats (T, D).  Returns: views that add up to it; one for T within LONGEST_S."""
    longest, pause = (int(1000 * seconds / features.frame_shift_ms) for seconds in (PIECE_S, PAUSE_S))
    if len(feats) * features.frame_shift_ms <= 1000 * LONGEST_S:
        return [feats]
    if features.kind == "samples":
        levels = np.log(np.square(feats).mean(axis=1) + 1e-10)
    else:
        # the mean of log-mel energies, or the first cepstral coefficient, which is that up to a factor
        levels = feats.mean(axis=1) if features.kind == "fbank" else feats[:, 0]
    return np.split(feats, cut_points(levels, longest, max(1, pause)))


def feed(samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
    """Pieces of a recording as they might arrive, FED_MS long in turn. Args: samples (S,).  Yields: views that add up to it."""
    start = 0
    for length_ms in itertools.cycle(FED_MS):
        if start >= len(samples):
            return
        yield samples[start : start + rate_hz * length_ms // 1000]
        start += rate_hz * length_ms // 1000
