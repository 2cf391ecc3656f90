"""Unpacks tar archives that nobody vouches for: regular files and folders only, inside one folder, bounded in size.

Python's tarfile reads one header at a time here and nothing else: its walk over an archive takes damage for the end, and
its filters have let links lead outside (CVE-2025-4517).
"""

import bz2
import contextlib
import fcntl
import glob
import gzip
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from steps.core.cli import UserError

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
BLOCK = 512
LARGEST_EXTENSION = 1 << 16  # bytes of a long name or of the extended facts of a member
MOST_TIMES = 20  # so many times its own size may come out of an archive; speech is not that compressible
MOST_BYTES = 64 << 20  # besides
MOST_MEMBERS = 10_000  # and one more for every MEMBER_BYTES of the archive
MEMBER_BYTES = 100
MOST_LEVELS = 32
LATEST = 1 << 32  # of a time of change, seconds since 1970
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
REMEDY = "if you trust it, unpack it by hand and name the folder with --corpus-dir"


class BadArchive(UserError):
    """An archive that is damaged or not to be trusted."""


class Member(NamedTuple):
    """What one header says. size: bytes of content, which follow in the stream.   time_s: of its last change."""

    name: str
    is_folder: bool
    size: int
    time_s: int


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive (plain, gzip, bzip2, xz) to `folder`, made anew: whole or not at all.

    Returns: folder.
    Raises:  BadArchive for a damaged one, for links, devices, names that lead outside, sizes out of proportion; UserError
             when it cannot be read or there is no room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    discard_leftovers(folder)
    temp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        with _locked(temp):
            for member, content in members(archive):
                _write(temp, member, content)
            shutil.rmtree(folder, ignore_errors=True)
            temp.rename(folder)
    except BadArchive as error:
        raise BadArchive(f"{archive}: cannot be unpacked: {error}") from None
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked ({error})") from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    folder.chmod(0o755)
    return folder


def check_archive(archive: Path) -> None:
    """Read a tar archive to its end as `unpack` does, and write nothing. Raises: BadArchive, UserError."""
    try:
        for _ in members(archive):
            pass
    except BadArchive as error:
        raise BadArchive(f"{archive}: {error}") from None
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error})") from None


def discard_leftovers(folder: Path) -> None:
    """Remove what killed unpackings to `folder` left beside it: hidden folders that no process holds."""
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.????????.tmp"):
        if old.is_dir() and not old.is_symlink():
            with contextlib.suppress(OSError), _locked(old):
                shutil.rmtree(old)


@contextlib.contextmanager
def _locked(folder):
    """Hold a folder. Raises: BlockingIOError when another process does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def members(archive: Path) -> Iterator[tuple[Member, BinaryIO]]:
    """The members of an archive with the stream that stands at the content of each; what is not read is skipped.

    Raises: BadArchive; OSError.
    """
    size = archive.stat().st_size
    most_bytes, most_members = MOST_BYTES + MOST_TIMES * size, MOST_MEMBERS + size // MEMBER_BYTES
    with open(archive, "rb") as file:
        head = file.read(max(map(len, PACKED)))
    opener = next((opener for magic, opener in PACKED.items() if head.startswith(magic)), open)
    with opener(archive, "rb") as stream:
        for count, member in enumerate(_headers(stream), 1):
            most_bytes -= member.size
            if most_bytes < 0 or count > most_members:
                raise BadArchive(f"{size} bytes would become far too much ({member.name!r}); {REMEDY}")
            content = _Content(stream, member.size)
            yield member, content
            content.skip()
            _take(stream, -member.size % BLOCK)
        _check_rest(stream)


class _Content:
    """The content of one member."""

    def __init__(self, stream, size):
        self.stream, self.left = stream, size

    def read(self, size):
        data = _take(self.stream, min(size, self.left))
        self.left -= len(data)
        return data

    def skip(self):
        while self.read(1 << 20):
            pass


def _read(stream, size):
    """At most so many bytes of a stream. Raises: BadArchive where its compression is damaged."""
    try:
        return stream.read(size)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise BadArchive(f"damaged ({error})") from None


def _take(stream, size):
    """So many bytes of a stream. Raises: BadArchive when it ends before."""
    data = _read(stream, size) if size else b""
    if len(data) != size:
        raise BadArchive("damaged (it ends before its end mark)")
    return data


def _headers(stream):
    """The headers of a tar stream that stands behind the content of the last one, as Members, up to the end mark."""
    facts = {}  # extended ones, of the next member
    extensions = 0
    while True:
        block = _take(stream, BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            return
        except tarfile.HeaderError as error:
            raise BadArchive(f"damaged, or no tar archive ({error})") from None
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            extensions += 1
            if not 0 <= info.size <= LARGEST_EXTENSION or extensions > 4:
                raise BadArchive(f"the facts of a member take {info.size} bytes; {REMEDY}")
            data = _take(stream, info.size)
            _take(stream, -info.size % BLOCK)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                facts["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type != tarfile.XGLTYPE:
                facts |= _records(data)
            continue
        try:
            member = _member(info, facts)
        except (ValueError, OverflowError) as error:
            raise BadArchive(f"damaged ({error})") from None
        yield member
        facts, extensions = {}, 0


def _records(data):
    """The `length key=value` records of an extended header. Returns: dict. Raises: BadArchive."""
    facts = {}
    while data:
        number = data.split(b" ", 1)[0]
        length = int(number) if number.isdigit() and len(number) < 7 else 0
        key, is_one, value = data[:length].partition(b" ")[2].partition(b"=")
        if not is_one or not value.endswith(b"\n"):
            raise BadArchive("damaged (an extended header that is none)")
        facts[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return facts


def _member(info, facts):
    name = facts.get("path", info.name)
    sparse = any(key.startswith("GNU.sparse") for key in facts)
    if sparse or info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        raise BadArchive(f"{name!r} is neither a regular file nor a folder; {REMEDY}")
    size = 0 if info.isdir() else int(facts.get("size", info.size))
    if size < 0:
        raise BadArchive(f"{name!r} has {size} bytes")
    time_s = min(max(int(float(facts.get("mtime", info.mtime))), 0), LATEST)
    return Member(name, info.isdir(), size, time_s)


def _check_rest(stream):
    """Read on to the end, where compressors keep their checksums. Raises: BadArchive when there is more than padding."""
    left = MOST_BYTES
    while data := _read(stream, 1 << 16):
        left -= len(data)
        if data.strip(b"\0") or left < 0:
            raise BadArchive(f"it goes on behind its end mark; {REMEDY}")


def _write(root, member, content):
    path = _place(root, member.name)
    try:
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise BadArchive(f"{member.name!r} is there twice; {REMEDY}") from None
    os.utime(path, (member.time_s, member.time_s))


def _place(root, name):
    """Where a member goes. Raises: BadArchive for a name that leads out of `root`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or len(parts) > MOST_LEVELS or CONTROL.search(name):
        raise BadArchive(f"{name!r} would not stay in its folder, or is no name for a file; {REMEDY}")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise BadArchive(f"{name!r} leads out of its folder; {REMEDY}")
    return path
