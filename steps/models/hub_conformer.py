"""The Conformer block of encoders from a model hub."""

import math

import torch
from torch import nn
from torch.nn import functional

from steps.models.axes import AxisGroup, Member
from steps.models.context import Context
from steps.models.dropout import Dropout
from steps.models.hub import ACTIVATIONS, FeedForward, HubBlockConfig, HubConfig
from steps.models.hub_attention import HubAttention


class HubConvolution(nn.Module):
    """Pointwise Linear with GLU, depthwise convolution, norm, activation, pointwise Linear; no frame of padding enters it.

    A batch norm, fixed in use, is folded into the depthwise convolution when a model is imported.
    """

    def __init__(self, config: HubConfig, channels: int):
        super().__init__()
        self.pointwise_in = nn.Linear(config.d_model, 2 * channels, config.conv_bias)
        self.depthwise = nn.Conv1d(channels, channels, config.kernel_size, groups=channels)
        self.norm = nn.LayerNorm(channels, config.norm_eps) if config.conv_norm == "layer" else None
        self.pointwise_out = nn.Linear(channels, config.d_model, config.conv_bias)
        self.activation = ACTIVATIONS[config.activation]
        before = config.kernel_size - 1 if config.causal else config.kernel_size // 2
        self.padding = (before, config.kernel_size - 1 - before)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        gated = functional.glu(self.pointwise_in(x), dim=-1).masked_fill(context.is_pad.unsqueeze(-1), 0.0)
        mixed = self.depthwise(functional.pad(gated.transpose(1, 2), self.padding)).transpose(1, 2)
        return self.pointwise_out(self.activation(mixed if self.norm is None else self.norm(mixed)))

    def axis_groups(self) -> list[AxisGroup]:
        """The channels."""
        members = [
            Member("pointwise_in.weight", 0, chunks=2),
            Member("depthwise.weight", 0),
            Member("depthwise.bias", 0),
        ]
        members += [Member("pointwise_in.bias", 0, chunks=2)] if self.pointwise_in.bias is not None else []
        members += [Member("norm.weight", 0), Member("norm.bias", 0)] if self.norm is not None else []
        members.append(Member("pointwise_out.weight", 1))
        size = self.depthwise.in_channels
        return [AxisGroup("channels", "conv", size, ("conv_channels",), tuple(members))]


def _weighted_sum(weights: list[float], *parts: torch.Tensor) -> torch.Tensor:
    """Sum of tensors of one shape, each with its weight; without a product where that is 1."""
    left, right = (part if weight == 1 else weight * part for weight, part in zip(weights, parts, strict=True))
    return left + right


class HubConformerBlock(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, norm (Gulati et al. 2020, arXiv:2005.08100)."""

    look_ahead = math.inf

    def __init__(self, config: HubConfig, block: HubBlockConfig):
        super().__init__()
        names = ("ff1_norm", "attention_norm", "conv_norm", "ff2_norm", "end_norm")
        for name in names:
            self.add_module(name, nn.LayerNorm(config.d_model, config.norm_eps))
        self.ff1, self.ff2 = FeedForward(config, block.ff), FeedForward(config, block.ff2)
        self.attention = HubAttention(config, block.heads)
        self.conv = HubConvolution(config, block.conv_channels)
        self.dropout = Dropout(config.dropout)
        self.ff_residual, self.conv_residual = config.ff_residual, config.conv_residual

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        x = _weighted_sum(self.ff_residual, x, self.dropout(self.ff1(self.ff1_norm(x))))
        x = x + self.dropout(self.attention(self.attention_norm(x), context))
        x = _weighted_sum(self.conv_residual, x, self.dropout(self.conv(self.conv_norm(x), context)))
        x = _weighted_sum(self.ff_residual, x, self.dropout(self.ff2(self.ff2_norm(x))))
        return self.end_norm(x)

    def axis_groups(self) -> list[AxisGroup]:
        """Heads, both feed-forward widths, convolution channels."""
        parts: list[tuple[str, list[AxisGroup]]] = [("ff1", self.ff1.axis_groups("ff"))]
        parts += [("attention", self.attention.axis_groups()), ("conv", self.conv.axis_groups())]
        parts.append(("ff2", self.ff2.axis_groups("ff2")))
        return [group.prefixed(name, ()) for name, groups in parts for group in groups]
