"""What a block knows about a batch besides its frames."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional

# what a block keeps from one chunk to the next, by name, utterances first
State = dict[str, torch.Tensor]


def padding_mask(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """True on padding. Args: lengths (N,) int64.   frames: T, padding included.  Returns: (N, T) bool."""
    return torch.arange(frames, device=lengths.device).unsqueeze(0) >= lengths.unsqueeze(1)


@dataclass(frozen=True)
class Windows:
    """Utterances cut into chunks with the frames ahead that they hear, to be computed all at once. Shapes: W windows an utterance,
    S = chunk + ahead frames a window.

    chunk: frames that a window gives.   ahead: frames behind them that it hears, too; the next window gives them.   count: W.
    """

    chunk: int
    ahead: int
    count: int

    @classmethod
    def of(cls, frames: int, chunk: int, ahead: int) -> "Windows":
        """As many as utterances of so many frames need."""
        return cls(chunk, ahead, -(-frames // chunk))

    def lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames of each window that are no padding. Args: lengths (N,) int64.  Returns: (N W,) int64."""
        begins = self.chunk * torch.arange(self.count, device=lengths.device)
        return (lengths.unsqueeze(1) - begins).clamp(0, self.chunk + self.ahead).flatten()

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, T, C).  Returns: (N W, S, C), zeros behind the end."""
        padded = functional.pad(x, (0, 0, 0, self.count * self.chunk + self.ahead - x.shape[1]))
        return padded.unfold(1, self.chunk + self.ahead, self.chunk).transpose(2, 3).flatten(0, 1)

    def join(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """The other way round. Args: x (N W, S, C).   frames: T.  Returns: (N, T, C): what each window gives."""
        return x[:, : self.chunk].unflatten(0, (-1, self.count)).flatten(1, 2)[:, :frames]

    def before(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """What earlier windows gave. Args: x (N W, S, C).   length: frames.  Returns: (N W, length, C), zeros before the first."""
        given = functional.pad(self.join(x, self.count * self.chunk), (0, 0, length, 0))
        return given.unfold(1, length, self.chunk)[:, : self.count].transpose(2, 3).flatten(0, 1)


@dataclass(frozen=True)
class Context:
    """One object per encode: which frames a block may look at. A block ignores what it does not need.

    lengths: (N,) int64 encoder frames.   is_pad: (N, T) bool, True on padding.
    chunk: encoder frames of a chunk, beyond whose end no frame looks; 0: whole utterances.
    is_masked: (N, T or 1, K) bool, True where a frame does not look at one of the K frames it could see: those kept from
    earlier chunks, then these; None: padding alone is hidden.
    state: where one chunk runs after others, what this block kept; it puts in what the next chunk needs.
    ahead: of these frames the last, which the next chunk has again.
    windows: where chunks that hear ahead are computed at once, with the windows as the batch.
    """

    lengths: torch.Tensor
    is_pad: torch.Tensor
    chunk: int = 0
    is_masked: torch.Tensor | None = None
    state: State | None = None
    ahead: int = 0
    windows: Windows | None = None

    @classmethod
    def of(cls, lengths: torch.Tensor, frames: int, chunk: int = 0, left: int = 0) -> "Context":
        """The context of whole utterances, in chunks or not.

        Args: lengths (N,) int64 encoder frames.   frames: T, padding included.   chunk: see above.   left: frames before its
              chunk that a frame looks at.
        """
        is_pad = padding_mask(lengths, frames)
        if not chunk:
            return cls(lengths, is_pad)
        time = torch.arange(frames, device=lengths.device)
        # (T, 1): the first frame of each frame's chunk
        first = (time // chunk * chunk).unsqueeze(1)
        is_away = (time < first - left) | (time >= first + chunk)
        return cls(lengths, is_pad, chunk, is_away | is_pad.unsqueeze(1))

    @classmethod
    def of_chunk(cls, lengths: torch.Tensor, frames: int, seen: torch.Tensor, left: int, ahead: int = 0) -> "Context":
        """The context of one chunk of each utterance.

        Args: lengths (N,) int64: its frames that are no padding.   frames: T of the chunk.   seen (N,) int64: frames of
              earlier chunks.   left: how many of these are kept, filled up in front.   ahead: of the T the last, see above.
        """
        is_pad = padding_mask(lengths, frames)
        is_empty = torch.arange(left, device=lengths.device).unsqueeze(0) < left - seen.unsqueeze(1)
        return cls(lengths, is_pad, frames, torch.cat([is_empty, is_pad], dim=1).unsqueeze(1), ahead=ahead)

    @classmethod
    def of_windows(cls, lengths: torch.Tensor, windows: Windows, left: int) -> "Context":
        """The context of all windows of whole utterances.

        Args: lengths (N,) int64 encoder frames of the utterances.   left: as above.
        """
        seen = (windows.chunk * torch.arange(windows.count, device=lengths.device)).repeat(len(lengths))
        there, frames = windows.lengths(lengths), windows.chunk + windows.ahead
        chunk = cls.of_chunk(there, frames, seen, left, windows.ahead)
        return replace(chunk, windows=windows)
