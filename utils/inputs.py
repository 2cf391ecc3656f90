"""What lies in the files that tasks use: content of what tasks made, size and time of all else. Standard library only."""

import contextlib
import hashlib
import json
import os

SHOWN = 3
SOUND_TABLES = ("segments", "utt2spk", "utt2speed")  # beside a wav.scp
NO_INPUT = ("__pycache__",)  # made by running a program that lies in a corpus


def digest(value):
    """Short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_stamp(path):
    """[size, time of the last change in ns] of a file, or None when it is not there."""
    try:
        status = os.stat(path)
    # ValueError: no path can have that name
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def file_digest(path):
    """Short hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def output_record(path):
    """What a mark keeps of a file that its task made: [size, time, digest]; None for a folder."""
    return [*file_stamp(path), file_digest(path)] if os.path.isfile(path) else None


def content_of(path, record):
    """Digest of a file as it is now, or None for what has none. Args: record: of the time when it was made, or None.

    With the size and time of the record it counts as the same; only else it is read.
    """
    stamp = file_stamp(path)
    if stamp is None or not os.path.isfile(path):
        return None
    return record[2] if record and stamp == record[:2] else file_digest(path)


def foreign_state(path, leave_out=()):
    """State of a file or folder that no task made: size and time, of a folder those of all files below it.

    Args: leave_out: folders below it that do not count.
    """
    if not os.path.isdir(path):
        stamp = file_stamp(path)
        return "absent" if stamp is None else f"{stamp[0]} bytes, {stamp[1]}"
    return f"tree {digest(sorted(tree(path, leave_out)))}"


def sound_state(path):
    """State of what utterances sound like: size and time of each file that a wav.scp names, and what of it is theirs."""
    stamps, folder = [], os.path.dirname(path)
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, audio = line.strip().replace("\t", " ").partition(" ")
            audio = audio.strip()
            stamps.append([name, file_stamp(os.path.join(folder, audio) if audio.startswith(".") else audio)])
    tables = [os.path.join(folder, name) for name in SOUND_TABLES]
    return f"sound {digest([stamps, [file_digest(table) for table in tables if os.path.isfile(table)]])}"


def tree(path, leave_out=()):
    """Files below a folder, hidden ones left out, links to folders followed. Yields: [path below it, size, time]."""
    waiting, seen, leave_out = [path], set(), {os.path.realpath(folder) for folder in leave_out}
    top = len(os.path.join(path, ""))
    while waiting:
        folder = waiting.pop()
        place = os.path.realpath(folder)
        if place in seen or place in leave_out:
            continue
        seen.add(place)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in NO_INPUT:
                    continue
                # of a link that leads to itself is_dir would raise an error
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    waiting.append(entry.path)
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    yield [entry.path[top:], status.st_size, status.st_mtime_ns]


def state_of_version_1(path):
    """State of a folder as marks of version 0.1 have it: of everything right below it."""
    rows = []
    for entry in os.scandir(path):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            rows.append([entry.name, None] if entry.is_dir() else [entry.name, status.st_size, status.st_mtime_ns])
    return f"folder {digest(sorted(rows, key=lambda row: row[0]))}"


def changed_files(path):
    """What is no longer as the list of used files at `path` says (local/used_files.py tells its form).

    Returns: list of a few words each, the first SHOWN and a count of the rest.
    """
    found, top, folders = [], os.path.dirname(path), {}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            if not line.startswith("#"):
                size, time_ns, place = line.split("\t", 2) if line.count("\t") > 1 else ("?", "?", line)  # damaged
                folder, _, name = place[:-1].rpartition("/")
                folders.setdefault(folder, {})[name.replace("\0", "\n")] = (size, time_ns)
    for folder, names in folders.items():
        place = os.path.normpath(os.path.join(top, folder)) if folder.startswith(".") else folder
        found += _changes_below(place.replace("\0", "\n"), names)
    return found if len(found) <= SHOWN else [*found[:SHOWN], f"{len(found) - SHOWN} more files changed"]


def _changes_below(folder, names):
    """Compare a folder with the names that the list has in it; an empty name stands for the folder: all names are listed."""
    try:
        there = set(os.listdir(folder))
    except OSError:
        there = set()
    for name, (size, time_ns) in names.items():
        path = f"{folder}/{name}"
        if name and name not in there:
            yield f"{path} is gone"
        elif size != "-":
            stamp = file_stamp(path)
            if stamp is None or f"{stamp[0]} {stamp[1]}" != f"{size} {time_ns}":
                yield f"{path} changed"
    for name in sorted(there - names.keys()) if "" in names else ():
        if not name.startswith(".") and name not in NO_INPUT:
            yield f"{folder}/{name} is new"
