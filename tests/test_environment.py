"""A program that is started by hand outside the environment says so in one line, with the way in."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import steps

ROOT = Path(__file__).resolve().parents[1]


def start(folder, *words, **environment):
    """Run a Python without any package. Returns: (status, standard error)."""
    plain = {"PATH": os.environ["PATH"], "SLIM_ASR_VENV": str(folder / "venv"), **environment}
    done = subprocess.run(
        [sys.executable, "-S", *words], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["-m", "steps.decode", "--help"], "steps.decode"),
        (["-m", "steps.train_teacher"], "steps.train_teacher"),
        (["local/prepare_yesno.py"], "local/prepare_yesno.py"),
    ],
)
def test_a_missing_package_is_one_line_with_the_remedy(tmp_path, words, program):
    status, told = start(tmp_path, *words)
    assert status == 1 and told.count("\n") == 1
    assert told.startswith(f"{program}: error: {sys.executable} has no package ") and "./run.sh makes" in told
    assert told.split(" has no package ")[1].split(";")[0] in steps.PACKAGES


def test_an_environment_that_is_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/activate").touch()
    status, told = start(tmp_path, "-m", "steps.decode")
    assert status == 1 and f"`. {tmp_path}/venv/bin/activate`, then" in told
    monkeypatch.setenv("SLIM_ASR_VENV", sys.prefix)
    assert steps.remedy() == "./run.sh completes this environment"


def test_other_errors_keep_their_traceback(tmp_path):
    status, told = start(tmp_path, "-c", "import steps, no_such_package_of_ours")
    assert status == 1 and "Traceback" in told and "no_such_package_of_ours" in told


def test_every_requirement_is_known():
    names = importlib.metadata.packages_distributions()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        found = {module for module, owners in names.items() if line.partition("==")[0] in owners}
        assert found & steps.PACKAGES, line


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '10000'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_threads_do_not_spin_for_long_unless_the_user_says_so(environment, expected):
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", "import steps.decode"],
        cwd=ROOT,
        # libgomp itself says what it took
        env={**kept, **environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stderr
