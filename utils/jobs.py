"""What the job runners share: command line, quoting, JOB, logs, how failures are reported. Standard library only.

utils/run.py [options] [JOB=1:n] LOG COMMAND [ARGS...]

JOB may have any other name (LMWT=7:9, part=1:n), where a path has JOB in it that means itself. As with Kaldi's run.pl, options
may stand before and behind it, and `-tc N` is --max-jobs-run N.
"""

import contextlib
import glob
import hashlib
import os
import re
import shlex
import signal
import sys
import time

OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>&1", "(", ")"}
NUMBERS = {"--num-threads": 1, "--gpu": 0, "--max-jobs-run": 0, "--nodes": 1}
NUMBERS.update({"--processes": 1, "--max-restarts": 20, "--deadline-margin": 180})
FLAGS = ("--fail-fast", "--dry-run")
TRY_AGAIN = 75
MOST_JOBS = 1_000_000
ARRAY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([0-9]{1,9})(?::([0-9]{1,9}))?")
# no log is called like this: the range of an array, mistyped
LIKE_AN_ARRAY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^/.]*")


def job_pattern(name="JOB"):
    """Finds the name that stands for a job's number, where no letter or digit touches it."""
    return re.compile(rf"(?<![A-Za-z0-9]){name}(?![A-Za-z0-9])")


class UsageError(Exception):
    """A command line that cannot be used (exit status 2)."""


