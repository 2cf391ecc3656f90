"""Settings of models that run while somebody speaks: chunk by chunk, with what earlier chunks left behind."""

from dataclasses import dataclass, field

from steps.core.config import LATER, check

# Of an encoder frame, and of a chunk. utils/settings.sh reads these two lines.
FRAME_MS = 40
LONGEST_CHUNK_MS = 8000
MOST_LEFT_CHUNKS = 100


def frames_of(chunk_ms: int) -> int:
    """Encoder frames of a chunk; 0: whole utterances. Raises: ValueError for a length that no chunk can have."""
    fits = chunk_ms % FRAME_MS == 0 and 0 <= chunk_ms <= LONGEST_CHUNK_MS
    check(fits, f"a chunk is a multiple of {FRAME_MS} ms, at most {LONGEST_CHUNK_MS}, not {chunk_ms}")
    return chunk_ms // FRAME_MS


@dataclass
class ChunkConfig:
    """chunk_ms: sound that is heard at once, a multiple of 40 ms."""

    chunk_ms: int = 320

    def __post_init__(self):
        check(frames_of(self.chunk_ms) >= 1, f"chunk_ms must be at least {FRAME_MS}")

    @property
    def chunk(self) -> int:
        """Encoder frames of a chunk."""
        return frames_of(self.chunk_ms)

    @property
    def left(self) -> int:
        """Encoder frames before a chunk that attention sees; 0 without attention."""
        return 0

    @property
    def ahead(self) -> int:
        """Encoder frames behind a chunk that it hears, too."""
        return 0

    @property
    def drawn(self) -> list[int]:
        """Encoder frames of the chunks that training draws from, 0: the whole utterance; none: always `chunk`."""
        return []


@dataclass
class DrawnConfig(ChunkConfig):
    """Chunks of a model without attention that hears ahead.

    drawn_ms: lengths of chunks in training, of which every batch draws one; 0: the whole utterance. An empty list: always
    chunk_ms.
    """

    drawn_ms: list[int] = field(default_factory=lambda: [0, 160, 320, 640])

    def __post_init__(self):
        super().__post_init__()
        # refused here, not when a batch draws it
        _ = self.drawn

    @property
    def drawn(self) -> list[int]:
        """Encoder frames of the chunks that training draws from."""
        return [frames_of(length_ms) for length_ms in self.drawn_ms]


@dataclass
class StreamingConfig(DrawnConfig):
    """Chunks of a model with attention.

    left_chunks: chunks before the present one that attention sees; chunks of another length see as long a stretch.
    ahead_ms: sound behind a chunk that is heard with it, a multiple of 40; its frames come out with the next chunk, which hears
    and computes them again. Training does without.
    Source: Zhang et al. 2020 (arXiv:2012.05481), section 3, for drawing; from few lengths instead of all is ours. Shi et al. 2021
    (arXiv:2010.10759) for frames ahead, which training has there, too, as copies.
    """

    left_chunks: int = 4
    ahead_ms: int = field(default=0, metadata=LATER)

    def __post_init__(self):
        super().__post_init__()
        check(1 <= self.left_chunks <= MOST_LEFT_CHUNKS, f"left_chunks must be 1 to {MOST_LEFT_CHUNKS}")
        fits = self.ahead_ms % FRAME_MS == 0 and 0 <= self.ahead_ms <= LONGEST_CHUNK_MS
        check(fits, f"ahead_ms must be a multiple of {FRAME_MS}, 0 to {LONGEST_CHUNK_MS}")

    @property
    def left(self) -> int:
        """Encoder frames before a chunk that attention sees."""
        return self.left_chunks * self.chunk

    @property
    def ahead(self) -> int:
        """Encoder frames behind a chunk that it hears, too."""
        return self.ahead_ms // FRAME_MS
