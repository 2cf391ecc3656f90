"""Muon's momentum and decay, step by step."""

import pytest
import torch

from steps.models.build import build_model, new_spec
from steps.training.muon import Muon, descend_
from steps.training.optim import OptimConfig, make_optimizer


def orthogonalised(matrix):
    """The direction of a step along a matrix."""
    moved = torch.zeros_like(matrix)
    descend_([moved], [matrix], keep=1.0, rate=-1.0)
    return moved


def moves(gradients, momentum=0.95, lr=1e-2):
    """What each step adds to a matrix of zeros. Args: gradients: of each step."""
    matrix = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer, found = Muon([matrix], lr=lr, weight_decay=0.0, momentum=momentum), []
    for gradient in gradients:
        before, matrix.grad = matrix.detach().clone(), gradient.clone()
        optimizer.step()
        found.append(matrix.detach() - before)
    return found


def test_a_step_looks_one_step_ahead_of_the_running_mean():
    """Nesterov: the newest gradient counts once more, beside the mean that it is already in."""
    torch.manual_seed(0)
    gradients, mean = [torch.randn(24, 16) for _ in range(4)], 0.0
    for gradient, move in zip(gradients, moves(gradients, momentum=0.9), strict=True):
        mean = 0.9 * mean + 0.1 * gradient
        ahead = 0.1 * gradient + 0.9 * mean
        torch.testing.assert_close(move, -1e-2 * 0.2 * 24**0.5 * orthogonalised(ahead), rtol=1e-3, atol=1e-5)


def test_without_momentum_only_the_gradient_counts():
    torch.manual_seed(0)
    gradients = [torch.randn(8, 8) for _ in range(3)]
    for gradient, move in zip(gradients, moves(gradients, momentum=0.0), strict=True):
        torch.testing.assert_close(move, moves([gradient])[0], rtol=1e-3, atol=1e-6)


def test_every_shape_takes_its_own_step():
    """Matrices that share a shape are orthogonalised together; no one moves by another's gradient."""
    torch.manual_seed(0)
    shapes = [(6, 4), (6, 4), (4, 6), (5, 5)]
    matrices = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    gradients = [matrix.grad.clone() for matrix in matrices]
    Muon(matrices, lr=1e-2, weight_decay=0.0).step()
    for matrix, gradient in zip(matrices, gradients, strict=True):
        torch.testing.assert_close(matrix.detach(), moves([gradient])[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_matrices_without_a_gradient_shrink_by_rate_times_decay_and_vectors_stay(optimizer):
    torch.manual_seed(0)
    model = build_model(new_spec("dnn", {"d_model": 8, "num_blocks": 1, "block": {"units": 8}}, 10, 5, "test"))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    both = make_optimizer(model, [], OptimConfig(optimizer=optimizer, peak_lr=0.1, weight_decay=0.2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    both.step()
    for name, parameter in model.named_parameters():
        share = 1 - 0.1 * 0.2 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name])
