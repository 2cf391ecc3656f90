"""What a student is taught: the weights of the hidden match, which layers meet, who the teachers are."""

import dataclasses

import pytest
import torch

from steps.data.dataset import Batch
from steps.data.feature_config import FeatureConfig
from steps.losses.distill import frame_kl_sum, hidden_match_sum, mean_teacher
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.training.objectives import DistillConfig, DistillObjective, TranscriptObjective
from steps.training.teachers import ModelTeacher

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


def test_of_several_teachers_the_mean_speaks_and_the_first_is_matched(batch):
    student, first, second = make(1), make(2), make(3)
    objective = make_objective(student, [first, second], kl_weight=1.0, hidden_weight=1.0, temperature=2.0)
    terms = objective(student, batch)
    log_probs, lengths = student(batch.feats, batch.lengths)
    both = mean_teacher([teacher(batch.feats, batch.lengths)[0] for teacher in (first, second)], 2.0)
    real = torch.arange(both.shape[1]) < lengths.unsqueeze(1)
    torch.testing.assert_close(terms["kl"], frame_kl_sum(log_probs, both, real, 2.0))
    alone = make_objective(student, [first], hidden_weight=1.0)(student, batch)
    torch.testing.assert_close(terms["hidden"], alone["hidden"])


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


def test_clean_labels_are_of_the_clean_features(batch):
    student, teacher = make(1), make(2)
    both = dataclasses.replace(batch, clean=batch.feats + 1)
    found = make_objective(student, [teacher], kl_weight=1.0, teacher_view="clean")(student, both)["kl"]
    log_probs, lengths = student(both.feats, both.lengths)
    target, _ = teacher(both.clean, both.lengths)
    real = torch.arange(target.shape[1]) < lengths.unsqueeze(1)
    torch.testing.assert_close(found, frame_kl_sum(log_probs, target, real, 1.0), rtol=1e-2, atol=1e-2)
