"""utils/env.sh: which Python is taken, what is installed when, and the one line when it cannot be."""

import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["bash", "cp", "dirname", "find", "flock", "grep", "head", "mkdir", "mv", "rm", "sed", "tail"]
REAL = Path(sys.executable).resolve()


def script(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def make_wheel(folder, name, version):
    """A package of one empty module that pip can install without a network."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Machine:
    """A machine with only some tools and the Pythons that a test gives it; packages come from a folder."""

    def __init__(self, folder):
        self.folder, self.bin, self.venv = folder, folder / "bin", folder / "venv"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for version in ("1.0", "2.0"):
            make_wheel(folder, "slimtest", version)
        self.require("slimtest==1.0")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "SLIM_ASR_VENV": str(self.venv),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def require(self, *lines):
        (self.folder / "req.txt").write_text("\n".join(lines) + "\n")

    def has(self, name, text=f'exec {REAL} "$@"'):
        script(self.bin / name, text)

    def ensure(self, status=0):
        """Run ensure_python; returns (standard output: the Python used, standard error)."""
        code = f". {ROOT}/utils/env.sh; ensure_python req.txt && command -v python3"
        words = ["bash", "-euo", "pipefail", "-c", code]
        pipes = {"capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(words, cwd=self.folder, env=self.environment, **pipes)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout.strip(), done.stderr


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_no_fitting_python_is_one_line(machine):
    machine.has("python3", '[ "$1" = -V ] && echo Python 3.9.2 && exit; exit 1')
    machine.has("python3.12", "echo no such version here >&2; exit 127")
    _, errors = machine.ensure(status=1)
    assert errors.count("\n") == 1 and "needs Python 3.11 or 3.12, found Python 3.9.2" in errors
    assert not machine.venv.exists()


def test_no_python_at_all_is_one_line(machine):
    _, errors = machine.ensure(status=1)
    assert "needs Python 3.11 or 3.12" in errors and "Traceback" not in errors


def test_a_python_without_venv_is_told_the_package_to_install(machine):
    machine.has("python3", f'[[ $* == *ensurepip* ]] && exit 1; exec {REAL} "$@"')
    _, errors = machine.ensure(status=1)
    assert f"apt install python3.{sys.version_info[1]}-venv" in errors


def test_an_active_python_that_has_everything_is_used_as_it_is(machine):
    machine.has("python3", f'exec {sys.executable} "$@"')
    machine.require(f"pytest=={metadata.version('pytest')}", "never-needed==1; python_version < '3.0'", "# a remark")
    python, errors = machine.ensure()
    assert python == str(machine.bin / "python3") and errors == "" and not machine.venv.exists()


def test_a_place_that_cannot_be_used_is_left_alone(machine):
    machine.has("python3")
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").write_text("precious")
    assert "is not a virtual environment and not empty" in machine.ensure(status=1)[1]
    assert (machine.venv / "thesis.txt").read_text() == "precious"
    shutil.rmtree(machine.venv)
    machine.environment["SLIM_ASR_VENV"] = "/proc/venv"
    assert "cannot write /proc/venv" in machine.ensure(status=1)[1]


def test_installing_once_again_after_changes_and_after_an_interruption(machine):
    # The first python3 is a version manager's shim that fails; the next name runs.
    machine.has("python3", "echo version not installed >&2; exit 127")
    machine.has("python3.12" if sys.version_info[1] == 12 else "python3.11")
    results = []
    threads = [threading.Thread(target=lambda: results.append(machine.ensure())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [python for python, _ in results] == [str(machine.venv / "bin/python3")] * 2
    assert sum("installing req.txt" in errors for _, errors in results) == 1

    start_s = time.monotonic()
    assert machine.ensure() == (str(machine.venv / "bin/python3"), "")
    assert time.monotonic() - start_s < 0.5

    machine.require("slimtest==2.0")
    machine.ensure()
    assert list(machine.venv.glob("lib/*/site-packages/slimtest-2.0.dist-info"))
    assert list(machine.venv.glob("lib/*/site-packages/__pycache__/slimtest.*.pyc")), "its bytecode is there"

    shutil.rmtree(machine.venv / ".installed")
    assert "installing req.txt" in machine.ensure()[1]

    machine.require("slimtest==3.0")
    _, errors = machine.ensure(status=1)
    assert "the package index has no slimtest==3.0" in errors and str(machine.venv / "pip.log") in errors
    machine.environment |= {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    assert "cannot reach the package index" in machine.ensure(status=1)[1]


def test_requirements_are_compared_without_local_versions_and_wrong_lines_are_named(tmp_path):
    check = [sys.executable, "-I", str(ROOT / "utils/check_requirements.py")]
    (tmp_path / "r.txt").write_text("pytest==0.1\nno-such-package==1\n")
    done = subprocess.run([*check, tmp_path / "r.txt"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"pytest==0.1 ({metadata.version('pytest')})",
        "no-such-package==1 (not installed)",
    ]
    (tmp_path / "r.txt").write_text("pytest>=1\n")
    done = subprocess.run([*check, tmp_path / "r.txt"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "r.txt:1: expected name==version" in done.stderr
