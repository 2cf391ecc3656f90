"""Which files a corpus was read from, written down so that run.sh notices when one of them changes.

Lines of three fields separated by tabs, read by utils/inputs.py:
    SIZE  TIME  PATH      a file that was used; bytes and nanoseconds
    -     -     PATH      a name that is there: a folder, or a sound file that no utterance uses
    -     -     FOLDER/   all names in this folder, but hidden ones, are in the list
Paths are written as those in a data folder (steps.core.places).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from steps.core.folders import walk
from steps.core.outdir import write_text
from steps.core.places import Places, work_folder

FILE_NAME = "corpus_files.tsv"


def write_used_files(out: Path, corpus_dir: str, audio: Iterable[str]) -> None:
    """Write the list to `out`: sound files that were used, and below `corpus_dir` all other files, too.

    Args: out: folder of the data folders; what lies in it was made, and is left out.   corpus_dir: "" for none.
          audio: paths of sound files.
    """
    used, made = {os.path.abspath(path) for path in audio}, os.path.join(os.path.abspath(out), "")
    kinds = {os.path.splitext(path)[1].lower() for path in used}
    places, rows = Places(out), []
    for folder, folders, files in walk(os.path.abspath(corpus_dir), own_folders(out)) if corpus_dir else ():
        rows += [(None, path) for path in (f"{folder}/", *folders)]
        for path in files:
            is_used = path in used or os.path.splitext(path)[1].lower() not in kinds
            rows.append((os.stat(path) if is_used and os.path.exists(path) else None, path))
    seen = {path for _, path in rows}
    rows += [(os.stat(path), path) for path in sorted(used - seen) if not path.startswith(made)]
    lines = ["# files that the data sets were made from: size, time of the last change in ns, path"]
    for status, path in rows:
        facts = f"{status.st_size}\t{status.st_mtime_ns}" if status else "-\t-"
        lines.append(f"{facts}\t{places.written(path)}".replace("\n", "\0"))
    write_text(out / FILE_NAME, "\n".join(lines) + "\n")


def own_folders(out: Path) -> set[str]:
    """Folders of ours that a corpus may hold."""
    place = work_folder(out)
    return {os.path.abspath(out)} | ({os.path.join(place, name) for name in ("data", "exp")} if place else set())
