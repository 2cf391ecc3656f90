"""Copies of utterances for more weight (`labelled_copies` of recipes): how they are called, so that they count once as speech."""

import re
from collections.abc import Container

COPIED = re.compile(r"copy[1-9][0-9]*-")


def copy_prefix(number: int) -> str:
    """What the ids of a further copy begin with, of utterances, recordings and speakers. Args: number: from 2 on."""
    return f"copy{number}-"


def is_copy(name: str, known: Container[str]) -> bool:
    """Whether an id is that of a further copy: its original is among the known ones, too."""
    found = COPIED.match(name)
    return found is not None and name[found.end() :] in known
