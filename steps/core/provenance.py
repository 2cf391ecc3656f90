"""Where a result comes from: commit, command, machine, date. Volatile facts, kept apart from what must be byte-identical."""

import datetime
import platform
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

from steps.core.outdir import write_json
from steps.core.places import work_folder

# of slim-asr
VERSION = "0.2.0"
ROOT = Path(__file__).resolve().parents[2]


def git_commit() -> str | None:
    """Short hash of the repository's commit, with `+` when files differ from it; None outside a git checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line(output: str | Path | None = None) -> str:
    """The running program as one would type it. Args: output: its work folder's name is left out; None: of no place."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["python3", "-m", module.name, *sys.argv[1:]] if module else sys.argv
    return shlex.join(without_work_folder(word, output) for word in words)


def without_work_folder(text: str, inside: str | Path | None) -> str:
    """A text without the name of the work folder that `inside` lies in: paths hold wherever that is moved."""
    place = work_folder(inside) if inside else None
    return re.sub(rf"(?<![\w./-]){re.escape(place.rstrip('/'))}/", "", text) if place else text


def write_run_record(folder: str | Path, **facts: object) -> None:
    """Write `run.json`: when, where, how this was made, the most memory this process held, and the facts given."""
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "commit": git_commit(),
        "command": command_line(folder),
        "python": platform.python_version(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    write_json(Path(folder) / "run.json", record | facts)
