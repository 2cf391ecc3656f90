"""A corpus a tiny model can be trained on in a second: the test recipe's, with features and tokenizer."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from steps import combine_features, extract_features, train_tokenizer
from steps.core.cli import run_main

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "tests/recipes/tiny/conf"


def run(*words):
    """Run a program from the repository root; its output is shown when it fails."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_process(program, *words):
    """Run a program in this process, which has torch already. Returns: returncode, stdout, stderr, as of CompletedProcess."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [program.__name__, *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run_main(program.main)
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder with train (24 utterances), dev, tokenizer and features.yaml."""
    folder = tmp_path_factory.mktemp("corpus")
    run("tests/recipes/tiny/prepare.py", "--out", folder)
    run("utils/subset_data_dir.py", "--first", 24, folder / "train", folder / "small")
    calls = [(train_tokenizer, folder / "train", "--config", CONF / "tokenizer.yaml", "--out", folder / "tokenizer")]
    for data in (folder / "small", folder / "dev"):
        shard = ["--shard", 1, "--num-shards", 1]
        feats = data / "feats"
        calls.append((extract_features, data, "--config", CONF / "features.yaml", "--out", feats, *shard))
        calls.append((combine_features, data, "--feats", feats, *shard[2:], "--cmvn", data / "cmvn.json"))
    for program, data, *words in calls:
        done = in_process(program, "--data", data, *words)
        assert done.returncode == 0, done.stderr
    return SimpleNamespace(
        train=folder / "small", dev=folder / "dev", tokenizer=folder / "tokenizer", features=CONF / "features.yaml"
    )
