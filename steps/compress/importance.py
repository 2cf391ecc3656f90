"""Which parts matter: one score per index of every axis group, and one per block."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from steps.compress.surgery import drop_blocks
from steps.models.asr_model import AsrModel

# (model, batch) -> scalar tensor
LossFunction = Callable[[AsrModel, Any], torch.Tensor]


@torch.no_grad()
def magnitude(model: AsrModel) -> dict[str, torch.Tensor]:
    """Score parts by the size of their weights.

    Every weight matrix or kernel of a group gives each index its squared L2 norm, divided by the mean of those over the
    indices; the score is the root of the average over the matrices. So no matrix outweighs another, and in every group
    the mean square of the scores is 1: scores do not compare across groups. Biases and norms are left out.

    Returns: {group name: (size,) float32}.
    Source:  Li et al. 2017 (arXiv:1608.08710), with L2 for L1; the division is ours.
    """
    state = model.state_dict()
    scores = {}
    for group in model.axis_groups():
        matrices = [member for member in group.members if state[member.parameter].dim() >= 2]
        squares = [_by_index(state[member.parameter].square(), member, group.size) for member in matrices]
        relative = [square / square.mean().clamp(min=torch.finfo(square.dtype).tiny) for square in squares]
        scores[group.name] = torch.stack(relative).mean(dim=0).sqrt()
    return scores


def _by_index(tensor, member, size):
    """Sum a tensor over everything but the group's index. Returns: (size,)."""
    rows = tensor.movedim(member.axis, 0).reshape(member.chunks, size, -1)
    return rows.sum(dim=(0, 2))


def taylor(model: AsrModel, batches: Sequence[Any], loss_fn: LossFunction) -> dict[str, torch.Tensor]:
    """Score parts by how much, to first order, the loss changes when they are removed.

    With a gate g = 1 on what a part sends on, dL/dg is the sum of weight x gradient over the weights that read the part
    (axis 1 of its members). The score is the mean over batches of |dL/dg|, in units of the loss; scores compare
    across groups.
    The model runs in eval mode; its mode, gradients and weights are as before afterwards.

    Args:    batches: whatever loss_fn takes, at least one.   loss_fn: returns a scalar.
    Returns: {group name: (size,) float32}, >= 0.
    Source:  Molchanov et al. 2019 (arXiv:1906.10771), gate form of the first-order criterion; |.| where they square.
    """
    groups = model.axis_groups()
    readers = {group.name: [member for member in group.members if member.axis == 1] for group in groups}
    names = sorted({member.parameter for members in readers.values() for member in members})
    weights = [model.get_parameter(name) for name in names]
    scores = {group.name: torch.zeros(group.size, device=model.feature_mean.device) for group in groups}
    was_training = model.training
    model.eval()
    try:
        with _differentiable_lstm(model):
            for batch in batches:
                gradients = torch.autograd.grad(loss_fn(model, batch), weights)
                products = {n: w.detach() * g for n, w, g in zip(names, weights, gradients, strict=True)}
                for group in groups:
                    gates = [_by_index(products[m.parameter], m, group.size) for m in readers[group.name]]
                    scores[group.name] += torch.stack(gates).sum(dim=0).abs() / len(batches)
    finally:
        model.train(was_training)
    return scores


def _differentiable_lstm(model):
    """cuDNN has no backward pass for an LSTM in eval mode; the plain kernels do."""
    has_lstm = any(isinstance(layer, torch.nn.LSTM) for layer in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if has_lstm else contextlib.nullcontext()


@torch.no_grad()
def mean_loss(model: AsrModel, batches: Sequence[Any], loss_fn: LossFunction) -> float:
    """Average loss in eval mode. Args: as in `taylor`."""
    was_training = model.training
    model.eval()
    try:
        return sum(float(loss_fn(model, batch)) for batch in batches) / len(batches)
    finally:
        model.train(was_training)


def block_importance(model: AsrModel, batches: Sequence[Any], loss_fn: LossFunction) -> list[float]:
    """Loss increase when a block is left out and its input passed on.

    Args:    as in `taylor`.
    Returns: one number per block, in units of the loss.
    """
    base = mean_loss(model, batches, loss_fn)
    return [mean_loss(drop_blocks(model, [i]), batches, loss_fn) - base for i in range(len(model.blocks))]
