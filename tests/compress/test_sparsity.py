"""Unstructured pruning zeroes what was asked, the smallest first, and keeps it zero."""

import pytest
import torch

from steps.compress.sparsity import (
    SparsityConfig,
    apply_masks_,
    cubic_ramp,
    measured_sparsity,
    prunable_weights,
    sparsify_,
)
from steps.core.cli import UserError

KINDS = ["conformer", "rnn", "dnn"]


@pytest.mark.parametrize("fraction", [0.0, 0.37, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_local_meets_the_fraction_in_every_matrix(make, kind, fraction):
    model = make(kind)
    masks = sparsify_(model, fraction, "local")
    for name, weight in prunable_weights(model).items():
        zeros = int((weight == 0).sum())
        assert abs(zeros - fraction * weight.numel()) <= 1
        assert zeros == int((~masks[name]).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_global_meets_the_fraction_with_one_threshold(make, kind):
    model, before = make(kind), make(kind).state_dict()
    masks = sparsify_(model, 0.6, "global")
    weights = prunable_weights(model)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert abs(zeros - 0.6 * sum(weight.numel() for weight in weights.values())) <= 1
    dropped = max(before[name][~mask].abs().max() for name, mask in masks.items() if not mask.all())
    stayed = min(before[name][mask].abs().min() for name, mask in masks.items() if mask.any())
    assert dropped <= stayed


@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_and_kernels_change(make, kind):
    model, before = make(kind), make(kind).state_dict()
    masks = sparsify_(model, 0.5)
    for name, tensor in model.state_dict().items():
        mask = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor, torch.where(mask, before[name], torch.zeros_like(tensor)))
    assert not any("bias" in name or "norm" in name for name in masks)
    assert "output.weight" in masks
    if kind == "rnn":
        assert "blocks.0.forwards.lstm.weight_hh_l0" in masks


def test_masks_survive_updates(make, batches, loss_fn):
    model = make("conformer").train()
    masks = sparsify_(model, 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loss_fn(model, batches[0]).backward()
    optimizer.step()
    assert measured_sparsity(model) < 0.5
    apply_masks_(model, masks)
    assert measured_sparsity(model) == model.spec["sparsity"] == pytest.approx(0.5, abs=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_sparser_again_keeps_the_old_zeros(make):
    model = make("dnn")
    few, many = sparsify_(model, 0.3), sparsify_(model, 0.7)
    assert all((few[name] >= many[name]).all() for name in few)
    assert model.spec["sparsity"] == pytest.approx(0.7, abs=1e-3)


def test_ties_repeat_and_are_broken_by_position(make):
    model = make("dnn")
    with torch.no_grad():
        model.output.weight.fill_(0.5)
    mask = sparsify_(model, 0.5, "local")["output.weight"].flatten()
    assert not mask[: len(mask) // 2].any() and mask[len(mask) // 2 :].all()


def test_ramp_rises_to_the_end():
    steps = [cubic_ramp(progress, 0.8) for progress in (-1.0, 0.0, 0.25, 0.5, 1.0, 2.0)]
    assert steps[0] == steps[1] == 0.0
    assert steps == sorted(steps)
    assert steps[-1] == steps[-2] == 0.8
    assert steps[3] == pytest.approx(0.8 * 0.875)


def test_mistakes_are_told(make):
    model = make("dnn")
    model.spec = model.spec | {"quantization": {"layers": {"output": {"bits": 8}}}}
    with pytest.raises(UserError, match="quantized"):
        sparsify_(model, 0.5)
    with pytest.raises(ValueError, match="fraction"):
        SparsityConfig(fraction=1.0)
    with pytest.raises(ValueError, match="scope"):
        SparsityConfig(scope="layer")
