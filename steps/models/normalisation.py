"""What is taken from features before a model hears them, and what they are divided by."""

import torch
from torch.nn import functional

# mean and deviation of the corpus; the mean of the utterance and the deviation of the corpus; mean and deviation of the
# utterance; the mean of what has been heard so far and the deviation of the corpus
GLOBAL, UTTERANCE, VARIANCE, SLIDING = "global", "utterance", "utterance_variance", "sliding"
NORMALISATIONS = (GLOBAL, UTTERANCE, VARIANCE, SLIDING)
# those that need the whole utterance
OF_UTTERANCES = (UTTERANCE, VARIANCE)
# Least deviation of a bin within an utterance, as a share of the corpus's: silence and single frames stay small numbers.
LEAST_DEVIATION = 0.1
# Of SLIDING: a frame counts 1/e after so many more; the corpus's mean counts as many frames as this.
HORIZON, OF_CORPUS = 300, 100
DECAY = 1.0 - 1.0 / HORIZON
# frames that are summed up at once; DECAY ** -BLOCK stays a small number
BLOCK = 256


def is_sound(feats: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
    """Which frames of filterbanks are neither padding nor digital silence, of which every bin is the same number, the logarithm's
    floor, and which says nothing of a room or a microphone.

    Args: feats (N, T, D); is_real (N, T, 1) bool: no padding; None: there is none.   Returns: (N, T, 1) bool.
    """
    differ = feats.amax(dim=2, keepdim=True) > feats.amin(dim=2, keepdim=True)
    return differ if is_real is None else differ & is_real


def centre(normed: torch.Tensor, counts: torch.Tensor, is_real: torch.Tensor, scaled: bool) -> torch.Tensor:
    """Take from each utterance its own mean.

    Args:    normed (N, T, D): by the corpus's numbers.   counts (N, T, 1) bool: frames that the mean is taken over; all, where an
             utterance has none.   is_real (N, T, 1) bool: no padding.   scaled: divide by its own deviation, too.
    Returns: (N, T, D); padding is not looked after.
    """
    counts = counts | (is_real & ~counts.any(dim=1, keepdim=True))
    frames = counts.sum(dim=1, keepdim=True).clamp(min=1).to(normed.dtype)
    normed = normed - normed.masked_fill(~counts, 0.0).sum(dim=1, keepdim=True) / frames
    if scaled:
        variance = normed.masked_fill(~counts, 0.0).square().sum(dim=1, keepdim=True) / frames
        normed = normed / variance.clamp(min=LEAST_DEVIATION**2).sqrt()
    return normed


def slide(normed: torch.Tensor, counts: torch.Tensor, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Take from each frame the mean of the frames up to it, older ones counting less, and of OF_CORPUS frames of the corpus.

    Kaldi's online normalisation does so with a window of frames, which would have to be kept; here there are sums to keep.
    Source: Kaldi, src/feat/online-feature.h, OnlineCmvnOptions.

    Args:    normed (N, T, D): by the corpus's numbers.   counts (N, T, 1) bool: frames that count.   before (N, D + 1): sums of
             earlier frames, the last one their number, 0 at the beginning, for a chunk of at most some thousand frames; None:
             these are whole utterances.
    Returns: (N, T, D); the sums up to each frame (N, T, D + 1).
    """
    counts, dim = counts.to(normed.dtype), normed.shape[2]
    frames = torch.cat([normed * counts, counts], dim=2)
    sums = sums_of_whole(frames) if before is None else faded(frames) + decays(frames) * before.unsqueeze(1)
    return normed - sums[..., :dim] / (sums[..., dim:] + OF_CORPUS), sums


def faded(frames: torch.Tensor) -> torch.Tensor:
    """Sums over time in which a frame counts DECAY times what it did one frame earlier.

    Args: frames (..., T, C), few, for the numbers grow with DECAY ** -T.   Returns: (..., T, C).
    """
    return (frames / decays(frames)).cumsum(dim=-2) * decays(frames)


def sums_of_whole(frames: torch.Tensor) -> torch.Tensor:
    """`faded`, of any number of frames. Args: frames (N, T, C).  Returns: (N, T, C)."""
    count = frames.shape[1]
    # (N, K, BLOCK, C)
    blocks = functional.pad(frames, (0, 0, 0, -count % BLOCK)).unflatten(1, (-1, BLOCK))
    within = faded(blocks)
    # (K, K): what the end of one counts at the beginning of another; an exported graph has other numbers of blocks
    places = torch.arange((count + BLOCK - 1) // BLOCK, device=frames.device, dtype=frames.dtype)
    between = places.unsqueeze(1) - places - 1
    shares = torch.where(between >= 0, DECAY ** (BLOCK * between.clamp(min=0)), torch.zeros_like(between))
    # (N, K, C), not by a product of matrices, which bfloat16 would round
    before = (shares.unsqueeze(2) * within[:, :, -1].unsqueeze(1)).sum(dim=2)
    return (within + decays(blocks) * before.unsqueeze(2)).flatten(1, 2)[:, :count]


def decays(frames: torch.Tensor) -> torch.Tensor:
    """What the frame before the first one counts at each of them. Args: frames (..., T, C).  Returns: (T, 1)."""
    time = torch.arange(1, frames.shape[-2] + 1, device=frames.device, dtype=frames.dtype)
    return (DECAY**time).unsqueeze(1)
