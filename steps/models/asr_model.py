"""The project's one model: an encoder and a head. Its `.spec`, the content of model.json, records how it was compressed."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from steps.models.axes import AxisGroup
from steps.models.encoder import Encoder
from steps.models.heads import HEADS
from steps.models.normalisation import GLOBAL


class AsrModel(Encoder):
    """An encoder plus the layers of a head.

    Args: kind, config, feature_dim, normalisation: see Encoder.   head: a name in HEADS.   vocab_size: V, blank included.
          head_sizes: of the head's class of sizes; default: its defaults.
    Attributes: head: the Head.   head_layers: names of its layers among the model's.
    """

    spec: dict[str, Any]

    def __init__(
        self, kind: str, config: Any, feature_dim: int, head: str, vocab_size: int, normalisation: str = GLOBAL,
        head_sizes: Any = None,
    ):  # fmt: skip
        super().__init__(kind, config, feature_dim, normalisation)
        self.head, self.vocab_size = HEADS[head], vocab_size
        self.head_sizes = self.head.sizes() if head_sizes is None else head_sizes
        layers = self.head.layers(config.d_model, vocab_size, self.head_sizes)
        if not getattr(config, "end_norm", True):
            # what the blocks give is normalised already
            layers["norm"] = nn.Identity()
        self.head_layers = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def classify(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head's output for a block's. Args: hidden (N, T', d_model).  Returns: for CTC, (N, T', V) log-probabilities; see
        the heads."""
        return self.head.classify(self, hidden)

    def forward(self, feats: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the whole model on raw features.

        Args:    feats (N, T, D) float, log-mel or MFCC as extracted; lengths (N,) int64 frames.
        Returns: the head's outputs for every encoder frame, and (N,) int64 encoder frames.
        """
        hidden, out_lengths = self.encode(feats, lengths)
        return self.classify(hidden[-1]), out_lengths

    def axis_groups(self) -> list[AxisGroup]:
        """Every prunable axis of encoder and head."""
        own = self.head.axis_groups(self)
        return super().axis_groups() + [
            replace(group, members=tuple(map(self._resolve, group.members))) for group in own
        ]
