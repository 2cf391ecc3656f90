#!/usr/bin/env python3
"""Start a training in several processes through torchrun, on this machine or on the nodes of a Slurm job.

    python3 -I -S utils/launch.py --processes 2 --nodes 1 python3 -m steps.train_teacher --out exp/x/teacher ...

The job runners put this in front of a command (their options --processes and --nodes). torchrun's own exit status is 1
whatever happened; this gives that of the training: train_state.json in its --out tells a training that has saved its
state (75, or 130 after an interrupt) from one that failed. A signal is passed on through the file RUN_STOP_FILE, which
every process looks at once per update; torchrun itself sees none, so nothing is killed while state is saved.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python3 -I leaves it out

import cluster
from jobs import die_with_parent

RENDEZVOUS = "RUN_RENDEZVOUS"  # set on the nodes of a job: HOST:PORT ID


class Launch:
    """Args: options: processes, nodes.   words: python3 -m MODULE ARGS..."""

    def __init__(self, options, words):
        self.options, self.module = options, words[2:]
        out = words[words.index("--out") + 1] if "--out" in words[:-1] else None
        self.state_path = os.path.join(out, "train_state.json") if out else None
        self.logs = tempfile.mkdtemp(prefix="torchrun-")
        self.own_stop_file = os.path.join(self.logs, "stop")
        self.stop_file = os.environ.setdefault("RUN_STOP_FILE", self.own_stop_file)
        self.signals = []

    def command(self):
        """The words to run: torchrun here, or srun that starts this program once on every node."""
        if self.options.nodes > 1 and RENDEZVOUS not in os.environ:
            job, restart = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
            os.environ[RENDEZVOUS] = f"{first_address()}:{20000 + int(job) % 20000} {job}-{restart}"
            nodes = str(self.options.nodes)
            return ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node", "1", "--kill-on-bad-exit=0",
                    sys.executable, "-I", "-S", *sys.argv]  # fmt: skip
        words = ["python3", "-m", "torch.distributed.run", "--nproc-per-node", str(self.options.processes)]
        words += ["--max-restarts", "0", "--log-dir", self.logs, "--signals-to-handle", "SIGQUIT"]
        if RENDEZVOUS in os.environ:
            endpoint, name = os.environ[RENDEZVOUS].split()
            words += ["--nnodes", str(self.options.nodes), "--node-rank", os.environ["SLURM_NODEID"]]
            # Static: node 0 holds the store and ranks follow the nodes, whoever comes first.
            words += ["--rdzv-backend", "static", "--rdzv-endpoint", endpoint, "--rdzv-id", name]
        else:
            words += ["--standalone"]
        # The first process speaks in the log; of the others only what they have to complain of is kept.
        first = "2" if os.environ.get("SLURM_NODEID", "0") == "0" or RENDEZVOUS not in os.environ else "3"
        redirects = [f"{rank}:{first if rank == 0 else '3'}" for rank in range(self.options.processes)]
        return [*words, "--redirects", ",".join(redirects), "-m", *self.module]

    def on_signal(self, number, _frame):
        self.signals.append(number)
        with contextlib.suppress(OSError), open(self.stop_file, "w"):
            pass

    def run(self):
        """Returns: exit status of the training."""
        whole = RENDEZVOUS not in os.environ  # this is not one node's part of a job
        if whole and self.state_path:
            with contextlib.suppress(OSError):
                os.unlink(self.state_path)
        command, mortal = self.command(), die_with_parent()
        stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

        def become_child():
            mortal()
            for number in stopping:
                signal.signal(number, signal.SIG_IGN)

        for number in stopping:
            signal.signal(number, self.on_signal)
        with open(os.path.join(self.logs, "agent"), "wb") as chatter:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=chatter, preexec_fn=become_child)
            status = child.wait()
        self.tell(status)
        shutil.rmtree(self.logs, ignore_errors=True)
        return self.status(status) if whole else min(abs(status), 1)

    def status(self, status):
        """What torchrun's status means."""
        if status == 0:
            return 0
        state = {}
        if self.state_path:
            with contextlib.suppress(OSError, ValueError), open(self.state_path, encoding="utf-8") as file:
                state = json.load(file)
        if state.get("stopped_for") and not state.get("finished"):
            return 130 if signal.SIGINT in self.signals else state["stopped_for"]
        return 1 if status > 0 else 128 - status

    def tell(self, status):
        """Print what the processes complained of, each text once; torchrun's own words only where they said nothing."""
        said = set()
        for folder, _, names in sorted(os.walk(self.logs)):
            for name in names:
                if name == "stderr.log":
                    with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                        said.add(file.read().strip())
        if not any(said) and status:
            with open(os.path.join(self.logs, "agent"), encoding="utf-8", errors="replace") as file:
                said.add(file.read().strip())
        for text in sorted(said - {""}):
            print(text, file=sys.stderr, flush=True)


def first_address():
    """Address of the first node of this Slurm job."""
    hosts = cluster.ask(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).split()
    address = re.search(r"NodeAddr=(\S+)", cluster.ask(["scontrol", "show", "node", hosts[0]]))
    return address.group(1) if address else hosts[0]


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="on each node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="python3 -m MODULE ...")
    options = parser.parse_args(words)
    if options.words[:2] != ["python3", "-m"] or len(options.words) < 3:
        parser.error("the command has to be python3 -m MODULE ...")
    if options.nodes > 1 and "SLURM_JOB_NODELIST" not in os.environ:
        parser.error("--nodes beyond 1 needs a Slurm job")
    return Launch(options, options.words).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
