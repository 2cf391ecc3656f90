"""A part of `python3 -m tests.write_faults`; and that it sees a writer that is not careful."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults, write_faults

ROOT = Path(__file__).resolve().parents[1]


def test_no_fault_in_writing_leads_to_a_bad_load():
    command = [sys.executable, "-m", "tests.write_faults", "--cases", "120", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 cases" in done.stdout and "0 bad loads" in done.stdout


class Careless:
    """Writes in place, and takes what it finds."""

    name, keeps_old = "careless", True

    def write(self, folder, version):
        folder.mkdir(exist_ok=True)
        with open(folder / "file", "w") as file:
            file.write(str(version) * 50)

    def read(self, folder):
        if not (folder / "file").exists():
            return None
        text = (folder / "file").read_text()
        return int(text[0]) if len(text) == 50 else f"{len(text)} characters"


class Silent(Careless):
    """Passes over errors."""

    def write(self, folder, version):
        try:
            super().write(folder, version)
        except OSError:
            (folder / "file").unlink()


@pytest.mark.parametrize(
    ("writer", "kind", "said"),
    [
        (Careless, "full", "names no file"),
        (Careless, "kill after", "25 characters"),
        (Careless, "kill before", "0 characters"),
        (Silent, "error", "in silence"),
    ],
)
def test_a_careless_writer_is_seen(tmp_path, writer, kind, said):
    with pytest.raises(write_faults.BadLoad, match=said):
        write_faults.run_case(writer(), faults.Fault("write", kind, 1), True, tmp_path)
