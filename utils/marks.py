"""Stage marks: what a finished task was made from, and what has changed since. Standard library only.

A mark is `<exp>/.stages/NN_name.done` (`.started` while the work is under way), one JSON object. Its fingerprint holds
the words of the commands, the text of the settings files, mark and content of inputs that other tasks made, and size and time
of all other inputs. Job counts, runners, log paths, the code and the place of the work folder are left out on purpose. Its
`outputs` are the files made, with their content. A model folder that is moved aside takes its mark along (MOVED).
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time

from inputs import content_of, digest, file_digest, foreign_state, output_record, sound_state, state_of_version_1
from plan import StageError

# Settings that no result depends on: they may change between an interruption and the next run.
NO_RESULT = re.compile(r"\b(?:loader_workers|save_every_s)\s*:\s*[\w.+-]+\s*,?[ \t]*")


# Of a decoding in parts (--decode-nj), as {nj} is of other arrays: what tells their number.
PARTS, COUNT = re.compile(r"JOB=1:\d+"), re.compile(r"--shard JOB|--num-shards \d+")

JOBS_END_S = 5.0  # the jobs of a killed run end within one second
MOVED = ".mark.json"  # the mark of a folder that was moved aside, in that folder


class Marks:
    """The marks of one experiment.

    Args:   exp: the experiment's folder.
            places: folders whose names are left out of fingerprints (work folder, repository).
    """

    def __init__(self, exp, places):
        self.folder = os.path.join(exp, ".stages")
        names = "|".join(re.escape(place.rstrip("/") + "/") for place in places if place.strip("/"))
        self.place = re.compile(rf"(?<![\w./-])(?:{names})" if names else r"(?!)")
        self.ours = [os.path.dirname(exp), *(os.path.join(place, "data") for place in places if place)]

    def path(self, task, state):
        return os.path.join(self.folder, f"{task.stage:02d}_{task.name}.{state}")

    def read(self, task, state):
        """The mark as a dict, or None when there is none (or an unreadable one).

        A model folder that was moved aside and back again brings the mark of its own time.
        """
        if state == "done" and task.replaces:
            own = read_mark(os.path.join(task.replaces, MOVED))
            if own and not self.replaced_outputs(task, own):
                return own
        return read_mark(self.path(task, state))

    def write(self, task, state, mark):
        """Write a mark by rename; a task is started or done, never both. Raises: StageError, e.g. on a full disk."""
        path = self.path(task, state)
        try:
            os.makedirs(self.folder, exist_ok=True)
            write_json(path, mark)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(task, "done" if state == "started" else "started"))
        except OSError as error:
            raise StageError(1, f"cannot write {path} ({error.strerror}); the same command goes on from here") from None

    def leave_in(self, folder, mark):
        """Write a mark into the model folder that it is of."""
        path = os.path.join(folder, MOVED)
        try:
            write_json(path, mark)
        except OSError as error:
            raise StageError(1, f"cannot write {path} ({error.strerror}); the same command goes on from here") from None

    def plain(self, word):
        """A word with the names of the work folder and the repository taken out, so that a moved folder stays valid."""
        return self.place.sub("", word)

    def fingerprint(self, task, makers, like=None):
        """What the task depends on, now.

        Args:   task: with commands, conf, needs.   makers: path or "@name" -> the task that makes it.
                like: an older fingerprint; where it says less of an input, so does this one.
        """
        known = like["inputs"] if like else {}
        inputs = {
            self.plain(need): self.input_state(task, need, makers, known.get(self.plain(need))) for need in task.needs
        }
        return {
            "command": [[self.plain(word) for word in command] for command in without_parts(task.commands)],
            "conf": {self.plain(path): settings_text(path) for path in task.conf},
            "inputs": inputs | self.listed(task) | self.sounds(task, like),
        }

    def input_state(self, task, need, makers, like):
        """State of one input, in words."""
        maker = makers.get(need)
        mark = self.read(maker, "done") if maker else None
        if mark:
            made = f"made {mark['id']}"
            if like == made:
                return made
            if not task.makes:  # it may change its inputs in place, which is lost once they are made anew
                return f"{made}, {mark.get('moment', mark.get('finished'))}"
            content = content_of(need, mark.get("outputs", {}).get(self.plain(need)))
            return f"{made}, content {content}" if content else made
        if os.path.isdir(need):
            return state_of_version_1(need) if (like or "").startswith("folder ") else foreign_state(need, self.ours)
        return foreign_state(need)

    def sounds(self, task, like):
        """Sound files that a task hears, which no list of used files need name: a data folder may be written by hand."""
        states = {f"sound of {self.plain(path)}": sound_state(path) for path in task.sounds}
        return {name: state for name, state in states.items() if not like or name in like["inputs"]}

    def listed(self, task):
        """Inputs of a task that writes down which files it used: that list, in place of the folders it needs."""
        lists = {self.plain(path): f"list {file_digest(path)}" for path in task.lists if os.path.isfile(path)}
        folders = [need for need in task.needs if os.path.isdir(need)] if lists else []
        return lists | {self.plain(folder): "listed" for folder in folders}

    def with_lists(self, task, mark):
        """The mark of a task that has ended, with the lists that it wrote."""
        listed = self.listed(task)
        if not listed:
            return mark
        fingerprint = {**mark["fingerprint"], "inputs": mark["fingerprint"]["inputs"] | listed}
        return {**mark, "id": digest([fingerprint, mark["generation"]]), "fingerprint": fingerprint}

    def outputs(self, task):
        """The files that a task made, for its mark: {path: [size, time, content]}."""
        records = {self.plain(path): output_record(path) for path in task.makes}
        return {path: record for path, record in records.items() if record}

    def replaced_outputs(self, task, mark):
        """Files of a task that are there, but are not the ones that it made. Returns: list of paths."""
        known = {path: mark.get("outputs", {}).get(self.plain(path)) for path in task.makes}
        found = {path: content_of(path, record) for path, record in known.items() if record}
        return [path for path, content in found.items() if content and content != known[path][2]]


def write_json(path, value):
    """Write by rename."""
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def read_mark(path):
    """A mark as a dict, or None when there is none, or none that is whole."""
    try:
        with open(path, encoding="utf-8") as file:
            mark = json.load(file)
        fingerprint = mark["fingerprint"]
        whole = isinstance(mark["id"], str) and isinstance(mark["generation"], int)
        whole = whole and all(isinstance(command, list) for command in fingerprint["command"])
        whole = whole and all(isinstance(fingerprint[kind], dict) for kind in ("conf", "inputs"))
        records = mark.get("outputs", {}).values()
        whole = whole and all(isinstance(record, list) and len(record) == 3 for record in records)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return mark if whole else None


def settings_text(path):
    """Text of a YAML file and of the one its `base:` line names, without blank lines, comments and NO_RESULT."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [re.sub(r",\s*}", "}", NO_RESULT.sub("", line)).rstrip() for line in file]
    except FileNotFoundError:
        return "absent"
    lines = [line for line in map(without_comment, lines) if line]
    for index, line in enumerate(lines):
        match = re.match(r"""base:\s*["']?([^"'#]+?)["']?\s*(#.*)?$""", line)
        if match:
            base = os.path.join(os.path.dirname(path), match.group(1))
            lines[index : index + 1] = ["base:", *("  " + text for text in settings_text(base).splitlines())]
            break
    return "\n".join(lines)


