"""Sound files as libsndfile reads them, and what it does not tell: whether header and content of a file agree."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from steps.core.cli import UserError
from steps.core.flac import flac_trouble

if TYPE_CHECKING:
    import numpy as np
    from soundfile import SoundFile

# Samples decoded at a time, all channels together.
BLOCK, CAREFUL = 1 << 16, 1 << 12
# Frame counts of libsndfile beyond this mean that no header tells one.
UNKNOWN = 1 << 60
# libsndfile's error codes. The second one says that the file is not there, but means that nothing could be decoded.
UNRECOGNISED, BAD_FILE = 1, 7
# A header may promise this much more than there is: some writers count the header itself.
OFF_S = 0.01
# A frame of MP3 may need the bytes of frames before it, and is wrong without them.
RESERVOIR_S = 2.0
RIFF = ("WAV", "WAVEX", "RF64")
# Of these libsndfile corrects the sizes, and says so in its log.
BY_LOG = ("AIFF", "AU", "W64")
# The other formats that libsndfile knows have no header that tells whether a file is whole, or are not for speech.
READ = (*RIFF, *BY_LOG, "CAF", "NIST", "FLAC", "OGG", "MP3")
CORRECTED = re.compile(r"^\s*(?:FORM|riff|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


@functools.cache
def _library() -> tuple[ModuleType, Any]:
    """soundfile, and its SoundFile without its habit of seeking after every read, which costs time and fails at some ends."""
    import soundfile

    class Straight(soundfile.SoundFile):
        def seekable(self) -> bool:
            return False

    return soundfile, Straight


def open_source(path: str, careful: bool = False) -> Sndfile | None:
    """Open a file.

    Args:    careful: decode in small blocks, so that little is lost where decoding ends in an error.
    Returns: source as steps.core.sound wants it, or None for a format that libsndfile does not know.   Raises: UserError.
    """
    soundfile, straight = _library()
    try:
        # not by its name: libsndfile would believe the suffix, and finds MP3 in an MP4 called .mp3
        file = straight(os.open(path, os.O_RDONLY))
        if file.format in READ:
            return (Mp3 if file.format == "MP3" else Sndfile)(path, file, careful)
    except (soundfile.SoundFileError, OSError) as error:
        if getattr(error, "code", None) == UNRECOGNISED:
            return None
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        if getattr(error, "code", None) == BAD_FILE:
            reason = "no sound can be decoded"
        raise UserError(f"{path}: not a readable sound file ({reason})") from None
    file.close()
    raise UserError(f"{path}: {file.format_info} is not read here; make WAV or FLAC of it")


class Sndfile:
    """A file whose header tells its length, or that is decoded to its end."""

    slack = 0
    # Frames that are decoded before the wanted ones.
    ahead = 0

    def __init__(self, path: str, file: SoundFile, careful: bool) -> None:
        soundfile, _ = _library()
        self.path, self.file = path, file
        # The last from a stream that turns out to have other channels.
        self.error: tuple[type[Exception], ...] = (soundfile.SoundFileError, OSError, ValueError)
        self.rate_hz, self.channels, self.position = file.samplerate, file.channels, 0
        frames: int | None = file.frames if 0 <= file.frames < UNKNOWN else None
        self.frames = self.guess = self.promised = frames
        self.size = max(1, (CAREFUL if careful else BLOCK) // file.channels)
        self.can_seek = soundfile.SoundFile.seekable(file)
        self.trouble = find_trouble(path, file)

    def close(self) -> None:
        self.file.close()

    def blocks(self, first: int, wanted: int | None) -> Iterator[np.ndarray]:
        """Decode from frame `first` on, about `wanted` frames (None: all). Yields: (B, C) float32 arrays."""
        if first and self.frames is not None and self.can_seek:
            self._seek(min(first, self.frames))
        yield from self._decode(self.file, first, wanted)

    def _seek(self, first: int) -> None:
        self.position = self.file.seek(max(0, first - self.ahead))

    def _decode(self, file: SoundFile, first: int, wanted: int | None) -> Iterator[np.ndarray]:
        import numpy as np

        least = max(1, CAREFUL // self.channels)
        size = self.size if wanted is None else min(self.size, max(least, first - self.position + wanted))
        while len(block := file.read(out=np.empty((size, self.channels), dtype=np.float32))):
            skipped = max(0, min(len(block), first - self.position))
            self.position += len(block)
            yield block[skipped:]


class Mp3(Sndfile):
    """An MP3 file has a frame count in a Xing frame, or none: then libsndfile guesses it from the size of the file, and would
    stop there. Read as a stream, which has no size, it is decoded to its end."""

    def __init__(self, path: str, file: SoundFile, careful: bool) -> None:
        super().__init__(path, file, careful)
        self.ahead = round(RESERVOIR_S * self.rate_hz)
        with self._stream() as stream:
            if stream.frames >= UNKNOWN:
                self.frames = self.promised = None

    def blocks(self, first: int, wanted: int | None) -> Iterator[np.ndarray]:
        if self.frames is not None:
            yield from super().blocks(first, wanted)
        elif wanted is not None and first + wanted <= (self.guess or 0):
            self._seek(first)
            yield from self._decode(self.file, first, wanted)
        else:
            with self._stream() as stream:
                yield from self._decode(stream, first, None)

    @contextlib.contextmanager
    def _stream(self) -> Iterator[SoundFile]:
        _, straight = _library()
        ours, theirs = socket.socketpair()
        feeder = threading.Thread(target=_feed, args=(self.path, ours), daemon=True)
        feeder.start()
        try:
            with straight(theirs.fileno(), closefd=False) as stream:
                yield stream
        finally:
            theirs.close()
            feeder.join()
            ours.close()


def _feed(path: str, out: socket.socket) -> None:
    """Send a file until the other side has enough."""
    with open(path, "rb") as file, contextlib.suppress(OSError):
        while block := file.read(1 << 16):
            out.sendall(block, socket.MSG_NOSIGNAL)
    with contextlib.suppress(OSError):
        out.shutdown(socket.SHUT_WR)


def find_trouble(path: str, file: SoundFile) -> str:
    """How header and content of a file disagree, as far as that shows without decoding. Returns: str, empty for not at all."""
    if file.format in RIFF:
        return _riff_trouble(path)
    if file.format == "NIST":
        return _nist_trouble(path)
    if file.format == "OGG":
        return _ogg_trouble(path)
    if file.format == "MP3":
        return _mp3_trouble(path)
    if file.format == "FLAC":
        return flac_trouble(path, OFF_S)
    sizes = CORRECTED.search(file.extra_info) if file.format in BY_LOG else None
    return f"{sizes[2]} of {sizes[1]} bytes are there" if sizes and int(sizes[1]) > int(sizes[2]) else ""


def _riff_trouble(path: str) -> str:
    """WAV: the size of its data chunk against what is there. Sizes that streams are written with mean that none is known."""
    with open(path, "rb") as file:
        size, at, bytes_per_s, wide = os.fstat(file.fileno()).st_size, 12, 0, None
        order = ">" if file.read(4) == b"RIFX" else "<"
        for _ in range(1000):
            file.seek(at)
            head = file.read(24)
            if len(head) < 8:
                return ""
            name, claimed = struct.unpack(f"{order}4sI", head[:8])
            if name == b"data":
                break
            if name == b"fmt " and len(head) >= 20:
                bytes_per_s = struct.unpack(f"{order}I", head[16:20])[0]
            if name == b"ds64" and len(head) == 24:
                wide = struct.unpack("<Q", head[16:24])[0]
            at += 8 + claimed + claimed % 2
        there = size - at - 8
        claimed = wide if wide is not None and claimed == 0xFFFFFFFF else claimed
        # As ffmpeg, and as sox and others write it to a pipe.
        if claimed == 0xFFFFFFFF or (0x7FFF0000 <= claimed <= 0x7FFFFFFF and there < claimed):
            return ""
        if claimed > there + OFF_S * bytes_per_s:
            return f"{there} of {claimed} bytes of sound are there"
        file.seek(at + 8 + claimed + claimed % 2)
        more = file.read(8)
    if there - claimed > bytes_per_s / 2 and not re.match(rb"[A-Za-z0-9_]{3}[A-Za-z0-9_ ]", more) and more.strip(b"\0"):
        return f"its header tells of {claimed} bytes of sound, {there} are there"
    return ""


def _nist_trouble(path: str) -> str:
    """NIST SPHERE: the sample count of its header against the size of the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(1 << 16)
    start = re.match(rb"NIST_1A\n\s*(\d+)\n", header)
    fields = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,12})\s*$", header.partition(b"end_head")[0], re.MULTILINE))
    count, width, channels = (
        int(fields.get(name, 1)) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")
    )
    claimed, there = count * width * channels, size - int(start[1] if start else 0)
    return f"{there} of {claimed} bytes of sound are there" if claimed > there else ""


