"""The one acoustic model: normalisation, front end, encoder blocks, CTC output. Its kinds differ in blocks and front end."""

from dataclasses import replace

import torch
from torch import nn

from steps.models.conformer import ConformerBlock, ConformerConfig
from steps.models.dnn import DnnBlock, DnnConfig
from steps.models.dropout import Dropout
from steps.models.low_rank import LowRankLinear
from steps.models.rnn import RnnBlock, RnnConfig
from steps.models.subsampling import Conv2dSubsampling, SpliceSubsampling

KINDS = {"conformer": (ConformerConfig, ConformerBlock), "rnn": (RnnConfig, RnnBlock), "dnn": (DnnConfig, DnnBlock)}


class CtcModel(nn.Module):
    """Acoustic model with a CTC output layer (Graves et al. 2006); unit 0 is the blank.

    Args: kind: conformer, rnn or dnn.   config: the sizes, of that kind's config class.   feature_dim: D.   vocab_size: V.
    """

    def __init__(self, kind, config, feature_dim, vocab_size):
        super().__init__()
        self.kind, self.config = kind, config
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        if kind == "dnn":
            self.frontend = SpliceSubsampling(feature_dim, config.context, config.d_model)
        else:
            self.frontend = Conv2dSubsampling(feature_dim, config.subsampling_channels, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(KINDS[kind][1](config, block) for block in config.blocks)
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, vocab_size)

    def set_cmvn_(self, mean, std):
        """Store the corpus mean and standard deviation of each feature bin. Args: mean, std: D floats, std > 0."""
        self.feature_mean.copy_(torch.as_tensor(mean))
        self.feature_scale.copy_(1.0 / torch.as_tensor(std))

    def output_lengths(self, lengths):
        """Encoder frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return self.frontend.output_lengths(lengths)

    def normalise(self, feats, lengths):
        """Subtract the mean, scale to unit variance, zero the padding. Args: feats (N, T, D); lengths (N,) int64."""
        time = torch.arange(feats.shape[1], device=feats.device)
        is_pad = time.unsqueeze(0) >= lengths.unsqueeze(1)
        normed = (feats - self.feature_mean) * self.feature_scale
        return normed.masked_fill(is_pad.unsqueeze(-1), 0.0)

    def encode(self, normed, lengths):
        """Run front end and blocks on normalised features.

        Args:    normed (N, T, D), zeros on padding; lengths (N,) int64 feature frames.
        Returns: the front end's and each block's output, a list of (N, T', d_model), and (N,) int64 encoder frames.
        """
        x = self.dropout(self.frontend(normed))
        out_lengths = self.output_lengths(lengths)
        time = torch.arange(x.shape[1], device=x.device)
        is_pad = time.unsqueeze(0) >= out_lengths.unsqueeze(1)  # (N, T')
        hidden = [x]
        for block in self.blocks:
            x = block(x, is_pad, out_lengths)
            hidden.append(x)
        return hidden, out_lengths

    def classify(self, hidden):
        """Log-probabilities from the last block's output. Args: hidden (N, T', d_model).  Returns: (N, T', V) float32."""
        return self.output(self.norm(hidden)).float().log_softmax(dim=-1)

    def forward(self, feats, lengths):
        """Recognise raw features.

        Args:    feats (N, T, D) float, log-mel or MFCC as extracted; lengths (N,) int64 frames.
        Returns: log_probs (N, T', V) float32, out_lengths (N,) int64.
        """
        hidden, out_lengths = self.encode(self.normalise(feats, lengths), lengths)
        return self.classify(hidden[-1]), out_lengths

    def axis_groups(self):
        """Every prunable axis of the model as it stands, low-rank layers included. Returns: list of AxisGroup."""
        groups = [group.prefixed("frontend", ()) for group in self.frontend.axis_groups()]
        for index, block in enumerate(self.blocks):
            groups += [group.prefixed(f"blocks.{index}", ("blocks", index)) for group in block.axis_groups()]
        return [replace(group, members=tuple(map(self._resolve, group.members))) for group in groups]

    def _resolve(self, member):
        """Point a member at the right factor when its Linear has been made low-rank."""
        path, _, name = member.parameter.rpartition(".")
        if not isinstance(self.get_submodule(path), LowRankLinear):
            return member
        factor = "second" if member.axis == 0 else "first"
        return replace(member, parameter=f"{path}.{factor}.{name}")
