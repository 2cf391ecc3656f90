"""One chunk of a streaming Conformer as exported files compute it: the same function in half the operators.

A chunk has few frames, so what counts is how many operators there are. All frames of a batch are rows, as in
steps/deploy/lean.py. A chunk has no padding, so nothing is masked but what is kept of frames before the first. What is kept
stays in the order of the file's inputs: time first, or utterances first.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from steps.deploy.lean import half_of_feed_forward
from steps.models.asr_model import AsrModel
from steps.models.attention import MASKED, SelfAttention, rotary_angles
from steps.models.conformer import ConformerBlock, ConvolutionModule
from steps.models.context import State
from steps.models.subsampling import Conv2dSubsampling


@dataclass(frozen=True)
class Order:
    """Where utterances and frames are. time_first: (T, N, C) and rows (T N, C), not (N, T, C) and (N T, C).

    Sizes but that of the batch are numbers, not values of the graph: an exported one has constants instead of nodes.
    """

    time_first: bool

    @property
    def time(self) -> int:
        """The axis of frames."""
        return 0 if self.time_first else 1

    def split(self, rows: torch.Tensor, frames: int, *sizes: int) -> torch.Tensor:
        """Args: rows: of all frames, (rows, C).   sizes: what C is split into.  Returns: (T, N, *sizes) or (N, T, *sizes)."""
        return rows.view(frames, -1, *sizes) if self.time_first else rows.view(-1, frames, *sizes)

    def first(self, rows: torch.Tensor, frames: int, kept: int) -> torch.Tensor:
        """Args: rows: of all frames, (rows, C).   kept: how many frames of each utterance to keep.  Returns: their rows."""
        if kept == frames:
            return rows
        width = int(rows.shape[1])
        return self.split(rows, frames, width).narrow(self.time, 0, kept).reshape(-1, width)

    def utterances_first(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (T, N, C) or (N, T, C).  Returns: (N, T, C)."""
        return x.transpose(0, 1) if self.time_first else x

    def heads(self, x: torch.Tensor, frames: int, heads: int, head_dim: int) -> torch.Tensor:
        """Args: x: keys, queries or values of all heads.  Returns: (N, H, T, head_dim)."""
        split = self.split(x, frames, heads, head_dim)
        return split.permute(1, 2, 0, 3) if self.time_first else split.transpose(1, 2)

    def channels(self, rows: torch.Tensor, frames: int) -> torch.Tensor:
        """Args: rows.  Returns: (N, C, T)."""
        split = self.split(rows, frames, int(rows.shape[1]))
        return split.permute(1, 2, 0) if self.time_first else split.transpose(1, 2)

    def rows_of_channels(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, C, T).  Returns: rows."""
        return (x.permute(2, 0, 1) if self.time_first else x.transpose(1, 2)).reshape(-1, int(x.shape[1]))

    def rows_of_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, C, T, F): maps of the front end, or heads (N, H, T, head_dim).  Returns: rows (rows, C F)."""
        back = x.permute(2, 0, 1, 3) if self.time_first else x.transpose(1, 2)
        return back.reshape(-1, int(x.shape[1]) * int(x.shape[3]))


def is_lean(twin: AsrModel) -> bool:
    """Whether all parts of a streaming model are known here."""
    blocks = all(type(block) is ConformerBlock and type(block.attention) is SelfAttention for block in twin.blocks)
    return blocks and type(twin.frontend) is Conv2dSubsampling


class LeanChunk(nn.Module):
    """What the head says of a chunk. Args: twin: float, batch norms folded; see `is_lean`.   time_first: see Order."""

    def __init__(self, twin: AsrModel, time_first: bool):
        super().__init__()
        self.twin, self.order = twin, Order(time_first)

    def forward(self, feats: torch.Tensor, states: list[State], seen: torch.Tensor) -> tuple[torch.Tensor, list[State]]:
        """See Encoder.encode_chunk, but keys and values (left, N, H head_dim) if time is first.

        Returns: what `classify` gives, (N, chunk, ...); states for the next chunk.
        """
        twin, order = self.twin, self.order
        left, window, frontend = twin.left, twin.chunk + twin.ahead, twin.frontend
        maps, heard = twin.normalise_after(feats, None, states[0])
        maps = functional.relu(frontend.conv2(functional.relu(frontend.conv1(maps.unsqueeze(1)))))
        rows = frontend.linear(order.rows_of_maps(maps))
        # (N, 1, 1, left + window): added to the scores of the frames kept, then of the chunk's own
        is_empty = torch.arange(left, device=seen.device) < left - seen.unsqueeze(1)
        bias = functional.pad(is_empty.to(feats.dtype) * MASKED, (0, window))[:, None, None]
        after = [heard]
        for block, state in zip(twin.blocks, states[1:], strict=True):
            kept = dict(state)
            rows = rows + half_of_feed_forward(block.ff1, rows)
            rows = rows + self.attend(block.attention, block.attention_norm(rows), kept, bias)
            rows = rows + self.convolve(block.convolution, rows, kept)
            rows = block.norm(rows + half_of_feed_forward(block.ff2, rows))
            after.append(kept)
        outputs = twin.classify(order.first(rows, window, twin.chunk))
        return order.utterances_first(order.split(outputs, twin.chunk, int(outputs.shape[1]))), after

    def attend(self, attention: SelfAttention, rows: torch.Tensor, state: State, bias: torch.Tensor) -> torch.Tensor:
        """What the module gives. Args: rows, normed; state: replaced; bias: of the scores.  Returns: rows."""
        order, chunk, left = self.order, self.twin.chunk, self.twin.left
        window = chunk + self.twin.ahead
        heads, head_dim = attention.heads, attention.head_dim
        width = heads * head_dim
        query, key, value = order.split(attention.qkv(rows), window, 3 * width).split(width, dim=2)
        key, value = (torch.cat([state[name], new], dim=order.time) for name, new in (("key", key), ("value", value)))
        state["key"], state["value"] = (kept.narrow(order.time, chunk, left) for kept in (key, value))
        angles = rotary_angles(left + window, head_dim, rows.device)
        query = rotated(order.heads(query, window, heads, head_dim), angles[left:], head_dim**-0.5)
        key = rotated(order.heads(key, left + window, heads, head_dim), angles)
        weights = (query @ key.transpose(2, 3) + bias).softmax(dim=3)
        mixed = weights @ order.heads(value, left + window, heads, head_dim)
        return attention.out(order.rows_of_maps(mixed))

    def convolve(self, module: ConvolutionModule, rows: torch.Tensor, state: State) -> torch.Tensor:
        """What the module gives. Args: rows; state: replaced.  Returns: rows."""
        gated = functional.glu(module.pointwise1(module.norm(rows)), dim=1)
        mixed = module.convolve_after(
            self.order.channels(gated, self.twin.chunk + self.twin.ahead), state, self.twin.ahead
        )
        return module.pointwise2(functional.silu(module.conv_norm(self.order.rows_of_channels(mixed))))


def rotated(heads: torch.Tensor, angles: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """As `rotate` in steps/models/attention.py, times a factor, in five operators. Args: heads (N, H, T, head_dim)."""
    cos = torch.cat((angles, angles), dim=1).cos() * factor
    sin = torch.cat((-angles, angles), dim=1).sin() * factor
    left, right = heads.split(int(heads.shape[3]) // 2, dim=3)
    return heads * cos + torch.cat((right, left), dim=3) * sin
