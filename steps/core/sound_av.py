"""Sound in containers that libsndfile does not know (MP4, WebM, ASF, AMR, ...), through FFmpeg's libraries in PyAV."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from steps.core.cli import UserError

if TYPE_CHECKING:
    import numpy as np

# FFmpeg's demuxers that may open a file. With others, a file can make the library open further files or addresses.
DEMUXERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "asf", "aac", "amr")
# The header of these tells a length; that of the others FFmpeg guesses.
PROMISE = ("mov", "matroska", "asf")
# Lengths are given in packets, not in samples.
SLACK_S = 0.1


def open_source(path: str) -> AvSource:
    """Open a file. Returns: source as steps.core.sound wants it.   Raises: UserError, also without PyAV."""
    if not os.path.getsize(path):
        raise UserError(f"{path}: not a readable sound file (it is empty: 0 bytes)")
    try:
        import av
    except ImportError:
        what = "not a readable sound file (libsndfile does not know it; m4a, mp4, aac, WebM, wma and amr need PyAV: "
        raise UserError(f"{path}: {what}python3 -m pip install -r requirements-av.txt)") from None
    try:
        return AvSource(path, av)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable sound file ({reason})") from None


class AvSource:
    """The only sound track of a container, decoded from its start. Its length is counted, never believed."""

    frames: int | None = None
    guess: int | None = None
    trouble = ""

    def __init__(self, path: str, av: ModuleType) -> None:
        options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
        self.error: tuple[type[Exception], ...] = (av.FFmpegError, OSError, ValueError)
        self.position = 0
        self.container = av.open(f"file:{os.path.abspath(path)}", options=options)
        tracks = self.container.streams.audio
        if len(tracks) != 1:
            self.close()
            raise UserError(f"{path}: {len(tracks) or 'no'} sound tracks; it must have one")
        decoded = self.container.decode(tracks[0])
        first = next(decoded, None)
        if first is None:
            self.close()
            raise UserError(f"{path}: the sound file is empty")
        self.rate_hz, self.channels = first.sample_rate, first.layout.nb_channels
        self.decoded = itertools.chain([first], decoded)
        self.resampler = av.AudioResampler(format="fltp", layout=first.layout, rate=first.sample_rate)
        self.slack, self.promised = round(SLACK_S * self.rate_hz), self._promised(tracks[0])

    def _promised(self, track: Any) -> int | None:
        """Frames that the header tells of, or None."""
        if not any(name in PROMISE for name in self.container.format.name.split(",")):
            return None
        if track.duration:
            return round(float(track.duration * track.time_base) * self.rate_hz)
        alone = len(self.container.streams) == 1 and self.container.duration
        return round(self.container.duration / 1e6 * self.rate_hz) if alone else None

    def close(self) -> None:
        self.container.close()

    def blocks(self, first: int, wanted: int | None) -> Iterator[np.ndarray]:
        """Decode all, skip what comes before frame `first`. Yields: (B, C) float32 arrays."""
        for frame in itertools.chain(self.decoded, [None]):
            for part in self.resampler.resample(frame):
                block = part.to_ndarray().T
                skipped = max(0, min(len(block), first - self.position))
                self.position += len(block)
                yield block[skipped:]
