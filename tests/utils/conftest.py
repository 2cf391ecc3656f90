"""A throwaway Slurm for the tests of a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throwaway_slurm import ThrowawaySlurm, missing

SLURM = [sys.executable, "-I", "-S", str(Path(__file__).resolve().parents[2] / "utils" / "slurm.py")]


@pytest.fixture(scope="module")
def slurm():
    """A running Slurm; skipped where it is not installed, a failure there if REQUIRE_SLURM=1."""
    if lacking := missing():
        message = f"slurm-wlm and munge are not installed ({', '.join(lacking)} not found)"
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    cluster = ThrowawaySlurm()
    yield cluster
    cluster.close()


@pytest.fixture
def submit(slurm, tmp_path):
    """Runs slurm.py in tmp_path and waits for it. Returns: CompletedProcess."""

    def call(*words, timeout=90, **more):
        options = {"cwd": tmp_path, "env": {**slurm.environment, **more}, "capture_output": True, "text": True}
        return subprocess.run([*SLURM, *words], timeout=timeout, **options)

    return call


@pytest.fixture
def start(slurm, tmp_path):
    """Starts slurm.py in tmp_path. Returns: Popen; killed after the test if it still runs."""
    started = []

    def call(*words):
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*SLURM, *words], cwd=tmp_path, env=slurm.environment, text=True, **files))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
