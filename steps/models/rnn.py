"""Recurrent encoder blocks like those of Deep Speech 2 (Amodei et al. 2015, arXiv:1512.02595): bidirectional LSTMs."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from steps.core.config import LATER, check
from steps.models.axes import AxisGroup, Member
from steps.models.conformer import fill_blocks
from steps.models.context import Context, State
from steps.models.dropout import Dropout
from steps.models.streaming import ChunkConfig


@dataclass
class RnnBlockConfig:
    """LSTM cells of one block: forward, and backward (0: a one-way block)."""

    cells_forward: int = 128
    cells_backward: int = 128

    def __post_init__(self):
        check(self.cells_forward >= 1, "cells_forward must be at least 1")
        check(self.cells_backward >= 0, "cells_backward must be 0 or more")


@dataclass
class RnnConfig:
    """Sizes of a recurrent encoder. Give `block` and `num_blocks` for equal blocks, or `blocks` one by one.

    d_model: width between blocks.  dropout: 0..1.  subsampling_channels: output channels of the two front-end convolutions.
    streaming: runs in chunks, such as {chunk_ms: 320}; needs cells_backward: 0; null: on whole utterances.
    """

    d_model: int = 192
    dropout: float = 0.1
    subsampling_channels: list[int] = field(default_factory=lambda: [32, 32])
    num_blocks: int = 3
    block: RnnBlockConfig | None = None
    blocks: list[RnnBlockConfig] = field(default_factory=list)
    streaming: ChunkConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        check(self.d_model >= 8, "d_model must be at least 8")
        check(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        check(
            len(self.subsampling_channels) == 2 and min(self.subsampling_channels) >= 1, "give two subsampling_channels"
        )
        fill_blocks(self, RnnBlockConfig)
        one_way = not any(block.cells_backward for block in self.blocks)
        check(self.streaming is None or one_way, "streaming needs cells_backward: 0 in every block")


def flip_by_length(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Reverse each utterance in time and leave its padding where it is. Args: x (N, T, C); lengths (N,) int64."""
    # (1, T)
    time = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    mirrored = lengths.unsqueeze(1) - 1 - time
    index = torch.where(mirrored >= 0, mirrored, time)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))


class ProjectedLstm(nn.Module):
    """A one-way LSTM and a Linear back to the model width."""

    def __init__(self, d_model: int, cells: int):
        super().__init__()
        self.lstm = nn.LSTM(d_model, cells, batch_first=True)
        self.proj = nn.Linear(cells, d_model)

    def forward(self, x: torch.Tensor, state: State | None = None) -> torch.Tensor:
        """Args: x (N, T, d_model); state: h and c (N, cells) after the chunk before, replaced.  Returns: the shape of x."""
        if state is None:
            return self.proj(self.lstm(x)[0])
        out, (hidden, cell) = self.lstm(x, (state["h"].unsqueeze(0), state["c"].unsqueeze(0)))
        state["h"], state["c"] = hidden.squeeze(0), cell.squeeze(0)
        return self.proj(out)

    def axis_groups(self, config_key: str) -> list[AxisGroup]:
        """The cells: rows of the four gates, columns of the recurrent matrix, inputs of the projection."""
        gates = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        members = [Member(f"lstm.{name}", 0, chunks=4) for name in gates]
        members += [Member("lstm.weight_hh_l0", 1), Member("proj.weight", 1)]
        return [AxisGroup("cells", "cells", self.lstm.hidden_size, (config_key,), tuple(members))]


class RnnBlock(nn.Module):
    """LayerNorm, a forward and a backward LSTM summed after projection, residual.

    The backward LSTM runs over the utterance flipped by its length, so that padding never enters it.
    """

    def __init__(self, config: RnnConfig, block: RnnBlockConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.forwards = ProjectedLstm(config.d_model, block.cells_forward)
        self.backwards = ProjectedLstm(config.d_model, block.cells_backward) if block.cells_backward else None
        self.dropout = Dropout(config.dropout)

    @property
    def look_ahead(self) -> float:
        """Encoder frames that an output frame sees beyond itself: all of them with a backward LSTM."""
        return 0 if self.backwards is None else math.inf

    def state_sizes(self, left: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what is kept between chunks, without the batch. Args: left: not needed."""
        return dict.fromkeys("hc", (self.forwards.lstm.hidden_size,))

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        normed = self.norm(x)
        out = self.forwards(normed, context.state)
        if self.backwards is not None:
            out = out + flip_by_length(self.backwards(flip_by_length(normed, context.lengths)), context.lengths)
        return x + self.dropout(out)

    def axis_groups(self) -> list[AxisGroup]:
        """The cells of each direction."""
        groups = [group.prefixed("forwards", ()) for group in self.forwards.axis_groups("cells_forward")]
        if self.backwards is not None:
            groups += [group.prefixed("backwards", ()) for group in self.backwards.axis_groups("cells_backward")]
        return groups
