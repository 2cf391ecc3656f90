"""The finished run of the test recipe that several files of tests look at, made once for all processes of pytest."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODELS = ["teacher", "student", "student_kd", "teacher_prune", "student_kd_prune", "student_kd_sparse"]
MODELS += ["student_kd_lowrank", "teacher_int8", "student_kd_prune_int8"]


def command_line(workdir):
    words = ["./run.sh", "--recipe", "tests/recipes/tiny", "--workdir", str(workdir)]
    return [*words, "--num-threads", "1", "--trainings", "2", "--device", "cpu"]


def run_sh(workdir, *options):
    """Run run.sh on the test recipe. Returns: CompletedProcess with text output."""
    return subprocess.run([*command_line(workdir), *options], cwd=ROOT, capture_output=True, text=True)


class Finished(NamedTuple):
    """work: the folder that ran.   copy: of it, which nobody moves."""

    work: Path
    copy: Path


def finished_work(tmp_path_factory):
    """Run all stages, or wait for the process that does. Returns: Finished."""
    base = tmp_path_factory.getbasetemp()
    # one folder for all processes of pytest-xdist
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found = Finished(base / "chain", base / "chain_copy")
    with open(base / "chain.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.copy.is_dir():
            done = run_sh(found.work)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "| teacher " in done.stdout, "the run ends with the table"
            shutil.copytree(found.work, base / "chain_copying")
            (base / "chain_copying").rename(found.copy)
    return found
