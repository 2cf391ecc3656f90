"""Conformer blocks as exported files compute them: the same function in fewer operators, and such as onnxruntime is fast at.

All frames of a batch are rows, so that a Linear is one Gemm. Queries and keys are rotated together. Padding is masked by one
more channel, 1 in every query and MASKED in the keys of padding, and not by a pass over all pairs of frames, which took a
third of the time of 20 s. The depthwise convolution has two dimensions, the second of size 1: its kernels go through all
channels of a frame at once. A half that a block multiplies by is part of the layer before.
"""

import copy

import torch
from torch import nn
from torch.nn import functional

from steps.models.asr_model import AsrModel
from steps.models.attention import MASKED, SelfAttention, rotary_angles
from steps.models.codes import is_packed
from steps.models.conformer import ConformerBlock, ConvolutionModule, FeedForward
from steps.models.context import Context
from steps.models.low_rank import LowRankLinear
from steps.models.quant_layers import Quantized, float_like
from steps.models.ranges import ActivationRange


def with_halves(model: AsrModel) -> AsrModel:
    """A copy whose feed-forward modules give half of what they did; it is written into the last layers, and the modules are marked:
    `gives_half`. The model itself where it has none, or one of which that is not exact in the model's file: blocks that
    differ could not share a function (steps/deploy/repeats.py)."""
    if not any(isinstance(module, FeedForward) for module in model.modules()):
        return model
    short, twin = is_packed(model.spec["quantization"]), copy.deepcopy(model)
    for module in [module for module in twin.modules() if isinstance(module, FeedForward)]:
        last = module.down.second if isinstance(module.down, LowRankLinear) else module.down
        if not halve_(last, short):
            return model
        module.gives_half = True
    return twin


@torch.no_grad()
def halve_(layer: nn.Module, short: bool) -> bool:
    """Halve weights and bias of a Linear, or scales and bias of one in codes. Args: short: whether they must be float16 numbers.

    Returns: whether that was exact; otherwise the layer is as before.
    """
    tensors = [layer.weight_scales if isinstance(layer, Quantized) else layer.weight]
    if isinstance(layer, Quantized) and isinstance(layer.output, ActivationRange):
        tensors.append(layer.output.scale)
    tensors += [] if layer.bias is None else [layer.bias]
    # codes of grid half are twice what they stand for: their scales are halved once more
    smallest = 4 if isinstance(layer, Quantized) and layer.format.grid == "half" else 2
    if not all(divides(tensor, smallest if tensor is tensors[0] else 2, short) for tensor in tensors):
        return False
    for tensor in tensors:
        tensor.div_(2)
    return True


def divides(tensor: torch.Tensor, divisor: int, short: bool) -> bool:
    """Whether division is exact in float32, or in float16 where the numbers are of that type before. Args: short: they may be."""
    kind = torch.float16 if short and torch.equal(tensor.half().float(), tensor) else torch.float32
    return torch.equal((tensor / divisor).to(kind) * divisor, tensor.to(kind))


