"""What libsndfile does not tell of a FLAC file: whether it goes on behind the sample count of its header (RFC 9639)."""

import os
import re

# bytes at the end in which the last frame begins, unless its frames are very long
TAIL = 1 << 16
# ID3v1, which some programs write behind the last frame
TAG, TAG_BYTES = b"TAG", 128
# heads of frames looked at more closely
TRIES = 3


def flac_trouble(path: str, off_s: float) -> str:
    """Where the last frame ends against the sample count of the header, at which libsndfile stops (sections 8.2 and 9.1).

    Args:    off_s: so much more than the header tells is none.
    Returns: str, empty for no trouble; also where the header has no count, or the file does not end with a whole frame.
    """
    with open(path, "rb") as file:
        head = file.read(26)
        file.seek(max(26, os.fstat(file.fileno()).st_size - TAIL))
        tail = file.read()
    if tail[-TAG_BYTES:].startswith(TAG):
        tail = tail[:-TAG_BYTES]
    block, rest = int.from_bytes(head[10:12]), int.from_bytes(head[18:26])
    rate_hz, count = rest >> 44, rest & (1 << 36) - 1
    if head[:4] != b"fLaC" or not count:
        return ""
    tries = 0
    for at in reversed([found.start() for found in re.finditer(rb"\xff[\xf8\xf9]", tail)]):
        end = frame_end(tail[at : at + 16], block)
        if end == count or tries == TRIES:
            return ""
        if end > count + off_s * rate_hz:
            tries += 1
            # of this frame and those behind it; it takes time
            if not crc(tail[at:], 0x8005, 16):
                return f"its header tells of {count} samples, {end} are there"
    return ""


def frame_end(head: bytes, block: int) -> int:
    """Sample behind a frame, counted from the beginning of the file. Args: head: 16 bytes.  block: samples in each frame, if
    they are numbered.  Returns: 0 where these bytes are not the head of a frame."""
    coded = re.match(rb"[\0-\x7f]|([\xc0-\xfe])[\x80-\xbf]{1,6}", head[4:])
    if len(head) < 16 or not coded:
        return 0
    more = 0 if coded[1] is None else 7 - (coded[1][0] ^ 0xFF).bit_length()
    number = head[4] & (0x7F if not more else 0x3F >> more)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at, sizes = 5 + more, {1: 192, 6: int.from_bytes(head[5 + more : 6 + more]) + 1}
    size = head[2] >> 4
    sizes |= {code: 576 << code - 2 for code in range(2, 6)} | {code: 1 << code for code in range(8, 16)}
    sizes[7] = int.from_bytes(head[at : at + 2]) + 1
    at += {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if size not in sizes or at >= 16 or crc(head[: at + 1], 0x07, 8):
        return 0
    return (number if head[1] & 1 else number * block) + sizes[size]


def crc(data: bytes, polynomial: int, bits: int) -> int:
    """Cyclic redundancy check, 0 for data with its own sum behind it. Args: polynomial: without its highest term."""
    total, high, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in data:
        total ^= byte << bits - 8
        for _ in range(8):
            total = (total << 1 ^ (polynomial if total & high else 0)) & mask
    return total
