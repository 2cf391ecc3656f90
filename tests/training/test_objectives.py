"""What is minimised: the mix of terms, frozen teachers, and models that do not fit together."""

import dataclasses

import pytest
import torch

from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict
from steps.data.batches import Batch
from steps.data.feature_config import FeatureConfig
from steps.losses.ctc import ctc_loss_sum
from steps.losses.distill import frame_kl_sum
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.teachers import ModelTeacher
from steps.training.teaching import Taught

BLOCK = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}
SIZES = {
    "d_model": 16,
    "head_dim": 8,
    "kernel_size": 3,
    "subsampling_channels": [4, 4],
    "num_blocks": 2,
    "block": BLOCK,
}


ROWS = ("feats", "clean", "lengths", "tokens", "token_lengths")


def make(seed, vocab_size=6, feature_dim=20, kind="conformer", sizes=SIZES):
    torch.manual_seed(seed)
    return build_model(new_spec(kind, sizes, feature_dim, vocab_size, "test")).eval()


FEATURES = FeatureConfig(num_mel_bins=20)
VOCABULARY = ["<blk>", *"abcde"]


def taught_by(config, student, teachers, ctc=None):
    """The objective of a student of models. Args: teachers: list of AsrModel."""
    faces = [ModelTeacher(teacher, FEATURES, VOCABULARY) for teacher in teachers]
    return DistillObjective(config, student, faces, ctc or CtcConfig())


@pytest.fixture
def batch():
    torch.manual_seed(0)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    return Batch(["a", "b"], torch.randn(2, 60, 20), torch.tensor([60, 41]), tokens, torch.tensor([3, 2]))


def test_ctc_alone_is_the_ctc_loss(batch):
    model = make(0)
    log_probs, lengths = model(batch.feats, batch.lengths)
    expected = ctc_loss_sum(log_probs, lengths, batch.tokens, batch.token_lengths)
    torch.testing.assert_close(TranscriptObjective(CtcConfig(), model)(model, batch)["ctc"], expected)


def test_intermediate_ctc_reads_an_earlier_block_through_the_same_output(batch):
    model = make(0)
    hidden, lengths = model.encode(batch.feats, batch.lengths)
    terms = TranscriptObjective(CtcConfig(intermediate_weight=0.25), model)(model, batch)
    target = (batch.tokens, batch.token_lengths)
    torch.testing.assert_close(terms["ctc"], 0.75 * ctc_loss_sum(model.classify(hidden[2]), lengths, *target))
    torch.testing.assert_close(terms["inner"], 0.25 * ctc_loss_sum(model.classify(hidden[1]), lengths, *target))


@pytest.mark.parametrize("blocks", [[1], [-1], [0, 7]])
def test_an_intermediate_block_that_is_not_there_is_refused(blocks):
    config = CtcConfig(intermediate_weight=0.3, intermediate_blocks=blocks)
    with pytest.raises(UserError, match="ctc: intermediate blocks must lie before the last, and the model has 2"):
        TranscriptObjective(config, make(0))


@pytest.mark.parametrize(
    "settings", [{"intermediate_blocks": [0]}, {"intermediate_weight": 0.3, "intermediate_blocks": []}]
)
def test_settings_of_intermediate_ctc_that_would_do_nothing_are_refused(settings):
    with pytest.raises(ConfigError, match="intermediate_blocks"):
        from_dict(CtcConfig, settings, "x.yaml")


def test_intermediate_ctc_without_ctc_is_refused():
    with pytest.raises(UserError, match="the section ctc: has no effect"):
        taught_by(DistillConfig(kl_weight=1.0), make(1), [make(2)], CtcConfig(intermediate_weight=0.3))


def test_a_taught_student_has_the_additions_to_ctc_too(batch):
    student, teacher = make(1), make(2)
    ctc = CtcConfig(intermediate_weight=0.3)
    objective = taught_by(DistillConfig(kl_weight=0.5), student, [teacher], ctc)
    terms, alone = objective(student, batch), TranscriptObjective(ctc, student)(student, batch)
    assert terms.keys() == {"ctc", "inner", "kl"}
    for name in alone:
        torch.testing.assert_close(terms[name], 0.5 * alone[name])


def test_a_student_equal_to_its_teacher_has_no_kl_left(batch):
    student = make(1)
    terms = taught_by(DistillConfig(kl_weight=1.0), student, [make(1)])(student, batch)
    assert terms.keys() == {"kl"}
    assert terms["kl"].abs() < 1e-4


def test_terms_are_mixed_by_their_weights(batch):
    student, teacher = make(1), make(2)
    half = taught_by(DistillConfig(kl_weight=0.5), student, [teacher])(student, batch)
    quarter = taught_by(DistillConfig(kl_weight=0.25), student, [teacher])(student, batch)
    torch.testing.assert_close(half["kl"], 2 * quarter["kl"])
    torch.testing.assert_close(half["ctc"] / 0.5, quarter["ctc"] / 0.75)


def test_the_middle_block_can_be_taught_too(batch):
    student, teacher = make(1), make(2)
    objective = taught_by(DistillConfig(kl_weight=1.0, intermediate_weight=0.25), student, [teacher])
    hidden, lengths = student.encode(batch.feats, batch.lengths)
    target = objective.teach(0, batch).log_probs
    real = torch.arange(target.shape[1]) < lengths.unsqueeze(1)
    inner, last = (frame_kl_sum(student.classify(hidden[place]), target, real, 1.0) for place in (1, 2))
    torch.testing.assert_close(objective(student, batch)["kl"], 0.75 * last + 0.25 * inner)


