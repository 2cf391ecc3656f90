"""Muon: steps along the orthogonalised momentum of each matrix. Here for CPUs, too: `torch.optim.Muon` multiplies in bfloat16,
which most of them emulate, and takes matrices one by one."""

import torch

# Polynomial a x + b x^3 + c x^5 on the singular values: steep at 0, and brings them all near 1 within a few rounds.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5


def orthogonalise(matrices):
    """Nearest semi-orthogonal matrices, roughly: singular values come out between about 0.7 and 1.2, very small ones smaller.

    Args:    matrices (K, M, N) float32.
    Returns: (K, M, N) float32; zeros stay zeros.
    Source:  Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks (Newton-Schulz iteration and its
             coefficients); here on the smaller Gram matrix, with the same result in exact arithmetic and less work.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    gram, product = x @ x.mT, None
    for last in [False] * (ROUNDS - 1) + [True]:
        factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal(dim1=1, dim2=2).add_(A)
        product = factor if product is None else factor @ product
        gram = gram if last else factor @ (factor @ gram)
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's), orthogonalised, and scaled to the size of AdamW's steps, so that both share one rate.

    Args: matrices: list of 2-D parameters.   lr: as for AdamW.   weight_decay: decoupled, times lr.   momentum: 0..1.
    Source: Jordan et al. 2024; the scale 0.2 sqrt(max(M, N)) of Liu et al. 2025 (arXiv:2502.16982), section 2.2.
    """

    def __init__(self, matrices, lr, weight_decay, momentum=0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                directions = orthogonalise(torch.stack([self._momentum(m, group["momentum"]) for m in matrices]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)

    def _momentum(self, matrix, momentum):
        """Take the gradient into the running mean. Returns: the mean one step ahead."""
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        state["mean"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["mean"], momentum)


class Together:
    """Several optimizers with the face of one. Args: optimizers."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    @property
    def param_groups(self):
        """Those of all, to set rates in."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        """One update by each."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none=True):
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self):
        """Those of all, in order."""
        return {"all": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state):
        """Take up what `state_dict` gave. Raises: ValueError, KeyError when it is of other optimizers."""
        for optimizer, own in zip(self.optimizers, state["all"], strict=True):
            optimizer.load_state_dict(own)
