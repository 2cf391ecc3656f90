"""Judge and run the tasks of run.sh: skip what is up to date, say why something is redone, keep one run per experiment.

    python3 -I -S utils/stage.py --exp exp/x --cmd utils/run.py [options] \\
        :: 2 tokenizer --needs data/x/train/text --conf conf/tokenizer.yaml --makes data/x/tokenizer/tokens.txt -- ...

A task is `:: STAGE NAME [fields] -- COMMAND... [:then: COMMAND...]`. Fields: --needs FILES, --makes FILES, --conf FILES
(compared by content), --lists FILES (which files it used, written by the task; else all below the folders it needs count),
--sounds FILES (each a wav.scp: the sound files it names count, too), --replaces DIR (a finished folder is moved to DIR.old-n,
never deleted), --log FILE, --tells FILE (text shown when the task has ended), --runner 'OPTIONS', --parallel [N] (may run beside
its neighbours of the same stage, N or as many as --nj at a time). A need `@name` is a whole task.
`{nj}` in a command is the number of jobs, not fingerprinted; a command that begins with JOB=1:{nj} is an array, in which JOB is
the number of the job. In the names of folders (--exp, --workdir, --verbatim) both are only text.

Exit status: 0 good, 1 a job failed, 2 usage, 3 cannot submit, 4 locked, 5 missing input, 6 missing output,
130/143 interrupted.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

from jobs import Work, die_with_parent, remarks
from judge import Judge
from marks import Marks, commit, take_lock
from plan import TITLES, StageError, Wording, read_plan


def say(message):
    print(message, flush=True)


class Experiment:
    """One plan on one experiment folder."""

    def __init__(self, options, tasks, makers):
        self.options = options
        self.tasks = [task for task in tasks if options.stage <= task.stage <= options.stop_stage]
        self.marks = Marks(options.exp, [options.workdir, os.getcwd()])
        self.judge = Judge(self.marks, makers, options.force)
        self.words = Wording(options.exp, options.nj, [options.exp, options.workdir, *options.verbatim])
        self.running, self.fresh = [], []
        self.signals, self.lock = [], None

    def runner_command(self, task, index, verdict):
        """The words that run command number `index` of a task through the runner."""
        words, runner = self.words.for_runner(task, index), shlex.split(self.options.cmd) + task.runner
        runner += ["--mark", verdict.mark["id"]]
        if task.commands[index][0].startswith("JOB=") and verdict.resume:
            runner += ["--pick", "failed"]
        return [*runner, *words]

    def move_aside(self, task):
        """Rename the folder that a task replaces; its mark goes with it, so that it counts again where it is moved back."""
        folder, number = task.replaces, 1
        done = self.marks.read(task, "done")
        if done and not self.marks.replaced_outputs(task, done):
            self.marks.leave_in(folder, {"outputs": self.marks.outputs(task), **done})
        while os.path.lexists(f"{folder}.old-{number}"):
            number += 1
        try:
            os.rename(folder, f"{folder}.old-{number}")
        except OSError as error:
            raise StageError(1, f"cannot move {folder} to {folder}.old-{number} ({error.strerror})") from None
        say(f"    {folder} moved to {folder}.old-{number}")

    def forget_jobs(self, task, verdict):
        """Drop what the jobs of the task's arrays left for `--pick failed`: it is of an earlier time."""
        for index, command in enumerate(task.commands):
            if command[0].startswith("JOB="):
                work = Work(["--mark", verdict.mark["id"], *self.words.for_runner(task, index)])
                shutil.rmtree(work.state_folder(), ignore_errors=True)

    def begin(self, task, verdict):
        """Mark the task as started and start its first command."""
        self.flush_fresh()
        say(f"stage {task.stage} {task.name}: running ({verdict.redo}; log {task.logs(self.options.exp)[0]})")
        # All this before the mark: with it, whatever lies there is gone on with.
        if not verdict.resume or not self.marks.read(task, "started"):
            self.forget_jobs(task, verdict)
        if task.replaces and not verdict.resume and os.path.isdir(task.replaces) and os.listdir(task.replaces):
            self.move_aside(task)
        if task.lists:  # what is not written anew does not count
            for path in task.lists:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            verdict.mark = self.judge.new_mark(task, verdict.mark["generation"])
        self.marks.write(task, "started", {**verdict.mark, "stage": task.stage, "name": task.name})
        job = {"task": task, "verdict": verdict, "index": 0, "start_s": time.time()}
        self.launch(job)
        self.running.append(job)

    def launch(self, job):
        words = self.runner_command(job["task"], job["index"], job["verdict"])
        if words[0].endswith(".py"):
            words = [sys.executable, "-I", "-S", *words]
        # Neighbours running side by side would garble each other's progress line: theirs is kept until they end.
        stderr = None if job["task"].parallel in (0, 1) else subprocess.PIPE
        try:
            job["process"] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stderr=stderr, pass_fds=[self.lock], preexec_fn=die_with_parent()
            )
        except OSError as error:
            raise StageError(2, f"--cmd {self.options.cmd}: {error.strerror}") from None

    def wait(self, until):
        """Wait until at most `until` tasks run. Raises: StageError of the first that failed, when all have ended."""
        pause_s, failed = 0.005, None
        while len(self.running) > (0 if failed or self.signals else until):
            self.forward_signals()
            ended = [job for job in self.running if job["process"].poll() is not None]
            for job in ended:
                self.running.remove(job)
                try:
                    self.conclude(job)
                except StageError as error:
                    failed = failed or error
            pause_s = 0.005 if ended else min(0.2, pause_s * 1.5)
            if not ended:
                time.sleep(pause_s)
        if self.signals:
            status = 130 if self.signals[0] == signal.SIGINT else 143
            name = signal.Signals(self.signals[0]).name
            raise StageError(status, f"interrupted by {name}; the same command goes on from here")
        if failed:
            raise failed

    def conclude(self, job):
        """A runner ended: start the task's next command, or check and mark the task."""
        task, process = job["task"], job["process"]
        if process.stderr:
            sys.stderr.write(process.stderr.read().decode(errors="replace"))
            sys.stderr.flush()
        if process.returncode != 0:
            status = process.returncode if process.returncode in (1, 2, 3, 130, 143) else 1
            raise StageError(status, f"{task} failed")
        if job["index"] + 1 < len(task.commands):
            if not self.signals:
                job["index"] += 1
                self.launch(job)
                self.running.append(job)
            return
        for path in task.makes:
            if not os.path.exists(path):
                log = task.logs(self.options.exp)[-1]
                raise StageError(6, f"{task}: ended well but did not make {path} (log {log})")
        seconds = time.time() - job["start_s"]
        record = {
            "finished": time.strftime("%F %T"),
            "moment": time.time_ns(),
            "seconds": round(seconds, 1),
            "host": socket.gethostname(),
        }
        commands = [shlex.join(self.runner_command(task, index, job["verdict"])) for index in range(len(task.commands))]
        mark = self.marks.with_lists(task, job["verdict"].mark) | {"outputs": self.marks.outputs(task)}
        mark = {"stage": task.stage, "name": task.name, **mark, **record, "commit": commit(), "commands": commands}
        self.marks.write(task, "done", mark)
        say(f"stage {task.stage} {task.name}: done in {seconds:.0f} s")
        if not task.tells and self.options.show not in task.makes:
            self.show_remarks(task)
        if task.tells:
            with open(task.tells, encoding="utf-8", errors="replace") as file:
                say("".join(f"    {line}" for line in file).rstrip())

    def show_remarks(self, task):
        """Print the warnings and notes in the task's logs, which nobody reads after a task that went well."""
        works = [Work(self.words.for_runner(task, index)) for index in range(len(task.commands))]
        for line in remarks([work.log_of(index) for work in works for index in work.indexes]):
            say(f"    {line}")

    def flush_fresh(self):
        """Tell of the tasks that were up to date since the last call, one line a stage."""
        for stage in sorted({task.stage for task in self.fresh}):
            names = [task.name for task in self.fresh if task.stage == stage]
            what = names[0] if len(names) == 1 else f"{TITLES[stage]} ({len(names)} tasks)"
            say(f"stage {stage} {what}: up to date; --force to redo")
        self.fresh = []

    def run(self):
        self.judge.check_inputs(self.tasks)
        self.lock = take_lock(self.options.exp)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal)
        for task in self.tasks:
            limit = self.options.nj if task.parallel is None else task.parallel
            self.wait(limit - 1 if limit and self.may_join(task) else 0)
            for path in (*task.needs, *task.conf):
                self.judge.check_input(task, path)
            verdict = self.judge.verdict(task)
            if verdict.redo:
                self.begin(task, verdict)
                self.wait(limit)
            else:
                self.fresh.append(task)
        self.wait(0)
        self.flush_fresh()

    def may_join(self, task):
        """Whether the task may start while others run: same stage, and it needs nothing that they make."""
        others = [job["task"] for job in self.running]
        apart = any(other.stage != task.stage or {*task.needs} & {*other.makes, "@" + other.name} for other in others)
        return not apart

    def on_signal(self, number, _frame):
        self.signals.append(number)

    def forward_signals(self):
        """Pass on what came since the last look; a runner started meanwhile gets it too."""
        for job in self.running:
            for number in self.signals[job.get("told", 0) :]:
                job["process"].send_signal(number)
            job["told"] = len(self.signals)

    def dry_run(self):
        """Print what would run, why, and the commands."""
        try:
            self.judge.check_inputs(self.tasks)
        except StageError as error:
            print(f"run.sh: would stop: {error}", file=sys.stderr, flush=True)
        redone = set()
        for task in self.tasks:
            verdict = self.judge.verdict(task)
            upstream = [need for need in task.needs if need in redone]
            redo = f"{upstream[0].lstrip('@')} is made anew" if upstream and not self.options.force else verdict.redo
            if redo:
                self.flush_fresh()
                say(f"stage {task.stage} {task.name}: would run ({redo})")
                for index in range(len(task.commands)):
                    say("    " + shlex.join(self.runner_command(task, index, verdict)))
                if upstream or not verdict.resume:
                    redone.update(task.makes, ["@" + task.name])
            else:
                self.fresh.append(task)
        self.flush_fresh()


