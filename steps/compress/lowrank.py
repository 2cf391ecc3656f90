"""Low-rank factorisation: a Linear layer replaced by two thin ones, from its singular value decomposition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil

import torch
from torch import nn

from steps.compress.surgery import editable_spec, rebuild
from steps.core.cli import UserError
from steps.core.config import check
from steps.models.asr_model import AsrModel
from steps.models.low_rank import LowRankLinear

# ranks are multiples of this
MULTIPLE = 8


@dataclass
class LowRankConfig:
    """How thin. Give `keep` or `energy`; neither means keep: 0.5.

    keep: share of each replaced layer's weights that its two factors may have.
    energy: share of the squared singular values that must stay; each layer then gets its own rank.
    layers: shell patterns of the names of Linear layers; the output layer is best left out.
    """

    keep: float | None = None
    energy: float | None = None
    layers: list[str] = field(default_factory=lambda: ["frontend.linear", "blocks.*"])

    def __post_init__(self):
        check(self.keep is None or self.energy is None, "give either keep or energy")
        if self.keep is None and self.energy is None:
            self.keep = 0.5
        check(self.keep is None or 0 < self.keep < 1, "keep must be in (0, 1)")
        check(self.energy is None or 0 < self.energy < 1, "energy must be in (0, 1)")
        check(self.layers, "layers must name at least one pattern")


def plan_ranks(model: AsrModel, config: LowRankConfig) -> tuple[dict[str, int], list[str]]:
    """Choose ranks, multiples of 8, at least 8.

    Returns: {layer name: rank}, and the names of matching layers left out because two factors would not be smaller.
    Raises:  UserError when a pattern matches no dense Linear layer or no layer becomes smaller.
    """
    editable_spec(model)
    chosen = _matching(model, config.layers)
    ranks = {name: _rank(layer.weight.detach(), config) for name, layer in chosen.items()}
    left_out = [name for name, layer in chosen.items() if ranks[name] * sum(layer.weight.shape) >= layer.weight.numel()]
    for name in left_out:
        del ranks[name]
    if not ranks:
        raise UserError("layers: no layer becomes smaller as two factors; lower keep or energy")
    return ranks, left_out


def _matching(model, patterns):
    low_rank = [f"{name}." for name, layer in model.named_modules() if isinstance(layer, LowRankLinear)]
    dense = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    dense = {name: layer for name, layer in dense.items() if not name.startswith(tuple(low_rank))}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in dense):
            raise UserError(f"layers: {pattern!r} matches none of the dense Linear layers: {', '.join(dense)}")
    return {name: layer for name, layer in dense.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _rank(weight, config):
    if config.energy is None:
        return max(MULTIPLE, int(config.keep * weight.numel() / sum(weight.shape)) // MULTIPLE * MULTIPLE)
    squares = torch.linalg.svdvals(weight.double()).square()
    shares = squares.cumsum(0) / squares.sum()
    return MULTIPLE * ceil((int((shares < config.energy).sum()) + 1) / MULTIPLE)


def factorise(model: AsrModel, ranks: Mapping[str, int]) -> AsrModel:
    """Replace dense Linear layers by their best approximation of a given rank.

    Args:    model: not quantized; left unchanged.   ranks: {layer name: rank, 1..min(inputs, outputs)}.
    Returns: a new model with an updated `spec`. Each factor gets the square roots of the singular values.
    Raises:  UserError when quantized; ValueError for a layer that is not a dense Linear or an impossible rank.
    Source:  Eckart and Young 1936; Xue, Li, Gong, Interspeech 2013.
    """
    spec = editable_spec(model)
    state = dict(model.state_dict())
    for name, rank in ranks.items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name}: not a dense Linear layer")
        if not 1 <= rank <= min(layer.weight.shape):
            raise ValueError(f"{name}: rank {rank} is not within 1..{min(layer.weight.shape)}")
        first, second = factors(state.pop(f"{name}.weight"), rank)
        state |= {f"{name}.first.weight": first, f"{name}.second.weight": second}
        if layer.bias is not None:
            state[f"{name}.second.bias"] = state.pop(f"{name}.bias")
        spec["low_rank"][name] = rank
    return rebuild(model, spec, state)


def factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Balanced factors of a matrix, second @ first ~ weight.

    Args:    weight (O, I) float.   rank: 1..min(O, I).
    Returns: first (rank, I), second (O, rank).
    """
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    scale = values[:rank].sqrt()
    first, second = scale.unsqueeze(1) * right[:rank], left[:, :rank] * scale
    return first.to(weight.dtype), second.to(weight.dtype)
