"""A recipe with a language model, from sound to report: its column is in every runtime, its bytes in no other column."""

import json
import subprocess
from pathlib import Path

import pytest

from steps.core.exports import read_sums

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_language_model_of_a_recipe(tmp_path):
    pytest.importorskip("kaldi_decoder")
    (tmp_path / "lm.yaml").write_text("ngram: {order: 2}\ngraph: {lm_scale: [0.2, 0.5], word_score: [0.0, 1.0]}\n")
    words = [
        "./run.sh",
        "--recipe",
        "tests/recipes/tiny",
        "--workdir",
        str(tmp_path),
        "--lm",
        str(tmp_path / "lm.yaml"),
    ]
    chain = "student - distill_student student.yaml\nint8 student quantize_model int8.yaml"
    words += [
        "--chain",
        chain,
        "--teachers",
        "",
        "--compare",
        "",
        "--speeds",
        "1.0",
        "--stress",
        "",
        "--num-threads",
        "1",
    ]
    done = subprocess.run([*words, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    exp = tmp_path / "exp/tiny"
    lm = json.loads((tmp_path / "data/tiny/lm/lm.json").read_text())
    assert lm["dev"]["unknown"] == 0 and 1 < lm["dev"]["perplexity"] < 30
    rows = json.loads((exp / "report/results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["student", "int8"]
    for row in rows:
        export = exp / row["model"] / "export"
        size = sum((export / name).stat().st_size for name in read_sums(export))
        graph = sum((export / name).stat().st_size for name in ("HLG.fst", "words.txt"))
        assert (row["bytes_with_lm"], row["bytes_shipped"]) == (size, size - graph)
        for scores in (row["scores"], row["torch_scores"], row["sherpa_scores"]):
            assert {"greedy", "lm"} <= set(scores)
        assert row["scores"]["lm"]["errors"] <= row["scores"]["greedy"]["errors"]
        texts = {(a["a"], a["b"]): len(a["differences"]) for a in row["agreement"] if a["kind"] == "lm"}
        assert len(texts) == 3 and (row["model"] == "int8" or set(texts.values()) == {0})
    again = subprocess.run([*words, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True)
    assert "up to date" in again.stdout and "steps." not in again.stdout.replace("steps.report", "")
