#!/usr/bin/env python3
"""Run a command, or an array of them, on a Slurm cluster, each with its own log: the same command line as utils/run.py.

    utils/slurm.py --mem 4G --time 2:00:00 JOB=1:40 exp/log/count.JOB.log wc -l data/part.JOB

Options: --config FILE (conf/slurm.conf: what options become for sbatch), --num-threads N, --processes N, --gpu N,
--nodes N, --mem, --time, --partition and whatever the config has a line for; --max-jobs-run N, --pick all|failed, --mark TEXT,
--max-restarts N (status 75 means "saved my state, run me again"), --deadline-margin S (180: RUN_DEADLINE is that long
before the job's end, a quarter of the limit at most), --dry-run. Run again after a kill, it takes up the running job.

Exit status: 0 all good, 1 a job failed, 2 usage or config, 3 cannot submit, 130/143 interrupted (jobs cancelled).
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import cluster
import jobs
from waiter import CANCEL_WAIT_S, Waiter

RETRY_S = (1, 2, 4, 8, 16, 32)
USR1_FROM_S = 720  # Slurm may send a signal up to 60 s early: of no use to shorter jobs, which have RUN_DEADLINE


def say(message):
    print(f"slurm.py: {message}", file=sys.stderr, flush=True)


class Submission:
    """The jobs that stand for one command line, and the file submission.json that remembers them.

    Args:       work: jobs.Work.   settings: cluster.Settings.
    Attributes: folder (state folder), pieces: list of {"name", "offset", "indexes", "restarts", "id"}; an array longer than
                the controller allows has several; id is None until it is known.
    """

    def __init__(self, work, settings):
        self.work, self.folder = work, os.path.abspath(work.state_folder())
        words = {name.lstrip("-").replace("-", "_"): value for name, value in work.other.items()}
        threads = max(1, work.options["--num-threads"]) * max(1, work.options["--processes"])
        words |= {"num_threads": str(threads), "gpu": str(work.options["--gpu"])}
        words |= {"nodes": str(max(1, work.options["--nodes"]))}
        self.sbatch = [*settings.command, *settings.words(words)]
        limits = [word.partition("=")[2] for word in self.sbatch if word.startswith("--time=")]
        self.limit_s = cluster.seconds_of(limits[-1]) if limits else None
        self.name = re.sub(r"[^\w.-]", "_", os.path.basename(self.folder)) + f".{time.time_ns():x}"
        self.pieces = []

    def plan(self, indexes, restarts=0):
        """Add pieces for these indexes. Returns: the new pieces."""
        largest = cluster.largest_array() if max(indexes) > 1000 else 1000
        blocks = {}
        for index in indexes:
            blocks.setdefault(max(0, (index - 1) // largest) * largest, []).append(index)
        new = [
            {"name": f"{self.name}.{len(self.pieces) + number}", "offset": offset, "indexes": part}
            for number, (offset, part) in enumerate(sorted(blocks.items()))
        ]
        self.pieces += [{**piece, "restarts": restarts, "id": None} for piece in new]
        return self.pieces[-len(new) :]

    def sbatch_words(self, piece, after=None):
        """The sbatch command of one piece. Args: after: id of a job to wait for, so that a limit on jobs at once holds."""
        words = [*self.sbatch, "--parsable", "--requeue", "--open-mode=append", f"--job-name={piece['name']}"]
        place = self.folder.replace("%", "%%")
        words += [f"--chdir={os.getcwd()}", f"--output={place}/sched.{'%A_%a' if self.work.is_array else '%j'}"]
        margin_s = self.work.options["--deadline-margin"]
        if self.limit_s and self.limit_s >= max(USR1_FROM_S, 4 * margin_s):
            words.append(f"--signal=B:USR1@{margin_s}")
        if self.work.is_array:
            most = self.work.options["--max-jobs-run"]
            spec = cluster.ranges(index - piece["offset"] for index in piece["indexes"])
            words.append(f"--array={spec}" + (f"%{most}" if most else ""))
        words += [f"--dependency=afterany:{after}"] if after else []
        return [*words, f"{self.folder}/task.sh", str(piece["offset"]), str(piece["restarts"])]

    def write(self):
        """Leave what a task needs, and what a later waiter needs to find the jobs."""
        os.makedirs(self.folder, exist_ok=True)
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slurm_task.py")
        environment = os.path.join(os.path.dirname(program), "env.sh")
        command = shlex.join([sys.executable, "-I", "-S", program, self.folder])
        script = f'#!/usr/bin/env bash\n. {shlex.quote(environment)}\nexec {command} "$@"\n'
        self._put("task.sh", script)
        self._put("work.json", json.dumps({"words": self.work.given, "limit_s": self.limit_s}))
        self.remember()

    def remember(self):
        self._put("submission.json", json.dumps({"pieces": self.pieces}, indent=1))

    def _put(self, name, text):
        path = f"{self.folder}/{name}"
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".tmp", path)

    def forget(self):
        """Nothing is open any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.folder}/submission.json")

    def clean(self):
        """All went well: of an array the statuses stay, of a single job nothing."""
        self.forget()
        if self.work.is_array:
            for entry in os.scandir(self.folder):
                if entry.name.startswith(("sched.", "stop.")):
                    os.unlink(entry.path)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.folder))

    def submit(self, indexes, restarts=0, stop=lambda: False):
        """Submit these indexes; `stop` says whether to give up between two jobs. Raises: ClusterError."""
        for index in indexes:
            for name in (f"done.{index}", f"stop.{index}"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.folder}/{name}")
        pieces, before = self.plan(indexes, restarts), None
        self.write()
        for piece in pieces:
            if stop():
                return
            after = before if self.work.options["--max-jobs-run"] else None
            piece["id"] = before = self._submit_piece(piece, after)
            self.remember()

    def _submit_piece(self, piece, after):
        """One sbatch, tried again while the controller is away; what it took in unheard is found by its name."""
        for pause_s in (*RETRY_S, None):
            try:
                return cluster.ask(self.sbatch_words(piece, after), 60).strip().split(";")[0]
            except cluster.Unreachable as error:
                if pause_s is None:
                    raise
                if pause_s == RETRY_S[0]:
                    say(f"{error}; trying again")
            time.sleep(pause_s)
            with contextlib.suppress(cluster.Unreachable):
                for _, job, _, _, _ in cluster.tasks_of([piece["name"]]):
                    return job
        return None

    def adopt(self):
        """Take up what an earlier waiter left open. Returns: whether any of it still runs or waits.

        Raises: Unreachable when the controller does not say.
        """
        try:
            with open(f"{self.folder}/submission.json", encoding="utf-8") as file:
                self.pieces = json.load(file)["pieces"]
        except FileNotFoundError:
            return False
        live = set()
        for name, job, _, state, _ in cluster.tasks_of([piece["name"] for piece in self.pieces]):
            live |= {job} if state in cluster.LIVE else set()
            for piece in self.pieces:
                piece["id"] = job if piece["name"] == name and piece["id"] is None else piece["id"]
        self.pieces = [piece for piece in self.pieces if piece["id"]]
        return bool(live)

    def finished(self):
        """Indexes that these jobs brought to a good end."""
        return {index for piece in self.pieces for index in piece["indexes"] if self.status(index, piece["id"])[0] == 0}

    def status(self, index, job_id):
        """(status, restart) that this very job left for an index; (None, 0) for none."""
        try:
            with open(f"{self.folder}/done.{index}", encoding="utf-8") as file:
                status, restart, _, job = file.read().split()
        except (FileNotFoundError, ValueError):
            return None, 0
        return (int(status), int(restart)) if job == job_id else (None, 0)


