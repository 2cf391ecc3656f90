"""Multi-head self-attention with rotary positions."""

import math

import torch
from torch import nn

from steps.models.axes import AxisGroup, Member
from steps.models.context import Context

MASKED = -1e4  # finite, so that half precision and an utterance that is all padding stay finite


def rotary_angles(frames, head_dim, device):
    """Angles of the rotary embedding. Returns: (T, head_dim / 2) float32, radians."""
    rates = 10000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    return torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * rates


def rotate(heads, angles):
    """Rotate pairs of channels by their frame's angle. Args: heads (N, H, T, head_dim), angles (T, head_dim / 2)."""
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    left, right = heads.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class SelfAttention(nn.Module):
    """Full-context attention; positions enter by rotating queries and keys.

    Args: d_model: width.   heads: number of heads.   head_dim: channels per head, even.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; Su et al. 2021 (arXiv:2104.09864), section 3.2. Rotary
            positions instead of the Conformer paper's relative ones: no second score matrix, and a head is removed by index.
    """

    # every frame sees every other
    look_ahead = math.inf

    def __init__(self, d_model, heads, head_dim):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(d_model, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, d_model)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model); context: of the utterances.  Returns: (N, T, d_model)."""
        batch, frames, _ = x.shape
        shape = (batch, frames, 3, self.heads, self.head_dim)
        query, key, value = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind(0)  # each (N, H, T, head_dim)
        # the length as the context has it: one table for all blocks when the graph is traced
        angles = rotary_angles(context.is_pad.shape[1], self.head_dim, x.device)
        query, key = rotate(query, angles) * self.head_dim**-0.5, rotate(key, angles)
        scores = (query @ key.transpose(-2, -1)).masked_fill(context.is_pad[:, None, None, :], MASKED)  # (N, H, T, T)
        mixed = scores.softmax(dim=-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))

    def axis_groups(self):
        """One group: the heads."""
        unit = self.head_dim
        members = (
            Member("qkv.weight", 0, chunks=3, unit=unit),
            Member("qkv.bias", 0, chunks=3, unit=unit),
            Member("out.weight", 1, unit=unit),
        )
        return [AxisGroup("heads", "heads", self.heads, ("heads",), members, multiple=1)]
