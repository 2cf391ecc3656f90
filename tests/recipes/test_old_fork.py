"""A fork made by an earlier state of the repository, kept as it was: updates must not break it.

Never edit old_fork/ to make these tests pass: users' forks cannot be edited either.
"""

import os
import subprocess
from pathlib import Path

import pytest

from steps.compress.quantize_config import QuantizeConfig
from steps.core.config import load_config
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import TokenizerConfig
from steps.deploy.recognition import DecodeConfig
from steps.prune_model import PruneConfig
from steps.training.settings import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
FORK = ROOT / "tests/recipes/old_fork"
CLASSES = {"features": FeatureConfig, "tokenizer": TokenizerConfig, "decode": DecodeConfig, "int8": QuantizeConfig}
CLASSES |= dict.fromkeys(["teacher_prune", "student_prune", "lowrank", "sparse"], PruneConfig)
CLASSES |= dict.fromkeys(["teacher", "student"], TrainConfig)


@pytest.mark.parametrize("path", sorted(FORK.glob("conf/*.yaml")), ids=lambda path: path.stem)
def test_its_settings_are_still_understood(path):
    load_config(CLASSES[path.stem], path)


def test_it_still_dry_runs(tmp_path):
    words = [ROOT / "run.sh", "--recipe", FORK, "--corpus-dir", tmp_path, "--workdir", tmp_path, "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "stage 9 report: would run" in done.stdout


def test_what_its_reader_imports_is_still_there():
    old = """
from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.datacheck import audio_info
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import write_text
assert Utterance("s-1", "s", "a", "x.wav", duration_s=1.0).end_s is None
"""
    subprocess.run(["python3", "-c", old], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    # what forks made from now on import
    new = """
from local.corpus import fetch, finish, reader_parser
from local.rows import read_lines
from steps.core.cli import run_main
from steps.core.tables import Problem, counted
"""
    subprocess.run(["python3", "-c", new], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    template = (ROOT / "utils/prepare_template.py").read_text(encoding="utf-8")
    imports = {line for line in template.splitlines() if line.startswith(("from steps", "from local"))}
    assert imports <= {*old.splitlines(), "from steps.core.datadir import Utterance", *new.splitlines()}
