"""A WAV file that another program is still writing: its header, which may promise any length, and its samples as they come."""

from __future__ import annotations

import io
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from steps.core.cli import MissingInput, UserError
from steps.core.sound import RATES_HZ, check_scale, picker

if TYPE_CHECKING:
    import numpy as np

# format tag and bits -> libsndfile's name
SUBTYPES = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
}
EXTENSIBLE = 0xFFFE
# what programs write before they know the length: 0, or a number near the largest
UNKNOWN_BYTES = 0x7FFF0000
# chunks that follow the samples in finished files
BEHIND = re.compile(rb"LIST|id3 |ID3 |bext|cue |fact|PEAK|JUNK|junk|iXML|smpl|afsp")
# the samples begin within so much
MOST_HEADER = 1 << 16
MOST_CHANNELS = 64
# read at once
BLOCK = 1 << 18


@dataclass(frozen=True)
class WavHeader:
    """start: byte of the first sample.   frame: bytes of a sample of all channels.   promised: bytes of samples; 0: unknown."""

    rate_hz: int
    channels: int
    subtype: str
    frame: int
    start: int
    promised: int


def parse_header(head: bytes, path: str) -> WavHeader | None:
    """What the beginning of a WAV file says. Args: head: at most MOST_HEADER bytes.  Returns: None where more must come first.

    Raises: UserError for another kind of file.
    """
    if not any(name.startswith(head[:4]) for name in (b"RIFF", b"RF64")) or not b"WAVE".startswith(head[8:12]):
        raise UserError(f"{path}: not a WAV file; only WAV is read while it grows")
    place = 12
    form: tuple[int, int, str, int] | None = None
    while place + 8 <= len(head):
        kind, size = head[place : place + 4], struct.unpack("<I", head[place + 4 : place + 8])[0]
        place += 8
        if kind == b"data":
            if form is None:
                raise UserError(f"{path}: a WAV file whose samples come before their format")
            return WavHeader(*form, place, size if size < UNKNOWN_BYTES else 0)
        if kind == b"fmt " and place + size <= len(head):
            form = _format(head[place : place + size], path)
        place += size + size % 2
    if place > MOST_HEADER or len(head) >= MOST_HEADER:
        raise UserError(f"{path}: no samples within the first {MOST_HEADER} bytes; not a WAV file that can be followed")
    return None


def _format(chunk: bytes, path: str) -> tuple[int, int, str, int]:
    """Rate, channels, subtype and bytes a frame, from the chunk `fmt `."""
    if len(chunk) < 16:
        raise UserError(f"{path}: a WAV file with a damaged header")
    tag, channels, rate_hz, _, frame, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    subtype = SUBTYPES.get((tag, bits))
    if subtype is None:
        raise UserError(
            f"{path}: a WAV file of format {tag} with {bits} bits; only PCM and float are read while it grows"
        )
    if not (1 <= channels <= MOST_CHANNELS and RATES_HZ[0] <= rate_hz <= RATES_HZ[1] and frame == channels * bits // 8):
        raise UserError(f"{path}: a WAV file with a damaged header ({rate_hz} Hz, {channels} channels)")
    return rate_hz, channels, subtype, frame


def follow_wav(
    path: str,
    convert: Callable[[Iterator[np.ndarray], int], Iterator[np.ndarray]],
    channel: int | str | None = None,
    idle_s: float = 2.0,
    is_stopped: Callable[[], bool] = lambda: False,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[np.ndarray]:
    """The samples of a WAV file as another program writes them, until it has not grown for `idle_s` seconds.

    Args:   convert: what becomes of (S,) float32 blocks of a rate in Hz.   channel: 1 or 2 of several, or "mix".
            is_stopped: whether to end at once.   wait, clock: see the module time.
    Yields: what `convert` makes of them.
    Raises: MissingInput for a file that does not come in that time; UserError for one that is no WAV file, becomes shorter, or
            whose samples are not finite.
    """
    grew_s, size = clock(), -1

    def is_over() -> bool:
        """Whether nothing came for too long; waits a little otherwise. Notes the size."""
        nonlocal grew_s, size
        now = os.path.getsize(path) if os.path.isfile(path) else -1
        if now < size:
            raise UserError(f"{path}: became shorter while it was read; name a file that only grows")
        if now > size:
            grew_s, size = clock(), now
            return False
        if is_stopped() or clock() - grew_s >= idle_s:
            return True
        wait(min(0.05, idle_s))
        return False

    while not os.path.isfile(path):
        if is_over():
            raise MissingInput(f"{path}: no such file, and none came in {idle_s:g} s")
    with open(path, "rb") as file:
        while (header := _read_header(file, path)) is None:
            if is_over():
                raise UserError(f"{path}: no samples came in {idle_s:g} s; not a WAV file, or nobody writes it")
        yield from convert(_blocks(file, path, header, channel, is_over, is_stopped), header.rate_hz)


def _blocks(file, path, header, channel, is_over, is_stopped):
    """The samples of the channel, (S,) float32, until `is_over`, or all that is there when `is_stopped`."""
    pick, place, last = picker(path, header.channels, channel), header.start, None
    while last is None or place < last:
        if last is None and is_stopped():
            last = os.path.getsize(path)
        block = _next_block(file, path, place, header.frame)
        place += len(block)
        if block:
            yield _decode(block, header, path, pick)
        elif is_over():
            return


def _read_header(file: IO[bytes], path: str) -> WavHeader | None:
    file.seek(0)
    return parse_header(file.read(MOST_HEADER), path)


def _next_block(file, path, place, frame):
    """Whole frames from `place` on, none where there are none, or where the samples end."""
    # read anew, because a program that ends writes the length into it
    header = _read_header(file, path)
    end = None
    if header is not None and header.promised:
        file.seek(header.start + header.promised + header.promised % 2)
        behind = file.read(4)
        # at the end of the file, there may be one byte that makes their number even
        if not behind or BEHIND.fullmatch(behind):
            end = header.start + header.promised
    file.seek(place)
    block = file.read(BLOCK if end is None else max(0, min(BLOCK, end - place)))
    return block[: len(block) // frame * frame]


def _decode(block, header, path, pick):
    import soundfile

    form = {"samplerate": header.rate_hz, "channels": header.channels, "subtype": header.subtype, "endian": "LITTLE"}
    samples, _ = soundfile.read(io.BytesIO(block), dtype="float32", always_2d=True, format="RAW", **form)
    picked = pick(samples)
    check_scale(path, picked)
    return picked
