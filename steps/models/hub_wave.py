"""The front end of wav2vec 2.0 and its kin: convolutions over samples, then one over frames that tells their order."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import check
from steps.models.axes import AxisGroup, Member
from steps.models.context import padding_mask
from steps.models.hub import ACTIVATIONS

if TYPE_CHECKING:
    from steps.models.hub import HubConfig

# what OmniASRFeatureExtractor adds to the variance
OMNIASR_FLOOR = 1e-5


def masked_moments(
    x: torch.Tensor, is_pad: torch.Tensor, count: torch.Tensor, less: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance over real frames. Args: x (N, T, C); is_pad (N, T); count (N,) of real ones; less: taken off the count
    for the variance.  Returns: (N, 1, C) each."""
    hole = is_pad.unsqueeze(-1)
    number = count.clamp(min=1).view(-1, 1, 1).to(x.dtype)
    mean = x.masked_fill(hole, 0.0).sum(dim=1, keepdim=True) / number
    squares = (x - mean).square().masked_fill(hole, 0.0).sum(dim=1, keepdim=True)
    return mean, squares / (number - less).clamp(min=1)


class SampleConvolution(nn.Module):
    """One convolution over time. norm: `group`, each channel over the real frames of its utterance; `layer`, over channels."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool, norm: str | None, activation: str
    ):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, bias=bias)
        self.norm = None if norm is None else nn.LayerNorm(outputs)
        self.over_time, self.activation = norm == "group", ACTIVATIONS[activation]

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames without a sample of padding. Args: lengths (N,) int64.  Returns: (N,) int64."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        return (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: x (N, C, T); lengths (N,) int64, of the output.  Returns: (N, C', T')."""
        x = self.conv(x)
        if self.norm is None:
            return self.activation(x)
        rows = x.transpose(1, 2)
        if self.over_time:
            mean, variance = masked_moments(rows.float(), padding_mask(lengths, rows.shape[1]), lengths)
            rows = (rows - mean) * (variance + self.norm.eps).rsqrt() * self.norm.weight + self.norm.bias
        else:
            rows = self.norm(rows)
        return self.activation(rows.transpose(1, 2))


