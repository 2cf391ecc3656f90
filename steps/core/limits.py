"""How much of a stranger's file is looked at before it is refused. Standard library only."""

import reprlib
from pathlib import Path

from steps.core.cli import UserError

_SHOW = reprlib.Repr()
_SHOW.maxstring = _SHOW.maxother = 100


def read_limited(path: str | Path, most_bytes: int, what: str) -> bytes:
    """Content of a file that is small when it is what it should be.

    Args:   most_bytes: that it may have; no more are read.   what: it should be, for the message.
    Raises: OSError; UserError for a larger file.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"{path}: more than {most_bytes:,} bytes, which no {what} has")
    return content


def show(value: object) -> str:
    """A value for a message, as repr, shortened without looking at all of it."""
    return _SHOW.repr(value)
