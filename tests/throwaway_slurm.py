"""A Slurm of its own for tests: two virtual nodes on this machine, no root, no systemd, no database, no cgroups."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "munge", "unmunge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
CONF = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={top}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool-%n
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd-%n.pid
SlurmctldLogFile={top}/slurmctld.log
SlurmdLogFile={top}/slurmd-%n.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=8
SlurmdTimeout=30
SlurmctldTimeout=30
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=64000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=64000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=8
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing():
    """Programs of Slurm and Munge that are not on PATH."""
    return [name for name in PROGRAMS if not shutil.which(name, path=search_path())]


def search_path():
    """PATH with the folders that daemons lie in."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def free_ports(count):
    """Numbers of ports nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class ThrowawaySlurm:
    """Starts on construction; `environment` is what clients need; `close()` ends every daemon it started."""

    def __init__(self):
        self.top = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: sockets have paths of < 100 characters
        self.top.chmod(0o755)
        self.daemons = {}
        self.environment = {**os.environ, "PATH": search_path(), "SLURM_CONF": str(self.top / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_"))]:
            if name != "SLURM_CONF":
                del self.environment[name]
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self):
        ctld, n1, n2 = free_ports(3)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        names = {"host": socket.gethostname().split(".")[0], "top": self.top, "user": user}
        (self.top / "slurm.conf").write_text(CONF.format(**names, ctld=ctld, n1=n1, n2=n2))
        (self.top / "state").mkdir()
        self._start_munge()
        self.start_controller("-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait_for(lambda: self.node_states() == {"n1": "idle", "n2": "idle"}, 15, "both nodes idle")

    def _start_munge(self):
        folder = self.top / "munge"
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{option}={folder / name}" for option, name in files.items()]
        self._daemon("munged", ["munged", "--foreground", *words], folder / "out")
        self.wait_for((folder / "socket").exists, 5, "munge's socket")
        socket_option = f"--socket={folder / 'socket'}"
        made = subprocess.run(["munge", "-n", socket_option], capture_output=True, check=True, timeout=5).stdout
        subprocess.run(["unmunge", socket_option], input=made, capture_output=True, check=True, timeout=5)

    def _daemon(self, name, words, output):
        with open(output, "ab") as file:
            files = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            self.daemons[name] = subprocess.Popen(words, env=self.environment, start_new_session=True, **files)

    def start_controller(self, *options):
        self._daemon("slurmctld", ["slurmctld", "-D", *options], self.top / "slurmctld.out")

    def start_node(self, node):
        self._daemon(node, ["slurmd", "-D", "-N", node], self.top / f"{node}.out")

    def stop(self, name, number=signal.SIGTERM):
        """End one daemon and wait until it is gone."""
        process = self.daemons.pop(name)
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def call(self, *words, check=True):
        """Run a client. Returns: its output."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{words}: {done.stderr}")
        return done.stdout

    def node_states(self):
        rows = self.call("sinfo", "--noheader", "--Node", "--format=%N %t", "--partition=main", check=False)
        return dict(row.split() for row in rows.splitlines() if row.strip())

    def wait_for(self, condition, limit_s, what):
        """Wait until the condition holds; else fail with the ends of the daemons' logs."""
        end_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end_s:
                logs = [*sorted(self.top.glob("*.log")), *sorted(self.top.glob("*.out")), self.top / "munge/log"]
                tails = [f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists()]
                raise RuntimeError(f"Slurm: waited {limit_s} s for {what}\n" + "\n".join(tails))
            time.sleep(0.05)

    def cancel_jobs(self):
        """End all jobs, and wait for them."""
        end_s = time.monotonic() + 10
        if "slurmctld" in self.daemons and self.call("squeue", "--noheader", check=False).strip():
            self.call("scancel", "--user", str(os.getuid()), check=False)
            while time.monotonic() < end_s and self.call("squeue", "--noheader", check=False).strip():
                time.sleep(0.1)

    def close(self):
        """End all jobs and daemons, and wait for them."""
        self.cancel_jobs()
        for name in ("n1", "n2", "slurmctld", "munged"):
            if name in self.daemons:
                self.stop(name)
        shutil.rmtree(self.top, ignore_errors=True)
