"""Conformer encoder blocks (Gulati et al. 2020, arXiv:2005.08100), every inner width free to differ per block."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steps.core.config import LATER, check
from steps.models.attention import SelfAttention
from steps.models.axes import AxisGroup, Member
from steps.models.context import Context, State
from steps.models.dropout import Dropout
from steps.models.limits import MOST_BLOCKS
from steps.models.streaming import StreamingConfig


@dataclass
class ConformerBlockConfig:
    """Inner sizes of one block: attention heads, the two feed-forward widths, convolution channels."""

    heads: int = 4
    ff1: int = 576
    ff2: int = 576
    conv_channels: int = 144

    def __post_init__(self):
        for name in ("heads", "ff1", "ff2", "conv_channels"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1")


@dataclass
class ConformerConfig:
    """Sizes of a Conformer. Give `block` and `num_blocks` for equal blocks, or `blocks` one by one.

    d_model: width.  head_dim: channels per head, even.  kernel_size: width of the depthwise convolution, odd, in 40 ms frames.
    conv_norm: `layer` (exact under padding and several processes) or `batch` (folded at export).
    dropout: 0..1, on what each module adds to the residual; none inside modules, where it would cost a CPU the most time.
    subsampling_channels: output channels of the two front-end convolutions.
    streaming: runs in chunks, such as {chunk_ms: 320, left_chunks: 4}; null: on whole utterances.
    """

    d_model: int = 144
    head_dim: int = 32
    kernel_size: int = 15
    conv_norm: str = "layer"
    dropout: float = 0.1
    subsampling_channels: list[int] = field(default_factory=lambda: [32, 32])
    num_blocks: int = 4
    block: ConformerBlockConfig | None = None
    blocks: list[ConformerBlockConfig] = field(default_factory=list)
    streaming: StreamingConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        check(self.streaming is None or self.kernel_size > 1, "streaming needs a kernel_size of 3 or more")
        check(self.d_model >= 8, "d_model must be at least 8")
        check(self.head_dim >= 2 and self.head_dim % 2 == 0, "head_dim must be even")
        check(self.kernel_size % 2 == 1, "kernel_size must be odd")
        check(self.conv_norm in ("layer", "batch"), "conv_norm must be layer or batch")
        check(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        check(
            len(self.subsampling_channels) == 2 and min(self.subsampling_channels) >= 1, "give two subsampling_channels"
        )
        fill_blocks(self, ConformerBlockConfig)


def fill_blocks(config: Any, block_class: type) -> None:
    """Turn `block` and `num_blocks` into one entry of `blocks` per block, the form that model folders hold."""
    check(not (config.block and config.blocks), "give either block and num_blocks, or blocks, not both")
    if not config.blocks:
        check(1 <= config.num_blocks <= MOST_BLOCKS, f"num_blocks must be 1 to {MOST_BLOCKS}")
        config.blocks = [replace(config.block or block_class()) for _ in range(config.num_blocks)]
    config.block, config.num_blocks = None, len(config.blocks)


class FeedForward(nn.Module):
    """LayerNorm, Linear up, SiLU, Linear down."""

    def __init__(self, d_model: int, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, width)
        self.down = nn.Linear(width, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        return self.dropout(self.down(functional.silu(self.up(self.norm(x)))))

    def axis_groups(self, config_key: str, kind: str = "ff") -> list[AxisGroup]:
        """The inner channels."""
        members = (Member("up.weight", 0), Member("up.bias", 0), Member("down.weight", 1))
        return [AxisGroup("width", kind, self.up.out_features, (config_key,), members)]


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise + GLU, depthwise convolution, norm, SiLU, pointwise. Pointwise convolutions are Linear.

    In chunks the kernel meets zeros behind the end of each chunk and what is there before it, so that the same weights serve
    chunks of any length and whole utterances.
    Source of that: Li et al. 2023 (arXiv:2304.09325), dynamic chunk convolution.
    """

    def __init__(self, d_model: int, channels: int, kernel_size: int, conv_norm: str, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.pointwise1 = nn.Linear(d_model, 2 * channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.conv_norm = nn.BatchNorm1d(channels) if conv_norm == "batch" else nn.LayerNorm(channels)
        self.pointwise2 = nn.Linear(channels, d_model)
        self.dropout = Dropout(dropout)

    @property
    def look_ahead(self) -> int:
        """Encoder frames to the right of the symmetric kernel's centre."""
        return self.depthwise.kernel_size[0] // 2

    def train(self, mode: bool = True) -> "ConvolutionModule":
        """See nn.Module. A batch norm that is frozen keeps its statistics, too, and normalises by them."""
        super().train(mode)
        if isinstance(self.conv_norm, nn.BatchNorm1d):
            self.conv_norm.train(mode and self.conv_norm.weight.requires_grad)
        return self

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        gated = functional.glu(self.pointwise1(self.norm(x)), dim=-1)
        gated = self.cut(gated, context.is_pad.unsqueeze(-1))
        # (N, C, T)
        gated = gated.transpose(1, 2)
        state = context.state
        if context.windows is not None:
            state = {"conv": context.windows.before(gated.transpose(1, 2), self.look_ahead).transpose(1, 2)}
        if state is not None:
            mixed = self.convolve_after(gated, state, context.ahead)
        else:
            mixed = self.convolve_chunks(gated, context.chunk) if context.chunk else self.convolve(gated)
        if isinstance(self.conv_norm, nn.LayerNorm):
            mixed = self.conv_norm(mixed.transpose(1, 2))
        else:
            mixed = self.conv_norm(mixed).transpose(1, 2)
        return self.dropout(self.pointwise2(functional.silu(mixed)))

    def cut(self, gated: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
        """Zero the padding, as if the utterance ended there. In training by a product, in a sixth of the time on a CPU.

        Args: gated (N, T, C); is_pad (N, T, 1) bool.  Returns: the same shape as gated.
        """
        return gated * (~is_pad).to(gated.dtype) if self.training else gated.masked_fill(is_pad, 0.0)

    def convolve(self, gated: torch.Tensor) -> torch.Tensor:
        """The depthwise convolution. In training on a CPU it runs in two dimensions, the second of size 1, because those kernels read
        (N, T, C) in its own memory order: the same numbers in a fifth of the time.

        Args: gated (N, C, T).  Returns: the same shape.
        """
        conv = self.depthwise
        if gated.is_cuda:
            # cuDNN takes far longer where shapes change with each batch (conf/README.md)
            with torch.backends.cudnn.flags(enabled=False):
                return conv(gated)
        if not self.training:
            return conv(gated)
        # (N, C, T, 1), channels last
        image = gated.transpose(1, 2).unsqueeze(2).permute(0, 3, 1, 2)
        flat = functional.conv2d(
            image, conv.weight.unsqueeze(3), conv.bias, padding=(conv.padding[0], 0), groups=conv.groups
        )
        return flat.squeeze(3)

    def convolve_chunks(self, gated: torch.Tensor, chunk: int) -> torch.Tensor:
        """`convolve` without the frames behind each chunk. Args: gated (N, C, T); chunk: frames, above 0.  Returns: the same shape."""
        batch, channels, frames = gated.shape
        before = self.look_ahead
        # (N, C, chunks, before + chunk)
        windows = functional.pad(gated, (before, -frames % chunk)).unfold(2, before + chunk, chunk)
        mixed = self.convolve(windows.transpose(1, 2).flatten(0, 1))[..., before:]
        return mixed.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)[..., :frames]

    def convolve_after(self, gated: torch.Tensor, state: State, ahead: int) -> torch.Tensor:
        """`convolve` one chunk after others.

        Args:    gated (N, C, T).   state: conv (N, C, kernel // 2), replaced.   ahead: of the T the last, which come again.
        Returns: the same shape as gated.
        """
        joined, first = torch.cat([state["conv"], gated], dim=2), int(gated.shape[2]) - ahead
        state["conv"] = joined[..., first : first + self.look_ahead]
        return self.convolve(joined)[..., self.look_ahead :]

    def state_sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of what is kept between chunks, without the batch."""
        return {"conv": (self.depthwise.out_channels, self.look_ahead)}

    def axis_groups(self) -> list[AxisGroup]:
        """The inner channels. With `conv_norm: layer`, the small model's norm sees only the channels that stay."""
        names = ["depthwise.weight", "depthwise.bias", "conv_norm.weight", "conv_norm.bias"]
        if isinstance(self.conv_norm, nn.BatchNorm1d):
            names += ["conv_norm.running_mean", "conv_norm.running_var"]
        members = [Member("pointwise1.weight", 0, chunks=2), Member("pointwise1.bias", 0, chunks=2)]
        members += [Member(name, 0) for name in names] + [Member("pointwise2.weight", 1)]
        return [AxisGroup("channels", "conv", self.depthwise.out_channels, ("conv_channels",), tuple(members))]


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, LayerNorm; residual around each."""

    def __init__(self, config: ConformerConfig, block: ConformerBlockConfig):
        super().__init__()
        self.ff1 = FeedForward(config.d_model, block.ff1, config.dropout)
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, block.heads, config.head_dim)
        self.convolution = ConvolutionModule(
            config.d_model, block.conv_channels, config.kernel_size, config.conv_norm, config.dropout
        )
        self.ff2 = FeedForward(config.d_model, block.ff2, config.dropout)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    @property
    def look_ahead(self) -> float:
        """Encoder frames that an output frame sees beyond itself."""
        return max(self.attention.look_ahead, self.convolution.look_ahead)

    def state_sizes(self, left: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what is kept between chunks, without the batch. Args: left: frames before a chunk that it sees."""
        return self.attention.state_sizes(left) | self.convolution.state_sizes()

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        x = x + 0.5 * self.ff1(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), context))
        x = x + self.convolution(x, context)
        x = x + 0.5 * self.ff2(x)
        return self.norm(x)

    def axis_groups(self) -> list[AxisGroup]:
        """Heads, both feed-forward widths, convolution channels."""
        groups = [group.prefixed("ff1", ()) for group in self.ff1.axis_groups("ff1")]
        groups += [group.prefixed("attention", ()) for group in self.attention.axis_groups()]
        groups += [group.prefixed("convolution", ()) for group in self.convolution.axis_groups()]
        return groups + [group.prefixed("ff2", ()) for group in self.ff2.axis_groups("ff2")]
