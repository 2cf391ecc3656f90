"""What lies in folders that others made. Standard library only."""

import os
from collections.abc import Collection, Iterable


def walk(top: str, leave_out: Collection[str] = ()) -> Iterable[tuple[str, list[str], list[str]]]:
    """All folders below one, links followed, hidden names and Python's caches left out. Yields: folder, folders, files in it."""
    waiting, seen = [top] if os.path.isdir(top) else [], set()
    while waiting:
        folder = waiting.pop()
        if os.path.realpath(folder) in seen or folder in leave_out:
            continue
        seen.add(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            found = sorted((e for e in entries if e.name[0] != "." and e.name != "__pycache__"), key=lambda e: e.name)
        # of a link that leads to itself is_dir would raise an error
        folders = [e.path for e in found if (os.path.isdir(e.path) if e.is_symlink() else e.is_dir())]
        inside = set(folders)
        yield folder, folders, [entry.path for entry in found if entry.path not in inside]
        waiting += reversed(folders)
