"""Where a result comes from: commit, command, machine, date. Volatile facts, kept apart from what must be byte-identical."""

import datetime
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path

from steps.core.outdir import write_json

# of slim-asr
VERSION = "0.2.0"
ROOT = Path(__file__).resolve().parents[2]


def git_commit():
    """Short hash of the repository's commit, with `+` when files differ from it; None outside a git checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line():
    """The running program as one would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return shlex.join(["python3", "-m", module.name, *sys.argv[1:]]) if module else shlex.join(sys.argv)


def write_run_record(folder, **facts):
    """Write `run.json`: when, where, how this was made, the most memory this process held, and the facts given."""
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "commit": git_commit(),
        "command": command_line(),
        "python": platform.python_version(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    write_json(Path(folder) / "run.json", record | facts)
