"""The whole chain on the test recipe, as a user runs it: every stage, a second run, a changed setting, a move."""

import json
import shutil
import subprocess

import pytest

from steps.scoring.history import read_curves
from tests.chain import MODELS, ROOT, finished_work, run_sh


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return finished_work(tmp_path_factory).work


@pytest.fixture(scope="module")
def exp(work):
    return work / "exp/tiny"


@pytest.fixture(scope="module")
def rows(exp):
    results = json.loads((exp / "report/results.json").read_text())
    return {row["model"]: row for row in results["rows"]}


def spec(exp, model):
    return json.loads((exp / model / "model.json").read_text())


def test_every_model_is_in_the_report_with_its_own_count_of_words(rows):
    assert list(rows) == MODELS
    lengths = {row["scores"][kind]["words"] for row in rows.values() for kind in ("greedy", "lexicon")}
    assert len(lengths) == 1 and lengths.pop() > 50


def test_the_models_have_learned(rows):
    assert all(row["scores"]["greedy"]["wer_percent"] < 15 for name, row in rows.items() if name != "student")


@pytest.mark.parametrize("model", [model for model in MODELS if "int8" not in model])
def test_the_exported_file_says_what_the_model_says(exp, model):
    for kind in ("greedy", "lexicon"):
        torch_text = (exp / model / f"decode_test/{kind}.txt").read_text()
        assert torch_text == (exp / model / f"decode_test_onnx/{kind}.txt").read_text()
        assert len(torch_text.splitlines()) == 24


def test_sherpa_onnx_says_what_onnxruntime_says(rows):
    for name, row in rows.items():
        (agreement,) = [a for a in row["agreement"] if (a["a"], a["b"]) == ("sherpa-onnx", "onnxruntime")]
        assert agreement["utterances"] == 24
        assert len(agreement["differences"]) <= (4 if "int8" in name else 0), name


def test_noise_costs_words_and_every_level_is_there(rows):
    for name, row in rows.items():
        assert [level["snr_db"] for level in row["noise"]] == [20, 10, 5, 0], name
        assert row["noise"][-1]["errors"] > row["scores"]["greedy"]["errors"]


def test_trainings_can_be_watched(exp):
    tags = set(read_curves(exp, ["student_kd"]))
    assert {"train/loss", "train/ctc", "train/kl", "train/lr", "train/grad_norm", "train/audio_s_per_s"} <= tags
    assert {"dev/loss", "dev/wer"} <= tags


def test_the_report_is_whole(exp):
    page = (exp / "report/report.html").read_text()
    # curves of the trainings are there where a training took long enough for three lines in its log
    assert 3 <= page.count("<figure>") <= 8 and len(page) < 5_000_000
    assert {path.stem for path in (exp / "report/cards").iterdir()} == set(MODELS)


def test_pruned_models_are_smaller_and_sparse_ones_only_sparser(exp, rows):
    def size(model):
        return (exp / model / "export/model.onnx").stat().st_size

    assert rows["teacher_prune"]["macs_per_second"] <= 0.5 * rows["teacher"]["macs_per_second"]
    assert spec(exp, "student_kd_prune")["parameters"] <= 0.6 * spec(exp, "student_kd")["parameters"]
    assert size("teacher_prune") < 0.8 * size("teacher")
    assert size("student_kd_lowrank") < 0.8 * size("student_kd")
    sparse, dense = spec(exp, "student_kd_sparse"), spec(exp, "student_kd")
    assert sparse["parameters"] == dense["parameters"]
    assert sparse["nonzero_parameters"] < 0.6 * dense["nonzero_parameters"]
    assert size("teacher_int8") < 0.45 * size("teacher")


def test_parents_are_named_with_their_weights(exp):
    parent = spec(exp, "student_kd_prune_int8")["parent"]
    assert parent == {"name": "student_kd_prune", "weights_sha256": spec(exp, "student_kd_prune")["weights_sha256"]}


def test_a_second_run_does_nothing(work, exp):
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*") if path.is_file() and path.name != ".lock"}
    done = run_sh(work)
    assert done.returncode == 0
    assert done.stdout.count("up to date") == 10
    assert "running" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_setting_is_noticed_and_said(work):
    done = run_sh(work, "--seed", "1", "--dry-run")
    assert done.returncode == 0
    assert "stage 2 tokenizer: up to date" in done.stdout
    (why,) = [line for line in done.stdout.splitlines() if line.startswith("stage 3 teacher: would run")]
    assert "--seed 0 -> 1" in why


def test_moved_and_copied_work_is_whole_and_never_looks_at_the_original(work, tmp_path):
    """Copied (a copy has other times), then moved; all is up to date, and features are read with the original out of reach."""
    copy, moved, hidden = (tmp_path / name for name in ("copy", "moved", "hidden"))
    shutil.copytree(work, copy, copy_function=shutil.copyfile)
    texts = [path for path in copy.rglob("*") if path.suffix in (".scp", ".json", ".html", ".md", ".yaml", ".tsv")]
    named = {path.relative_to(copy) for path in texts if str(work) in path.read_text(encoding="utf-8")}
    assert len(texts) > 100 and not named
    work.rename(hidden)
    try:
        for place in (copy, moved):
            done = run_sh(place)
            assert done.returncode == 0 and done.stdout.count("up to date") == 10 and "running" not in done.stdout
            model, data, out = (
                place / "exp/tiny/student_kd",
                place / "data/tiny/test",
                tmp_path / f"{place.name}-decoded",
            )
            for program, options in (("decode", ["--model", model / "export", "--out", out]), ("benchmark", [])):
                options = options or ["--models", model / "export", "--out", out / "b.json", "--repeats", 5]
                command = ["python3", "-m", f"steps.{program}", "--data", data, *options]
                done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            assert (out / "greedy.txt").read_text() == (model / "decode_test_onnx/greedy.txt").read_text()
            if place == copy:
                copy.rename(moved)
    finally:
        hidden.rename(work)


def test_a_model_folder_works_anywhere(work, exp, tmp_path):
    audio = sorted((work / "data/tiny/audio").rglob("*.wav"))[0]
    for part in ("student_kd_prune_int8", "student_kd_prune_int8/export"):
        moved = tmp_path / part.replace("/", "-")
        shutil.copytree(exp / part, moved)
        command = ["python3", "-m", "steps.transcribe", moved, audio]
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\t")[0] == str(audio)
        assert len(done.stdout.split("\t")[1].split()) >= 1
