"""What a block knows about a batch besides its frames."""

from dataclasses import dataclass

import torch

# what a block keeps from one chunk to the next, by name, utterances first
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Context:
    """One object per encode: which frames a block may look at. A block ignores what it does not need.

    lengths: (N,) int64 encoder frames.   is_pad: (N, T) bool, True on padding.
    chunk: encoder frames of a chunk, beyond whose end no frame looks; 0: whole utterances.
    is_masked: (N, T or 1, K) bool, True where a frame does not look at one of the K frames it could see: those kept from
    earlier chunks, then these; None: padding alone is hidden.
    state: where one chunk runs after others, what this block kept; it puts in what the next chunk needs.
    """

    lengths: torch.Tensor
    is_pad: torch.Tensor
    chunk: int = 0
    is_masked: torch.Tensor | None = None
    state: State | None = None

    @classmethod
    def of(cls, lengths: torch.Tensor, frames: int, chunk: int = 0, left: int = 0) -> "Context":
        """The context of whole utterances, in chunks or not.

        Args: lengths (N,) int64 encoder frames.   frames: T, padding included.   chunk: see above.   left: frames before its
              chunk that a frame looks at.
        """
        time = torch.arange(frames, device=lengths.device)
        is_pad = time.unsqueeze(0) >= lengths.unsqueeze(1)
        if not chunk:
            return cls(lengths, is_pad)
        # (T, 1): the first frame of each frame's chunk
        first = (time // chunk * chunk).unsqueeze(1)
        is_away = (time < first - left) | (time >= first + chunk)
        return cls(lengths, is_pad, chunk, is_away | is_pad.unsqueeze(1))

    @classmethod
    def of_chunk(cls, lengths: torch.Tensor, frames: int, seen: torch.Tensor, left: int) -> "Context":
        """The context of one chunk of each utterance.

        Args: lengths (N,) int64: its frames that are no padding.   frames: T of the chunk.   seen (N,) int64: frames of
              earlier chunks.   left: how many of these are kept, filled up in front.
        """
        device = lengths.device
        is_pad = torch.arange(frames, device=device).unsqueeze(0) >= lengths.unsqueeze(1)
        is_empty = torch.arange(left, device=device).unsqueeze(0) < left - seen.unsqueeze(1)
        return cls(lengths, is_pad, frames, torch.cat([is_empty, is_pad], dim=1).unsqueeze(1))
