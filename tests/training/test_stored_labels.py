"""Labels made once by steps.label_data teach as the teacher itself does, and are refused where they do not fit."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from steps import combine_labels, label_data
from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config, save_config
from steps.core.datadir import read_data_dir
from steps.data import labels
from steps.data.batches import BatchLoader
from steps.data.cmvn import read_cmvn
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.data.label_description import LabelConfig
from steps.data.labels import Labels, read_facts
from steps.data.tokenizer import Tokenizer
from steps.deploy.export import export_folder
from steps.import_model import ImportConfig, import_folder, open_folder
from steps.losses.distill import stretch
from steps.models.build import CARRIED, build_model, new_spec, save_model
from steps.models.heads.ctc import CtcConfig
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective
from steps.training.teachers import ModelTeacher, check_fit, identity, open_teachers, weigh
from tests.models.hub_checks import save
from tests.models.hub_folders import make_folder

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"d_model": 16, "head_dim": 8, "kernel_size": 3, "subsampling_channels": [4, 4], "num_blocks": 2}
SIZES["block"] = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}


def make(features, vocab_size, seed):
    torch.manual_seed(seed)
    model = build_model(new_spec("conformer", SIZES, features.dim, vocab_size, "test"))
    with torch.no_grad():
        model.state_dict()["output.weight"].mul_(8.0)
    return model.eval()


def save_teacher(folder, corpus, features, seed):
    """A model folder of random weights, with the corpus's own normalisation."""
    tokenizer = Tokenizer.load(corpus.tokenizer)
    model = make(features, tokenizer.vocab_size, seed)
    model.set_cmvn_(
        *(torch.tensor(read_cmvn(corpus.train / "cmvn.json", features.dim)[name]) for name in ("mean", "std"))
    )
    folder.mkdir()
    tokenizer.save(folder)
    save_config(folder / "features.yaml", features)
    save_model(folder, model, {name: folder / name for name in CARRIED})
    return folder


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled") / "teacher"
    return save_teacher(folder, corpus, load_config(FeatureConfig, corpus.features), 3)


@pytest.fixture
def label(corpus, tmp_path, monkeypatch):
    """Run steps.label_data in this process. Returns: function (out, teachers, settings, more words)."""

    def run(out, teachers, settings=LabelConfig(), *words, program=label_data):  # noqa: B008
        save_config(tmp_path / "label.yaml", settings)
        command = ["--teacher", ",".join(map(str, teachers)), "--config", tmp_path / "label.yaml", "--out", out]
        command += ["--device", "cpu", "--num-threads", 1]
        if program is combine_labels:
            command = ["--labels", out]
        monkeypatch.setattr(sys, "argv", list(map(str, ["x", "--data", corpus.train, *command, *words])))
        program.main()
        return out

    return run


@pytest.fixture(scope="module")
def data(corpus):
    features = load_config(FeatureConfig, corpus.features)
    return SpeechDataset(corpus.train, Tokenizer.load(corpus.tokenizer), features)


def objective_of(folders, student, config):
    teachers = open_teachers(folders)
    # the same projections each time
    torch.manual_seed(5)
    return DistillObjective(config, student, teachers, CtcConfig())


def first_batch(data, count=5, clean=True):
    return BatchLoader(data, [(list(range(count)), 1.0)], None, None, 0, 0, clean)[0]


ALL = LabelConfig(keep=None, threshold=0.0)


