"""Words for Slurm and answers from it: conf/slurm.conf, sbatch, squeue, scancel. Standard library only."""

import os
import re
import shlex
import subprocess

from jobs import UsageError

UNREACHABLE = re.compile(r"[Uu]nable to contact|timed out|[Cc]onnection (refused|reset)|Zero Bytes|try again", re.I)
# States in which a task may still run, or run again; all others are its end.
LIVE = {"PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"}
LIVE |= {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


class ClusterError(Exception):
    """Slurm refused, or cannot be reached (exit status 3)."""


class Unreachable(ClusterError):
    """The controller does not answer now."""


class Settings:
    """conf/slurm.conf. Attributes: command (list of words), defaults (option -> value)."""

    def __init__(self, path):
        self.path, self.command, self.defaults, self.lines = path, ["sbatch"], {}, {}
        try:
            with open(path, encoding="utf-8") as file:
                rows = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None
        for number, row in enumerate(rows, 1):
            try:
                self._read(shlex.split(row, comments=True))
            except ValueError as error:
                raise UsageError(f"{path}:{number}: {error}") from None

    def _read(self, words):
        kind, rest = (words[0], words[1:]) if words else ("", [])
        if kind == "command" and rest:
            self.command = rest
        elif kind in ("option", "default") and rest and re.fullmatch(r"[A-Za-z][\w-]*=.*", rest[0]):
            name, _, value = rest[0].partition("=")
            if kind == "option":
                self.lines.setdefault((name.replace("-", "_"), value), rest[1:])
            elif len(rest) == 1:
                self.defaults[name.replace("-", "_")] = value
            else:
                raise ValueError("expected `default name=value`")
        elif kind:
            raise ValueError("expected `command ...`, `option name=value ...` or `default name=value`")

    def words(self, options):
        """Words of sbatch. Args: options: name -> value, names with underscores.  Raises: UsageError for an unknown one."""
        words = []
        for name, value in {**self.defaults, **options}.items():
            template = self.lines.get((name, value), self.lines.get((name, "*")))
            if template is None:
                raise UsageError(
                    f"{self.path}: no line for --{name.replace('_', '-')} {value}; add `option {name}=* ...` there"
                )
            words += [word.replace("$0", value) for word in template]
        return words


def seconds_of(text):
    """Seconds of a Slurm time (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S); None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, *parts = match.groups()
    a, b, c = (int(part) if part else 0 for part in parts)
    if days is not None:
        return int(days) * 86400 + a * 3600 + b * 60 + c
    if parts[2] is not None:
        return a * 3600 + b * 60 + c
    return a * 60 + b


def clean_environment():
    """The environment without what an enclosing job has set; SLURM_CONF stays."""
    drop = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SLURMD)_|RUN_(DEADLINE|STOP_FILE)$")
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not drop.match(name)}


def ask(words, limit_s=20):
    """Run a Slurm command apart from our terminal. Returns: its output.   Raises: Unreachable, ClusterError."""
    options = {"stdin": subprocess.DEVNULL, "env": clean_environment(), "start_new_session": True}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, errors="replace", **options)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{words[0]} got no answer in {limit_s} s") from None
    except OSError as error:
        raise ClusterError(f"{words[0]}: {error.strerror}; is Slurm installed here?") from None
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise (Unreachable if UNREACHABLE.search(message) else ClusterError)(f"{words[0]}: {message}")
    return done.stdout


def tasks_of(names):
    """All tasks that the controller knows of jobs with these names.

    Returns: list of (name, job id, array index or None, state, reason).   Raises: Unreachable, ClusterError.
    """
    form = "%j|%F|%K|%T|%r"
    rows = ask(
        ["squeue", "--me", "--noheader", "--array", "--states=all", f"--format={form}", f"--name={','.join(names)}"]
    )
    found = []
    for row in rows.splitlines():
        name, job, index, state, reason = row.strip().split("|", 4)
        found.append((name, job, int(index) if index.isdigit() else None, state, reason))
    return found


def largest_array():
    """Largest index an array may have here."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]))
    return max(1, int(match.group(1)) - 1) if match else 1000


def cancel(ids):
    """Cancel these jobs; one that has ended already is no error."""
    if ids:
        ask(["scancel", "--quiet", *ids], 60)


def ranges(numbers):
    """Numbers as sbatch wants them: 1-3,7."""
    found = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
