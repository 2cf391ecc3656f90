#!/usr/bin/env python3
"""Run a command, or an array of them, on this machine, each with its own log.

    utils/run.py --num-threads 2 JOB=1:8 exp/log/count.JOB.log wc -l data/part.JOB

Options: --num-threads N (cores of one job; also its OMP_NUM_THREADS), --processes N (of one job, started through
utils/launch.py; each has that many threads), --gpu N (GPUs of one job: CUDA_VISIBLE_DEVICES;
on a machine without GPUs the job runs without), --max-jobs-run N (default: cores / threads), --pick all|failed (failed:
only what has no good status yet), --mark TEXT (what the work is done under: statuses of another one do not count),
--max-restarts N (20; status 75 means "saved my state, run me again"), --fail-fast, --dry-run. Any
other `--name value` is for clusters and ignored.

Exit status: 0 all good, 1 a job failed, 2 usage, 130/143 interrupted.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import jobs

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HELD = {*STOPPING, signal.SIGUSR1}


def keep_job(work, index, restart, environment):
    """Run one job in a process group of its own, pass signals on, write its log and status. Returns: the job's status.

    Runs in a forked process that the runner watches, with the signals in HELD blocked until the job has started.
    """
    child = None

    def pass_on(number, _frame):
        if number == signal.SIGUSR1:  # the runner is gone, or has lost patience
            os.killpg(child.pid, signal.SIGKILL)
            os._exit(137)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    os.setpgid(0, 0)
    caught = [number for number in HELD if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, pass_on)
    mortal = jobs.die_with_parent()

    def become_job():
        os.setpgid(0, 0)
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        mortal()

    start_s = time.monotonic()
    with open(work.log_of(index), "ab" if restart else "wb", buffering=0) as log:
        log.write(jobs.log_header(work.line_of(index), f"process {os.getpid()}", restart).encode())
        files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        child = subprocess.Popen(jobs.shell_command(work, index), env=environment, preexec_fn=become_job, **files)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        status = child.wait()
        status = status if status >= 0 else 128 - status
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # whatever it left running
        log.seek(0, os.SEEK_END)
        log.write(jobs.log_footer(status, time.monotonic() - start_s).encode())
    if work.is_array:
        jobs.write_status(work, index, status, restart)
    return status


def visible_gpus():
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES gives or allows them; an empty list without GPUs."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]


class Runner:
    """Runs the jobs of one command line."""

    def __init__(self, work):
        self.work, self.gpus_a_job = work, work.options["--gpu"]
        threads = max(1, work.options["--num-threads"])
        cores = threads * max(1, work.options["--processes"])
        self.slots = work.options["--max-jobs-run"] or max(1, len(os.sched_getaffinity(0)) // cores)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.gpus = visible_gpus() if self.gpus_a_job else []
        if self.gpus:
            if len(self.gpus) < self.gpus_a_job:
                raise jobs.UsageError(f"--gpu {self.gpus_a_job}: this machine has {len(self.gpus)}")
            self.slots = min(self.slots, len(self.gpus) // self.gpus_a_job)
        self.running, self.failed, self.restarts = {}, {}, {}
        self.signals = []

    def start(self, index):
        environment, gpus = self.environment, []
        if self.gpus:
            gpus = [self.gpus.pop(0) for _ in range(self.gpus_a_job)]
            environment = {**environment, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        os.makedirs(os.path.dirname(self.work.log_of(index)) or ".", exist_ok=True)
        mortal = jobs.die_with_parent(signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                mortal()
                status = keep_job(self.work, index, self.restarts.get(index, 0), environment)
            except OSError as error:
                os.write(2, f"run.py: {self.work.name_of(index)}: {error}\n".encode())
            finally:
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        self.running[pid] = (index, gpus)

    def collect(self):
        """Take in one job that has ended. Returns: its index when it is to run again, -1 when done, None for no job."""
        pid, code = os.waitpid(-1, os.WNOHANG) if self.running else (0, 0)
        if pid not in self.running:
            return None
        index, gpus = self.running.pop(pid)
        self.gpus += gpus
        status = os.waitstatus_to_exitcode(code)
        status = status if status >= 0 else 128 - status
        restarts = self.restarts.get(index, 0)
        if status == jobs.TRY_AGAIN and not self.signals and restarts < self.work.options["--max-restarts"]:
            self.restarts[index] = restarts + 1
            return index
        if status:
            self.failed[index] = status
        return -1

    def run(self, indexes):
        """Run these jobs. Returns: exit status of the runner."""
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal)
        waiting, progress, pause_s = list(indexes), jobs.Progress(self.work, len(indexes)), 0.002
        while waiting or self.running:
            if self.signals or (self.failed and self.work.options["--fail-fast"]):
                waiting = []
            while waiting and len(self.running) < self.slots:
                self.start(waiting.pop(0))
            ended = self.collect()
            if ended is None:
                self.pass_signals()
                progress.show(len(waiting), [index for index, _ in self.running.values()])
                pause_s = min(0.1, pause_s * 1.5)
                time.sleep(pause_s)
            else:
                pause_s = 0.002
                waiting[:0] = [ended] if ended >= 0 else []
        progress.clear()
        return self.conclude()

    def on_signal(self, number, _frame):
        """Note a signal; one that comes twice at once (terminal and run.sh) counts once, later ones ask more firmly."""
        now = time.monotonic()
        if not self.signals or now - self.signals[-1][1] > 1.0:
            step = len(self.signals)
            harder = number if step == 0 else (signal.SIGTERM if step == 1 else signal.SIGUSR1)
            self.signals.append((harder, now, set()))

    def pass_signals(self):
        for number, _, told in self.signals:
            for pid in self.running.keys() - told:
                os.kill(pid, number)
                told.add(pid)

    def conclude(self):
        if self.signals:
            name = signal.Signals(self.signals[0][0]).name
            print(f"run.py: interrupted by {name}; its jobs have ended", file=sys.stderr, flush=True)
            return 130 if self.signals[0][0] == signal.SIGINT else 143
        if self.failed:
            limit = self.work.options["--max-restarts"]
            print(jobs.failure_report("run.py", self.work, self.failed, limit), file=sys.stderr, flush=True)
            return 1
        return 0


def main(words):
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        work = jobs.Work(words)
        if work.options["--nodes"] != 1:
            raise jobs.UsageError("--nodes: this is one machine")
        indexes = work.indexes
        if work.options["--pick"] == "failed" and work.is_array:
            indexes = [index for index in indexes if work.status_of(index) != 0]
        if work.options["--dry-run"]:
            print(*(f"{work.log_of(index)}: {work.line_of(index)}" for index in indexes), sep="\n")
            return 0
        if work.is_array:
            for folder in work.overwritten_folders():
                shutil.rmtree(folder, ignore_errors=True)
            for index in indexes:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{work.state_folder()}/done.{index}")
        return Runner(work).run(indexes)
    except jobs.UsageError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"run.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