def test_all_stored_is_to_the_bit_what_the_teacher_says_of_clean_speech(label, data, teacher, tmp_path, capsys):
    everything = label(tmp_path / "all", [teacher], dataclasses.replace(ALL, hidden_layers=[-1]))
    assert capsys.readouterr().out.splitlines()[-1].startswith("24 utterances, 0.01 h, ")
    student = make(data.feature_config, data.tokenizer.vocab_size, 1)
    config = DistillConfig(kl_weight=0.5, hidden_weight=0.5, teacher_view="clean", frames="window")
    batch = first_batch(data)
    live, stored = (objective_of([folder], student, config) for folder in (teacher, everything))
    assert live.wants_clean(len(data)) and not stored.wants_clean(len(data))
    assert "of clean speech" in stored.check_data(data)[0] and "kept in memory" in live.check_data(data)[0]
    terms = [objective(student, batch) for objective in (live, stored)]
    assert terms[0].keys() == terms[1].keys() == {"ctc", "kl", "hidden"}
    for name, value in terms[0].items():
        assert torch.equal(value, terms[1][name]), name
    few = objective_of([label(tmp_path / "few", [teacher])], student, dataclasses.replace(config, hidden_weight=0.0))
    assert few(student, batch)["kl"].item() == pytest.approx(terms[0]["kl"].item(), rel=0.02)
    assert identity(everything) != identity(tmp_path / "few") and identity(teacher) != identity(everything)


def test_states_kept_as_codes_teach_nearly_what_states_do(label, data, teacher, tmp_path, capsys):
    student, batch = make(data.feature_config, data.tokenizer.vocab_size, 1), first_batch(data)
    terms = []
    for codes in (None, 2):
        settings = dataclasses.replace(LabelConfig(), hidden_layers=[-1], hidden_codes=codes)
        folder = label(tmp_path / f"codes{codes}", [teacher], settings)
        terms.append(objective_of([folder], student, DistillConfig(hidden_weight=1.0))(student, batch))
    told = capsys.readouterr().out
    assert re.search(
        r"block 1: 2 codes a frame; they lose \S+ % of the variance of the states they were fitted to\n", told
    )
    assert terms[0]["kl"].item() == terms[1]["kl"].item()
    own, coded = (term["hidden"].item() for term in terms)
    assert coded != own and coded == pytest.approx(own, rel=0.05)


def test_codebooks_hear_the_whole_part(label, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "SAMPLE_FRAMES", 30)
    monkeypatch.setattr(labels, "CHECK_FRAMES", 10)
    heard = []

    class Watched(labels.LabelWriter):
        def add(self, utt_id, posteriors, hidden):
            heard.append((self.is_fitted, utt_id))
            super().add(utt_id, posteriors, hidden)

    monkeypatch.setattr(label_data, "LabelWriter", Watched)
    settings = dataclasses.replace(LabelConfig(), hidden_layers=[-1], hidden_codes=2)
    one, two = (label(tmp_path / name, [teacher], settings) / "labels.1.1.bin" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    every, first = sorted({utt_id for _, utt_id in heard}), [utt_id for fitted, utt_id in heard[:24] if not fitted]
    places = [every.index(utt_id) for utt_id in first]
    assert 2 <= len(places) < 16 and min(places) < 6 and max(places) >= 12
    rest = [utt_id for fitted, utt_id in heard[:24] if fitted]
    assert rest == sorted(rest) and len(every) == 24


def test_parts_are_made_apart_kept_and_put_together(label, data, teacher, tmp_path, capsys):
    whole = label(tmp_path / "whole", [teacher])
    parts = tmp_path / "parts"
    for part in (2, 1):
        label(parts, [teacher], LabelConfig(), "--num-shards", 2, "--shard", part)
    with pytest.raises(MissingInput, match="labels.json: no such file.*steps.combine_labels"):
        read_facts(parts)
    capsys.readouterr()
    before = (parts / "labels.1.1.bin").stat().st_mtime_ns
    label(parts, [teacher], LabelConfig(), "--num-shards", 2, "--shard", 1)
    assert "labels.1.1.bin: is there" in capsys.readouterr().out
    assert (parts / "labels.1.1.bin").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="labels of 2 parts, not 1; give --num-shards 2"):
        label(parts, [teacher], LabelConfig(), program=combine_labels)
    label(parts, [teacher], LabelConfig(), "--num-shards", 2, program=combine_labels)
    one, two = Labels(whole, 1, 1), Labels(parts, 1, 2)
    ids = [data.utt_id(index) for index in range(len(data))]
    assert len(one) == len(two) == len(ids) == 24
    for utt_id, first, second in zip(ids, one.find(ids), two.find(ids), strict=True):
        assert np.array_equal(one.read(int(first))[0].expand(), two.read(int(second))[0].expand()), utt_id
    # other settings: the part is made anew, and the list is no longer there
    label(parts, [teacher], LabelConfig(keep=2), "--num-shards", 2, "--shard", 1)
    assert (parts / "labels.1.1.bin").stat().st_mtime_ns != before and not (parts / "labels.json").exists()
    with pytest.raises(UserError, match="labels.1.2.bin: made with other settings"):
        label(parts, [teacher], LabelConfig(keep=2), "--num-shards", 2, program=combine_labels)
    # one part again: the files of the second go
    label(parts, [teacher])
    assert sorted(path.name for path in parts.iterdir()) == ["labels.1.1.bin", "labels.json"]
    assert (parts / "labels.1.1.bin").read_bytes() == (whole / "labels.1.1.bin").read_bytes()