class WaveFrontend(nn.Module):
    """Samples to frames of the model width. Args: feature_dim: samples in a feature frame.

    Source: Baevski et al. 2020 (arXiv:2006.11477), section 2; with position_layers data2vec's (arXiv:2202.03555), with squeeze
    SEW's (arXiv:2109.06870), whose convolution over frames has that stride.
    """

    # group norm and normalisation hear the whole utterance
    look_ahead = math.inf

    def __init__(self, config: "HubConfig", feature_dim: int):
        super().__init__()
        wave, width = config.wave, config.d_model
        assert wave is not None, "hub_frontend chose it for this"
        self.feature_dim, self.normalised = feature_dim, wave.normalise
        self.variance_floor = wave.variance_floor
        step = math.prod(wave.strides)
        check(step % feature_dim == 0, f"strides multiply to {step} samples, not to a multiple of {feature_dim}, 10 ms")
        self.stride = step // feature_dim
        inputs = [1, *wave.channels[:-1]]
        norms = [wave.norm if wave.norm == "layer" or not i else None for i in range(len(inputs))]
        sizes = zip(inputs, wave.channels, wave.kernels, wave.strides, norms, strict=True)
        self.convs = nn.ModuleList(SampleConvolution(*row[:4], wave.bias, row[4], wave.activation) for row in sizes)
        self.project_norm = nn.LayerNorm(wave.channels[-1], config.norm_eps) if wave.project_norm else None
        self.linear = nn.Linear(wave.channels[-1], width)
        kernel, self.normed_positions, self.squeeze = wave.position_kernel, wave.position_layers > 0, config.squeeze
        count = (wave.position_layers or 1) if kernel else 0
        self.positions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, config.squeeze, kernel // 2, groups=wave.position_groups)
            for _ in range(count)
        )
        self.activation = ACTIVATIONS[wave.activation]
        self.end_norm = nn.LayerNorm(width, config.norm_eps) if config.style == "post" else None

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        lengths = lengths * self.feature_dim
        for layer in self.convs:
            lengths = layer.output_lengths(lengths)
        return lengths

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Args: features (N, T, D) samples, zeros on padding; lengths (N,) int64 feature frames.

        Returns: (N, T', d_model); with squeeze above 1 ceil(T' / squeeze) frames, of which the last may be a part.
        """
        # (N, S, 1)
        samples, lengths = features.flatten(1).unsqueeze(-1), lengths * self.feature_dim
        if self.normalised:
            is_pad = padding_mask(lengths, samples.shape[1])
            mean, variance = masked_moments(samples, is_pad, lengths)
            scale = (variance + self.variance_floor).rsqrt()
            samples = ((samples - mean) * scale).masked_fill(is_pad.unsqueeze(-1), 0.0)
        x = samples.transpose(1, 2)
        for layer in self.convs:
            lengths = layer.output_lengths(lengths)
            x = layer(x, lengths)
        x = x.transpose(1, 2)
        x = self.linear(x if self.project_norm is None else self.project_norm(x))
        if self.squeeze > 1:
            # what fills no frame of the blocks is padding of the last one
            x = functional.pad(x, (0, 0, 0, self.squeeze - 1))
        x = self.with_positions(x, padding_mask(lengths, x.shape[1]).unsqueeze(-1))
        return x if self.end_norm is None else self.end_norm(x)

    def with_positions(self, x: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Add what the convolutions over frames say. Args: x (N, T, d_model); hole (N, T, 1) bool, True on padding.

        Returns: (N, T // squeeze, d_model).
        """
        x = x.masked_fill(hole, 0.0)
        place = x
        if self.squeeze > 1:
            x = functional.avg_pool1d(x.transpose(1, 2), self.squeeze).transpose(1, 2)
        for conv in self.positions:
            # a kernel of even width gives one frame more
            place = conv(place.masked_fill(hole, 0.0).transpose(1, 2)).transpose(1, 2)[:, : x.shape[1]]
            if self.normed_positions:
                place = functional.layer_norm(place, (conv.out_channels,))
            place = self.activation(place)
        return x + place if len(self.positions) else x

    def axis_groups(self) -> list[AxisGroup]:
        """The channels of each convolution over samples."""
        groups = []
        for index, layer in enumerate(self.convs):
            names = [
                f"convs.{index}.conv.weight",
                *([f"convs.{index}.conv.bias"] if layer.conv.bias is not None else []),
            ]
            if layer.norm is not None:
                names += [f"convs.{index}.norm.weight", f"convs.{index}.norm.bias"]
            members = [Member(name, 0) for name in names]
            if index + 1 < len(self.convs):
                members.append(Member(f"convs.{index + 1}.conv.weight", 1))
            else:
                members.append(Member("linear.weight", 1))
                if self.project_norm is not None:
                    members += [Member("project_norm.weight", 0), Member("project_norm.bias", 0)]
            path = ("wave", "channels", index)
            size = layer.conv.out_channels
            groups.append(AxisGroup(f"convs.{index}", "subsampling", size, path, tuple(members)))
        return groups


def wave_sizes(kind: str, config: Any, extractor: Any) -> dict[str, Any]:
    """Settings of WaveConfig."""
    stacked, kernel = kind == "data2vec-audio", config.num_conv_pos_embeddings
    sizes: dict[str, Any] = {
        "channels": list(config.conv_dim),
        "kernels": list(config.conv_kernel),
        "strides": list(config.conv_stride),
    }
    sizes |= {"bias": config.conv_bias, "normalise": bool(extractor.do_normalize)}
    sizes |= {"position_kernel": kernel, "position_groups": config.num_conv_pos_embedding_groups}
    if kind == "omniasr_ctc":
        return sizes | {"norm": "layer", "activation": config.hidden_act, "variance_floor": OMNIASR_FLOOR}
    sizes |= {"norm": "layer" if stacked else config.feat_extract_norm, "activation": config.feat_extract_activation}
    sizes |= {"project_norm": bool(getattr(config, "feat_proj_layer_norm", True))}
    if stacked:
        sizes |= {"position_kernel": config.conv_pos_kernel_size, "position_layers": kernel}
    return sizes | ({"position_kernel": 0} if kind == "wav2vec2-conformer" else {})
