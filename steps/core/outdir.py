"""Output files that are either whole or absent: written to a temporary sibling, then renamed."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path`; on success it is fsynced and renamed to `path`, on error removed.

    Args:   path: the final file; its folder is made when missing.   mode: "w" (UTF-8 text, "\\n" line ends) or "wb".
    Yields: the open file.   Raises: OSError, always with the name of a file.
    """
    path = Path(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temp = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temp = _open_temp(path)
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Still locked: nobody else takes the temporary file over.
            os.replace(temp, path)
    except BaseException as error:
        if temp is not None:
            with contextlib.suppress(OSError):
                os.unlink(temp)
        # A full disk names no file.
        if isinstance(error, OSError) and error.filename in (None, str(temp)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def _open_temp(path):
    """Open and lock `.<name>.tmp` beside `path`: writers of one file take turns, and what a killed one left is taken over.

    Returns: (file descriptor, path).
    """
    temp = path.with_name(f".{path.name}.tmp")
    while True:
        handle = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks.
            os.close(handle)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            return handle, Path(name)
        if _is_at(handle, temp):
            os.ftruncate(handle, 0)
            return handle, temp
        # The writer waited for has renamed it.
        os.close(handle)


def _is_at(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` at once; an existing file with the same content is left untouched."""
    path = Path(path)
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_file(path) as file:
        file.write(text)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON with keys in the order given; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
