"""One task of utils/slurm.py, on the node that it runs on: log, signals, deadline, status file. Not called by hand.

python3 -I -S utils/slurm_task.py STATE_FOLDER OFFSET RESTARTS
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import cluster
import jobs


class Task:
    """Args: folder: state folder of the work.   offset: added to the array index.   restarts: of earlier submissions."""

    def __init__(self, folder, offset, restarts):
        with open(f"{folder}/work.json", encoding="utf-8") as file:
            facts = json.load(file)
        self.work, self.limit_s = jobs.Work(facts["words"]), facts["limit_s"]
        own = os.environ["SLURM_JOB_ID"]
        self.array = os.environ.get("SLURM_ARRAY_TASK_ID")
        self.job_id = os.environ.get("SLURM_ARRAY_JOB_ID", own)
        self.slurm_name = f"{self.job_id}_{self.array}" if self.array else own
        self.index = int(self.array) + offset if self.array else self.work.indexes[0]
        self.restart = restarts + int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.stop_file = os.path.abspath(f"{folder}/stop.{self.index}")
        self.child, self.told_to_go = None, False

    def environment(self):
        threads = max(1, self.work.options["--num-threads"])
        own = {"OMP_NUM_THREADS": str(threads), "RUN_STOP_FILE": self.stop_file}
        deadline = self.deadline()
        if deadline:
            own["RUN_DEADLINE"] = f"{deadline:.0f}"
        if "SLURM_CPUS_PER_TASK" in os.environ:  # srun does not take it over by itself
            own["SRUN_CPUS_PER_TASK"] = os.environ["SLURM_CPUS_PER_TASK"]
        return {**os.environ, **own}

    def deadline(self):
        """Seconds since 1970 when the job should save and leave, or None: its end less the margin, a quarter of the limit at most."""
        left_s = limit_s = self.limit_s
        if not self.array:
            with contextlib.suppress(cluster.ClusterError):
                left, _, limit = cluster.ask(
                    ["squeue", "--noheader", f"--jobs={self.job_id}", "--format=%L|%l"]
                ).partition("|")
                left_s, limit_s = cluster.seconds_of(left), cluster.seconds_of(limit)
        if left_s is None or not limit_s:
            return None
        return time.time() + left_s - min(self.work.options["--deadline-margin"], limit_s / 4)

    def on_signal(self, number, _frame):
        if number == signal.SIGUSR1:
            with open(self.stop_file, "w"):
                return
        self.told_to_go = True
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def run(self):
        """Run the command, write its log and status. Returns: the status of the batch job."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.on_signal)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.stop_file)
        log_path, line = self.work.log_of(self.index), self.work.line_of(self.index)
        os.makedirs(os.path.dirname(log_path) or ".", exist_ok=True)
        start_s = time.monotonic()
        with open(log_path, "ab" if self.restart else "wb", buffering=0) as log:
            log.write(jobs.log_header(line, f"Slurm job {self.slurm_name}", self.restart).encode())
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "process_group": 0}
            self.child = subprocess.Popen(jobs.shell_command(self.work, self.index), env=self.environment(), **files)
            if self.told_to_go:
                self.on_signal(signal.SIGTERM, None)
            status = self.child.wait()
            status = status if status >= 0 else 128 - status
            log.seek(0, os.SEEK_END)
            log.write(jobs.log_footer(status, time.monotonic() - start_s).encode())
        return self.conclude(status)

    def conclude(self, status):
        """Leave the status, unless the controller ends the job or is to run it again: then it is the one that knows."""
        if status == jobs.TRY_AGAIN and not self.told_to_go and self.requeued():
            time.sleep(60)  # the controller ends this run
            return status
        if not self.told_to_go or status == jobs.TRY_AGAIN:
            jobs.write_status(self.work, self.index, status, self.restart, self.job_id)
        return status

    def requeued(self):
        """Ask for the job to be run again. Returns: whether it will be; if not, the waiter submits it anew."""
        if self.restart >= self.work.options["--max-restarts"]:
            return False
        try:
            cluster.ask(["scontrol", "requeue", self.slurm_name])
        except cluster.ClusterError as error:
            print(f"slurm_task.py: {error}", file=sys.stderr, flush=True)
            return False
        return True


if __name__ == "__main__":
    sys.exit(Task(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run())
