"""What a block knows about a batch besides its frames."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Context:
    """One object per encode: which frames a block may look at. A block ignores what it does not need.

    lengths: (N,) int64 encoder frames.   is_pad: (N, T) bool, True on padding.
    """

    lengths: torch.Tensor
    is_pad: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor, frames: int) -> "Context":
        """The context of whole utterances. Args: lengths (N,) int64 encoder frames.   frames: T, padding included."""
        time = torch.arange(frames, device=lengths.device)
        return cls(lengths, time.unsqueeze(0) >= lengths.unsqueeze(1))
