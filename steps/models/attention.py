"""Multi-head self-attention with rotary positions."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steps.models.axes import AxisGroup, Member
from steps.models.context import Context, State
from steps.models.ranges import ActivationRange

# finite, so that half precision and an utterance that is all padding stay finite
MASKED = -1e4
# what is kept of the frames before a chunk
STATES = ("key", "value")


def rotary_angles(frames: int, head_dim: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Angles of the rotary embedding. Args: dtype: float32 or float64.  Returns: (T, head_dim / 2), radians."""
    rates = 10000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim)
    return torch.arange(frames, device=device, dtype=dtype).unsqueeze(1) * rates


def rotate(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of channels by their frame's angle. Args: heads (N, H, T, head_dim), angles (T, head_dim / 2)."""
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    # a number, not a value of the graph: an exported one has a node here instead of nine
    left, right = heads.split(int(heads.shape[-1]) // 2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class RotatedHeads(torch.autograd.Function):
    """Queries and keys rotated as in `rotate`, and values, from a fused projection, with few passes over memory in either direction.

    Args:    qkv (N, T, 3, H, head_dim); cos, sin (T, 1, head_dim / 2), in qkv's dtype.
    Returns: query, key, value, each (N, T, H, head_dim).
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        query, key, value = qkv.unbind(2)
        return _turned(query, cos, sin, torch.empty_like(query)), _turned(key, cos, sin, torch.empty_like(key)), value

    @staticmethod
    def backward(
        ctx: Any, grad_query: torch.Tensor, grad_key: torch.Tensor, grad_value: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        batch, frames, heads, head_dim = grad_query.shape
        grad = grad_query.new_empty(batch, frames, 3, heads, head_dim)
        _turned(grad_query, cos, -sin, grad[:, :, 0])
        _turned(grad_key, cos, -sin, grad[:, :, 1])
        grad[:, :, 2] = grad_value
        return grad, None, None


def _turned(heads, cos, sin, out):
    """Write the rotated heads into `out`. Returns: out."""
    (left, right), (out_left, out_right) = heads.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin)
    return out


class AttentionRanges(nn.Module):
    """Attention whose two products take 8-bit numbers with fixed scales.

    What is rounded is not the softmax but its exponentials, of which the largest of each frame is 1: that of a frame which hears
    hundreds of others alike would be nothing but zeros. Sums are divided afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.scores = ActivationRange(), ActivationRange(), ActivationRange()
        self.weights, self.value = ActivationRange(0.0, 1.0), ActivationRange()

    def mix(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
        """Mix the values by attention.

        Args:    query, key, value (N, H, T, head_dim), rotated, query and key with head_dim ** -0.25; is_pad (N, T), 1 or 0.
        Returns: (N, H, T, head_dim).
        """
        # (N, H, T, T)
        scores = self.scores(self.query(query) @ self.key(key.transpose(-2, -1)))
        scores = scores + (is_pad * MASKED)[:, None, None]
        weights = self.weights((scores - scores.amax(dim=-1, keepdim=True)).exp())
        return weights @ self.value(value) / weights.sum(dim=-1, keepdim=True)


class SelfAttention(nn.Module):
    """Attention over the utterance, or over a chunk and some frames before it; positions enter by rotating queries and keys.

    Args: d_model: width.   heads: number of heads.   head_dim: channels per head, even.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; Su et al. 2021 (arXiv:2104.09864), section 3.2. Rotary
            positions instead of the Conformer paper's relative ones: no second score matrix, and a head is removed by index.
    """

    # every frame sees every other, unless the context has chunks
    look_ahead = math.inf

    def __init__(self, d_model: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(d_model, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, d_model)
        self.ranges: AttentionRanges | None = None

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Args: x (N, T, d_model).  Returns: the same shape."""
        batch, frames, _ = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.heads, self.head_dim)
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32
        state = context.state
        if context.windows is not None and context.is_masked is not None:
            left = context.is_masked.shape[2] - frames
            state = {name: context.windows.before(qkv[:, :, n].flatten(2), left) for n, name in enumerate(STATES, 1)}
        if state is not None:
            mixed = self.attend_after(qkv, context, state, precision)
            return self.out(mixed.reshape(batch, frames, self.heads * self.head_dim))
        # the length is taken from the context, so that all blocks share one table in a traced graph
        angles = rotary_angles(context.is_pad.shape[1], self.head_dim, x.device, precision)
        attend = self.attend_in_steps if torch.onnx.is_in_onnx_export() else self.attend
        if self.ranges is not None:
            attend = self.attend_in_integers
        mixed = attend(qkv, angles, context)
        return self.out(mixed.reshape(batch, frames, self.heads * self.head_dim))

    def attend(self, qkv: torch.Tensor, angles: torch.Tensor, context: Context) -> torch.Tensor:
        """Mix the values by attention. Args: qkv (N, T, 3, H, head_dim); angles (T, head_dim / 2).  Returns: (N, T, H, head_dim)."""
        if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
            # the gradient of the fused kernel takes five times as long in bfloat16 on a CPU
            qkv = qkv.float()
        cos, sin = (table.unsqueeze(1).to(qkv.dtype) for table in (angles.cos(), angles.sin()))
        # each (N, H, T, head_dim)
        heads = [part.transpose(1, 2) for part in RotatedHeads.apply(qkv, cos, sin)]
        hidden = context.is_pad.unsqueeze(1) if context.is_masked is None else context.is_masked
        bias = qkv.new_zeros(hidden.shape).masked_fill(hidden, MASKED)[:, None]
        with torch.autocast("cpu", enabled=False):
            return functional.scaled_dot_product_attention(*heads, attn_mask=bias).transpose(1, 2)

    def attend_in_steps(self, qkv: torch.Tensor, angles: torch.Tensor, context: Context) -> torch.Tensor:
        """The same as `attend` for whole utterances, in steps that an exporter traces into the fewest nodes."""
        # each (N, H, T, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = rotate(query, angles) * self.head_dim**-0.5, rotate(key, angles)
        # (N, H, T, T)
        scores = (query @ key.transpose(-2, -1)).masked_fill(context.is_pad[:, None, None, :], MASKED)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2)

    def attend_in_integers(self, qkv: torch.Tensor, angles: torch.Tensor, context: Context) -> torch.Tensor:
        """As `attend` for whole utterances, with `ranges`."""
        assert self.ranges is not None
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        factor = self.head_dim**-0.25
        query, key = rotate(query, angles) * factor, rotate(key, angles) * factor
        return self.ranges.mix(query, key, value, context.is_pad.to(qkv.dtype)).transpose(1, 2)

    def attend_after(self, qkv: torch.Tensor, context: Context, state: State, precision: torch.dtype) -> torch.Tensor:
        """Mix the values of one chunk and of what is kept from earlier ones; keys are kept unrotated, so that positions count
        from the first frame kept and stay small for ever.

        Args:    qkv (N, T, 3, H, head_dim).   state: key and value (N, left, H * head_dim); replaced by the last `left` frames that
                 the next chunk has not again.
        Returns: (N, T, H, head_dim).
        """
        batch, frames, left = qkv.shape[0], int(qkv.shape[1]), int(state["key"].shape[1])
        query, *new = qkv.unbind(2)
        # (N, left + T, H * head_dim)
        key, value = (torch.cat([state[n], part.flatten(2)], dim=1) for n, part in zip(STATES, new, strict=True))
        first = frames - context.ahead
        state["key"], state["value"] = key[:, first : first + left], value[:, first : first + left]
        shape = (batch, left + frames, self.heads, self.head_dim)
        query, key, value = (part.transpose(1, 2) for part in (query, key.view(shape), value.view(shape)))
        angles = rotary_angles(left + frames, self.head_dim, qkv.device, precision)
        query, key = rotate(query, angles[left:]) * self.head_dim**-0.5, rotate(key, angles)
        assert context.is_masked is not None
        scores = (query @ key.transpose(-2, -1)).masked_fill(context.is_masked[:, None], MASKED)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2)

    def state_sizes(self, left: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what is kept between chunks, without the batch. Args: left: frames before a chunk that it sees."""
        return dict.fromkeys(STATES, (left, self.heads * self.head_dim))

    def axis_groups(self) -> list[AxisGroup]:
        """One group: the heads."""
        unit = self.head_dim
        members = (
            Member("qkv.weight", 0, chunks=3, unit=unit),
            Member("qkv.bias", 0, chunks=3, unit=unit),
            Member("out.weight", 1, unit=unit),
        )
        return [AxisGroup("heads", "heads", self.heads, ("heads",), members, multiple=1)]