def test_several_teachers_are_stored_apart_and_weigh_as_they_are(label, corpus, data, teacher, tmp_path):
    other = save_teacher(tmp_path / "other", corpus, data.feature_config, 4)
    export_folder(other, other / "export")
    (other / "export" / "run.json").write_text('{"dev_wer": 5}')
    (tmp_path / "copy").mkdir()
    for path in teacher.iterdir():
        shutil.copy(path, tmp_path / "copy" / path.name)
    (tmp_path / "copy" / "run.json").write_text('{"dev_wer": 15}')
    stored = label(tmp_path / "both", [tmp_path / "copy", other / "export"], ALL)
    opened = open_teachers([stored])
    assert [face.labels.description.teacher for face in opened] == ["copy", "export"]
    assert weigh(opened, "error") == pytest.approx([0.25, 0.75])
    student, config = make(data.feature_config, data.tokenizer.vocab_size, 1), DistillConfig(teacher_view="clean")
    pair = [
        objective_of(folders, student, config)(student, first_batch(data))["kl"]
        for folders in ([stored], [teacher, other])
    ]
    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-3)


def test_a_teacher_that_is_no_longer_named_teaches_no_more(label, corpus, data, teacher, tmp_path):
    other, out = save_teacher(tmp_path / "other", corpus, data.feature_config, 4), tmp_path / "labels"
    label(out, [teacher, other])
    label(out, [teacher])
    assert len(open_teachers([out])) == 1
    assert sorted(path.name for path in out.iterdir()) == ["labels.1.1.bin", "labels.json"]
    parts = [["--num-shards", 2, "--shard", part] for part in (1, 2)]
    for teachers, part in (([teacher, other], 0), ([teacher, other], 1), ([teacher], 0)):
        label(out, teachers, LabelConfig(), *parts[part])
    assert not (out / "labels.2.1.bin").exists() and not (out / "labels.json").exists()
    label(out, [teacher], LabelConfig(), "--num-shards", 2, program=combine_labels)
    assert len(open_teachers([out])) == 1 and not (out / "labels.2.2.bin").exists()


def test_a_teacher_of_other_features_hears_them_from_the_sound(label, corpus, data, tmp_path, capsys):
    own = FeatureConfig(
        sample_rate_hz=data.feature_config.sample_rate_hz, num_mel_bins=data.feature_config.dim, low_freq_hz=60
    )
    teacher = save_teacher(tmp_path / "teacher", corpus, own, 3)
    stored = label(tmp_path / "t", [teacher], ALL)
    assert "hears the sound" in capsys.readouterr().out
    with pytest.raises(UserError, match="teacher: hears other features.*steps.label_data --teacher"):
        check_fit(open_teachers([teacher])[0], data.tokenizer.pieces, data.feature_config)
    (face,) = open_teachers([stored])
    check_fit(face, data.tokenizer.pieces, data.feature_config)
    heard = SpeechDataset(corpus.train, data.tokenizer, own, source="on_the_fly")
    feats = torch.from_numpy(heard.features(2))[None]
    said = open_teachers([teacher])[0].teach(feats, torch.tensor([feats.shape[1]])).log_probs
    found = face.look_up([data.utt_id(2)], torch.device("cpu"))
    torch.testing.assert_close(found.log_probs, said.half().float())


