"""Output files that are either whole or absent: written to a temporary sibling, then renamed."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

SHIPPED = (
    "model.onnx",
    "tokens.txt",
    "features.yaml",
)  # what an exported folder needs elsewhere; their bytes are a model's size


@contextlib.contextmanager
def atomic_file(path, mode="w"):
    """Open a temporary sibling of `path`; on success it is fsynced and renamed to `path`, on error removed.

    Args:   path: the final file; its folder is made when missing.   mode: "w" (UTF-8 text, "\\n" line ends) or "wb".
    Yields: the open file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o666 & ~_umask())
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text):
    """Write `text` to `path` at once; an existing file with the same content is left untouched."""
    path = Path(path)
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_file(path) as file:
        file.write(text)


def write_json(path, value):
    """Write `value` as indented JSON with keys in the order given; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path):
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