def test_teaching_the_middle_block_without_kl_is_refused():
    with pytest.raises(ConfigError, match="intermediate_weight needs a kl_weight"):
        from_dict(DistillConfig, {"kl_weight": 0, "hidden_weight": 1.0, "intermediate_weight": 0.3}, "x.yaml")


def test_padding_changes_nothing(batch):
    student, teacher = make(1), make(2)
    config = DistillConfig(kl_weight=0.5, hidden_weight=1.0, frames="window", hidden_layers=[[0, 1], [-1, -1]])
    objective = taught_by(config, student, [teacher])
    wider = dataclasses.replace(batch, feats=torch.nn.functional.pad(batch.feats, (0, 0, 0, 30), value=9.0))
    for name, value in objective(student, batch).items():
        torch.testing.assert_close(objective(student, wider)[name], value)


def test_a_teacher_that_looks_at_clean_speech_is_asked_once_and_says_the_same(batch):
    student, teacher = make(1), make(2)
    config = DistillConfig(kl_weight=1.0, teacher_view="clean", frames="spikes")
    objective = taught_by(config, student, [teacher])
    asked = []
    teacher.classify = lambda hidden, classify=teacher.classify: asked.append(hidden.shape) or classify(hidden)
    clean = dataclasses.replace(batch, clean=batch.feats + 1)
    first = objective(student, clean)["kl"]
    assert len(asked) == 2
    alone = dataclasses.replace(clean, utt_ids=["b"], **{name: getattr(clean, name)[1:] for name in ROWS})
    objective(student, alone)
    assert torch.equal(objective(student, clean)["kl"], first) and len(asked) == 2
    plain = taught_by(dataclasses.replace(config, teacher_view="augmented"), student, [make(2)])
    same = dataclasses.replace(clean, feats=clean.clean)
    target = plain.teach(0, same).log_probs
    kept = objective.teach(0, clean).log_probs
    torch.testing.assert_close(kept[0], target[0], atol=5e-3, rtol=1e-3)
    own = int(teacher.output_lengths(clean.lengths)[1])
    torch.testing.assert_close(kept[1, :own], target[1, :own], atol=5e-3, rtol=1e-3)


def test_gradients_reach_the_student_and_the_projections_but_no_teacher(batch):
    student, teacher = make(1), make(2)
    objective = taught_by(DistillConfig(hidden_weight=1.0), student, [teacher])
    sum(objective(student, batch).values()).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is not None for p in objective.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any("teacher" in name for name in objective.state_dict())


def test_two_equal_teachers_teach_as_one(batch):
    student = make(1)
    one = taught_by(DistillConfig(), student, [make(2)])(student, batch)
    two = taught_by(DistillConfig(), student, [make(2), make(2)])(student, batch)
    torch.testing.assert_close(one["kl"], two["kl"])


@pytest.mark.parametrize("kind", ["rnn", "dnn"])
def test_every_kind_learns_from_a_conformer(batch, kind):
    student = make(0, kind=kind, sizes={"d_model": 16, "num_blocks": 1})
    terms = taught_by(DistillConfig(hidden_weight=1.0), student, [make(1)])(student, batch)
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="no block 5"):
        taught_by(DistillConfig(hidden_weight=1.0, hidden_layers=[[5, 0]]), make(0), [make(0)])


def test_nothing_to_distill_is_refused():
    with pytest.raises(ValueError, match="lattice_weight are all 0: nothing is distilled"):
        DistillConfig(kl_weight=0.0)


class Early:
    """Says what a student will say, a frame earlier; sure of it."""

    name, features, vocabulary, frame_shift_ms, depth, width = "early", FEATURES, VOCABULARY, 40.0, 0, 0

    def __init__(self, log_probs):
        self.log_probs = log_probs

    def teach(self, feats, lengths):
        return Taught(self.log_probs, (lengths - 3) // 4, [])


def test_a_student_whose_peaks_come_later_is_taught_where_they_come(batch):
    """Of a teacher that spoke a frame earlier the late student has nothing to learn, a punctual one much."""
    path = torch.tensor([[0, 0, 1, 0, 2, 0, 0, 3, 0, 0, 0, 4, 0, 0], [0, 5, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]])
    late = torch.cat([path[:, :1], path[:, :-1]], dim=1)
    early, own = (torch.nn.functional.one_hot(p, 6).float().mul(8.0).log_softmax(-1) for p in (path, late))
    student = make(0)
    student.classify = lambda hidden: own + 0 * hidden.sum()
    sums = {}
    for frames in (0, 1, 3):
        objective = DistillObjective(DistillConfig(kl_weight=1.0, late=frames), student, [Early(early)], CtcConfig())
        sums[frames] = objective(student, batch)["kl"].item()
    assert sums[0] > 50 and 0 <= sums[1] < 1e-3 and 0 <= sums[3] < 1e-3


def test_late_peaks_need_frame_wise_teaching_on_all_frames():
    for settings in ({"frames": "window"}, {"kl_weight": 0.0, "hidden_weight": 1.0}):
        with pytest.raises(ConfigError, match="late needs a kl_weight and frames: all"):
            from_dict(DistillConfig, {"late": 2} | settings, "x.yaml")
