"""Teachers behind one face: model folders and exports say the same, and what does not fit is refused with its remedy."""

import pytest
import torch

from steps.core.cli import MissingInput, UserError
from steps.core.config import save_config
from steps.data.batches import Batch
from steps.data.feature_config import FeatureConfig
from steps.deploy.export import export_folder
from steps.models.build import build_model, new_spec, save_model
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective
from steps.training.teachers import ExportTeacher, ModelTeacher, check_fit, identity, open_teacher, weigh

FEATURES = FeatureConfig(num_mel_bins=20)
VOCABULARY = ["<blk>", "<unk>", *"abcd"]
SIZES = {
    "d_model": 16,
    "head_dim": 8,
    "kernel_size": 3,
    "subsampling_channels": [4, 4],
    "num_blocks": 2,
    "block": {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16},
}


def make(seed):
    torch.manual_seed(seed)
    return build_model(new_spec("conformer", SIZES, 20, len(VOCABULARY), "test")).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with its export."""
    root = tmp_path_factory.mktemp("teacher") / "m"
    root.mkdir()
    (root / "tokenizer.model").write_bytes(b"not read")
    (root / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(VOCABULARY)))
    save_config(root / "features.yaml", FEATURES)
    save_model(root, make(3), {name: root / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    export_folder(root, root / "export")
    return root


def test_a_model_folder_and_its_export_teach_the_same(folder):
    model, export = open_teacher(folder), open_teacher(folder / "export")
    assert isinstance(model, ModelTeacher) and isinstance(export, ExportTeacher)
    feats, lengths = torch.randn(2, 60, 20), torch.tensor([60, 41])
    a, b = model.teach(feats, lengths), export.teach(feats, lengths)
    assert a.lengths.tolist() == b.lengths.tolist()
    for row, length in enumerate(a.lengths.tolist()):
        torch.testing.assert_close(a.log_probs[row, :length], b.log_probs[row, :length], atol=1e-4, rtol=1e-4)
    assert len(a.hidden) == 3 and not b.hidden
    assert (model.frame_shift_ms, export.frame_shift_ms) == (40, 40)
    assert model.vocabulary == export.vocabulary == VOCABULARY and model.features == export.features == FEATURES


def test_an_export_teaches_a_student(folder):
    student = make(1)
    teacher = open_teacher(folder / "export")
    check_fit(teacher, VOCABULARY, FEATURES)
    objective = DistillObjective(DistillConfig(kl_weight=1.0), student, [teacher], student_settings(student))
    batch = Batch(["a"], torch.randn(1, 50, 20), torch.tensor([50]), torch.tensor([[2, 3]]), torch.tensor([2]))
    lesson = objective.lesson(student, batch)
    assert lesson.targets[0].shape == (1, 11, len(VOCABULARY)) and lesson.hidden == []


def student_settings(student):
    from steps.training.settings import TrainConfig

    return getattr(TrainConfig(), student.head.name)


@pytest.mark.parametrize("place", ["m", "m/export"])
def test_the_identity_changes_with_the_content(folder, place, tmp_path):
    first = identity(folder.parent / place)
    other = tmp_path / "m"
    other.mkdir()
    for name in ("tokenizer.model", "tokens.txt", "features.yaml"):
        (other / name).write_bytes((folder / name).read_bytes())
    save_model(other, make(4), {name: other / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    export_folder(other, other / "export")
    assert identity(folder.parent / place) == first != identity(tmp_path / place)


def teacher_of(model, features=FEATURES, vocabulary=VOCABULARY):
    return ModelTeacher(model, features, vocabulary, "exp/t")


def test_other_units_are_refused():
    other = teacher_of(make(0), vocabulary=[*VOCABULARY[:-1], "e"])
    with pytest.raises(UserError, match="exp/t: its units differ.*train_tokenizer --from exp/t.*its text"):
        check_fit(other, VOCABULARY, FEATURES)
    check_fit(other, VOCABULARY, FEATURES, match_units=False, match_hidden=True)


def test_other_features_are_refused():
    with pytest.raises(UserError, match="exp/t: hears other features.*steps.label_data --teacher exp/t"):
        check_fit(teacher_of(make(0), FeatureConfig(num_mel_bins=20, low_freq_hz=60)), VOCABULARY, FEATURES)
    with pytest.raises(UserError, match=r"\(level_dbfs -25, not None\)"):
        check_fit(teacher_of(make(0), FeatureConfig(num_mel_bins=20, level_dbfs=-25)), VOCABULARY, FEATURES)


def test_hidden_states_that_a_teacher_does_not_show_are_refused(folder):
    teacher = open_teacher(folder / "export")
    with pytest.raises(UserError, match="no hidden states; name its model folder, or set distill.hidden_weight to 0"):
        check_fit(teacher, VOCABULARY, FEATURES, match_hidden=True)
    check_fit(open_teacher(folder), VOCABULARY, FEATURES, match_hidden=True)


def test_teachers_weigh_alike_or_by_their_errors_on_dev(tmp_path):
    teachers = []
    for name, rate in (("a", 10), ("b", 30), ("c", 0.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(f'{{"dev_wer": {rate}}}')
        teachers.append(ModelTeacher(make(0), FEATURES, VOCABULARY, str(tmp_path / name)))
    assert weigh(teachers, "equal") == [1 / 3] * 3
    assert weigh(teachers[:2], "error") == pytest.approx([0.75, 0.25])
    # as if it had half a percent
    assert weigh(teachers[::2], "error") == pytest.approx([1 / 21, 20 / 21])
    for harm in ("{}", "no JSON", '{"dev_wer": "10"}', "[]", '{"dev_wer": NaN}'):
        (tmp_path / "b" / "run.json").write_text(harm)
        with pytest.raises(UserError, match="b: no dev_wer in a run.json here; set distill.weighting to equal"):
            weigh(teachers, "error")


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(MissingInput, match="neither model.json nor SHA256SUMS"):
        open_teacher(tmp_path)
