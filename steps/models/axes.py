"""Prunable axes: which tensor axes shrink together when a head, channel, cell or unit is removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Member:
    """One tensor axis that belongs to a group.

    The axis is laid out as `chunks` x `size` x `unit`: an LSTM gate matrix has 4 chunks, a GLU projection 2, a fused
    query-key-value projection 3; `unit` is the number of neighbours one index stands for (head_dim for heads, frequency
    bins for a convolution channel that is flattened into a Linear).
    """

    parameter: str
    axis: int
    chunks: int = 1
    unit: int = 1

    def rows(self, kept: Sequence[int], size: int) -> torch.Tensor:
        """Positions along the axis that stay. Args: kept: sorted group indices.  size: the group's size.  Returns: (K,) int64."""
        indices = torch.as_tensor(kept, dtype=torch.int64)
        chunk = torch.arange(self.chunks).view(-1, 1, 1) * (size * self.unit)
        return (chunk + indices.view(1, -1, 1) * self.unit + torch.arange(self.unit).view(1, 1, -1)).flatten()


@dataclass(frozen=True)
class AxisGroup:
    """A set of `size` interchangeable parts, each of which can be removed from every member axis at once.

    name: unique, e.g. `blocks.0.ff1`.   kind: heads, ff, conv, subsampling, cells or units.
    config_path: where the size is in a section of model.json.   multiple: pruned sizes are multiples of it.
    section: `model`, or `head_sizes` for those of the head.
    """

    name: str
    kind: str
    size: int
    config_path: tuple[str | int, ...]
    members: tuple[Member, ...]
    multiple: int = 8
    section: str = "model"

    def prefixed(self, prefix: str, config_prefix: tuple[str | int, ...]) -> "AxisGroup":
        """The same group seen from the parent module."""
        members = tuple(replace(member, parameter=f"{prefix}.{member.parameter}") for member in self.members)
        return replace(
            self, name=f"{prefix}.{self.name}", config_path=(*config_prefix, *self.config_path), members=members
        )
