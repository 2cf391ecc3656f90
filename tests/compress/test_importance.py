"""Scores mean what they say."""

import pytest
import torch

from steps.compress.importance import block_importance, magnitude, mean_loss, taylor
from steps.compress.surgery import drop_blocks

KINDS = ["conformer", "rnn", "dnn"]


def double_loss(model, batch):
    """A loss in float64, precise enough for finite differences (log-probabilities are float32)."""
    hidden, _ = model.encode(batch.double(), torch.tensor([60, 41]))
    return model.output(model.norm(hidden[-1])).cos().sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_gets_one_score_per_part(make, batches, loss_fn, kind):
    model = make(kind)
    sizes = {group.name: group.size for group in model.axis_groups()}
    for scores in (magnitude(model), taylor(model, batches, loss_fn)):
        assert {name: len(score) for name, score in scores.items()} == sizes
        assert all((score >= 0).all() and score.isfinite().all() for score in scores.values())


@pytest.mark.parametrize("kind", KINDS)
def test_magnitude_is_zero_only_for_zeroed_parts(make, kind):
    model = make(kind)
    for group in model.axis_groups():
        for member in group.members:
            model.state_dict()[member.parameter].index_fill_(member.axis, member.rows([2], group.size), 0.0)
    for name, scores in magnitude(model).items():
        assert (scores == 0).nonzero().flatten().tolist() == [2], name
        assert scores.square().mean().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_magnitude_ignores_the_scale_of_a_matrix(make, kind):
    model = make(kind)
    before = magnitude(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    after = magnitude(model)
    assert all(torch.allclose(before[name], after[name], rtol=1e-4) for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_taylor_is_the_slope_of_the_loss_along_a_gate(make, batches, kind):
    model = make(kind).double()
    batches = [batches[0][0]]
    scores = taylor(model, batches, double_loss)
    state, step = model.state_dict(), 1e-5
    for group in model.axis_groups():
        losses = []
        for gate in (1.0 + step, 1.0 - step):
            saved = {name: tensor.clone() for name, tensor in state.items()}
            for member in group.members:
                if member.axis == 1:  # what reads the part
                    rows = member.rows([1], group.size)
                    read = state[member.parameter].index_select(member.axis, rows)
                    state[member.parameter].index_copy_(member.axis, rows, read * gate)
            losses.append(mean_loss(model, batches, double_loss))
            model.load_state_dict(saved)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert scores[group.name][1].item() == pytest.approx(abs(slope), rel=1e-4, abs=1e-6), group.name


def test_taylor_leaves_no_trace_and_repeats(make, batches, loss_fn):
    model = make("rnn").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = taylor(model, batches, loss_fn), taylor(model, batches, loss_fn)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_taylor_averages_over_batches(make, batches, loss_fn):
    model = make("dnn")
    together, alone = taylor(model, batches, loss_fn), [taylor(model, [batch], loss_fn) for batch in batches]
    for name, score in together.items():
        assert torch.allclose(score, sum(one[name] for one in alone) / len(alone), rtol=1e-5)


def test_block_importance_is_the_loss_without_the_block(make, batches, loss_fn):
    model = make("dnn")
    with torch.no_grad():
        model.blocks[1].down.weight.zero_()
        model.blocks[1].down.bias.zero_()  # a block that adds nothing
    losses = block_importance(model, batches, loss_fn)
    assert len(losses) == 3
    assert losses[1] == 0.0
    expected = mean_loss(drop_blocks(model, [2]), batches, loss_fn) - mean_loss(model, batches, loss_fn)
    assert losses[2] == expected != 0.0
