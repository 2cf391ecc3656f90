"""Checkpoints for exact resume: tensors and plain values only, checksummed, the previous one kept until the new one is whole.

A checkpoint is one file, `step-<updates>-<first 16 hex digits of its SHA-256>.pt`, so that no moment exists at which a
file is there and its checksum is not.
"""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from steps.core.cli import UserError, say
from steps.core.outdir import atomic_file, sha256_file

KEPT = 2
NAME = re.compile(r"step-(\d{9,})-([0-9a-f]{16})\.pt")
UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError)


def save_checkpoint(folder: str | Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of `step`, read it back, then drop all but the newest two.

    Args:   folder: where; made when missing.   step: updates done.   state: nested dicts and lists of tensors, numbers, text.
    Raises: UserError when the file does not read back; the earlier ones stay then.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    with atomic_file(path, "wb") as file:
        file.write(content)
    if _is_damaged(path):
        raise UserError(f"{path}: reads back differently from what was written; look after the disk")
    # The latter are from runs that were killed.
    for old in [*list_checkpoints(folder)[KEPT:], *folder.glob(".step-*.tmp")]:
        old.unlink(missing_ok=True)


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoint files of a folder, newest first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("step-*.pt") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda item: (item[0], item[1].name), reverse=True)]


def load_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """Read the newest whole checkpoint; damaged ones are named and passed over.

    Returns: the state, tensors on the CPU; None when there is no checkpoint at all.
    Raises:  UserError when there are checkpoints and none is whole.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        problem = "does not match its checksum (truncated or damaged)" if _is_damaged(path) else None
        if problem is None:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except UNREADABLE as error:
                problem = f"cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
        say(f"checkpoint {path}: {problem}; trying the one before")
    if paths:
        raise UserError(f"{folder}: no checkpoint is whole; remove the folder to start again from the first step")
    return None


def _is_damaged(path):
    return not sha256_file(path).startswith(NAME.fullmatch(path.name)[2])
