"""The whole chain as jobs of Slurm."""

import json
import subprocess

import pytest

from tests.chain import MODELS, ROOT, command_line, finished_work

# A training and what follows without one: for the runner, other steps are other words.
SHORT = """
teacher      -       train_teacher  teacher.yaml
teacher_int8 teacher quantize_model int8.yaml
"""


@pytest.mark.parametrize("chain", [SHORT, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_a_run_on_slurm_ships_the_same_bytes(tmp_path_factory, slurm, tmp_path, chain):
    exp = finished_work(tmp_path_factory).copy / "exp/tiny"
    words = [*command_line(tmp_path), "--cmd", "utils/slurm.py", "--nj", "2", "--sherpa", "false", "--stress", ""]
    words += ["--chain", chain, "--compare", ""] if chain else ["--decode-nj", "2"]
    models = [line.split()[0] for line in chain.split("\n")[1:-1]] if chain else MODELS
    done = subprocess.run(words, cwd=ROOT, env=slurm.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    there = tmp_path / "exp/tiny"
    patterns = [
        "model.safetensors",
        "model.json",
        "tokens.txt",
        "export/*",
        "decode_test/*.txt",
        "decode_test_onnx/*.txt",
    ]
    shipped = [
        path.relative_to(exp) for model in models for pattern in patterns for path in exp.glob(f"{model}/{pattern}")
    ]
    assert len(shipped) > 10 * len(models)
    assert [str(path) for path in shipped if (there / path).read_bytes() != (exp / path).read_bytes()] == []
    assert "Slurm job" in (there / "teacher/train.log").read_text()
    local, slurms = [json.loads((path / "report/results.json").read_text())["rows"] for path in (exp, there)]
    assert [row["model"] for row in slurms] == models
    assert [row["scores"] for row in local if row["model"] in models] == [row["scores"] for row in slurms]
