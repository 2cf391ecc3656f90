"""Unstructured pruning: the smallest weights set to zero. Smaller only where the file format stores zeros cheaply."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from steps.core.config import check
from steps.models.asr_model import AsrModel
from steps.models.codes import check_float

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)


@dataclass
class SparsityConfig:
    """How sparse.

    fraction: share of the weights set to zero, 0..1.   scope: `local` (the same share of every matrix) or `global` (of
    all weights together).
    """

    fraction: float = 0.5
    scope: str = "global"

    def __post_init__(self):
        check(0 <= self.fraction < 1, "fraction must be in [0, 1)")
        check(self.scope in ("local", "global"), "scope must be local or global")


def prunable_weights(model: AsrModel) -> dict[str, nn.Parameter]:
    """Weight matrices and kernels of Linear, convolution and LSTM layers, by name; no biases, no norms, nothing that only trains."""
    weights: dict[str, nn.Parameter] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, LAYERS) and path.split(".")[0] not in model.head.training_only:
            weights |= {f"{path}.{name}": p for name, p in layer.named_parameters(recurse=False) if p.dim() >= 2}
    return weights


@torch.no_grad()
def sparsify_(model: AsrModel, fraction: float, scope: str = "global") -> dict[str, torch.Tensor]:
    """Set the weights of least magnitude to zero; those already zero go first.

    Args:    model: not quantized; its weights and `spec` are changed.
             fraction: share of zeros, 0..1, exact to one weight (per matrix when local).   scope: local or global.
    Returns: {parameter name: bool mask of its shape}, True where the weight stays; for `apply_masks_` after updates.
    Raises:  UserError when quantized.
    Source:  Han et al. 2015 (arXiv:1506.02626), without their per-layer sensitivities.
    """
    SparsityConfig(fraction, scope)
    check_float(model.spec, "the model", "prune")
    weights = prunable_weights(model)
    if scope == "local":
        masks = {name: _largest([weight], fraction)[0] for name, weight in weights.items()}
    else:
        masks = dict(zip(weights, _largest(list(weights.values()), fraction), strict=True))
    apply_masks_(model, masks)
    model.spec = model.spec | {"sparsity": measured_sparsity(model)}
    return masks


def _largest(tensors, fraction):
    """Masks that leave out the given share of entries, smallest magnitude first, ties in order of position."""
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in tensors])
    stays = torch.ones_like(magnitudes, dtype=torch.bool)
    stays[magnitudes.argsort(stable=True)[: round(fraction * magnitudes.numel())]] = False
    parts = stays.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def apply_masks_(model: AsrModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Zero again what an update has changed. Args: masks: as returned by `sparsify_`."""
    weights = prunable_weights(model)
    for name, stays in masks.items():
        weights[name].masked_fill_(~stays, 0.0)


def measured_sparsity(model: AsrModel) -> float:
    """Share of exact zeros among the prunable weights, rounded to 6 digits. Returns: 0..1."""
    weights = prunable_weights(model).values()
    total = sum(weight.numel() for weight in weights)
    return round(1.0 - sum(int(weight.count_nonzero()) for weight in weights) / total, 6)


def cubic_ramp(progress: float, final: float) -> float:
    """Fraction to prune at a point of gradual pruning: fast at first, level at the end.

    Args:    progress: share of the ramp completed, clipped to 0..1.   final: fraction at its end.
    Returns: 0..final.
    Source:  Zhu and Gupta 2017 (arXiv:1710.01878), equation 1.
    """
    return final * (1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3)
