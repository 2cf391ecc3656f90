"""Waiting for the tasks of utils/slurm.py: their status files, and what the controller says of those that leave none."""

import os
import re
import select
import signal
import time

import cluster
import jobs

FINAL_WORDS = {
    "TIMEOUT": "time limit reached (give --time)",
    "DEADLINE": "its deadline has passed",
    "OUT_OF_MEMORY": "out of memory (give --mem)",
    "CANCELLED": "cancelled",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "PREEMPTED": "preempted",
    "COMPLETED": "ended, but its status file is not here (do the nodes share this folder?)",
    "LOST": "LOST: the controller does not know it and it left no status; the same command runs it again",
}
USUAL = {"None", "Resources", "Priority", "JobArrayTaskLimit", "Dependency", "BeginTime", "Cleaning", "Prolog"}
GRACE_S = {"COMPLETED": 60.0, "LOST": 10.0}  # a status file may come late over NFS
GRACE_OTHER_S = 2.0
CANCEL_WAIT_S = 60.0
LEAST_PAUSE_S, MOST_PAUSE_S = 0.05, 3.0  # between looks at the status files


class Waiter:
    """Waits for a submission.

    Args: work: jobs.Work.   submission: slurm.Submission.   say: prints one line.
    """

    def __init__(self, work, submission, say):
        self.work, self.submission, self.say = work, submission, say
        self.open, self.failed, self.words, self.lost = set(), {}, {}, False
        self.states, self.ended_s, self.told = {}, {}, set()
        self.signals, self.wake, self.silent = [], None, False
        self.next_query_s, self.query_every_s = 0.0, 2.0

    def catch_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: self.signals.append(number))
        self.wake, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def run(self, indexes):
        """Wait for these indexes to end. Returns: exit status of the runner."""
        self.open, total = set(indexes), len(indexes)
        progress, began_s = jobs.Progress(self.work, total), time.monotonic()
        self.next_query_s = began_s + self.query_every_s
        while self.open and not self.signals:
            suspects = self.read_status_files()
            now = time.monotonic()
            if self.open and (
                now >= self.next_query_s or (suspects and now >= self.next_query_s - self.query_every_s + 1)
            ):
                self.query()
                self.judge()
            running = [index for index in self.open if self.states.get(index, ("", ""))[0] == "RUNNING"]
            progress.show(len(self.open) - len(running), running)
            if self.open and not self.signals:
                pause_s = min(MOST_PAUSE_S, max(LEAST_PAUSE_S, (now - began_s) / 50))  # 2 % of the wait is lost at most
                pause_s = 0.1 if suspects else min(pause_s, max(LEAST_PAUSE_S, self.next_query_s - now))
                select.select([self.wake], [], [], pause_s)  # a signal ends the pause
        progress.clear()
        return self.interrupted() if self.signals else self.conclude()

    # --- status files ---

    def job_of(self, index):
        """Id of the newest job that has this index."""
        return next(piece["id"] for piece in reversed(self.submission.pieces) if index in piece["indexes"])

    def read_status_files(self):
        """Believe every good status. Returns: whether a bad one waits for the controller's word."""
        there = {entry.name for entry in os.scandir(self.submission.folder)}
        suspects = False
        for index in [index for index in self.open if f"done.{index}" in there]:
            status, _ = self.submission.status(index, self.job_of(index))
            if status == 0:
                self.open.discard(index)
            elif status is not None:
                suspects = True
        return suspects

    # --- the controller ---

    def query(self):
        """Ask for all states; an answer that does not come changes nothing."""
        self.query_every_s = min(30.0, self.query_every_s * 1.5)
        names = [piece["name"] for piece in self.submission.pieces]
        pieces = {piece["id"]: piece for piece in self.submission.pieces}
        try:
            rows = cluster.tasks_of(names)
        except cluster.ClusterError as error:
            if not self.silent:
                self.say(f"{error}; waiting for the controller")
            self.silent, self.states = True, None
        else:
            if self.silent:
                self.say("the controller answers again")
            self.silent, self.states = False, {}
            for _, job, number, state, reason in rows:
                piece = pieces.get(job)
                if piece:
                    index = self.work.indexes[0] if number is None else number + piece["offset"]
                    if self.job_of_or_none(index) == job:
                        self.states[index] = (state, reason)
        self.next_query_s = time.monotonic() + self.query_every_s

    def job_of_or_none(self, index):
        return self.job_of(index) if index in self.open else None

    def judge(self):
        """Find out which open tasks have ended without a good status."""
        if self.states is None:
            self.states = {}
            return
        again, now = {}, time.monotonic()
        for index in sorted(self.open):
            state, reason = self.states.get(index, ("LOST", ""))
            if state in cluster.LIVE:
                self.ended_s.pop(index, None)
                self.tell_pending(index, state, reason)
                continue
            status, restart = self.submission.status(index, self.job_of(index))
            if status == 0:
                self.open.discard(index)
                continue
            ended_s = self.ended_s.setdefault(index, now)
            if status is None and now - ended_s < GRACE_S.get(state, GRACE_OTHER_S):
                self.next_query_s = min(self.next_query_s, now + 1.0)
                continue
            self.open.discard(index)
            if status == jobs.TRY_AGAIN and state != "CANCELLED" and restart < self.work.options["--max-restarts"]:
                again.setdefault(restart + 1, []).append(index)
            else:
                self.fail(index, status, state)
        for restarts, indexes in again.items():
            self.resubmit(indexes, restarts)

    def tell_pending(self, index, state, reason):
        """Say once why a task waits, when the reason is not the usual one."""
        if state in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT") and reason not in USUAL and reason not in self.told:
            self.told.add(reason)
            self.say(f"{self.work.name_of(index)} waits: {reason} (squeue --me shows more)")

    def resubmit(self, indexes, restarts):
        """Tasks that saved their state where Slurm would not run them again itself."""
        try:
            self.submission.submit(indexes, restarts)
            self.open.update(indexes)
        except cluster.ClusterError as error:
            self.say(error)
            self.failed.update(dict.fromkeys(indexes, jobs.TRY_AGAIN))
        for index in indexes:
            self.ended_s.pop(index, None)

    def fail(self, index, status, state):
        """Note a failure and its reason in words."""
        if state == "LOST" and status is None:
            state = cluster_record(self.slurm_name(index)) or state
        self.failed[index] = status or 1
        chatter = "\n".join(jobs.last_lines(f"{self.submission.folder}/sched.{self.slurm_name(index)}", 20))
        if re.search(r"exceeded memory limit|oom[-_ ]kill", chatter, re.I):
            self.words[index] = FINAL_WORDS["OUT_OF_MEMORY"]
        elif status is None or state in ("TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL"):
            self.words[index] = FINAL_WORDS.get(state, f"ended as {state} without a status")
            self.lost |= state == "LOST"

    def slurm_name(self, index):
        """What Slurm calls a task: JOB or JOB_INDEX."""
        job = self.job_of(index)
        offset = next(piece["offset"] for piece in self.submission.pieces if piece["id"] == job)
        return f"{job}_{index - offset}" if self.work.is_array else job

    # --- the end ---

    def conclude(self):
        if not self.failed:
            self.submission.clean()
            return 0
        if not self.lost:
            self.submission.forget()
        limit = self.work.options["--max-restarts"]
        self.say(jobs.failure_report("slurm.py", self.work, self.failed, limit, self.words).removeprefix("slurm.py: "))
        return 1

    def interrupted(self):
        """Cancel the jobs and see them end; after a hang-up leave them to themselves."""
        if self.signals[0] == signal.SIGHUP:
            self.say("hung up; the jobs go on, and the same command takes them up")
            return 129
        ids = [piece["id"] for piece in self.submission.pieces if piece["id"]]
        try:
            cluster.cancel(ids)
            self.await_end(ids)
        except cluster.ClusterError as error:
            self.say(f"interrupted, but its jobs could not be cancelled: {error}; scancel {' '.join(ids)}")
        else:
            self.say(f"interrupted by {signal.Signals(self.signals[0]).name}; its jobs are cancelled")
            self.submission.forget()
        return 130 if self.signals[0] == signal.SIGINT else 143

    def await_end(self, ids):
        """Let the jobs save; a second signal leaves at once."""
        names, end_s, count = [piece["name"] for piece in self.submission.pieces], time.monotonic() + CANCEL_WAIT_S, 1
        first_s = time.monotonic()
        while time.monotonic() < end_s:
            if not any(job in ids and state in cluster.LIVE for _, job, _, state, _ in cluster.tasks_of(names)):
                return
            if time.monotonic() - first_s > 1.0 and len(self.signals) > count:
                return
            count = len(self.signals) if time.monotonic() - first_s <= 1.0 else count
            time.sleep(0.3)


def cluster_record(name):
    """State of a task that squeue has forgotten, from scontrol or, where it works, sacct; None if neither knows."""
    for words, pattern in (
        (["scontrol", "show", "job", name], r"JobState=(\w+)"),
        (["sacct", "-n", "-X", "-P", "-o", "State", "-j", name], r"^(\w+)"),
    ):
        try:
            match = re.search(pattern, cluster.ask(words))
        except cluster.ClusterError:
            continue
        if match and match.group(1) not in cluster.LIVE:
            return match.group(1)
    return None
