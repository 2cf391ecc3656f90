"""Muon: steps along the orthogonalised momentum of each matrix. It suits CPUs, too: `torch.optim.Muon` multiplies in bfloat16,
which most of them emulate, and takes matrices one by one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# Polynomial a x + b x^3 + c x^5 on the singular values: steep at 0, and brings them all near 1 within a few rounds.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5
# matrices at once on a CPU, whose cache then holds those of a small model
AT_ONCE = 8


def descend_(matrices: Sequence[torch.Tensor], directions: Sequence[torch.Tensor], keep: float, rate: float) -> None:
    """matrices = keep * matrices - rate * orthogonalised directions, in place.

    Orthogonalised: roughly the nearest semi-orthogonal matrix; singular values come out between about 0.7 and 1.2, very small
    ones smaller; zeros stay zeros. The same in exact arithmetic for all shapes.

    Args:   matrices, directions: of one shape (M, N), float32.   keep, rate: no unit.
    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks (Newton-Schulz iteration and its
            coefficients). Here oblong matrices go through their smaller Gram matrix, which is less work.
    """
    rows, columns = directions[0].shape
    if 2 * max(rows, columns) <= 3 * min(rows, columns):
        torch._foreach_mul_(matrices, keep)
        torch._foreach_add_(matrices, iterate(torch.stack(directions)).unbind(), alpha=-rate)
        return
    wide = rows < columns
    grams = torch.stack([x @ x.mT if wide else x.mT @ x for x in directions])
    for matrix, direction, factor in zip(matrices, directions, polynomial(grams), strict=True):
        matrix.addmm_(*((factor, direction) if wide else (direction, factor)), beta=keep, alpha=-rate)


def iterate(x: torch.Tensor) -> torch.Tensor:
    """The iteration as published. Args: x (K, M, N).  Returns: (K, M, N)."""
    gram = x @ x.mT
    scale = to_norm_1(gram)
    x, gram = x * scale, gram * scale**2
    for index in range(ROUNDS):
        gram = x @ x.mT if index else gram
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


def polynomial(gram: torch.Tensor) -> torch.Tensor:
    """The factor that all rounds together apply to a matrix. Args: gram (K, M, M), Gram matrices.  Returns: (K, M, M)."""
    scale = to_norm_1(gram)
    gram, product = gram * scale**2, None
    for last in [False] * (ROUNDS - 1) + [True]:
        factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal(dim1=1, dim2=2).add_(A)
        product = factor if product is None else factor @ product
        gram = gram if last else factor @ (factor @ gram)
    return product * scale


def to_norm_1(gram: torch.Tensor) -> torch.Tensor:
    """Factors that scale matrices to Frobenius norm 1. Args: gram (K, M, M).  Returns: (K, 1, 1)."""
    return 1 / gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=1e-7)[:, None, None]


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's), orthogonalised, and scaled to the size of AdamW's steps, so that both share one rate.

    Args: matrices: 2-D parameters.   lr: as for AdamW.   weight_decay: decoupled, times lr.   momentum: 0..1.
          chunks: how many matrices each parameter stacks: 3 for a fused query-key-value projection. Each of them is
          orthogonalised separately and moves as far as its own shape says. Default: 1 for all.
    Source: Jordan et al. 2024, which also separates queries, keys and values; the scale 0.2 sqrt(max(M, N)) of Liu et al. 2025
            (arXiv:2502.16982), section 2.2.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        chunks: Sequence[int] | None = None,
    ):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.chunks = dict(zip(matrices, chunks or [1] * len(matrices), strict=True))

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            ahead = self._momentum(matrices, group["momentum"])
            keep = 1 - group["lr"] * group["weight_decay"]
            by_shape: dict[tuple[int, int], list[Any]] = {}
            for matrix, direction in zip(matrices, ahead, strict=True):
                count = self.chunks[matrix]
                pairs = by_shape.setdefault((len(matrix) // count, matrix.shape[1]), [])
                pairs += zip(*(x.unflatten(0, (count, -1)).unbind() for x in (matrix, direction)), strict=True)
            for shape, pairs in by_shape.items():
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                size = AT_ONCE if pairs[0][0].device.type == "cpu" else len(pairs)
                for start in range(0, len(pairs), size):
                    some, ahead_of_some = zip(*pairs[start : start + size], strict=True)
                    descend_(some, ahead_of_some, keep, rate)

    def _momentum(self, matrices, momentum):
        """Take the gradients into the running means. Returns: the means one step ahead."""
        grads = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["mean"] = torch.zeros_like(matrix)
        means = [self.state[matrix]["mean"] for matrix in matrices]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        return torch._foreach_lerp(grads, means, momentum)


class OptimizerGroup:
    """Several optimizers used as one."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all optimizers, to set rates in."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """One step of each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of all optimizers, in order."""
        return {"all": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises: ValueError, KeyError when it came from other optimizers."""
        for optimizer, own in zip(self.optimizers, state["all"], strict=True):
            optimizer.load_state_dict(own)