class Work:
    """A parsed command line.

    Attributes: options (name -> value), other (options of the cluster, name -> value), indexes (list of job numbers),
    is_array, job_name (JOB, or what else the array calls its number), job (pattern that finds it), log (path, with JOB in an
    array), words (the command), given (the whole command line).
    """

    def __init__(self, words):
        self.given, words = list(words), list(words)
        self.options = {**NUMBERS, **dict.fromkeys(FLAGS, False), "--pick": "all", "--mark": ""}
        self.other = {}
        self._take_options(words)
        match = ARRAY.fullmatch(words[0]) if words else None
        self.is_array, self.job_name = bool(match), match[1] if match else "JOB"
        self.job = job_pattern(self.job_name)
        if words and not match and LIKE_AN_ARRAY.fullmatch(words[0]):
            raise UsageError(f"expected {words[0].partition('=')[0]}=first:last, not {words[0]!r}")
        first, last = (int(match[2]), int(match[3] or match[2])) if match else (1, 1)
        if last < first:
            raise UsageError(f"{words[0]}: the range is empty")
        if last - first >= MOST_JOBS:
            raise UsageError(f"{words[0]}: over {MOST_JOBS:,} jobs; give each more work")
        if match:
            words.pop(0)
            self._take_options(words)
        if len(words) < 2:
            raise UsageError("usage: [options] [JOB=1:n] LOG COMMAND [ARGS...]")
        self.indexes, self.log, self.words = list(range(first, last + 1)), words[0], words[1:]
        if self.is_array and not self.job.search(self.log):
            raise UsageError(f"the log of an array needs {match[1]} in its name: {self.log!r}")
        self.launcher = self._launcher()

    def _take_options(self, words):
        while words and words[0].startswith("-"):
            self._take_option(words)

    def _take_option(self, words):
        name, equals, value = words.pop(0).partition("=")
        name = "--max-jobs-run" if name == "-tc" else name
        if not name.startswith("--"):
            raise UsageError(
                f"{name}: options are --name value, and -tc N; those of other queues have names here, too (--help)"
            )
        if name in FLAGS:
            self.options[name] = True
            return
        if not equals:
            if not words:
                raise UsageError(f"{name} needs a value")
            value = words.pop(0)
        if name in NUMBERS:
            if not (value.isascii() and value.isdigit()):
                raise UsageError(f"{name} needs a whole number, not {value!r}")
            self.options[name] = int(value)
        elif name == "--pick":
            if value not in ("all", "failed"):
                raise UsageError(f"--pick is all or failed, not {value!r}")
            self.options[name] = value
        elif name == "--mark":
            self.options[name] = value
        else:
            self.other[name] = value

    def _launcher(self):
        """Words put before a command that several processes run together; none for one process."""
        processes, nodes = max(1, self.options["--processes"]), max(1, self.options["--nodes"])
        if processes * nodes == 1:
            return []
        if self.has_operators() or self.words[:2] != ["python3", "-m"]:
            raise UsageError("--processes and --nodes beyond 1 need a command `python3 -m MODULE ...`")
        launch = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py")
        return ["python3", "-I", "-S", launch, "--processes", str(processes), "--nodes", str(nodes)]

    def log_of(self, index):
        return self.job.sub(str(index), self.log) if self.is_array else self.log

    def line_of(self, index):
        """The command of one job as a line for bash: every word quoted, except words that are wholly an operator."""
        words = [self.job.sub(str(index), word) for word in self.words] if self.is_array else self.words
        words = self.launcher + words
        return " ".join(word if word in OPERATORS else shlex.quote(word) for word in words)

    def has_operators(self):
        return any(word in OPERATORS for word in self.words)

    def state_folder(self):
        """Folder of the array's status files `done.<i>`.

        Its name ends in hashes of the log's path, and of the work and what it is done under (--mark): other work finds others.
        """
        parts = self.log.split("/")
        depth = next(place for place, part in enumerate(parts) if self.job.search(part) or place == len(parts) - 1)
        work = "\0".join([os.getcwd(), str(self.indexes), self.options["--mark"], self.log, *self.words])
        keys = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in (self.log, work)]
        return "/".join([*parts[:depth], "q", ".".join([parts[depth], *keys])])

    def overwritten_folders(self):
        """State folders of earlier work with the same log, cut or done otherwise: this one writes over what that made."""
        own = self.state_folder()
        top, name = own.rsplit("/q/", 1) if "/q/" in own else ("", own.removeprefix("q/"))
        places = (
            [f"{glob.escape(top)}/q/", f"{glob.escape(top)}.old-*/q/"] if top else ["q/"]
        )  # moved aside by stage.py
        name = glob.escape(name.rpartition(".")[0])
        return [folder for place in places for folder in sorted(glob.glob(f"{place}{name}.*")) if folder != own]

    def status_of(self, index):
        """Exit status that the job left in its status file, or None."""
        try:
            with open(f"{self.state_folder()}/done.{index}", encoding="utf-8") as file:
                return int(file.read().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def name_of(self, index):
        return f"{self.job_name} {index}" if self.is_array else "job"


def shell_command(work, index):
    """The bash command of a job. With operators in it, bash waits for what is running before it obeys a signal."""
    guard = "trap 's=$?; exit $((s ? s : 143))' INT TERM HUP; " if work.has_operators() else ""
    return ["bash", "-o", "pipefail", "-c", guard + work.line_of(index)]


def write_status(work, index, status, restart, job_id="-"):
    """Leave `status restart host job` in the job's status file, by rename."""
    path = f"{work.state_folder()}/done.{index}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(f"{status} {restart} {os.uname().nodename} {job_id}\n")
    os.replace(path + ".tmp", path)


def log_header(line, job_id, restart):
    started = f"# Started {time.strftime('%F %T')} on {os.uname().nodename}, {job_id}, restart {restart}"
    return "# " + line.replace("\n", "\n# ") + f"\n{started}\n#\n"


def log_footer(status, seconds):
    return f"# Ended with status {status} at {time.strftime('%F %T')} after {seconds:.1f} seconds\n"


def last_lines(path, count):
    """The last lines of a log, footer and blank lines left out; of a progress bar the newest state."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("# Ended with status")]
    return lines[-count:]


def remarks(paths, most=10):
    """Lines of logs that begin with `warning: ` or `note: `, each once; what a program tells its user besides a result."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as log:
            found.update((line.rstrip("\n"), None) for line in log if line.startswith(("warning: ", "note: ")))
    return [*found][:most]


def reason(status, restarts):
    """A job's exit status in words."""
    if status == TRY_AGAIN:
        return f"saved its state but did not finish in {restarts} restarts; run again"
    words = {126: "cannot be executed", 127: "command not found", 137: "killed; out of memory?", 139: "crashed"}
    return f"status {status}" + (f", {words[status]}" if status in words else "")


def failure_report(program, work, failed, restarts, words=()):
    """What a failed run says: one line with up to five jobs, then the last log lines of the first.

    Args:   failed: {index: status}.   restarts: allowed restarts of one job.   words: {index: reason} where known better.
    """
    total = len(work.indexes)
    why = {index: reason(status, restarts) for index, status in failed.items()} | dict(words)
    shown = [f"{work.name_of(i)}: {why[i]} ({work.log_of(i)})" for i in sorted(failed)[:5]]
    more = [f"and {len(failed) - 5} more"] if len(failed) > 5 else []
    head = f"{len(failed)} of {total} jobs failed: " if work.is_array else ""
    first = work.log_of(min(failed))
    tail = last_lines(first, 6)
    tail = tail[tail.index("#") + 1 :] if "#" in tail else tail
    return "\n".join([f"{program}: {head}{', '.join(shown + more)}", *("    " + line for line in tail)])


class Progress:
    """On a terminal the newest log line, in place, once a second; elsewhere a line a minute."""

    def __init__(self, work, total):
        self.work, self.total = work, total
        self.on_terminal = sys.stderr.isatty()
        self.every_s = 1.0 if self.on_terminal else 60.0
        self.next_s = time.monotonic() + self.every_s
        self.dirty = False

    def show(self, waiting, running):
        if not running or time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + self.every_s
        logs = [self.work.log_of(index) for index in running]
        newest = max((log for log in logs if os.path.exists(log)), key=os.path.getmtime, default=None)
        # not the head that the runner wrote, nor what a program says of itself
        said = [line for line in last_lines(newest, 20) if not line.startswith("#")] if newest else []
        line = said[-1] if said else ""
        if self.work.is_array:
            what = f"{self.total - waiting - len(running)}/{self.total} done, {len(running)} running"
            line = f"{what}: {line}" if line else what
        if not line:
            return
        if self.on_terminal:
            width = (os.get_terminal_size(2).columns or 80) - 5
            sys.stderr.write(f"\r\x1b[K    {line[:width]}")
            self.dirty = True
        else:
            sys.stderr.write(f"    {line}\n")
        sys.stderr.flush()

    def clear(self):
        if self.dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def die_with_parent(number=signal.SIGKILL):
    """Return a function for a child to call right after fork: it gets `number` when the process that forked it dies."""
    import ctypes  # here: a cluster task starts without it

    parent, libc = os.getpid(), ctypes.CDLL(None, use_errno=True)

    def call():
        libc.prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return call
