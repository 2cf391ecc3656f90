"""Self-attention of encoders from a model hub, with the ways in which they know the order of frames."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from steps.models.attention import MASKED
from steps.models.axes import AxisGroup, Member
from steps.models.context import Context

if TYPE_CHECKING:
    from steps.models.hub import HubConfig

# none: not at all, the front end does; gated: a bias for each distance, scaled by what a frame holds (WavLM, Chen et al.
# 2021, arXiv:2110.13900, section 3.1); distance: a vector for each distance (Shaw et al. 2018, arXiv:1803.02155);
# sinusoid: Transformer-XL's (Dai et al. 2019, arXiv:1901.02860, section 3.3); rotary: frames rotated before the projections
# (Su et al. 2021, arXiv:2104.09864, of what is projected and not of what comes out); rotary_after: as there, queries and keys
POSITIONS = ("none", "gated", "distance", "sinusoid", "rotary", "rotary_after")


class HubAttention(nn.Module):
    """Full-context attention. Args: heads: number of heads, of config.head_dim channels each.

    Layout: `query`, `key`, `value` and `out` are Linears of their own. With positions `gated`, `table` is (heads, distances),
    and `head_of` says which original channels decide about a head's scale, so that heads can be removed.
    """

    def __init__(self, config: "HubConfig", heads: int):
        super().__init__()
        self.heads, self.head_dim, self.positions = heads, config.head_dim, config.positions
        self.left, self.right, self.theta = config.left, config.right, config.theta
        width, inner, bias = config.d_model, heads * config.head_dim, config.attention_bias
        self.query, self.key, self.value = (nn.Linear(width, inner, bias) for _ in range(3))
        self.out = nn.Linear(inner, width, bias)
        distances = config.left + config.right + 1
        if self.positions == "gated":
            self.table = nn.Parameter(torch.zeros(heads, distances))
            self.gate = nn.Linear(config.head_dim, 8)
            self.gate_scale = nn.Parameter(torch.ones(heads))
            self.register_buffer("head_of", torch.arange(heads))
        elif self.positions == "distance":
            self.table = nn.Parameter(torch.zeros(distances, config.head_dim))
        elif self.positions == "sinusoid":
            self.position = nn.Linear(width, inner, bias=False)
            self.content_bias, self.position_bias = (
                nn.Parameter(torch.zeros(heads, config.head_dim)) for _ in range(2)
            )

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        seen = self.rotated(x) if self.positions == "rotary" else x
        # (N, H, T, head_dim) each
        query, key, value = self.query(seen), self.key(seen), self.split(self.value(x))
        if self.positions == "rotary_after":
            query, key = self.rotated(query), self.rotated(key)
        query, key = self.split(query), self.split(key)
        bias = query.new_zeros(context.is_pad.shape).masked_fill(context.is_pad, MASKED)[:, None, None, :]
        if self.positions == "gated":
            bias = bias + self.gated_bias(x)
        elif self.positions == "distance":
            bias = bias + self.distance_scores(query) * self.head_dim**-0.5
        elif self.positions == "sinusoid":
            bias = bias + self.sinusoid_scores(query, x.shape[2]) * self.head_dim**-0.5
            query = query + self.content_bias.unsqueeze(1)
        if torch.onnx.is_in_onnx_export():
            scores = query @ key.transpose(-2, -1) * self.head_dim**-0.5 + bias
            mixed = scores.softmax(dim=-1) @ value
        else:
            query, key, bias = (tensor.to(value.dtype) for tensor in (query, key, bias))
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, T, H * head_dim).  Returns: (N, H, T, head_dim)."""
        return x.view(x.shape[0], -1, self.heads, self.head_dim).transpose(1, 2)

    def distance_index(self, frames: int, device: torch.device) -> torch.Tensor:
        """Place of each pair's distance in the table. Returns: (T, T) int64, key minus query, limited to left and right."""
        time = torch.arange(frames, device=device)
        return (time.unsqueeze(0) - time.unsqueeze(1)).clamp(-self.left, self.right) + self.left

    def gated_bias(self, x: torch.Tensor) -> torch.Tensor:
        """Bias for each distance, scaled by gates of the query's frame. Args: x (N, T, d_model).  Returns: (N, H, T, T)."""
        batch, frames, _ = x.shape
        # (N, T, H, head_dim), the channels at a head's original place
        own = x.view(batch, frames, -1, self.head_dim).index_select(2, self.head_of)
        # (N, T, H, 2): gates of the reset and update kind
        reset, update = self.gate(own).view(batch, frames, self.heads, 2, 4).sum(dim=-1).sigmoid().unbind(dim=-1)
        scale = reset * (update * self.gate_scale - 1.0) + 2.0
        # (H, T, T)
        bias = self.table[:, self.distance_index(frames, x.device)]
        return scale.transpose(1, 2).unsqueeze(-1) * bias

    def distance_scores(self, query: torch.Tensor) -> torch.Tensor:
        """Scores of each query with the vector of a distance. Args: query (N, H, T, head_dim).  Returns: (N, H, T, T)."""
        scores = query @ self.table.to(query.dtype).transpose(0, 1)
        frames = query.shape[2]
        index = self.distance_index(frames, query.device)
        return scores.gather(3, index.expand(query.shape[0], self.heads, frames, frames))

    def sinusoid_scores(self, query: torch.Tensor, width: int) -> torch.Tensor:
        """Scores of each query with the projected sinusoids of a distance. Args: query (N, H, T, head_dim); width: d_model.

        Returns: (N, H, T, T).
        """
        batch, _, frames, _ = query.shape
        # from frames - 1 down to 1 - frames, query minus key
        distance = torch.arange(frames - 1, -frames, -1, device=query.device, dtype=torch.float32)
        rates = 10000.0 ** (-torch.arange(0, width, 2, device=query.device, dtype=torch.float32) / width)
        angles = distance.unsqueeze(1) * rates
        # (2T - 1, d_model), sine and cosine in turns
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        # (1, H, 2T - 1, head_dim)
        keys = self.split(self.position(waves).unsqueeze(0))
        scores = (query + self.position_bias.unsqueeze(1)) @ keys.transpose(-2, -1)
        # row t is shifted so that column s holds distance t - s
        shifted = functional.pad(scores, (1, 0)).view(batch, self.heads, -1, frames)[:, :, 1:]
        return shifted.reshape(batch, self.heads, frames, -1)[..., :frames]

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        """Frames with the channels of each head rotated by their time. Args: x (N, T, heads * head_dim).  Returns: the same shape."""
        half = torch.arange(0, self.head_dim, 2, device=x.device, dtype=torch.float32)
        angles = torch.arange(x.shape[1], device=x.device, dtype=torch.float32).unsqueeze(1)
        angles = (angles * self.theta ** (-half / self.head_dim)).unsqueeze(1)
        left, right = x.view(x.shape[0], x.shape[1], -1, self.head_dim).chunk(2, dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).flatten(2)

    def axis_groups(self) -> list[AxisGroup]:
        """One group: the heads."""
        unit, biased = self.head_dim, self.query.bias is not None
        members = [Member(f"{name}.weight", 0, unit=unit) for name in ("query", "key", "value")]
        members += [Member(f"{name}.bias", 0, unit=unit) for name in ("query", "key", "value") if biased]
        members.append(Member("out.weight", 1, unit=unit))
        if self.positions == "gated":
            members += [Member("table", 0), Member("gate_scale", 0), Member("head_of", 0)]
        elif self.positions == "sinusoid":
            members += [Member("position.weight", 0, unit=unit), Member("content_bias", 0), Member("position_bias", 0)]
        return [AxisGroup("heads", "heads", self.heads, ("heads",), tuple(members), multiple=1)]
