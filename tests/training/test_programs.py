"""The training programs as called by hand: finished folders, other settings, unfit models, exact repetition."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from training.conftest import in_process

from steps import diagnose, distill_student, train_teacher
from steps.core.cli import UserError
from steps.core.config import from_dict, load_config, read_yaml, to_dict
from steps.core.outdir import sha256_file
from steps.core.tables import read_table
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.diagnose import read_settings
from steps.training import setup
from steps.training.settings import TrainConfig
from steps.training.sizes import Facts, Line, Table, settings
from steps.training.timing import Timer

ROOT = Path(__file__).resolve().parents[2]
STUDENT = """
model: {d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 2,
        block: {heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}
loop: {epochs: 1, max_batch_frames: 1500, average_last: 1, dev_every: 1}
"""
PRUNE = """
method: structured
structured: {target: parameters, keep: 0.4, importance: magnitude, drop_blocks: 1, batches: 1}
rounds: 2
round_epochs: 1
loop: {epochs: 1, max_batch_frames: 1500, average_last: 1, dev_every: 1}
distill: {kl_weight: 0.5, hidden_weight: 0.5}
"""


@pytest.fixture(scope="module")
def inputs(corpus):
    """What all training programs are given."""
    words = ["--data", corpus.train, "--dev", corpus.dev, "--tokenizer", corpus.tokenizer]
    return [*words, "--features", corpus.features, "--num-threads", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def call(inputs):
    """Function (program, *options) -> what it says and how it ends, in this process."""
    return lambda program, *options: in_process(program, *inputs, *options)


@pytest.fixture(scope="module")
def start(inputs):
    """Function (verb, *options) -> CompletedProcess of that training program, as a user starts it."""

    def run(verb, *options):
        words = [sys.executable, "-m", f"steps.{verb}", *inputs, *options]
        return subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True)

    return run


def test_real_updates_are_timed_and_nothing_is_left_behind(corpus, tmp_path):
    table = load_config(Table, "conf/sizes.yaml")
    lines = [Line("teacher", "big", {}), Line("student", "small", {})]
    frames = [int(number) for number in read_table(corpus.train / "utt2num_frames").values()]
    mel_bins = load_config(FeatureConfig, corpus.features).num_mel_bins
    facts = Facts(0.01, 3, 20, frames, mel_bins, "cpu")
    files = settings(table, table.amounts["minutes"], "small", facts, lines, {"big": 1, "small": 1})
    given = {"data": str(corpus.train), "text": str(corpus.train), "features": str(corpus.features)}
    args = SimpleNamespace(**given, seed=0, device="cpu", num_threads=1)
    before = {path: path.stat().st_mtime_ns for path in corpus.train.rglob("*")}
    with mock.patch("tempfile.tempdir", str(tmp_path)):
        found = Timer(args)(files)
    assert found["teacher"] > found["teaching"] > 0 and found["student"] > 0
    del files["teacher.yaml"]
    with mock.patch("steps.training.timing.TIMED", 1):
        found = Timer(args)(files)
    assert found["teacher"] == found["teaching"] == 0.0 < found["student"]
    assert not list(tmp_path.glob("sizes_*"))
    assert before == {path: path.stat().st_mtime_ns for path in corpus.train.rglob("*")}


@pytest.fixture(scope="module")
def made(start, tmp_path_factory):
    """Folder with student.yaml, prune.yaml and a finished student."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "student.yaml").write_text(STUDENT)
    (folder / "prune.yaml").write_text(PRUNE)
    done = start("distill_student", "--config", folder / "student.yaml", "--out", folder / "student")
    assert done.returncode == 0, done.stderr
    assert not (folder / "student/checkpoints").exists()
    return folder


def test_a_finished_model_is_left_alone_and_other_settings_are_refused(call, made):
    before = (made / "student/model.safetensors").stat().st_mtime_ns
    command = (distill_student, "--config", made / "student.yaml", "--out", made / "student")
    again = call(*command)
    assert again.returncode == 0 and "is already finished" in again.stdout
    other = call(*command, "--seed", 1)
    assert other.returncode == 1
    assert "started with other settings (seed)" in other.stderr and "Traceback" not in other.stderr
    assert (made / "student/model.safetensors").stat().st_mtime_ns == before


def test_a_training_ends_with_a_diagnosis_that_can_be_repeated(made, corpus):
    path = made / "student/diagnosis.json"
    before = path.read_text()
    found = json.loads(before)
    # one epoch: it knows nothing yet, and there were few updates
    said = {one["kind"]: one["text"] for one in found["findings"]}
    assert {"underfit", "updates"} <= set(said) and found["train_error"] > 50
    assert "augment.masks_from" in said["underfit"]
    path.unlink()
    done = in_process(diagnose, "--model", made / "student", "--data", corpus.train, "--dev", corpus.dev)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text()) == found
    for one in found["findings"]:
        assert f"{'warning' if one['serious'] else 'note'}: {one['text']}" in done.stdout


