"""The one reader of sound files: it decodes to the end, counts what came, and never takes one of several channels unasked.

Formats are recognised by content. libsndfile reads most (sound_files.py), FFmpeg's demuxers in PyAV the others (sound_av.py);
local/README.md lists them. Standard library only until a sound file is opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from steps.core.cli import MissingInput, UserError

if TYPE_CHECKING:
    import numpy as np

# What the readers of folders look for; anything else is read, too, when it is named.
SUFFIXES = (".wav", ".flac", ".sph", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64",
            ".m4a", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".wma", ".amr", ".3gp")  # fmt: skip
# Limits may lie this much beyond the end of their file, and are cut there, as Kaldi's extract-segments does.
OVERSHOOT_S = 0.5
# Beyond this, samples are surely not meant to lie in [-1, 1].
LOUDEST = 8.0
# More is refused: a few kilobytes can claim to be years of silence.
LONGEST_S = 24 * 3600.0
RATES_HZ = (1000, 1_000_000)
CHANNELS = (None, "mix", 1, 2)
PathLike = str | os.PathLike[str]


class NotAsked(UserError):
    """A file that is read only where somebody says how: in the preparation of its data folder, or by an option.

    Args: what: is wrong.   setting: of the preparation options, as the remedy.   option: the one in programs that have it.
    Attributes: by_option: the message of these programs.
    """

    def __init__(self, what: str, setting: str, option: str):
        super().__init__(f"{what}{setting} in the preparation options")
        self.by_option = f"{what}{option}"


class ManyChannels(NotAsked):
    """A file of several channels, and nothing says which of them is meant."""


class Damaged(NotAsked):
    """Header and content of a file disagree, or it cannot be decoded to its end."""


class OutOfRange(UserError):
    """Limits that are not within the file."""


@dataclass(frozen=True)
class SoundInfo:
    """seconds: of the whole file.  rate_hz: samples a second.  channels: how many.  exact: whether the seconds were counted
    or promised by a header, and not guessed from a size."""

    seconds: float
    rate_hz: int
    channels: int
    exact: bool = True


def sound_info(path: PathLike, damaged: bool = False, guess: bool = False) -> SoundInfo:
    """Length of a sound file: from its header where that can be trusted, else by decoding it.

    Args:    damaged: accept files whose header and content disagree, and count what can be decoded.
             guess: a guess will do where only decoding would tell (MP3 as encoders write it to a pipe).
    Returns: SoundInfo.   Raises: MissingInput; UserError, such as Damaged, for a file that is unreadable or empty.
    """
    with _open(path, damaged) as source:
        frames, exact = source.frames, True
        if frames is None and guess and source.guess is not None:
            frames, exact = source.guess, False
        elif frames is None or damaged:
            for _ in _blocks(path, source, 0, None, damaged):
                pass
            frames = source.position
        if not frames:
            raise UserError(f"{path}: the sound file is empty")
        return SoundInfo(frames / source.rate_hz, source.rate_hz, source.channels, exact)


def read_sound(
    path: PathLike,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | str | None = None,
    damaged: bool = False,
) -> tuple[np.ndarray, int]:
    """Read one stretch of one channel of a sound file.

    Args:    start_s, end_s: limits in seconds; end_s None: to the end. Up to OVERSHOOT_S beyond the end is cut off.
             channel: 1 or 2 of several, or "mix", their mean; None: there must be one only; "all".
             damaged: accept files whose header and content disagree: what can be decoded is taken.
    Returns: ((S,) float32 array with S > 0, within [-1, 1] but for overshoot; (S, C) for "all"; rate in Hz).
    Raises:  MissingInput; UserError: ManyChannels, Damaged, OutOfRange, or unreadable, empty, anything but finite samples.
    """

    with _open(path, damaged) as source:
        pick = picker(path, source.channels, channel)
        first = round(start_s * source.rate_hz)
        wanted = None if end_s is None else max(0, round(end_s * source.rate_hz) - first)
        samples = _join(pick(block) for block in _blocks(path, source, first, wanted, damaged))
        got, rate_hz, total = len(samples), source.rate_hz, source.position
    if not got or (wanted is not None and got + OVERSHOOT_S * rate_hz < wanted):
        limits = "" if end_s is None and not start_s else f"; {start_s} s to {end_s} s was asked for"
        raise OutOfRange(f"{path}: the sound file has {total / rate_hz:.2f} s{limits}")
    check_scale(path, samples)
    return samples, rate_hz


def check_scale(path: PathLike, samples: np.ndarray) -> None:
    """Refuse samples that are surely not meant to lie in [-1, 1]. Args: samples: float, one or more.  Raises: UserError."""
    import numpy as np

    loudest = float(max(samples.max(), -samples.min()))
    # also true for NaN
    if not loudest <= LOUDEST:
        what = "not scaled to [-1, 1]" if np.isfinite(samples).all() else "not finite"
        raise UserError(f"{path}: samples are {what} (largest: {loudest:g})")


def _join(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """One array of float32 blocks (B,) or (B, C) that fit each other. The sound may be hours long: at no time are there two
    copies of it, as there would be with np.concatenate."""
    import numpy as np

    joined, shape = bytearray(), (0,)
    for block in blocks:
        joined += np.ascontiguousarray(block).data.cast("B")
        shape = block.shape
    return np.frombuffer(joined, np.float32).reshape(-1, *shape[1:])


def picker(path: PathLike, channels: int, channel: int | str | None) -> Callable[[np.ndarray], np.ndarray]:
    """Function from a block (B, C) to the samples that are wanted of it. Raises: UserError where that is not clear."""
    if channel == "all":
        return lambda block: block
    if channels == 1 and channel in (None, "mix", 1):
        return lambda block: block[:, 0]
    if channel == "mix":
        return lambda block: block.mean(axis=1, dtype="float32")
    if channel is None:
        what = f"{path}: {channels} channels; take one of them, or their mean: "
        raise ManyChannels(what, "`sound: {channel: 1}`, 2 or mix", "--channel 1, 2 or mix")
    if not isinstance(channel, int) or channel > channels:
        raise UserError(f"{path}: channel {channel} is asked for, of {channels}")
    return lambda block: block[:, channel - 1]


class Source(Protocol):
    """An open sound file.

    frames: its length; None: only decoding tells.   guess: of its length, or None.   trouble: how its header and content
    disagree, or "".   promised: frames that must come, but for slack; or None.   position: frames decoded or skipped so
    far.   error: exceptions that decoding may raise.
    """

    rate_hz: int
    channels: int
    frames: int | None
    guess: int | None
    trouble: str
    promised: int | None
    slack: int
    position: int
    error: tuple[type[Exception], ...]

    def blocks(self, first: int, wanted: int | None) -> Iterator[np.ndarray]:
        """Decode from frame `first` on, `wanted` frames or more (None: all). Yields: (B, C) float32 arrays."""

    def close(self) -> None: ...


@contextlib.contextmanager
def _open(place: PathLike, damaged: bool) -> Iterator[Source]:
    """Open a sound file with the library that reads it, and check what its header says. Yields: Source."""
    from steps.core import sound_files

    path = os.fspath(place)
    if path.endswith("|") or path.startswith("|"):
        raise UserError(f"{path}: commands in wav.scp are not run; make the sound files once and list those")
    if os.path.isdir(path):
        raise MissingInput(f"{path}: is a folder; name the sound files in it")
    if not os.path.isfile(path):
        what = (
            "no file that can be read twice; save the sound to one first"
            if os.path.exists(path)
            else "no such sound file"
        )
        raise MissingInput(f"{path}: {what}")
    source: Source | None = sound_files.open_source(path, careful=damaged)
    if source is None:
        from steps.core import sound_av

        source = sound_av.open_source(path)
    with contextlib.closing(source):
        if not RATES_HZ[0] <= source.rate_hz <= RATES_HZ[1]:
            raise UserError(f"{path}: not a readable sound file (a rate of {source.rate_hz} Hz)")
        if source.trouble and not damaged:
            raise _damaged(path, source.trouble)
        yield source


def _blocks(path: PathLike, source: Source, first: int, wanted: int | None, damaged: bool) -> Iterator[np.ndarray]:
    """Decode from frame `first` on until `wanted` frames are there (None: to the end). Yields: (B, C) float32 arrays.

    Raises: Damaged when the end comes too early or cannot be reached, unless that is accepted.
    """
    got, most = 0, LONGEST_S * source.rate_hz
    try:
        for block in source.blocks(first, wanted):
            block = block if wanted is None else block[: wanted - got]
            got += len(block)
            if source.position > most:
                raise UserError(f"{path}: longer than {LONGEST_S / 3600:g} hours; cut it first")
            if len(block):
                yield block
            if wanted and got == wanted:
                return
    except source.error as error:
        if not damaged:
            reason = getattr(error, "error_string", error)
            raise _damaged(path, f"after {source.position / source.rate_hz:.2f} s: {reason}") from None
    if not damaged and source.promised is not None and source.position < source.promised - source.slack:
        raise _damaged(path, f"{source.position} of {source.promised} samples are there")


def _damaged(path: PathLike, what: str) -> Damaged:
    what = f"{path}: cut short or damaged: {what}; get it whole, or accept it with "
    return Damaged(what, "`sound: {damaged: accept}`", "--damaged accept")
