"""Encoders that come from a model hub: what `steps.import_model` makes of a Hugging Face folder, in layers of our own.

One kind, `hub`, covers two families: Transformers over convolutions of the samples (wav2vec 2.0, HuBERT, WavLM, data2vec,
UniSpeech, MMS, OmniASR) and Conformers (wav2vec2-conformer, wav2vec2-bert, Parakeet). Every layer has sizes of its own, so
that heads and channels can be removed, and a padded batch gives what its utterances give alone. They hear samples
(FeatureConfig, kind `samples`), 10 ms of them a frame; whatever their feature extractor computed from these is part of the
front end.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import check
from steps.models.axes import AxisGroup, Member
from steps.models.conformer import fill_blocks
from steps.models.context import Context
from steps.models.dropout import Dropout
from steps.models.hub_attention import POSITIONS, HubAttention

ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu, "swish": functional.silu}
STYLES = ("post", "pre", "conformer")
# of a front end
MOST_CONVOLUTIONS = 32


@dataclass
class HubBlockConfig:
    """Inner sizes of one block. ff: feed-forward width; a Conformer has a second, ff2, and conv_channels.  adapter: width of
    the adapter that MMS has for a language; 0: none."""

    heads: int = 12
    ff: int = 3072
    ff2: int = 0
    conv_channels: int = 0
    adapter: int = 0

    def __post_init__(self):
        check(self.heads >= 1 and self.ff >= 1, "heads and ff must be at least 1")
        check(min(self.ff2, self.conv_channels, self.adapter) >= 0, "ff2, conv_channels and adapter must be 0 or more")


@dataclass
class WaveConfig:
    """Convolutions over the samples and one over the frames, which tells the order (Baevski et al. 2020, arXiv:2006.11477).

    channels, kernels, strides: of each convolution.  norm: `group`, each channel of the first over the utterance, or `layer`,
    all of them over channels.  normalise: bring the samples to mean 0 and variance 1 first.  variance_floor: added to their
    variance before, so that silence stays quiet.  project_norm: LayerNorm before the Linear to the model width.
    position_kernel, position_groups: of the convolution over the frames; 0: none.
    position_layers: 0: one, as in wav2vec 2.0; else so many with a norm each, as in data2vec.  norm_eps: of these norms.
    """

    channels: list[int] = field(default_factory=lambda: [512] * 7)
    kernels: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    strides: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    bias: bool = False
    norm: str = "group"
    normalise: bool = True
    variance_floor: float = 1e-7
    project_norm: bool = True
    activation: str = "gelu"
    position_kernel: int = 128
    position_groups: int = 16
    position_layers: int = 0

    def __post_init__(self):
        sizes = (self.channels, self.kernels, self.strides)
        check(len({len(x) for x in sizes}) == 1, "give a kernel and a stride for all channels")
        check(1 <= len(self.channels) <= MOST_CONVOLUTIONS, f"give 1 to {MOST_CONVOLUTIONS} channels")
        check(min(min(x) for x in sizes) >= 1, "channels, kernels and strides must be at least 1")
        check(self.norm in ("group", "layer"), "norm must be group or layer")
        check(self.activation in ACTIVATIONS, f"activation must be one of {', '.join(ACTIVATIONS)}")
        check(self.position_kernel >= 0, "position_kernel must be 0 or more")
        check(0 <= self.position_layers <= MOST_CONVOLUTIONS, f"position_layers must be 0 to {MOST_CONVOLUTIONS}")
        check(self.position_groups >= 1, "position_groups must be at least 1")
        check(0 < self.variance_floor < 1, "variance_floor must be above 0 and below 1")


@dataclass
class MelConfig:
    """A log-mel front end. kind: `seamless` (wav2vec2-bert), pairs of frames; `parakeet` and `whisper`, convolutions over them.

    bins: mel bins.  channels: of the convolutions; layers, scale: their number and a factor of what they give, of `parakeet`.
    """

    kind: str = "seamless"
    bins: int = 80
    channels: int = 0
    layers: int = 0
    scale: float = 1.0

    def __post_init__(self):
        check(self.kind in ("seamless", "parakeet", "whisper"), "kind must be seamless, parakeet or whisper")
        check(4 <= self.bins <= 1024, "bins must be 4 to 1024")
        check(self.kind == "seamless" or self.channels >= 1, "give channels")
        check(self.kind != "parakeet" or 1 <= self.layers <= 6, "give 1 to 6 layers")


@dataclass
class HubConfig:
    """Sizes of an encoder from a hub. Give `block` and `num_blocks` for equal blocks, or `blocks` one by one.

    style: `post`: a norm after attention and feed-forward; `pre`: before them; `conformer`.  d_model: width.  head_dim:
    channels per head.  attention_bias, ff_bias, conv_bias: whether these Linears have biases.  positions: how attention knows
    the order, a name in POSITIONS; left, right: its longest distances in frames.  kernel_size, causal, conv_norm: of a
    Conformer's convolution; `none` where its batch norm was folded.  dropout: 0..1, on what each module adds.
    activation: of the feed-forward and convolution modules.  end_norm: whether a LayerNorm follows the last block.
    wave or mel: the front end.  norm_eps: of the norms of blocks and front end.
    """

    style: str = "post"
    d_model: int = 768
    head_dim: int = 64
    attention_bias: bool = True
    ff_bias: bool = True
    conv_bias: bool = False
    activation: str = "gelu"
    positions: str = "none"
    left: int = 0
    right: int = 0
    kernel_size: int = 31
    causal: bool = False
    conv_norm: str = "layer"
    norm_eps: float = 1e-5
    dropout: float = 0.1
    end_norm: bool = False
    wave: WaveConfig | None = None
    mel: MelConfig | None = None
    num_blocks: int = 12
    block: HubBlockConfig | None = None
    blocks: list[HubBlockConfig] = field(default_factory=list)

    def __post_init__(self):
        check(self.style in STYLES, f"style must be one of {', '.join(STYLES)}")
        check(self.d_model >= 8 and self.head_dim >= 1, "d_model must be at least 8, head_dim at least 1")
        check(self.activation in ACTIVATIONS, f"activation must be one of {', '.join(ACTIVATIONS)}")
        check(self.positions in POSITIONS, f"positions must be one of {', '.join(POSITIONS)}")
        check(
            min(self.left, self.right) >= 0 and max(self.left, self.right) <= 4096, "left and right must be 0 to 4096"
        )
        check(self.kernel_size % 2 == 1, "kernel_size must be odd")
        check(self.conv_norm in ("layer", "none"), "conv_norm must be layer or none")
        check(self.norm_eps > 0, "norm_eps must be > 0")
        check(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        check((self.wave is None) != (self.mel is None), "give either wave or mel")
        rotary = self.positions in ("rotary", "gated")
        check(not rotary or self.d_model % self.head_dim == 0, "d_model must be a multiple of head_dim")
        fill_blocks(self, HubBlockConfig)


def hub_block(config: HubConfig, block: HubBlockConfig) -> nn.Module:
    """The block of the configured style."""
    return HubConformerBlock(config, block) if config.style == "conformer" else HubTransformerBlock(config, block)


class FeedForward(nn.Module):
    """Linear up, activation, Linear down."""

    def __init__(self, config: HubConfig, width: int):
        super().__init__()
        self.up = nn.Linear(config.d_model, width, config.ff_bias)
        self.down = nn.Linear(width, config.d_model, config.ff_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        return self.down(self.activation(self.up(x)))

    def axis_groups(self, key: str) -> list[AxisGroup]:
        """The width. Args: key: its name in HubBlockConfig."""
        members = [Member("up.weight", 0), Member("down.weight", 1)]
        members += [Member("up.bias", 0)] if self.up.bias is not None else []
        return [AxisGroup("width", "ff", _rows(self.up), (key,), tuple(members))]


def _rows(layer: nn.Module) -> int:
    """Outputs of a Linear, or of what it became."""
    return int(layer.out_features)


class HubTransformerBlock(nn.Module):
    """Attention and feed-forward, each with a residual and a norm before or after (Vaswani et al. 2017, arXiv:1706.03762)."""

    # every frame sees every other
    look_ahead = math.inf

    def __init__(self, config: HubConfig, block: HubBlockConfig):
        super().__init__()
        width = config.d_model
        self.before = config.style == "pre"
        self.attention = HubAttention(config, block.heads)
        self.attention_norm, self.ff_norm = (nn.LayerNorm(width, config.norm_eps) for _ in range(2))
        self.ff = FeedForward(config, block.ff)
        self.dropout = Dropout(config.dropout)
        # Rebuffi et al. 2017 (arXiv:1705.08045) as in MMS (arXiv:2305.13516)
        self.adapter = None
        if block.adapter:
            sizes = nn.Linear(width, block.adapter), nn.ReLU(), nn.Linear(block.adapter, width)
            self.adapter = nn.Sequential(nn.LayerNorm(width), *sizes)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        if self.before:
            x = x + self.dropout(self.attention(self.attention_norm(x), context))
            x = x + self.dropout(self.ff(self.ff_norm(x)))
        else:
            x = self.attention_norm(x + self.dropout(self.attention(x, context)))
            x = self.ff_norm(x + self.dropout(self.ff(x)))
        return x if self.adapter is None else x + self.adapter(x)

    def axis_groups(self) -> list[AxisGroup]:
        """Heads and feed-forward width."""
        parts = (("attention", self.attention.axis_groups()), ("ff", self.ff.axis_groups("ff")))
        return [group.prefixed(name, ()) for name, groups in parts for group in groups]


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


class HubConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (Gulati et al. 2020, arXiv:2005.08100)."""

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

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        x = x + 0.5 * self.dropout(self.ff1(self.ff1_norm(x)))
        x = x + self.dropout(self.attention(self.attention_norm(x), context))
        x = x + self.dropout(self.conv(self.conv_norm(x), context))
        x = x + 0.5 * self.dropout(self.ff2(self.ff2_norm(x)))
        return self.end_norm(x)

    def axis_groups(self) -> list[AxisGroup]:
        """Heads, both feed-forward widths, convolution channels."""
        parts: list[tuple[str, list[AxisGroup]]] = [("ff1", self.ff1.axis_groups("ff"))]
        parts += [("attention", self.attention.axis_groups()), ("conv", self.conv.axis_groups())]
        parts.append(("ff2", self.ff2.axis_groups("ff2")))
        return [group.prefixed(name, ()) for name, groups in parts for group in groups]


def hub_frontend(config: Any, feature_dim: int) -> nn.Module:
    """The front end that the configuration names. Args: feature_dim: samples a frame, 10 ms of them."""
    # here, because all need the configuration
    from steps.models.hub_mel import MelFrontend
    from steps.models.hub_wave import WaveFrontend
    from steps.models.hub_whisper import WhisperFrontend

    if config.wave:
        return WaveFrontend(config, feature_dim)
    return (WhisperFrontend if config.mel.kind == "whisper" else MelFrontend)(config, feature_dim)