def test_what_was_not_trained_is_not_diagnosed(tmp_path):
    (tmp_path / "conf.yaml").write_text("bits: 8\n")
    with pytest.raises(UserError, match="conf.yaml: this model was not trained; diagnose the one"):
        read_settings(tmp_path)


def test_a_teacher_with_settings_for_distillation_is_told_that_they_do_nothing(call, made, tmp_path):
    warning = "distill: does nothing here"
    for text, count in (("", 0), ("distill: {kl_weight: 0.8}\n", 1)):
        path = tmp_path / f"teacher{count}.yaml"
        path.write_text(STUDENT + text)
        done = call(train_teacher, "--config", path, "--out", tmp_path / f"teacher{count}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(warning) == count
    weights = [tmp_path / f"teacher{count}/model.safetensors" for count in (0, 1)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_pruning_twice_gives_the_same_bytes(start, made, tmp_path):
    for name in ("a", "b"):
        command = ("prune_model", "--model", made / "student", "--teacher", made / "student")
        done = start(*command, "--config", made / "prune.yaml", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / name / "rounds").exists()
        assert done.stdout.count("dropped blocks: [") == 1, "whole blocks go in the first round alone"
        sizes = [
            [int(n.replace(",", "")) for n in pair]
            for pair in re.findall(r"cut: parameters ([\d,]+) -> ([\d,]+)", done.stdout)
        ]
        whole = sizes[0][0]
        assert len(sizes) == 2 and sizes[1][0] == sizes[0][1], "the second cut starts from the first"
        assert 0.4 * whole < sizes[0][1] <= 0.4**0.5 * whole, "half of the way, as a ratio"
        assert 0.3 * whole < sizes[1][1] <= 0.4 * whole
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_model_of_other_features_or_tokens_is_refused(call, made, tmp_path):
    for file, old, new, said in (
        ("features.yaml", "num_mel_bins: 40", "num_mel_bins: 41", "hears other features than --features (num_mel_bins"),
        ("tokens.txt", "<unk>", "<x>", "its units differ from the student's; take them over"),
    ):
        shutil.copytree(made / "student", tmp_path / file)
        text = (made / "student" / file).read_text()
        assert old in text
        (tmp_path / file / file).write_text(text.replace(old, new))
        spec = json.loads((tmp_path / file / "model.json").read_text())
        spec["files_sha256"][file] = sha256_file(tmp_path / file / file)
        (tmp_path / file / "model.json").write_text(json.dumps(spec))
        out = tmp_path / f"{file}.out"
        done = call(distill_student, "--teacher", tmp_path / file, "--config", made / "student.yaml", "--out", out)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_features_on_the_fly_are_those_of_the_archives(corpus):
    tokenizer, config = Tokenizer.load(corpus.tokenizer), load_config(FeatureConfig, corpus.features)
    stored = SpeechDataset(corpus.dev, tokenizer, config, source="ark")
    fresh = SpeechDataset(corpus.dev, tokenizer, config, source="on_the_fly")
    assert stored.num_frames.tolist() == fresh.num_frames.tolist()
    assert all(np.array_equal(stored.features(i), fresh.features(i)) for i in range(len(stored)))


def test_a_training_begun_with_an_earlier_version_has_the_same_settings():
    there = read_yaml(Path(__file__).with_name("settings_0_2.yaml"))
    now = to_dict(from_dict(TrainConfig, there, "settings_0_2.yaml"))
    assert [key for key in now if setup._decisive(now, key) != setup._decisive(there, key)] == []
