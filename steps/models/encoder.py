"""The encoder: normalisation, front end, blocks. Its kinds, in one table, differ in front end and blocks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from steps.models.axes import AxisGroup, Member
from steps.models.conformer import ConformerBlock, ConformerConfig
from steps.models.context import Context
from steps.models.dnn import DnnBlock, DnnConfig
from steps.models.dropout import Dropout
from steps.models.low_rank import LowRankLinear
from steps.models.rnn import RnnBlock, RnnConfig
from steps.models.subsampling import Conv2dSubsampling, SpliceSubsampling


@dataclass(frozen=True)
class Kind:
    """An architecture.

    config: its config class, with `d_model`, `dropout` and `blocks`.   block: module class (config, block config), whose
    forward takes (x, Context) and which has `look_ahead` and `axis_groups`.   frontend: (config, feature_dim) -> module with
    `output_lengths`, `look_ahead`, `stride` and `axis_groups`.
    """

    config: type
    block: type[nn.Module]
    frontend: Callable[[Any, int], nn.Module]


def _convolutions(config: Any, feature_dim: int) -> nn.Module:
    return Conv2dSubsampling(feature_dim, config.subsampling_channels, config.d_model)


def _splices(config: DnnConfig, feature_dim: int) -> nn.Module:
    return SpliceSubsampling(feature_dim, config.context, config.d_model)


KINDS = {
    "conformer": Kind(ConformerConfig, ConformerBlock, _convolutions),
    "rnn": Kind(RnnConfig, RnnBlock, _convolutions),
    "dnn": Kind(DnnConfig, DnnBlock, _splices),
}


# What is taken from each feature bin and what it is divided by: mean and deviation of the corpus; the mean of the utterance
# and the deviation of the corpus; mean and deviation of the utterance.
GLOBAL = "global"
NORMALISATIONS = (GLOBAL, "utterance", "utterance_variance")
# Least deviation of a bin within an utterance, as a share of the corpus's: silence and single frames stay small numbers.
LEAST_DEVIATION = 0.1


class Encoder(nn.Module):
    """From features to hidden states.

    Args: kind: a name in KINDS.   config: the sizes, of that kind's config class.   feature_dim: D.
          normalisation: a name in NORMALISATIONS.
    """

    def __init__(self, kind: str, config: Any, feature_dim: int, normalisation: str = GLOBAL):
        super().__init__()
        self.kind, self.config, self.normalisation = kind, config, normalisation
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        self.frontend = KINDS[kind].frontend(config, feature_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(KINDS[kind].block(config, block) for block in config.blocks)

    def set_cmvn_(self, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor) -> None:
        """Store the corpus mean and standard deviation of each feature bin. Args: mean, std: D floats, std > 0."""
        self.feature_mean.copy_(torch.as_tensor(mean))
        self.feature_scale.copy_(1.0 / torch.as_tensor(std))

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Encoder frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return self.frontend.output_lengths(lengths)

    def normalise(self, feats: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Subtract the mean, scale to unit variance, as `normalisation` says; zero the padding, which counts for nothing.

        Args:    feats (N, T, D); lengths (N,) int64, of which 0 is accepted.   Returns: (N, T, D).
        """
        time = torch.arange(feats.shape[1], device=feats.device)
        is_pad = time.unsqueeze(0) >= lengths.unsqueeze(1)
        normed = (feats - self.feature_mean) * self.feature_scale
        normed = normed.masked_fill(is_pad.unsqueeze(-1), 0.0)
        if self.normalisation == GLOBAL:
            return normed
        frames = lengths.clamp(min=1).to(normed.dtype).view(-1, 1, 1)
        normed = (normed - normed.sum(dim=1, keepdim=True) / frames).masked_fill(is_pad.unsqueeze(-1), 0.0)
        if self.normalisation == "utterance":
            return normed
        variance = normed.square().sum(dim=1, keepdim=True) / frames
        return normed / variance.clamp(min=LEAST_DEVIATION**2).sqrt()

    def encode(self, feats: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run front end and blocks.

        Args:    feats (N, T, D) float, log-mel or MFCC as extracted; lengths (N,) int64 feature frames.
        Returns: the front end's and each block's output, a list of (N, T', d_model), and (N,) int64 encoder frames.
        """
        x = self.dropout(self.frontend(self.normalise(feats, lengths)))
        context = Context.of(self.output_lengths(lengths), x.shape[1])
        hidden = [x]
        for block in self.blocks:
            x = block(x, context)
            hidden.append(x)
        return hidden, context.lengths

    def look_ahead(self) -> float:
        """Feature frames that an encoder frame sees beyond the `stride` frames it stands for; inf: to the end of the utterance."""
        if self.normalisation != GLOBAL:
            return math.inf
        return self.frontend.look_ahead + self.frontend.stride * sum(block.look_ahead for block in self.blocks)

    def whole_utterance_parts(self) -> list[str]:
        """Names of the parts that need the whole utterance and so cannot run while somebody is still speaking."""
        blocks = [f"blocks.{index}" for index, block in enumerate(self.blocks) if math.isinf(block.look_ahead)]
        return ([] if self.normalisation == GLOBAL else [f"normalisation: {self.normalisation}"]) + blocks

    def axis_groups(self) -> list[AxisGroup]:
        """Every prunable axis of the encoder as it stands, low-rank layers included."""
        groups = [group.prefixed("frontend", ()) for group in self.frontend.axis_groups()]
        for index, block in enumerate(self.blocks):
            groups += [group.prefixed(f"blocks.{index}", ("blocks", index)) for group in block.axis_groups()]
        return [replace(group, members=tuple(map(self._resolve, group.members))) for group in groups]

    def _resolve(self, member: Member) -> Member:
        """Point a member at the right factor when its Linear has been made low-rank."""
        path, _, name = member.parameter.rpartition(".")
        if not isinstance(self.get_submodule(path), LowRankLinear):
            return member
        factor = "second" if member.axis == 0 else "first"
        return replace(member, parameter=f"{path}.{factor}.{name}")
