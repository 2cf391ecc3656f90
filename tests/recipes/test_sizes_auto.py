"""--sizes auto from nothing, on made-up speech: the settings that were shown are those that trained."""

import json
import os
import subprocess

import pytest

from steps.core.config import read_yaml
from steps.core.datadir import read_data_dir
from tests.recipes.corpus_runs import ROOT
from tests.recipes.made_up import make

CHAIN = """
teacher          -           train_teacher    tiny_conformer.yaml
student          -           distill_student  student.yaml
student_kd       teacher     distill_student  student.yaml
student_kd_prune student_kd  prune_model      prune.yaml
"""


@pytest.mark.slow
def test_three_minutes_of_speech(tmp_path):
    make(3, tmp_path / "corpus")
    train = read_data_dir(tmp_path / "corpus/train")
    assert 150 < sum(utt.duration_s for utt in train) < 240
    words = ["--recipe", "kaldi", "--corpus-dir", tmp_path / "corpus", "--workdir", tmp_path, "--chain", CHAIN]
    words += [
        "--sizes",
        "auto",
        "--time-budget",
        "4m",
        "--nj",
        "1",
        "--num-threads",
        "1",
        "--device",
        "cpu",
        "--stress",
        "",
    ]
    command = ["./run.sh", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    exp = tmp_path / "exp/kaldi"
    record = json.loads((exp / "sizes/sizes.json").read_text())
    assert record["amount"] == "minutes" and f"size {record['size']}" in done.stdout
    for model, updates in record["updates"].items():
        steps = json.loads((exp / model / "run.json").read_text())["steps"]
        assert abs(steps - updates) <= 0.1 * updates + record["epochs"][model]
    for model, name in (
        ("teacher", "teacher"),
        ("student_kd", "student"),
        ("student_kd_prune", "recover_student_kd_prune"),
    ):
        chosen, used = read_yaml(exp / f"sizes/{name}.yaml"), read_yaml(exp / model / "conf.yaml")
        assert chosen["loop"].items() <= used["loop"].items() and used["end_spaces"] == chosen["end_spaces"]
    rows = json.loads((exp / "report/results.json").read_text())["rows"]
    assert {row["model"] for row in rows} == set(record["updates"])
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "running" not in again.stdout
