"""A corpus a tiny model can be trained on in a second: the test recipe's, with features and tokenizer."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "tests/recipes/tiny/conf"


def run(*words):
    """Run a program from the repository root; its output is shown when it fails."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder with train (24 utterances), dev, tokenizer and features.yaml."""
    folder = tmp_path_factory.mktemp("corpus")
    run("tests/recipes/tiny/prepare.py", "--out", folder)
    run("utils/subset_data_dir.py", "--first", 24, folder / "train", folder / "small")
    for name in ("small", "dev"):
        data = folder / name
        run("-m", "steps.extract_features", "--data", data, "--config", CONF / "features.yaml", "--out", data / "feats",
            "--shard", 1, "--num-shards", 1)  # fmt: skip
        run("-m", "steps.combine_features", "--data", data, "--feats", data / "feats", "--num-shards", 1,
            "--cmvn", data / "cmvn.json")  # fmt: skip
    run(
        "-m",
        "steps.train_tokenizer",
        "--data",
        folder / "train",
        "--config",
        CONF / "tokenizer.yaml",
        "--out",
        folder / "tokenizer",
    )
    return SimpleNamespace(
        train=folder / "small", dev=folder / "dev", tokenizer=folder / "tokenizer", features=CONF / "features.yaml"
    )