def without_parts(commands):
    """Commands as they are where the work is done in one part; no result depends on the number of parts."""
    found = []
    for command in commands:
        if PARTS.fullmatch(command[0]):
            told = [at for at in range(1, len(command) - 1) if COUNT.fullmatch(" ".join(command[at : at + 2]))]
            left_out = {0, *told, *(at + 1 for at in told)}
            command = [word for at, word in enumerate(command) if at not in left_out]
        if "steps.combine_decodes" not in command:
            found.append(command)
    return found


def without_comment(line):
    """A line of YAML without the comment that ends it; a # in quotes, or with no blank before it, begins none."""
    quote = ""
    for at, char in enumerate(line if "#" in line else ""):
        before = line[at - 1] if at else " "
        if quote:
            closes = char == quote and (quote == "'" or before != "\\")
            quote = "" if closes else quote
        elif char in "'\"" and before in " \t[{,:'":
            quote = char
        elif char == "#" and before in " \t":
            return line[:at].rstrip()
    return line


def _settings_of(marked):
    """Lines of a file in a mark; marks of version 0.2 hold comments that end a line."""
    return [without_comment(line) for line in marked.splitlines()]


def changes(old, new):
    """Say in a few words each what differs between two fingerprints; an empty list when nothing does."""
    before = without_parts(old["command"])
    found = _command_changes(before, new["command"]) if before != new["command"] else []
    for kind in ("conf", "inputs"):
        for path in sorted({*old[kind], *new[kind]}):
            before, after = old[kind].get(path), new[kind].get(path)
            if before == after:
                continue
            if before is None or after is None:
                found.append(f"{path} is {'new' if before is None else 'no longer used'}")
            elif kind == "conf":
                before, after = _settings_of(before), _settings_of(after)
                found += [f"{path}: {_line_changes(before, after)}"] if before != after else []
            else:
                anew = after.startswith("made") and before.partition(",")[0] != after.partition(",")[0]
                found.append(f"{path} {'was made anew' if anew else 'changed'}")
    return found