def _ogg_trouble(path: str) -> str:
    """Ogg: whether the last page says that it is the last one, of the stream that the first page began."""
    with open(path, "rb") as file:
        first = file.read(27)
        file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 17)))
        tail = file.read()
    at = tail.rfind(b"OggS")
    last = tail[at : at + 27]
    if at < 0 or len(last) < 27:
        return "its last page is not whole"
    if first[14:18] != last[14:18]:
        return "it holds several streams, of which one would be read"
    return "" if last[5] & 4 else "its last page is not there"


def _mp3_trouble(path: str) -> str:
    """MP3: where its Xing frame says that the stream ends, the file ends or tags follow, not more sound."""
    with open(path, "rb") as file:
        size, tag = os.fstat(file.fileno()).st_size, file.read(10)
        start = 0
        if tag[:3] == b"ID3":
            start = 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
        file.seek(start)
        head = file.read(1 << 11)
        sync = head.find(b"\xff")
        found = re.search(rb"Xing|Info", head[sync : sync + 64]) if sync >= 0 else None
        if not found:
            return ""
        flags, _, count = struct.unpack(">III", head[sync + found.end() :][:12].ljust(12, b"\0"))
        if flags & 3 != 3 or not count:
            return ""
        end = start + sync + count
        file.seek(end)
        more = file.read(3)
    if end > size + 4:
        return f"{size - start} of {end - start} bytes are there"
    sound_follows = len(more) == 3 and (more == b"ID3" or (more[0] == 0xFF and more[1] & 0xE0 == 0xE0))
    return "more sound follows after the length that its header tells" if sound_follows else ""
