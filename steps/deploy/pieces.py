"""Long sound is recognised in pieces, cut in its pauses: attention over an hour would need more memory than there is."""

import numpy as np

from steps.data.feature_config import FeatureConfig

# of a piece; what a model was trained on is shorter as a rule
LONGEST_S = 30.0
# a pause is the quietest stretch of this length in the second half of what a piece may hold
PAUSE_S = 0.3
# between two measurements of the level of samples
LEVEL_S = 0.01


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


def cut_samples(samples: np.ndarray, rate_hz: int, longest_s: float = LONGEST_S) -> list[np.ndarray]:
    """Pieces of a recording. Args: samples (S,) float.  Returns: views that add up to it; one for S within `longest_s`."""
    step = max(1, round(rate_hz * LEVEL_S))
    if len(samples) <= longest_s * rate_hz:
        return [samples]
    frames = len(samples) // step
    levels = np.empty(frames, np.float32)
    # a minute at a time, so that no copy of the whole is made
    block = 6000
    for begin in range(0, frames, block):
        part = samples[begin * step : min(frames, begin + block) * step].reshape(-1, step)
        levels[begin : begin + len(part)] = np.log(np.square(part).mean(axis=1) + 1e-10)
    cuts = cut_points(levels, int(longest_s / LEVEL_S), round(PAUSE_S / LEVEL_S))
    return np.split(samples, [cut * step for cut in cuts])


def cut_features(feats: np.ndarray, features: FeatureConfig, longest_s: float = LONGEST_S) -> list[np.ndarray]:
    """Pieces of a feature matrix. Args: feats (T, D).  Returns: views that add up to it; one for T within `longest_s`."""
    longest = int(1000 * longest_s / features.frame_shift_ms)
    if len(feats) <= longest:
        return [feats]
    # the mean of log-mel energies, or the first cepstral coefficient, which is that up to a factor
    levels = feats.mean(axis=1) if features.kind == "fbank" else feats[:, 0]
    return np.split(feats, cut_points(levels, longest, max(1, round(1000 * PAUSE_S / features.frame_shift_ms))))
