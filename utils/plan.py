"""The plan of run.sh: tasks read from the command line of stage.py. Standard library only."""

import re
import shlex

from jobs import job_pattern

TITLES = ("prepare", "features", "tokenizer", "teacher", "student", "prune", "quantize", "export", "score", "report")
FIELDS = ("needs", "makes", "conf", "lists", "sounds", "replaces", "log", "runner", "parallel", "tells")
NJ, JOB = re.compile(r"\{nj\}"), job_pattern()


class StageError(Exception):
    """Stops the run with one line and an exit status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Task:
    """One unit of work.

    Args:   words: what stands between two `::`, that is STAGE NAME [fields] -- COMMAND... [:then: COMMAND...].
    """

    def __init__(self, words):
        head = words[: words.index("--")] if "--" in words else []
        if len(head) < 2 or not head[0].isdigit():
            raise StageError(2, f"a task is STAGE NAME ... -- COMMAND, not {shlex.join(words[:6])!r}")
        self.stage, self.name = int(head[0]), head[1]
        fields = self._fields(head[2:])
        self.needs, self.makes, self.conf = fields.get("needs", []), fields.get("makes", []), fields.get("conf", [])
        self.lists, self.sounds = fields.get("lists", []), fields.get("sounds", [])
        self.tells = "".join(fields.get("tells", []))
        self.replaces, self.log = "".join(fields.get("replaces", [])), "".join(fields.get("log", []))
        self.runner = shlex.split(" ".join(fields.get("runner", [])))
        self.parallel = self._parallel(fields.get("parallel"))
        self.commands = [[]]
        for word in words[len(head) + 1 :]:
            if word == ":then:":
                self.commands.append([])
            else:
                self.commands[-1].append(word)
        if not all(self.commands):
            raise StageError(2, f"task {self.name}: empty command")

    def _fields(self, words):
        fields, field = {}, None
        for word in words:
            if word[:2] == "--" and word[2:] in FIELDS:
                field = fields.setdefault(word[2:], [])
            elif field is None:
                raise StageError(2, f"task {self.name}: unknown field {word!r}")
            else:
                field.append(word)
        return fields

    def _parallel(self, words):
        """How many may run side by side: 0 alone, None as many as there are jobs."""
        if words is None:
            return 0
        if words and not (len(words) == 1 and words[0].isdigit() and int(words[0]) > 0):
            raise StageError(2, f"task {self.name}: --parallel takes a number from 1 on, not {' '.join(words)!r}")
        return int(words[0]) if words else None

    def __str__(self):
        return f"stage {self.stage} ({self.name})"

    def logs(self, exp):
        """Log path of each command: given by --log or below exp/log; arrays have JOB in the name."""
        base = self.log or f"{exp}/log/{self.stage:02d}_{self.name}.log"
        stem, suffix = (base[:-4], ".log") if base.endswith(".log") else (base, "")
        names = []
        for number, command in enumerate(self.commands, 1):
            array = ".JOB" if command[0].startswith("JOB=") else ""
            names.append(f"{stem}{'' if number == 1 else f'_{number}'}{array}{suffix}")
        return names


class Wording:
    """Commands of tasks with numbers in place of {nj} and JOB; in names of folders these are only text.

    Args:   exp: the experiment's folder.   nj: number of jobs.   folders: the names.
    """

    def __init__(self, exp, nj, folders):
        self.exp, self.nj = exp, nj
        names = {name for name in folders if NJ.search(name) or JOB.search(name)}
        self.names = sorted(names, key=len, reverse=True)

    def fill(self, pattern, value, word):
        """Put a value in the place of a pattern, but not within one of the names."""
        parts = re.split(f"({'|'.join(map(re.escape, self.names))})", word) if self.names else [word]
        return "".join(part if index % 2 else pattern.sub(value, part) for index, part in enumerate(parts))

    def for_runner(self, task, index):
        """What a runner gets for command number `index` of a task, behind its options: log and command, of an array its range."""
        words = [self.fill(NJ, str(self.nj), word) for word in task.commands[index]]
        log = task.logs(self.exp)[index]
        if not words[0].startswith("JOB="):
            return [log, *words]
        number, job = 1, "JOB"
        while any(job in name for name in self.names):  # then the number of a job is called otherwise
            number += 1
            job = f"JOB{number}"
        log, *words = (self.fill(JOB, job, word) for word in (log, *words))
        return [words[0], log, *words[1:]]


def read_plan(words):
    """Tasks in order of their stages, and who makes what.

    Args:   words: `:: task :: task ...`.   Returns: (tasks, {path or "@name": task}).   Raises: StageError.
    """
    blocks = []
    for word in words:
        if word == "::":
            blocks.append([])
        elif blocks:
            blocks[-1].append(word)
        else:
            raise StageError(2, f"unknown word {word!r} before the first task")
    tasks = sorted((Task(block) for block in blocks), key=lambda task: task.stage)
    makers = {}
    for task in tasks:
        for made in (*task.makes, "@" + task.name):
            if made in makers:
                raise StageError(2, f"{made.lstrip('@')} is declared twice: {makers[made]} and {task}")
            makers[made] = task
    return tasks, makers
