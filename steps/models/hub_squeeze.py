"""Blocks at a fraction of the output's frame rate, as in SEW: the front end makes one frame of several (hub_wave.py), and behind
the last block a layer makes several of one again.

Source: Wu et al. 2021 (arXiv:2109.06870), squeezed context network. Whatever reads a model sees one rate, that of its output.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from steps.models.context import padding_mask
from steps.models.hub import ACTIVATIONS

if TYPE_CHECKING:
    from steps.models.hub import HubConfig


class Widening(nn.Module):
    """Linear and activation that make `factor` frames of one."""

    def __init__(self, width: int, factor: int, activation: str):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width, factor * width)
        self.activation = ACTIVATIONS[activation]

    def block_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames of the blocks that are whole. Args: lengths (N,) int64, of the output.  Returns: (N,) int64."""
        return torch.div(lengths, self.factor, rounding_mode="floor")

    def forward(
        self, hidden: list[torch.Tensor], lengths: torch.Tensor, frames: int | torch.Tensor
    ) -> list[torch.Tensor]:
        """States at the output's rate: the last widened, the others repeated; zeros for frames that fill none of the blocks'.

        Args:    hidden: of front end and blocks, each (N, ceil(T' / factor), d_model).   lengths (N,) int64, of the output.
                 frames: T'.
        Returns: as many, (N, T', d_model) each.
        """
        parts = [x.unsqueeze(2).expand(-1, -1, self.factor, -1) for x in hidden[:-1]]
        parts.append(self.activation(self.linear(hidden[-1])).unflatten(2, (self.factor, -1)))
        rows = [part.flatten(1, 2)[:, :frames] for part in parts]
        hole = padding_mask(self.factor * self.block_lengths(lengths), rows[-1].shape[1]).unsqueeze(-1)
        return [row.masked_fill(hole, 0.0) for row in rows]


def hub_widening(config: "HubConfig") -> Widening | None:
    """The layer behind the blocks of a configuration, None where they run at the output's rate."""
    if config.squeeze == 1:
        return None
    assert config.wave is not None, "HubConfig checked it"
    return Widening(config.d_model, config.squeeze, config.wave.activation)