def test_what_does_not_fit_is_refused(label, data, teacher, tmp_path):
    stored = label(tmp_path / "t", [teacher])
    (face,) = open_teachers([stored])
    with pytest.raises(UserError, match="t: its units differ"):
        check_fit(face, [*data.tokenizer.pieces[:-1], "?"], data.feature_config)
    with pytest.raises(UserError, match="t: exposes no hidden states; label again with hidden_layers"):
        check_fit(face, data.tokenizer.pieces, data.feature_config, match_hidden=True)
    with pytest.raises(UserError, match="hidden_layers: there is no block 2; it shows 2"):
        label(tmp_path / "x", [teacher], LabelConfig(hidden_layers=[2]))
    student = make(data.feature_config, data.tokenizer.vocab_size, 1)
    first = label(tmp_path / "first", [teacher], LabelConfig(hidden_layers=[0]))
    with pytest.raises(UserError, match="first: holds no states of block 1; store them"):
        objective_of([first], student, DistillConfig(hidden_weight=1.0))
    others = dataclasses_replace(data, num_frames=data.num_frames + 60)
    with pytest.raises(UserError, match=r"t: \S+ has .* s, its labels are of .* s; label .* again"):
        face.check_data(others)
    others.utt_id = lambda index: "nobody"
    with pytest.raises(UserError, match="t: has no labels of nobody and 23 more; label"):
        face.check_data(others)
    facts = json.loads((stored / "labels.json").read_text())
    facts["files"]["labels.1.1.bin"]["bytes"] += 1
    (stored / "labels.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="labels.1.1.bin: not the file that labels.json names"):
        open_teachers([stored])


def dataclasses_replace(data, **changes):
    """A copy of a dataset with other attributes."""
    copy = object.__new__(SpeechDataset)
    copy.__dict__ = data.__dict__ | changes
    return copy


def test_states_beyond_half_precision_are_refused(label, data, teacher, tmp_path, monkeypatch):
    real = ModelTeacher.teach
    monkeypatch.setattr(
        ModelTeacher, "teach", lambda *x: dataclasses.replace(said := real(*x), hidden=[h * 1e6 for h in said.hidden])
    )
    with pytest.raises(UserError, match="beyond 65504, half precision's largest; take an earlier block"):
        label(tmp_path / "huge", [teacher], LabelConfig(hidden_layers=[-1]))


def test_an_utterance_too_short_for_a_frame_of_the_teacher_has_nothing_to_teach(
    label, data, teacher, tmp_path, monkeypatch, capsys
):
    whole, batch = label_data.Hearing.__call__, first_batch(data)
    short = batch.utt_ids[1]
    monkeypatch.setattr(
        label_data.Hearing, "__call__", lambda self, utt: whole(self, utt)[: 5 if utt.utt_id == short else None]
    )
    stored = label(tmp_path / "t", [teacher], LabelConfig(hidden_layers=[-1]))
    assert f"without labels: 1, {short} among them" in capsys.readouterr().out
    batch.lengths[1] = 5
    student = make(data.feature_config, data.tokenizer.vocab_size, 1)
    config = DistillConfig(kl_weight=0.5, hidden_weight=0.5, teacher_view="clean")
    for folder in (stored, teacher):
        lesson = objective_of([folder], student, config).lesson(student, batch)
        assert lesson.selected[0].any(dim=1).tolist() == [True, False, True, True, True]
        assert torch.isfinite(lesson.targets[0]).all() and torch.isfinite(lesson.hidden[0]).all()


def test_states_of_whisper_and_frames_of_another_teach_together(label, corpus, data, teacher, tmp_path):
    """An encoder of samples at 50 frames a second, without units, beside a teacher of the student's own kind."""
    pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")
    model, tokenizer, features, _ = import_folder(open_folder(make_folder(tmp_path / "hub", "whisper")), ImportConfig())
    whisper = save(tmp_path / "whisper", model, tokenizer, features)
    shown = label(tmp_path / "shown", [whisper], LabelConfig(hidden_layers=[-1]))
    student, batch = make(data.feature_config, data.tokenizer.vocab_size, 1), first_batch(data)
    config = DistillConfig(kl_weight=0.5, hidden_weight=1.0, hidden_only=True, hidden_norm=True)
    objective = objective_of([teacher, shown], student, config)
    with torch.no_grad():
        terms, lesson = objective(student, batch), objective.lesson(student, batch)
    assert terms.keys() == {"ctc", "kl", "hidden"} and objective.projections[0].out_features == 32
    utt = next(utt for utt in read_data_dir(corpus.train) if utt.utt_id == batch.utt_ids[0])
    heard = utterance_features(utt, features)
    with torch.no_grad():
        states = model.encode(heard[None], torch.tensor([len(heard)]))[0][-1]
    states = torch.nn.functional.layer_norm(states.half().float(), states.shape[-1:])
    frames = int(student.output_lengths(batch.lengths[:1]))
    wanted = stretch(states, torch.tensor([states.shape[1]]), torch.tensor([frames]), frames)
    torch.testing.assert_close(lesson.hidden[0][0, :frames], wanted[0], rtol=0, atol=2e-2)
    with pytest.raises(UserError, match="its units differ from the student's"):
        check_fit(open_teachers([shown])[0], data.tokenizer.pieces, data.feature_config)


def test_labels_at_half_the_rate_teach_every_peak(label, data, teacher, tmp_path):
    """Said to be of 20 ms: twice the sound, so that they belong to a folder of twice the length."""
    (face,) = open_teachers([label(tmp_path / "t", [teacher], ALL)])
    student = make(data.feature_config, data.tokenizer.vocab_size, 1)
    face.frame_shift_ms = 20.0
    objective = DistillObjective(DistillConfig(), student, [face], CtcConfig())
    batch = first_batch(data, 3, clean=False)
    lengths = student.output_lengths(batch.lengths)
    lesson = objective.lesson(student, batch)
    assert lesson.targets[0].shape[1] == int(lengths.max()) and np.isfinite(lesson.targets[0].numpy()).all()
    assert (lesson.selected[0].sum(dim=1) <= lengths).all()


TAUGHT = """
loop: {epochs: 2, max_batch_frames: 1200, average_last: 1, dev_every: 2}
distill: {kl_weight: 0.5, teacher_view: clean}
model: {d_model: 32, head_dim: 16, kernel_size: 7, subsampling_channels: [4, 8], num_blocks: 1,
        block: {heads: 2, ff1: 32, ff2: 32, conv_channels: 32}}
"""


@pytest.mark.slow
def test_a_student_of_the_labels_has_the_bytes_of_a_student_of_the_teacher(label, corpus, teacher, tmp_path):
    stored = label(tmp_path / "stored", [teacher], ALL)
    (tmp_path / "student.yaml").write_text(TAUGHT)
    for name, folder in (("live", teacher), ("looked up", stored)):
        words = [
            "--data",
            corpus.train,
            "--dev",
            corpus.dev,
            "--tokenizer",
            corpus.tokenizer,
            "--features",
            corpus.features,
        ]
        words += ["--teacher", folder, "--config", tmp_path / "student.yaml", "--out", tmp_path / name]
        command = [sys.executable, "-m", "steps.distill_student", *words, "--device", "cpu", "--num-threads", 1]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "stored in" in done.stdout
    live, looked_up = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("live", "looked up"))
    assert live == looked_up
