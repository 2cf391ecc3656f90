"""Checkpoints for exact resume: tensors and plain values only, checksummed, the previous one kept until the new one is whole."""

import hashlib
import io
import pickle
from pathlib import Path

import torch

from steps.core.cli import UserError, say
from steps.core.outdir import atomic_file, sha256_file

KEPT = 2


def save_checkpoint(folder, step, state):
    """Write `state` as `step-<n>.pt` with its checksum beside it, then drop all but the newest two.

    Args: folder: where; made when missing.   step: updates done.   state: nested dicts and lists of tensors, numbers, text.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:09d}.pt"
    with atomic_file(path, "wb") as file:
        file.write(content)
    with atomic_file(_checksum_path(path)) as file:
        file.write(hashlib.sha256(content).hexdigest() + "\n")
    for old in list_checkpoints(folder)[KEPT:]:
        _checksum_path(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def list_checkpoints(folder):
    """Checkpoint files of a folder, newest first."""
    return sorted(Path(folder).glob("step-*.pt"), reverse=True)


def load_checkpoint(folder):
    """Read the newest whole checkpoint; damaged ones are named and passed over.

    Returns: the state, tensors on the CPU; None when there is no checkpoint at all.
    Raises:  UserError when there are checkpoints and none is whole.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        problem = _damage(path)
        if problem is None:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
                problem = f"cannot be read ({str(error).splitlines()[0]})"
        say(f"checkpoint {path}: {problem}; trying the one before")
    if paths:
        raise UserError(f"{folder}: no checkpoint is whole; remove the folder to start again from the first step")
    return None


def _damage(path):
    checksum = _checksum_path(path)
    if not checksum.is_file():
        return "has no checksum (the write was cut off)"
    return (
        None
        if sha256_file(path) == checksum.read_text().strip()
        else "does not match its checksum (truncated or damaged)"
    )


def _checksum_path(path):
    return path.with_suffix(".sha256")
