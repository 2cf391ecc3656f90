"""The encoder: normalisation, front end, blocks. Its kinds, in one table, differ in front end and blocks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from steps.models.axes import AxisGroup, Member
from steps.models.conformer import ConformerBlock, ConformerConfig
from steps.models.context import Context, State, Windows, padding_mask
from steps.models.dnn import DnnBlock, DnnConfig
from steps.models.dropout import Dropout
from steps.models.hub import HubConfig, hub_block, hub_frontend
from steps.models.hub_squeeze import hub_widening
from steps.models.low_rank import LowRankLinear
from steps.models.normalisation import GLOBAL, OF_UTTERANCES, SLIDING, VARIANCE, centre, is_sound, slide
from steps.models.rnn import RnnBlock, RnnConfig
from steps.models.streaming import FRAME_MS, ChunkConfig, frames_of
from steps.models.subsampling import Conv2dSubsampling, SpliceSubsampling


@dataclass(frozen=True)
class Kind:
    """An architecture.

    config: its config class, with `d_model`, `dropout`, `blocks` and, if it can stream, `streaming`.
    block: (config, block config) -> module whose forward takes (x, Context) and which has `look_ahead`, `axis_groups` and, if it
    can stream, `state_sizes`.   frontend: (config, feature_dim) -> module whose forward
    takes (features, lengths) and which has `output_lengths`, `look_ahead`, `stride` and `axis_groups`.
    widening: config -> None, or, where blocks run at a lower frame rate than the output, a module like Widening in
    steps/models/hub_squeeze.py.
    """

    config: type
    block: Callable[[Any, Any], nn.Module]
    frontend: Callable[[Any, int], nn.Module]
    widening: Callable[[Any], nn.Module | None] = lambda config: None


def _convolutions(config: Any, feature_dim: int) -> nn.Module:
    return Conv2dSubsampling(feature_dim, config.subsampling_channels, config.d_model)


def _splices(config: DnnConfig, feature_dim: int) -> nn.Module:
    return SpliceSubsampling(feature_dim, config.context, config.d_model)


KINDS = {
    "conformer": Kind(ConformerConfig, ConformerBlock, _convolutions),
    "rnn": Kind(RnnConfig, RnnBlock, _convolutions),
    "dnn": Kind(DnnConfig, DnnBlock, _splices),
    "hub": Kind(HubConfig, hub_block, hub_frontend, hub_widening),
}


# of the normalisation's state
HEARD = "heard"


class Encoder(nn.Module):
    """From features to hidden states.

    Args: kind: a name in KINDS.   config: the sizes, of that kind's config class.   feature_dim: D.
          normalisation: a name in NORMALISATIONS.
    Attributes: streaming: its chunks, see steps/models/streaming.py; None for a model of whole utterances.
          chunk: encoder frames of a chunk outside training; 0: whole utterances.
    """

    def __init__(self, kind: str, config: Any, feature_dim: int, normalisation: str = GLOBAL):
        super().__init__()
        self.kind, self.config, self.normalisation = kind, config, normalisation
        self.streaming: ChunkConfig | None = getattr(config, "streaming", None)
        self.chunk = self.streaming.chunk if self.streaming else 0
        if self.streaming and normalisation in OF_UTTERANCES:
            raise ValueError(f"streaming: normalisation {normalisation} hears the whole utterance; take {SLIDING}")
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        self.frontend = KINDS[kind].frontend(config, feature_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(KINDS[kind].block(config, block) for block in config.blocks)
        self.widening = KINDS[kind].widening(config)

    def set_cmvn_(self, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor) -> None:
        """Store the corpus mean and standard deviation of each feature bin. Args: mean, std: D floats, std > 0."""
        self.feature_mean.copy_(torch.as_tensor(mean))
        self.feature_scale.copy_(1.0 / torch.as_tensor(std))

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Encoder frames for feature frames. Args: lengths (N,) int64.  Returns: (N,) int64."""
        return self.frontend.output_lengths(lengths)

    def block_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames in the blocks for encoder frames: as many, but where blocks run at a lower rate. Args: lengths (N,) int64."""
        return lengths if self.widening is None else self.widening.block_lengths(lengths)

    def normalise(self, feats: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Subtract the mean, scale to unit variance, as `normalisation` says; zero the padding, which counts for nothing.

        Args:    feats (N, T, D); lengths (N,) int64, of which 0 is accepted.   Returns: (N, T, D).
        """
        return self.normalise_after(feats, lengths, None)[0]

    def normalise_after(
        self, feats: torch.Tensor, lengths: torch.Tensor | None, state: State | None
    ) -> tuple[torch.Tensor, State]:
        """`normalise` of one chunk after others.

        Args:    feats (N, T, D).   lengths (N,) int64; None: no padding.   state: what earlier chunks left behind; None: these are
                 whole utterances.
        Returns: (N, T, D); the state for the next chunk, empty but for `sliding`.
        """
        is_real = None if lengths is None else ~padding_mask(lengths, feats.shape[1]).unsqueeze(2)
        normed = (feats - self.feature_mean) * self.feature_scale
        after: State = {}
        if self.normalisation == SLIDING:
            normed, sums = slide(normed, is_sound(feats, is_real), state[HEARD] if state else None)
            # the next chunk begins before the last frames of this one
            after = {HEARD: sums[:, self.frontend.stride * self.chunk - 1]} if state else {}
        elif is_real is not None and self.normalisation in OF_UTTERANCES:
            normed = centre(normed, is_sound(feats, is_real), is_real, scaled=self.normalisation == VARIANCE)
        return normed if is_real is None else normed.masked_fill(~is_real, 0.0), after

    def encode(self, feats: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run front end and blocks.

        Args:    feats (N, T, D) float, log-mel or MFCC as extracted; lengths (N,) int64 feature frames.
        Returns: the front end's and each block's output, a list of (N, T', d_model), and (N,) int64 encoder frames. Where blocks
                 run at a lower rate, their frames are repeated, and the last entry is what the head hears.
        """
        chunk, left = self.draw_chunk(), self.left
        x = self.dropout(self.frontend(self.normalise(feats, lengths), lengths))
        lengths = self.output_lengths(lengths)
        if chunk and self.ahead and not self.training:
            return self.encode_windows(x, lengths)
        # what cannot look ahead needs no chunks to forbid it
        looks = chunk and any(block.look_ahead for block in self.blocks)
        context = Context.of(self.block_lengths(lengths), x.shape[1], chunk if looks else 0, left)
        hidden = [x]
        for block in self.blocks:
            x = block(x, context)
            hidden.append(x)
        if self.widening is not None:
            frames = self.output_lengths(torch.tensor(feats.shape[1]))
            hidden = self.widening(hidden, lengths, frames)
        return hidden, lengths

    def encode_windows(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run the blocks on chunks that hear ahead. Args: x (N, T', d_model): from the front end; lengths (N,).  Returns: as `encode`."""
        frames = x.shape[1]
        windows = Windows.of(frames, self.chunk, self.ahead)
        context = Context.of_windows(lengths, windows, self.left)
        hidden, x = [x], windows.split(x)
        for block in self.blocks:
            x = block(x, context)
            hidden.append(windows.join(x, frames))
        return hidden, lengths

    @property
    def left(self) -> int:
        """Encoder frames before a chunk that attention sees."""
        return self.streaming.left if self.streaming else 0

    @property
    def ahead(self) -> int:
        """Encoder frames behind a chunk that it hears, too, and that come out with the next one; 0 for whole utterances."""
        return self.streaming.ahead if self.streaming and self.chunk else 0

    def draw_chunk(self) -> int:
        """Frames of the chunks to run in: `chunk`; in training one of those that the settings list, by torch's random numbers,
        which the trainer seeds with seed, step and batch."""
        drawn = self.streaming.drawn if self.training and self.streaming else []
        return drawn[int(torch.randint(len(drawn), ()))] if drawn else self.chunk

    def use_chunk(self, chunk_ms: int) -> None:
        """Hear in chunks of another length from now on; 0: whole utterances. Raises: ValueError."""
        if not self.streaming:
            raise ValueError(f"a {self.kind} without `streaming` in its settings does not run in chunks")
        self.chunk = frames_of(chunk_ms)

    def describe_chunk(self) -> str:
        """How the model hears, such as `chunks of 320 ms`; empty for one of whole utterances."""
        if not self.streaming:
            return ""
        ahead = f", {self.ahead * FRAME_MS} ms ahead" if self.ahead else ""
        return f"chunks of {self.chunk * FRAME_MS} ms{ahead}" if self.chunk else "whole utterances"

    def chunk_frames(self) -> int:
        """Feature frames that one chunk is computed from; the next one starts stride * chunk frames later."""
        return self.frontend.stride * (self.chunk + self.ahead) + self.frontend.look_ahead

    def state_sizes(self) -> list[dict[str, tuple[int, ...]]]:
        """Sizes of what is kept between chunks by the normalisation, often nothing, and by each block, without the batch."""
        heard = {HEARD: (len(self.feature_mean) + 1,)} if self.normalisation == SLIDING else {}
        return [heard, *(block.state_sizes(self.left) for block in self.blocks)]

    def first_states(self, batch: int) -> list[State]:
        """What is known before the first chunk, as in `state_sizes`. Args: batch: N."""
        like = self.feature_mean
        return [{name: like.new_zeros(batch, *size) for name, size in own.items()} for own in self.state_sizes()]

    def encode_chunk(
        self, feats: torch.Tensor, states: list[State], seen: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[State]]:
        """Run front end and blocks on one chunk, after others: what `encode` gives for these frames.

        Args:    feats (N, chunk_frames, D).   states: from `first_states` or the chunk before.   seen (N,) int64: encoder frames
                 of earlier chunks.   lengths (N,) int64: feature frames that are no padding, less than all only at an
                 utterance's end; default: all.
        Returns: the last block's output (N, chunk, d_model); states for the next chunk.
        """
        if lengths is None:
            lengths = torch.full_like(seen, self.chunk_frames())
        normed, heard = self.normalise_after(feats, lengths, states[0])
        x = self.frontend(normed, lengths)
        ahead = self.ahead
        context = Context.of_chunk(self.output_lengths(lengths), self.chunk + ahead, seen, self.left, ahead)
        after = [heard]
        for block, state in zip(self.blocks, states[1:], strict=True):
            kept = dict(state)
            x = block(x, replace(context, state=kept))
            after.append(kept)
        return x[:, : self.chunk], after

    def look_ahead(self) -> float:
        """Feature frames that an encoder frame sees at most beyond the `stride` frames it stands for; inf: to the utterance's end."""
        if self.normalisation in OF_UTTERANCES:
            return math.inf
        blocks = sum(block.look_ahead for block in self.blocks)
        if self.chunk:
            blocks = min(blocks, self.chunk - 1 + self.ahead)
        return self.frontend.look_ahead + self.frontend.stride * blocks

    def whole_utterance_parts(self) -> list[str]:
        """Names of the parts that need the whole utterance and so cannot run while somebody is still speaking."""
        if self.chunk:
            return []
        blocks = [f"blocks.{index}" for index, block in enumerate(self.blocks) if math.isinf(block.look_ahead)]
        return ([f"normalisation: {self.normalisation}"] if self.normalisation in OF_UTTERANCES else []) + blocks

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