def show_report(path):
    """Print the path of a Markdown report, its warnings, and the first two tables of each of its test sets, under their names."""
    shown, tables, inside, sets = [], 0, False, []
    with open(path, encoding="utf-8") as file:
        for line in file:
            tables = 0 if line.startswith("## ") else tables + (line.startswith("|") and not inside)
            inside = line.startswith("|")
            shown += [line] if (inside and tables <= 2) or line.startswith(("> ", "## ")) else []
            sets += [line] if line.startswith("## ") else []
    # a single set needs no heading
    shown = [f"\n{line}" if line in sets else line for line in shown if len(sets) > 1 or line not in sets]
    say(f"report: {path}\n\n" + "".join(shown).rstrip())


def main(words):
    split = words.index("::") if "::" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="folder of the experiment; marks, lock and logs go below it")
    parser.add_argument("--workdir", default="", help="folder whose name is left out of fingerprints")
    text = "more names of folders in which JOB and {nj} stand for nothing"
    parser.add_argument("--verbatim", nargs="*", default=[], metavar="DIR", help=text)
    parser.add_argument("--cmd", default="utils/run.py", help="job runner and its options")
    parser.add_argument("--nj", type=int, default=1, help="jobs of an array, parallel tasks")
    parser.add_argument("--stage", type=int, default=0, help="first stage to look at")
    parser.add_argument("--stop-stage", type=int, default=99, help="last stage to look at")
    switch = {"nargs": "?", "const": "true", "default": "false", "choices": ["true", "false"]}
    parser.add_argument("--force", help="redo every task looked at", **switch)
    parser.add_argument("--dry-run", help="only say what would run, and why", **switch)
    parser.add_argument("--show", default="", help="Markdown report to show when the task that makes it was looked at")
    options = parser.parse_args(words[:split])
    options.force, options.dry_run = options.force == "true", options.dry_run == "true"
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if options.nj < 1:
        parser.error("--nj must be at least 1")
    if options.stage > options.stop_stage:
        parser.error("--stage comes after --stop-stage")
    try:
        tasks, makers = read_plan(words[split:])
        experiment = Experiment(options, tasks, makers)
        if options.dry_run:
            experiment.dry_run()
            return 0
        experiment.run()
        if options.show and makers.get(options.show) in experiment.tasks:
            show_report(options.show)
    except StageError as error:
        print(f"run.sh: {error}", file=sys.stderr, flush=True)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
