"""A small experiment for stage.py; ways to start slurm.py on the throwaway Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest
from stage_bench import Bench

SLURM = [sys.executable, "-I", "-S", str(Path(__file__).resolve().parents[2] / "utils" / "slurm.py")]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def queue(slurm):
    """The throwaway Slurm; what a failed test leaves in its queue does not hold up the next one."""
    yield slurm
    slurm.cancel_jobs()


@pytest.fixture
def submit(queue, tmp_path):
    """Runs slurm.py in tmp_path and waits for it. Returns: CompletedProcess."""

    def call(*words, timeout=90, **more):
        options = {"cwd": tmp_path, "env": {**queue.environment, **more}, "capture_output": True, "text": True}
        return subprocess.run([*SLURM, *words], timeout=timeout, **options)

    return call


@pytest.fixture
def start(queue, tmp_path):
    """Starts slurm.py in tmp_path. Returns: Popen; killed after the test if it still runs."""
    started = []

    def call(*words):
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*SLURM, *words], cwd=tmp_path, env=queue.environment, text=True, **files))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
