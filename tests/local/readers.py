"""Run a corpus reader as a user does, and look at what it made."""

import contextlib
import importlib
import io
import sys
from unittest import mock

from steps.core.cli import run_main
from steps.core.datadir import read_data_dir, validate_data_dir


def prepare(reader, *options):
    """Run a reader. Returns: (exit status, stdout, stderr)."""
    module = importlib.import_module(f"local.prepare_{reader}")
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = [f"local/prepare_{reader}.py", *map(str, options)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = run_main(module.main)
    return status, stdout.getvalue(), stderr.getvalue()


def good(reader, tmp_path, *options):
    """Run a reader that must succeed. Returns: dict set -> list of Utterance, and what was printed."""
    out = tmp_path / "out"
    status, stdout, stderr = prepare(reader, "--out", out, *options)
    assert status == 0, stderr
    sets = {path.parent.name: read_data_dir(path.parent) for path in out.glob("*/wav.scp")}
    for name in sets:
        validate_data_dir(out / name, audio=True)
    return sets, stdout


def refused(reader, tmp_path, *options):
    """Run a reader that must refuse and write no data folder. Returns: what it said, without a traceback."""
    status, _, stderr = prepare(reader, "--out", tmp_path / "out", *options)
    assert status in (1, 2) and "Traceback" not in stderr
    assert not list((tmp_path / "out").glob("*/wav.scp"))
    return stderr


def sizes(sets):
    return {name: (len(utts), len({utt.speaker for utt in utts})) for name, utts in sets.items()}