def _line_changes(old, new):
    words = [f"-{line.strip()}" for line in old if line not in new]
    words += [f"+{line.strip()}" for line in new if line not in old]
    return "; ".join(words[:6]) + (" ..." if len(words) > 6 else "") if words else "order of lines"


def _command_changes(old, new):
    old, new = ([word for command in commands for word in [*command, ";"]] for commands in (old, new))
    if len(old) != len(new):
        gone, added = [word for word in old if word not in new], [word for word in new if word not in old]
        return ["the command: " + " ".join([f"-{word}" for word in gone] + [f"+{word}" for word in added])]
    found = []
    for index in range(len(old)):
        if old[index] != new[index]:
            option = old[index - 1] + " " if index and old[index - 1].startswith("-") else ""
            found.append(f"{option}{old[index]} -> {new[index]}")
    return found


def take_lock(exp):
    """Hold the experiment: an open, locked file that the runners inherit. Raises: StageError (4), naming who has it."""
    try:
        os.makedirs(exp, exist_ok=True)
        handle = os.open(os.path.join(exp, ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StageError(2, f"cannot write {exp} ({error.strerror}); name another --workdir") from None
    end_s = time.monotonic() + JOBS_END_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another run"
            if not _has_ended(holder) or time.monotonic() > end_s:
                raise StageError(4, f"{exp} is in use by {holder}") from None
            time.sleep(0.05)  # it was killed, and its jobs are just ending
        except OSError as error:
            print(f"run.sh: warning: cannot lock {exp} ({error.strerror}); start no second run on it", file=sys.stderr)
            break
    with contextlib.suppress(OSError):  # on a full disk the lock holds, but does not say whose it is
        os.ftruncate(handle, 0)
        who = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n"
        os.pwrite(handle, who.encode(), 0)
    return handle


def _has_ended(holder):
    """Whether the text of a lock names a process of this machine that is no more."""
    match = re.match(r"process (\d+) on (\S+) ", holder)
    return bool(match) and match[2] == socket.gethostname() and not os.path.exists(f"/proc/{match[1]}")


def commit():
    """The repository's commit, with a `+` when files differ from it; empty outside git."""
    git = ["git", "describe", "--always", "--abbrev=40", "--match=", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