def with_patience(call):
    """Call until the controller answers, six times at most."""
    for pause_s in RETRY_S:
        try:
            return call()
        except cluster.Unreachable as error:
            if pause_s == RETRY_S[0]:
                say(f"{error}; trying again")
            time.sleep(pause_s)
    return call()


def end_earlier_work(work):
    """Cancel what still runs of earlier work with the same log (it would write the same files), and forget it."""
    for folder in work.overwritten_folders():
        with contextlib.suppress(FileNotFoundError):
            with open(f"{folder}/submission.json", encoding="utf-8") as file:
                names = [piece["name"] for piece in json.load(file)["pieces"]]
            rows = with_patience(lambda names=names: cluster.tasks_of(names))
            if live := sorted({job for _, job, _, state, _ in rows if state in cluster.LIVE}):
                say(f"cancels job {', '.join(live)}, earlier work that would write the same files")
                cluster.cancel(live)
                end_s = time.monotonic() + CANCEL_WAIT_S
                while time.monotonic() < end_s and any(row[3] in cluster.LIVE for row in cluster.tasks_of(names)):
                    time.sleep(0.3)
        shutil.rmtree(folder, ignore_errors=True)


def run(work, submission):
    """Submit or adopt, wait, tell. Returns: exit status."""
    waiter = Waiter(work, submission, say)
    waiter.catch_signals()
    end_earlier_work(work)
    indexes = work.indexes
    if with_patience(submission.adopt):
        ids = ", ".join(piece["id"] for piece in submission.pieces)
        say(f"takes up job {ids}, which this command submitted before")
        indexes = [index for piece in submission.pieces for index in piece["indexes"]]
    else:
        if submission.pieces:  # nobody has told how these ended: what is good stays
            good = submission.finished()
            indexes, submission.pieces = [index for index in indexes if index not in good], []
        if work.options["--pick"] == "failed" and work.is_array:
            indexes = [index for index in indexes if work.status_of(index) != 0]
        if not indexes:
            submission.forget()
            return 0
        try:
            submission.submit(indexes, stop=lambda: waiter.signals)
        except cluster.ClusterError:
            cluster.cancel([piece["id"] for piece in submission.pieces if piece["id"]])
            submission.forget()
            raise
    return waiter.run(set(indexes))


def main(words):
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        work = jobs.Work(words)
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        settings = cluster.Settings(work.other.pop("--config", f"{root}/conf/slurm.conf"))
        submission = Submission(work, settings)
        if work.options["--dry-run"]:
            for piece in submission.plan(work.indexes):
                print(shlex.join(submission.sbatch_words(piece)))
            print(*(f"{work.log_of(index)}: {work.line_of(index)}" for index in work.indexes), sep="\n")
            return 0
        if not shutil.which(settings.command[0]):
            raise cluster.ClusterError(f"{settings.command[0]} is not on PATH; is this a Slurm machine?")
        return run(work, submission)
    except jobs.UsageError as error:
        say(error)
        return 2
    except cluster.ClusterError as error:
        say(error)
        return 3
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
