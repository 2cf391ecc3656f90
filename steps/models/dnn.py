"""Feed-forward encoder over spliced frames: no attention, no recurrence, the cheapest model to run and to port."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import LATER, check
from steps.models.axes import AxisGroup, Member
from steps.models.conformer import fill_blocks
from steps.models.context import Context
from steps.models.dropout import Dropout
from steps.models.streaming import DrawnConfig
from steps.models.subsampling import CENTRE


@dataclass
class DnnBlockConfig:
    """units: hidden units of the block.  splice: distance in 40 ms frames of the neighbour joined on each side; 0: none."""

    units: int = 512
    splice: int = 1

    def __post_init__(self):
        check(self.units >= 1, "units must be at least 1")
        check(self.splice >= 0, "splice must be 0 or more")


@dataclass
class DnnConfig:
    """Sizes of a feed-forward encoder. Give `block` and `num_blocks` for equal blocks, or `blocks` one by one.

    d_model: width between blocks.  context: feature frames (10 ms) on each side of every 4th frame.  dropout: 0..1.
    streaming: runs in chunks, such as {chunk_ms: 320}; needs context: 3, with which a frame hears what the convolutions of other
    models hear, and a splice in every block; null: on whole utterances.
    """

    d_model: int = 192
    context: int = 7
    dropout: float = 0.1
    num_blocks: int = 4
    block: DnnBlockConfig | None = None
    blocks: list[DnnBlockConfig] = field(default_factory=list)
    streaming: DrawnConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        check(self.d_model >= 8, "d_model must be at least 8")
        check(self.context >= 0, "context must be 0 or more")
        check(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        fill_blocks(self, DnnBlockConfig)
        check(not self.streaming or self.context == CENTRE, f"streaming needs context: {CENTRE}")
        spliced = all(block.splice for block in self.blocks)
        check(not self.streaming or spliced, "streaming needs a splice of 1 or more in every block")


class DnnBlock(nn.Module):
    """LayerNorm, splice of frames t - s, t, t + s, Linear up, ReLU, Linear down, residual.

    In chunks, frames behind the end of a frame's chunk are zeros, as behind the utterance's.
    Source: the time-delay layer of Peddinti, Povey, Khudanpur, Interspeech 2015; the bottleneck and the residual are ours.
    """

    # see LowRankLinear
    passes_on: ClassVar = {"up": "down"}

    def __init__(self, config: DnnConfig, block: DnnBlockConfig):
        super().__init__()
        self.splice = block.splice
        self.norm = nn.LayerNorm(config.d_model)
        self.up = nn.Linear(config.d_model * (3 if block.splice else 1), block.units)
        self.down = nn.Linear(block.units, config.d_model)
        self.dropout = Dropout(config.dropout)

    @property
    def look_ahead(self) -> int:
        """Encoder frames that an output frame sees beyond itself."""
        return self.splice

    def state_sizes(self, left: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what is kept between chunks, without the batch. Args: left: not needed."""
        return {"before": (self.norm.normalized_shape[0], self.splice)}

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        joined = self.norm(x)
        if self.splice:
            joined = joined.masked_fill(context.is_pad.unsqueeze(-1), 0.0)
            padded = functional.pad(joined, (0, 0, self.splice, self.splice))
            frames = x.shape[1]
            if context.state is not None:
                padded = torch.cat([context.state["before"].transpose(1, 2), padded[:, self.splice :]], dim=1)
                context.state["before"] = padded[:, frames : frames + self.splice].transpose(1, 2)
            joined = torch.cat([padded[:, i * self.splice : i * self.splice + frames] for i in range(3)], dim=-1)
            if context.chunk and context.state is None:
                joined = self.cut(joined, context.chunk)
        return x + self.dropout(self.down(functional.relu(self.up(joined))))

    def cut(self, joined: torch.Tensor, chunk: int) -> torch.Tensor:
        """Zero what is behind each frame's chunk. Args: joined (N, T, 3 * d_model).  Returns: the same shape."""
        is_behind = torch.arange(joined.shape[1], device=joined.device) % chunk + self.splice >= chunk
        width = self.norm.normalized_shape[0]
        ahead = joined[..., 2 * width :].masked_fill(is_behind.unsqueeze(1), 0.0)
        return torch.cat([joined[..., : 2 * width], ahead], dim=-1)

    def axis_groups(self) -> list[AxisGroup]:
        """The hidden units."""
        members = (Member("up.weight", 0), Member("up.bias", 0), Member("down.weight", 1))
        return [AxisGroup("units", "units", self.up.out_features, ("units",), members)]
