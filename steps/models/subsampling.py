"""Front ends that turn 10 ms feature frames into 40 ms encoder frames.

No output frame sees padding: frame counts are rounded down, so a padded batch and a single utterance give the same numbers.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from steps.models.axes import AxisGroup, Member

# feature frames that an encoder frame stands for
STRIDE = 4
# the middle one of the 7 feature frames that an output frame of the two convolutions sees
CENTRE = 3


class Conv2dSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 over time and frequency, then a Linear to the model width.

    Args: feature_dim: D.   channels: output channels of the two convolutions.   out_dim: model width.
    Source: the front end of ESPnet's and WeNet's Conformers, with narrow channels: wide ones cost most of a small model.
    """

    stride = STRIDE
    # feature frames seen beyond the stride: an output frame sees 7, from the first of the stride on
    look_ahead = 3
    # see LowRankLinear
    passes_on: ClassVar = {"conv1": "conv2", "conv2": "linear"}

    def __init__(self, feature_dim: int, channels: Sequence[int], out_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 3, stride=2)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, stride=2)
        self.bins = _halve(_halve(feature_dim))
        self.linear = nn.Linear(channels[1] * self.bins, out_dim)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for input frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return _halve(_halve(lengths))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Args: features (N, T, D); lengths: not needed.  Returns: (N, T', out_dim) with T' = ((T-1)//2 - 1)//2."""
        maps = functional.relu(self.conv1(features.unsqueeze(1)))
        maps = functional.relu(self.conv2(maps))
        return self.linear(maps.transpose(1, 2).flatten(2))

    def axis_groups(self) -> list[AxisGroup]:
        """The two channel axes."""
        sizes = (self.conv1.out_channels, self.conv2.out_channels)
        first = (Member("conv1.weight", 0), Member("conv1.bias", 0), Member("conv2.weight", 1))
        second = (Member("conv2.weight", 0), Member("conv2.bias", 0), Member("linear.weight", 1, unit=self.bins))
        return [
            AxisGroup("conv1", "subsampling", sizes[0], ("subsampling_channels", 0), first),
            AxisGroup("conv2", "subsampling", sizes[1], ("subsampling_channels", 1), second),
        ]


def _halve(size):
    """Outputs of a width-3, stride-2 convolution without padding; at least 0 for a tensor of lengths."""
    half = (size - 1) // 2
    return half.clamp(min=0) if isinstance(half, torch.Tensor) else half


class SpliceSubsampling(nn.Module):
    """Every 4th frame with `context` neighbours on each side, through one Linear; as many output frames as Conv2dSubsampling.

    Args: feature_dim: D.   context: frames on each side; those beyond either end count as mean frames (zeros).
          out_dim: model width.
    """

    stride = STRIDE

    def __init__(self, feature_dim: int, context: int, out_dim: int):
        super().__init__()
        # feature frames seen beyond the stride, whose last frame is the centre
        self.context = self.look_ahead = context
        self.linear = nn.Linear((2 * context + 1) * feature_dim, out_dim)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for input frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return _halve(_halve(lengths))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Args: features (N, T, D), zeros beyond each utterance's end; lengths: not needed.

        Returns: (N, T', out_dim), T' as in Conv2dSubsampling.
        """
        width = 2 * self.context + 1
        padded = functional.pad(features, (0, 0, self.context, self.context))
        frames = _halve(_halve(features.shape[1]))
        starts = torch.arange(frames, device=features.device).unsqueeze(1) * STRIDE + CENTRE
        # (N, T', width, D)
        windows = padded[:, starts + torch.arange(width, device=features.device)]
        return self.linear(windows.flatten(2))

    def axis_groups(self) -> list[AxisGroup]:
        """Nothing here can be removed."""
        return []
