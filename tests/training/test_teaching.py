"""What a student is taught: the weights of the hidden match, which layers meet, who the teachers are."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from steps.core.cli import UserError
from steps.data.batches import Batch
from steps.data.feature_config import FeatureConfig
from steps.losses.distill import frame_kl_sum, hidden_match_sum, soften
from steps.losses.spikes import retime
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.search.greedy import greedy_search
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.teachers import ModelTeacher
from steps.training.teaching import CleanLabels, Taught

SIZES = {"d_model": 16, "head_dim": 8, "kernel_size": 3, "subsampling_channels": [4, 4]}
FEATURES = FeatureConfig(num_mel_bins=20)
BLOCK = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}


def make(seed, blocks=2):
    torch.manual_seed(seed)
    sizes = SIZES | {"num_blocks": blocks, "block": BLOCK}
    model = build_model(new_spec("conformer", sizes, 20, 6, "test"))
    with torch.no_grad():  # posteriors that differ from model to model
        model.state_dict()["output.weight"].mul_(8.0)
    return model.eval()


def make_objective(student, teachers, **settings):
    torch.manual_seed(5)  # the same projections each time
    faces = [ModelTeacher(teacher, FEATURES, ["<blk>", *"abcde"]) for teacher in teachers]
    return DistillObjective(DistillConfig(**settings), student, faces, CtcConfig())


@pytest.fixture
def batch():
    torch.manual_seed(0)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    return Batch(["a", "b"], torch.randn(2, 60, 20), torch.tensor([60, 41]), tokens, torch.tensor([3, 2]))


def states(model, batch):
    """Outputs of the front end and of every block, and where they are padding."""
    hidden, lengths = model.encode(batch.feats, batch.lengths)
    return hidden, torch.arange(hidden[0].shape[1]) >= lengths.unsqueeze(1)


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize(("layers", "places"), [(None, [(2, 3)]), ([[0, 1], [-1, 0]], [(1, 2), (2, 1)])])
def test_the_hidden_match_has_its_weight_and_its_layers(batch, weight, layers, places):
    student, teacher = make(1), make(2, blocks=3)
    objective = make_objective(student, [teacher], hidden_weight=weight, hidden_layers=layers)
    own, is_pad = states(student, batch)
    taught, _ = states(teacher, batch)
    matches = [
        hidden_match_sum(projection(own[a]), taught[b], is_pad)
        for (a, b), projection in zip(places, objective.projections, strict=True)
    ]
    torch.testing.assert_close(objective(student, batch)["hidden"], weight * sum(matches) / len(matches))


def test_each_of_several_teachers_speaks_with_its_weight_and_the_first_is_matched(batch):
    student, first, second = make(1), make(2), make(3)
    faces = [ModelTeacher(teacher, FEATURES, ["<blk>", *"abcde"]) for teacher in (first, second)]
    torch.manual_seed(5)
    config = DistillConfig(kl_weight=1.0, hidden_weight=1.0, temperature=2.0)
    objective = DistillObjective(config, student, faces, CtcConfig(), [0.25, 0.75])
    terms = objective(student, batch)
    log_probs, lengths = student(batch.feats, batch.lengths)
    leads, follows = (teacher(batch.feats, batch.lengths)[0] for teacher in (first, second))
    by_hand = 0.0
    for row, length in enumerate(lengths.tolist()):
        lead, said = leads[row, :length], follows[row, :length]
        laid = said[torch.from_numpy(retime(said.detach().numpy(), lead.detach().numpy()))]
        real = torch.ones(1, length, dtype=torch.bool)
        for weight, target in ((0.25, lead), (0.75, laid)):
            by_hand += weight * frame_kl_sum(log_probs[row : row + 1, :length], soften(target[None], 2.0), real, 2.0)
    torch.testing.assert_close(terms["kl"], by_hand)
    alone = make_objective(student, [first], hidden_weight=1.0)(student, batch)
    torch.testing.assert_close(terms["hidden"], alone["hidden"])


class Says:
    """A teacher that says what it is told. Args: log_probs (T, V).   shift_ms: between its frames."""

    name, features, vocabulary, depth, width = "oracle", FEATURES, ["<blk>", *"abcde"], 0, 0

    def __init__(self, log_probs, shift_ms=40.0):
        self.log_probs, self.frame_shift_ms = log_probs, shift_ms

    def teach(self, feats, lengths):
        log_probs = self.log_probs.expand(len(feats), -1, -1)
        return Taught(log_probs, torch.full((len(feats),), log_probs.shape[1]), [])


def peaks(units, sure=0.95):
    """Posteriors (T, 6) with a peak of each unit."""
    probs = torch.full((len(units), 6), (1 - sure) / 5)
    probs[torch.arange(len(units)), torch.tensor(units)] = sure
    return probs.log()


def one(frames, ids="a"):
    tokens = torch.tensor([[1, 2, 3]])
    return Batch([ids], torch.randn(1, frames, 20), torch.tensor([frames]), tokens, torch.tensor([3]))


def test_teachers_whose_peaks_lie_elsewhere_teach_what_one_of_them_does():
    """Their plain mean, frame by frame, says nothing but blanks; so would the sum of their terms."""
    student, batch = make(1), one(60)
    said = [0, 1, 0, 0, 2, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0]
    frames = int(student.output_lengths(batch.lengths))
    early, late = peaks(said[:frames]), peaks([0, *said[: frames - 1]])
    assert not ((early.exp() + late.exp()) / 2).argmax(-1).any()
    objective = DistillObjective(DistillConfig(kl_weight=1.0), student, [Says(early), Says(late)], CtcConfig())
    lesson = objective.lesson(student, batch)
    for target in lesson.targets:
        assert target[0].argmax(-1).tolist() == said[:frames]
    only = DistillObjective(DistillConfig(kl_weight=1.0), student, [Says(early)], CtcConfig())
    torch.testing.assert_close(objective(student, batch)["kl"], only(student, batch)["kl"])


@pytest.mark.parametrize("shift_ms", [20.0, 80.0])
def test_a_teacher_at_another_rate_keeps_its_peaks(shift_ms):
    student, batch = make(1), one(92)
    frames = int(student.output_lengths(batch.lengths))
    said = {20.0: [0, 0, 1, 2, 0, 0, 0, 3, 0, 3, 0, 0], 80.0: [0, 1, 0, 2, 0, 2, 3]}[shift_ms]
    said += [0] * (round(frames * 40 / shift_ms) - len(said))
    objective = DistillObjective(
        DistillConfig(kl_weight=1.0, frames="spikes"), student, [Says(peaks(said), shift_ms)], CtcConfig()
    )
    lesson = objective.lesson(student, batch)
    assert lesson.targets[0].shape[1] == frames
    read = greedy_search(lesson.targets[0], [frames], 0)[0]
    assert read == greedy_search(peaks(said)[None], [len(said)], 0)[0]
    assert torch.equal(lesson.selected[0], lesson.targets[0].argmax(-1) != 0)


def test_an_utterance_whose_peaks_do_not_fit_is_not_taught_by_them():
    student, batch = make(1), one(60)
    crowded = peaks([1, 2] * 11, 0.9)
    objective = DistillObjective(DistillConfig(kl_weight=0.5), student, [Says(crowded, 20.0)], CtcConfig())
    terms = objective(student, batch)
    assert terms["kl"] == 0 and terms["ctc"] > 0


def test_states_of_a_teacher_at_another_rate_are_matched_by_time(batch):
    """A teacher whose states are those of the student, each twice."""
    student = make(1)

    class Twice(Says):
        depth, width = 2, 16

        def teach(self, feats, lengths):
            hidden, own = student.encode(feats, lengths)
            twice = [state.repeat_interleave(2, dim=1) for state in hidden]
            return Taught(student.classify(twice[-1]), 2 * own, twice)

    objective = DistillObjective(
        DistillConfig(kl_weight=0.0, hidden_weight=1.0), student, [Twice(None, 20.0)], CtcConfig()
    )
    lesson, (hidden, is_pad) = objective.lesson(student, batch), states(student, batch)
    assert lesson.targets == []
    torch.testing.assert_close(lesson.hidden[0][~is_pad], hidden[-1][~is_pad])
    assert set(objective(student, batch)) == {"ctc", "hidden"}


def test_the_last_teacher_may_show_its_states_alone(batch):
    """Its units count for nothing; what the first says is as if it were alone."""
    student, first, other = make(1), make(2), make(3, blocks=3)
    settings = {"kl_weight": 0.5, "hidden_weight": 1.0}
    torch.manual_seed(5)
    faces = [ModelTeacher(first, FEATURES, ["<blk>", *"abcde"]), ModelTeacher(other, FEATURES, ["<blk>", "<unk>"])]
    terms = DistillObjective(DistillConfig(**settings, hidden_only=True), student, faces, CtcConfig())(student, batch)
    for name, alone in (("kl", first), ("ctc", first), ("hidden", other)):
        torch.testing.assert_close(terms[name], make_objective(student, [alone], **settings)(student, batch)[name])


def test_states_may_be_normalised_first(batch):
    student, teacher = make(1), make(2)
    with torch.no_grad():
        # one huge channel, as Whisper has
        teacher.blocks[-1].register_forward_hook(lambda _, __, x: x + torch.tensor([200.0] + 15 * [0.0]))
    objective = make_objective(student, [teacher], hidden_weight=1.0, hidden_norm=True)
    lesson, (taught, is_pad) = objective.lesson(student, batch), states(teacher, batch)
    wanted = (taught[-1] - taught[-1].mean(-1, keepdim=True)) / taught[-1].std(-1, keepdim=True, correction=0)
    torch.testing.assert_close(lesson.hidden[0][~is_pad], wanted[~is_pad], rtol=0, atol=1e-3)
    own = objective.projections[0](states(student, batch)[0][-1])
    torch.testing.assert_close(objective(student, batch)["hidden"], hidden_match_sum(own, lesson.hidden[0], is_pad))


def test_clean_states_are_matched_too(batch):
    student, teacher = make(1), make(2)
    both = dataclasses.replace(batch, clean=batch.feats + 1)
    objective = make_objective(student, [teacher], hidden_weight=1.0, teacher_view="clean")
    taught, is_pad = states(teacher, dataclasses.replace(batch, feats=both.clean))
    assert objective.wants_clean(2)
    found = objective.lesson(student, both).hidden[0]
    torch.testing.assert_close(found[~is_pad], taught[-1][~is_pad], rtol=1e-2, atol=1e-2)
    assert not objective.wants_clean(2)


def test_a_teacher_says_the_same_each_time(batch):
    """Handed over in training mode, with dropout."""
    student, teacher = make(1), make(2).train()
    objective = make_objective(student, [teacher], kl_weight=1.0, hidden_weight=1.0)
    first, second = objective(student, batch), objective(student, batch)
    assert all(torch.equal(first[name], second[name]) for name in ("kl", "hidden"))
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(("blocks", "middle"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_the_middle_block_is_the_one_in_the_middle(batch, blocks, middle):
    model = make(1, blocks)
    hidden, _ = states(model, batch)
    inner = TranscriptObjective(CtcConfig(intermediate_weight=0.5), model)(model, batch)["inner"]
    by_hand = {}
    for place in range(1, blocks):
        only = CtcConfig(intermediate_weight=0.5, intermediate_blocks=[place - 1])
        by_hand[place] = TranscriptObjective(only, model)(model, batch)["inner"]
    assert len({value.item() for value in by_hand.values()}) == blocks - 1
    assert torch.equal(inner, by_hand[middle])


def test_several_inner_blocks_share_their_weight(batch):
    model = make(1, blocks=4)
    share = {}
    for blocks in ([0], [2], [0, 2]):
        config = CtcConfig(intermediate_weight=0.5, intermediate_blocks=blocks)
        share[len(blocks), blocks[0]] = TranscriptObjective(config, model)(model, batch)["inner"]
    torch.testing.assert_close(share[2, 0], (share[1, 0] + share[1, 2]) / 2)


def test_states_that_half_precision_lacks_are_refused():
    labels = CleanLabels(lambda feats, lengths: Taught(feats, lengths, [feats, 1e5 * feats]), [0, 1])
    one = SimpleNamespace(utt_ids=["u-1"], clean=torch.ones(1, 3, 2), lengths=torch.tensor([3]))
    with pytest.raises(UserError, match="u-1: the teacher's states are beyond 65504, .* teacher_view: augmented"):
        labels.taught(one)
    labels.places = [0]
    assert torch.equal(labels.taught(one).hidden[0], one.clean)


def test_clean_labels_are_of_the_clean_features(batch):
    student, teacher = make(1), make(2)
    both = dataclasses.replace(batch, clean=batch.feats + 1)
    found = make_objective(student, [teacher], kl_weight=1.0, teacher_view="clean")(student, both)["kl"]
    log_probs, lengths = student(both.feats, both.lengths)
    target, _ = teacher(both.clean, both.lengths)
    real = torch.arange(target.shape[1]) < lengths.unsqueeze(1)
    torch.testing.assert_close(found, frame_kl_sum(log_probs, target, real, 1.0), rtol=1e-2, atol=1e-2)
