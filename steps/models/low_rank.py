"""A Linear layer stored as the product of two thin ones."""

from typing import ClassVar

import torch
from torch import nn


class LowRankLinear(nn.Module):
    """x -> second(first(x)): a bottleneck of width `rank`; the bias is in the second.

    Source: Xue, Li, Gong, Interspeech 2013 (SVD restructuring of acoustic models).
    """

    # a layer -> the one that takes what it gives, or its ReLU
    passes_on: ClassVar = {"first": "second"}

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    @property
    def bias(self) -> torch.Tensor | None:
        """The second layer's, as a dense Linear has it."""
        return self.second.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (..., in_features).  Returns: (..., out_features)."""
        return self.second(self.first(x))
