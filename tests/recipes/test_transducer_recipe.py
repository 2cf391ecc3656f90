"""The test recipe with transducers in its chain, from sound to the report: alone, taught, pruned, with codes; in chunks, too."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from steps.core.exports import onnx_bytes, shipped_bytes

ROOT = Path(__file__).resolve().parents[2]
CHAIN = """
teacher          -              train_teacher    teacher.yaml
transducer       -              distill_student  transducer.yaml
transducer_kd    teacher        distill_student  transducer.yaml
transducer_twice transducer_kd  distill_student  lattice.yaml
transducer_from  teacher        train_teacher    from.yaml
transducer_prune transducer_kd  prune_model      student_prune.yaml
transducer_thin  transducer_kd  prune_model      lowrank.yaml
transducer_zeros transducer_kd  prune_model      sparse.yaml
transducer_int8  transducer_kd  quantize_model   int8.yaml
transducer_4bit  transducer_kd  quantize_model   bits4.yaml
"""
MODELS = [line.split()[0] for line in CHAIN.split("\n") if line]
FLOAT = [name for name in MODELS if name not in ("transducer_int8", "transducer_4bit")]
IN_CHUNKS = "  streaming: {chunk_ms: 160, left_chunks: 4, drawn_ms: [0, 160, 320]}\n"


def write_recipe(folder, streaming):
    """The test recipe with another chain, and beam search. Args: streaming: whether the transducers hear chunks."""
    shutil.copytree(ROOT / "tests/recipes/tiny", folder)
    recipe = (folder / "recipe.sh").read_text()
    head = recipe.split("teachers=")[0].replace("speeds=", "decode=decode.yaml\nspeeds=")
    (folder / "recipe.sh").write_text(
        f'{head}teachers="teacher"\ncompare="transducer_kd:transducer"\nchain="{CHAIN}"\n'
    )
    conf = folder / "conf"
    for path in conf.glob("*.yaml"):
        path.write_text(path.read_text().replace("../../../../conf", str(ROOT / "conf")))
    student = (conf / "student.yaml").read_text().replace("distill: {kl_weight: 0.5", "distill: {kl_weight: 0.3")
    if streaming:
        student = student.replace("model:\n", f"model:\n{IN_CHUNKS}").replace(
            "kl_weight: 0.3", "late: 2, kl_weight: 0.3"
        )
    (conf / "transducer.yaml").write_text(f"head: transducer\nhead_sizes: {{predictor: 48, joiner: 48}}\n{student}")
    (conf / "lattice.yaml").write_text(
        "base: transducer.yaml\nloop: {epochs: 6}\ndistill: {hidden_weight: 0.0, lattice_weight: 0.3}\n"
    )
    teacher = (conf / "teacher.yaml").read_text()
    chunks = f"model:\n{IN_CHUNKS}" if streaming else ""
    (conf / "from.yaml").write_text(f"head: transducer\n{chunks}{teacher[teacher.index('loop:') :]}")
    (conf / "bits4.yaml").write_text(f"base: {ROOT}/conf/quantize.yaml\nbits: 4\nmethod: mse\nlayers: {{output: 8}}\n")
    (conf / "decode.yaml").write_text("beam: 4\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_every_kind_of_transducer_from_sound_to_the_report(tmp_path, streaming):
    recipe = write_recipe(tmp_path / "tiny_transducer", streaming)
    words = ["./run.sh", "--recipe", str(recipe), "--workdir", str(tmp_path / "work")]
    words += ["--num-threads", "1", "--trainings", "2", "--device", "cpu"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check_report(tmp_path / "work/exp/tiny_transducer", streaming)


def check_report(exp, streaming):
    """Scores, sizes and texts of a finished chain."""
    known = set((exp.parents[1] / "data" / exp.name / "words.txt").read_text().split())
    rows = {row["model"]: row for row in json.loads((exp / "report/results.json").read_text())["rows"]}
    assert list(rows) == MODELS
    for name in MODELS[1:]:
        score, export = rows[name]["scores"]["greedy"], exp / name / "export"
        # alone, so small a student learns little in so little time, with CTC neither
        if name not in ("transducer", "transducer_twice"):
            assert score["wer_percent"] < 15, name
        assert set(rows[name]["scores"]) == {"greedy", "lexicon", "beam"}
        said = {
            word
            for line in (exp / name / "decode_test_onnx/lexicon.txt").read_text().splitlines()
            for word in line.split()[1:]
        }
        assert said and said <= known
        sizes = shipped_bytes(export)
        assert rows[name]["bytes_shipped"] == sum(sizes.values()) and len([n for n in sizes if ".onnx" in n]) == 3
        assert onnx_bytes(sizes) > 10_000
        assert (exp / name / "decode_test_onnx/wer_beam").read_text().startswith("%WER")
        if name in FLOAT:
            # in chunks, exports hear silence behind the sound
            own = [] if streaming else [""]
            texts = {
                (exp / name / f"decode_test{runtime}/greedy.txt").read_text() for runtime in (*own, "_onnx", "_sherpa")
            }
            assert len(texts) == 1, name
    alone, twice = (rows[name]["scores"]["greedy"]["wer_percent"] for name in ("transducer", "transducer_twice"))
    assert twice < 0.6 * alone, "the lattice of a teacher helps"
    assert rows["transducer_prune"]["parameters"] < 0.65 * rows["transducer_kd"]["parameters"]
    assert rows["transducer_int8"]["bytes_shipped"] < 0.8 * rows["transducer_kd"]["bytes_shipped"]
