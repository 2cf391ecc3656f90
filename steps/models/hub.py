"""Encoders that come from a model hub: what `steps.import_model` makes of a Hugging Face folder, in layers of our own.

One kind, `hub`, covers two families: Transformers over convolutions of the samples (wav2vec 2.0, HuBERT, WavLM, data2vec,
UniSpeech, MMS, OmniASR, SEW) and Conformers (wav2vec2-conformer, wav2vec2-bert, Parakeet, LASR). Every layer has sizes of its
own, so that heads and channels can be removed, and a padded batch gives what its utterances give alone. They hear samples
(FeatureConfig, kind `samples`), 10 ms of them a frame; whatever their feature extractor computed from these is part of the
front end.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import LATER, check
from steps.models.axes import AxisGroup, Member
from steps.models.conformer import fill_blocks
from steps.models.context import Context
from steps.models.dropout import Dropout
from steps.models.hub_attention import POSITIONS, HubAttention

ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu, "swish": functional.silu}
STYLES = ("post", "pre", "conformer")
# of a front end
MOST_CONVOLUTIONS = 32
# frames of the front end that become one
MOST_SQUEEZE = 8


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
    """A log-mel front end. kind: `seamless` (wav2vec2-bert), pairs of frames; `parakeet`, `whisper`, `lasr`, convolutions over them.

    bins: mel bins.  channels: of the convolutions; layers, scale: their number and a factor of what they give, of `parakeet`.
    widths: of `lasr`, which has no channels: outputs of its first Linear and of its two convolutions.
    """

    kind: str = "seamless"
    bins: int = 80
    channels: int = 0
    layers: int = 0
    scale: float = 1.0
    widths: list[int] = field(default_factory=list, metadata=LATER)

    def __post_init__(self):
        kinds = ("seamless", "parakeet", "whisper", "lasr")
        check(self.kind in kinds, f"kind must be one of {', '.join(kinds)}")
        check(4 <= self.bins <= 1024, "bins must be 4 to 1024")
        check(self.kind in ("seamless", "lasr") or self.channels >= 1, "give channels")
        needed = 3 if self.kind == "lasr" else 0
        check(len(self.widths) == needed and min(self.widths, default=1) >= 1, f"give {needed} widths of at least 1")
        check(self.kind != "parakeet" or 1 <= self.layers <= 6, "give 1 to 6 layers")


@dataclass
class HubConfig:
    """Sizes of an encoder from a hub. Give `block` and `num_blocks` for equal blocks, or `blocks` one by one.

    style: `post`: a norm after attention and feed-forward; `pre`: before them; `conformer`.  d_model: width.  head_dim:
    channels per head.  attention_bias, ff_bias, conv_bias: whether these Linears have biases.  positions: how attention knows
    the order, a name in POSITIONS; left, right: its longest distances in frames; theta: base of rotary rates.
    kernel_size, causal, conv_norm: of a Conformer's convolution; `none` where its batch norm was folded.
    dropout: 0..1, on what each module adds.
    activation: of the feed-forward and convolution modules.  ff_residual, conv_residual: of a Conformer, what its input and what
    these modules give are multiplied by before they are added.  end_norm: whether a LayerNorm follows the last block.
    wave or mel: the front end.  norm_eps: of the norms of blocks and front end.
    squeeze: output frames that the blocks compute as one (steps/models/hub_squeeze.py), 1 to 8.
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
    theta: float = field(default=10000.0, metadata=LATER)
    ff_residual: list[float] = field(default_factory=lambda: [1.0, 0.5], metadata=LATER)
    conv_residual: list[float] = field(default_factory=lambda: [1.0, 1.0], metadata=LATER)
    wave: WaveConfig | None = None
    mel: MelConfig | None = None
    num_blocks: int = 12
    block: HubBlockConfig | None = None
    blocks: list[HubBlockConfig] = field(default_factory=list)
    squeeze: int = field(default=1, metadata=LATER)

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
        check(1 <= self.squeeze <= MOST_SQUEEZE, f"squeeze must be 1 to {MOST_SQUEEZE}")
        one = self.wave is not None and self.wave.position_layers == 0
        check(self.squeeze == 1 or one, "squeeze needs wave with position_layers 0")
        rotary = self.positions in ("rotary", "gated")
        check(not rotary or self.d_model % self.head_dim == 0, "d_model must be a multiple of head_dim")
        check(self.positions != "rotary_after" or self.head_dim % 2 == 0, "head_dim must be even")
        check(1 < self.theta <= 1e9, "theta must be above 1, 1e9 at most")
        two = len(self.ff_residual) == len(self.conv_residual) == 2
        check(two, "ff_residual and conv_residual must be two numbers each")
        fill_blocks(self, HubBlockConfig)


def hub_block(config: HubConfig, block: HubBlockConfig) -> nn.Module:
    """The block of the configured style."""
    # here, because it needs the configuration
    from steps.models.hub_conformer import HubConformerBlock

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


def hub_frontend(config: Any, feature_dim: int) -> nn.Module:
    """The front end that the configuration names. Args: feature_dim: samples a frame, 10 ms of them."""
    # here, because all need the configuration
    from steps.models.hub_lasr import LasrFrontend
    from steps.models.hub_mel import MelFrontend
    from steps.models.hub_wave import WaveFrontend
    from steps.models.hub_whisper import WhisperFrontend

    if config.wave:
        return WaveFrontend(config, feature_dim)
    return {"whisper": WhisperFrontend, "lasr": LasrFrontend}.get(config.mel.kind, MelFrontend)(config, feature_dim)