class Ranged(nn.Module):
    """A float layer between the roundings of one in codes. Args: layer: the one in codes."""

    def __init__(self, layer: Quantized):
        super().__init__()
        self.input, self.product, self.output = layer.input, float_like(layer), layer.output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args, Returns: as of the layer. A Linear gets rows, so that it becomes one Gemm with its bias."""
        if not isinstance(self.product, nn.Linear) or x.dim() == 2:
            return self.output(self.product(self.input(x)))
        rows = self.output(self.product(self.input(x.reshape(-1, x.shape[-1]))))
        return rows.view(*x.shape[:-1], rows.shape[-1])


def ranged_like(layer: Quantized) -> nn.Module:
    """The float layer with the weights that one in codes stands for, with its roundings if it has fixed scales."""
    return Ranged(layer) if isinstance(getattr(layer, "input", None), ActivationRange) else float_like(layer)


def lean_blocks_(twin: AsrModel) -> None:
    """Replace the blocks of a Conformer of whole utterances by one module that gives what the last of them does.

    Args: twin: float, batch norms folded.
    """
    if not twin.chunk and all(
        type(block) is ConformerBlock and type(block.attention) is SelfAttention for block in twin.blocks
    ):
        twin.blocks = nn.ModuleList([LeanBlocks(twin.blocks)])


class LeanBlocks(nn.Module):
    """All blocks of a Conformer. Args: blocks: ConformerBlocks, whose layers are used."""

    def __init__(self, blocks: nn.ModuleList):
        super().__init__()
        self.blocks = blocks

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        rows, is_pad = x.reshape(-1, x.shape[2]), context.is_pad.to(x.dtype)
        for block in self.blocks:
            rows = block_of_rows(block, rows, is_pad)
        return rows.view(*is_pad.shape, -1)


def block_of_rows(block: nn.Module, rows: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """What a ConformerBlock does to its input. Args: rows (N T, d_model); is_pad (N, T), 1 or 0.  Returns: the same shape as rows."""
    rows = rows + half_of_feed_forward(block.ff1, rows)
    rows = rows + attention_of_rows(block.attention, block.attention_norm(rows), is_pad)
    rows = rows + convolution_of_rows(block.convolution, rows, is_pad)
    rows = rows + half_of_feed_forward(block.ff2, rows)
    return block.norm(rows)


def half_of_feed_forward(module: FeedForward, rows: torch.Tensor) -> torch.Tensor:
    """Half of what the module gives."""
    return module(rows) if getattr(module, "gives_half", False) else 0.5 * module(rows)


def attention_of_rows(attention: SelfAttention, rows: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """What the module gives. Args: rows (N T, d_model), normed; is_pad (N, T), 1 or 0.  Returns: the same shape as rows."""
    heads, head_dim, (batch, frames) = attention.heads, attention.head_dim, is_pad.shape
    # (N, 3 H, T, head_dim)
    qkv = attention.qkv(rows).view(batch, frames, 3 * heads, head_dim).transpose(1, 2)
    both, value = qkv.split((2 * heads, heads), dim=1)
    angles = rotary_angles(frames, head_dim, rows.device)
    # (T, head_dim); a product of a query and a key has the factor twice
    factor = head_dim**-0.25
    cos = torch.cat((angles, angles), dim=1).cos() * factor
    sin = torch.cat((-angles, angles), dim=1).sin() * factor
    left, right = both.split(head_dim // 2, dim=3)
    query, key = (both * cos + torch.cat((right, left), dim=3) * sin).split(heads, dim=1)
    if attention.ranges is not None:
        mixed = attention.ranges.mix(query, key, value, is_pad)
        return attention.out(mixed.transpose(1, 2).reshape(-1, heads * head_dim))
    # (N, H, T, 1)
    masked = is_pad[:, None, :, None] * torch.full((1, heads, 1, 1), MASKED)
    query, key = torch.cat((query, torch.ones_like(masked)), dim=3), torch.cat((key, masked), dim=3)
    # (N, H, T, T)
    scores = query @ key.transpose(2, 3)
    mixed = scores.softmax(dim=3) @ value
    return attention.out(mixed.transpose(1, 2).reshape(-1, heads * head_dim))


def convolution_of_rows(module: ConvolutionModule, rows: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """What the module gives. Args: rows (N T, d_model); is_pad (N, T), 1 or 0.  Returns: the same shape as rows."""
    layer, (batch, frames) = module.depthwise, is_pad.shape
    before, depthwise, after = (
        (layer.input, layer.product, layer.output) if isinstance(layer, Ranged) else (_same, layer, _same)
    )
    gated = functional.glu(module.pointwise1(module.norm(rows)), dim=1) * (1.0 - is_pad).reshape(-1, 1)
    # (N, C, T, 1)
    image = gated.view(batch, frames, 1, depthwise.out_channels).permute(0, 3, 1, 2)
    kernels, padding = depthwise.weight.unsqueeze(3), (depthwise.padding[0], 0)
    mixed = functional.conv2d(before(image), kernels, depthwise.bias, padding=padding, groups=depthwise.groups)
    mixed = after(mixed).permute(0, 2, 3, 1).reshape(-1, depthwise.out_channels)
    return module.pointwise2(functional.silu(module.conv_norm(mixed)))


def _same(x):
    return x
