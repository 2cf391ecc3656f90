"""Features of sound that is still arriving: the same frames as `compute_features` gives of the whole."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig


class OnlineFeatures:
    """Takes samples in pieces of any length and gives frames.

    How many frames are taken at once decides what they are, to the last bit; the pieces do not.

    Args:   config: its features.
    Raises: UserError for features that need the whole of a sound.
    """

    def __init__(self, config: FeatureConfig):
        if config.level_dbfs is not None or config.kind == "samples":
            what = "level_dbfs" if config.level_dbfs is not None else "kind: samples"
            raise UserError(f"features with {what} are not computed while sound arrives; train the model without")
        self.config = replace(config, snip_edges=True)
        self.mirrors = not config.snip_edges
        self.length = config.frame_samples
        self.shift = int(config.sample_rate_hz * config.frame_shift_ms * 0.001)
        # samples from the first of a frame on that must be there: it, and the way to the next
        self.needed = max(self.length, self.shift)
        # samples before the first that its frame hears, mirrored, as Kaldi has it; below 0: skipped
        self.before = self.length // 2 - self.shift // 2 if self.mirrors else 0
        self.samples = np.empty(0, np.float32)
        self.begun = self.before == 0
        # samples so far, and frames that were taken of them
        self.heard = self.taken = 0
        # after `end`: frames that are still to come
        self.left: int | None = None

    @property
    def ready(self) -> int:
        """Frames that can be taken."""
        if self.left is not None:
            return self.left
        if not self.begun:
            return 0
        return max(0, (len(self.samples) - self.needed) // self.shift + 1)

    def accept(self, samples: np.ndarray) -> None:
        """More sound. Args: samples (S,) float32 in [-1, 1]."""
        self.heard += len(samples)
        self.samples = np.concatenate([self.samples, samples.astype(np.float32, copy=False)])
        if not self.begun and len(self.samples) >= abs(self.before):
            head = self.samples[: max(0, self.before)][::-1]
            self.samples = np.concatenate([head, self.samples[max(0, -self.before) :]])
            self.begun = True

    def finish(self, silence: int) -> None:
        """The sound ends. Args: silence: frame shifts of digital silence that follow, enough for the mirror at the end."""
        if self.mirrors:
            # the last frames hear the silence mirrored, which is silence; there are as many as there are shifts, rounded
            behind = self.needed - self.shift - self.before + self.shift // 2
        else:
            behind = self.needed - self.length
        self.accept(np.zeros(silence * self.shift + behind, np.float32))

    def end(self) -> None:
        """The sound ends with nothing behind it: there are as many frames as `compute_features` gives, the last ones mirrored."""
        if self.heard < self.length:
            # it fills no frame
            self.left = 0
            return
        if self.mirrors:
            frames = (self.heard + self.shift // 2) // self.shift
            self.samples = np.concatenate([self.samples, self.samples[::-1]])
        else:
            frames = (self.heard - self.length) // self.shift + 1
        self.left = frames - self.taken

    def samples_of(self, frames: int) -> int:
        """Samples that must have arrived before so many frames can be taken. Args: frames: from the first on, 1 or more."""
        return (frames - 1) * self.shift + self.needed - self.before

    def take(self, count: int) -> np.ndarray:
        """The next frames. Args: count: at least 1, at most `ready`.  Returns: (count, D) float32."""
        # here, because it loads torch
        from steps.data.features import piece_features

        feats = piece_features(self.samples[: (count - 1) * self.shift + self.length], self.config)
        self.samples = self.samples[count * self.shift :]
        self.taken += count
        if self.left is not None:
            self.left -= count
        return feats


class ChunkFeatures(OnlineFeatures):
    """Gives the frames that a streaming model reads, chunk after chunk. Each is computed once, with those of its chunk.

    Args:   config: see OnlineFeatures.   read, advanced: frames that a chunk reads, and advances by.
    Raises: as OnlineFeatures.
    """

    def __init__(self, config: FeatureConfig, read: int, advanced: int):
        super().__init__(config)
        self.read, self.advanced = read, advanced
        # of the next chunk, from the one before
        self.frames = np.empty((0, config.dim), np.float32)

    def chunk(self) -> np.ndarray | None:
        """The next chunk, as soon as one frame more than it reads is there. Returns: (read, D) float32; None: it is not."""
        missing = self.read - len(self.frames)
        return self._chunk_with(missing) if self.ready > missing else None

    def rest(self, least: int = 1) -> np.ndarray | None:
        """After `end`, what is left behind the last whole chunk.

        Args:    least: fewer frames are none.   Returns: (read or fewer, D) float32, or None.
        """
        return self._chunk_with(self.ready) if len(self.frames) + self.ready >= least else None

    def _chunk_with(self, count):
        chunk = np.concatenate([self.frames, self.take(count)]) if count else self.frames
        self.frames = chunk[self.advanced :]
        return chunk


def chunk_by_chunk(
    pieces: Iterable[np.ndarray], config: FeatureConfig, read: int, advanced: int
) -> Iterator[np.ndarray]:
    """The features of a sound that arrives in pieces, each chunk as soon as it can be computed.

    Args:   pieces: (S,) float32 arrays.   config, read, advanced: see ChunkFeatures.
    Yields: (read, D) float32, the last one with as many frames as are left.   Raises: as OnlineFeatures.
    """
    features = ChunkFeatures(config, read, advanced)
    for piece in pieces:
        features.accept(piece)
        while (chunk := features.chunk()) is not None:
            yield chunk
    features.end()
    while (chunk := features.chunk()) is not None:
        yield chunk
    if (chunk := features.rest()) is not None:
        yield chunk
