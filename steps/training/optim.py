"""AdamW or Muon, with warm-up and cosine decay; the learning rate is a pure function of how much of the training is done."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from steps.core.config import check
from steps.models.asr_model import AsrModel
from steps.training.muon import Muon, OptimizerGroup


@dataclass
class OptimConfig:
    """optimizer: adamw; or muon, which needs fewer epochs (and about twice the peak_lr): it updates the matrices of front end
    and blocks, AdamW the rest.  peak_lr: highest learning rate.  warmup: share of the training that rises to it, 0..1.
    final_lr: learning rate at the end, as a share of peak_lr.  weight_decay: on matrices and kernels only.  clip_norm: largest
    norm of the whole gradient, nats per frame."""

    optimizer: str = "adamw"
    peak_lr: float = 2e-3
    warmup: float = 0.1
    final_lr: float = 0.01
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self):
        check(self.optimizer in ("adamw", "muon"), "optimizer must be adamw or muon")
        check(self.peak_lr > 0, "peak_lr must be > 0")
        check(0 <= self.warmup < 1, "warmup must be in [0, 1)")
        check(0 <= self.final_lr <= 1, "final_lr must be in [0, 1]")
        check(self.weight_decay >= 0, "weight_decay must be >= 0")
        check(self.clip_norm > 0, "clip_norm must be > 0")


def make_optimizer(
    model: AsrModel, extra: Iterable[nn.Parameter], config: OptimConfig
) -> torch.optim.Optimizer | OptimizerGroup:
    """The optimizer of the settings, over all parameters.

    Args: extra: parameters besides the model's, such as an objective's own.
    Source: AdamW: Loshchilov, Hutter 2017 (arXiv:1711.05101); biases and norms, which are vectors, do not decay.
    """
    hidden = {}
    if config.optimizer == "muon":
        of_head = tuple(f"{name}." for name in model.head_layers)
        hidden = {n: p for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith(of_head)}
    taken = {id(p) for p in hidden.values()}
    rest = [p for p in (*model.parameters(), *extra) if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.peak_lr, fused=True)
    if not hidden:
        return adamw
    chunks = row_chunks(model)
    apart = [chunks.get(name, 1) for name in hidden]
    return OptimizerGroup(Muon([*hidden.values()], config.peak_lr, config.weight_decay, chunks=apart), adamw)


def row_chunks(model: AsrModel) -> dict[str, int]:
    """Parameters that stack several matrices, according to their modules' prunable axes: queries, keys and values; the halves
    of a GLU; the gates of an LSTM. Returns: {name: number of matrices, above 1}.
    """
    members = [member for group in model.axis_groups() for member in group.members]
    return {member.parameter: member.chunks for member in members if member.axis == 0 and member.chunks > 1}


def clip_gradient_(parameters: Sequence[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale the whole gradient down to the norm `limit` if it is larger. Returns: its norm before, a scalar."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads, foreach=True)
    # reading the norm saves a CPU the scaling, but would make a GPU wait
    if norm.device.type != "cpu" or norm.item() > limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
    return norm


def learning_rate(progress: float, config: OptimConfig) -> float:
    """Learning rate at `progress` (share of the training done, 0..1): linear rise, then half a cosine down to final_lr."""
    if progress < config.warmup:
        return config.peak_lr * max(progress / config.warmup, 1e-3)
    fall = (progress - config.warmup) / (1 - config.warmup)
    return config.peak_lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0))))
