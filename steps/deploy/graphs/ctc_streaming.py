"""The graph of a streaming CTC model: one file, each run of which takes one chunk of every stream, and what is kept between
chunks as inputs and outputs.

The layout is that of icefall's streaming Zipformer2 with CTC, which sherpa-onnx opens by OnlineRecognizer.from_zipformer2_ctc:
six states for each layer, their sizes told by the file's metadata, two more for the whole model. A block keeps what it has in
those of the right size, a sliding normalisation its sums in that of the front end; the others are passed through. A layer of
the metadata's lists is a block, so blocks may differ.
Source: sherpa-onnx/csrc/online-zipformer2-ctc-model.cc.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn
from torch.nn import functional

from steps.data.feature_config import FeatureConfig
from steps.deploy.graph import Value, float_twin, trace
from steps.deploy.graphs.chunks import chunk_shift, compare_chunks
from steps.deploy.graphs.ctc import FILE, finished
from steps.deploy.lean import with_halves
from steps.deploy.lean_chunks import LeanChunk, is_lean
from steps.deploy.runtimes import Recogniser
from steps.deploy.runtimes.streaming import ADVANCED, READ, StreamingNetwork, StreamingRecogniser
from steps.deploy.screen import STREAMING_TYPE
from steps.models.asr_model import AsrModel
from steps.models.conformer import ConformerBlock
from steps.models.context import State
from steps.models.dnn import DnnBlock
from steps.models.heads.ctc import BLANK_ID

REAL, INTEGER = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
# of a layer, in the order of the inputs
SLOTS = ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")
# ours -> theirs
CONFORMER, LSTM = {"key": "key", "value": "val1", "conv": "conv1"}, {"h": "conv1", "c": "conv2"}
SPLICES = {"before": "conv1"}
# of their front end; a stream has it whatever its number of bins
EMBED_SIZE = (128, 3, 19)
SHERPA = """\
Or: sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
    model="model.onnx", tokens="{tokens}", sample_rate={rate}, feature_dim={dim})
with the silence above put into the stream before input_finished().
"""
README = """\
- model.onnx: one chunk of {chunk_ms} ms a run, and what is kept between chunks. Inputs: x (N, {width}, {dim}) float32, the
  features of frames {shift}*i to {shift}*i + {last} in run i, and {count} states, zeros before the first run. Outputs: log_probs
  (N, {frames}, {vocab_size}) and the same states for the next run. Mean and variance normalisation are inside.
- The end of a sound: {width} more frames of digital silence, {silence_ms} ms, make sure that its last words come out, and that a
  sound shorter than a chunk is heard at all.
- tokens.txt: `symbol id` lines; the blank is {blank} = {blank_id}; U+2581 stands for a space.
- Greedy search: take the best symbol of each frame, merge runs of the same one, across chunks, too, drop the blanks, join the rest.
"""


@dataclass(frozen=True)
class Layer:
    """How the states of one block lie in those of one layer.

    dim, heads, head_dim, kernel, left: what the metadata says of it.   uses: our names -> theirs.
    """

    dim: int
    heads: int
    head_dim: int
    kernel: int
    left: int
    uses: dict[str, str]

    @classmethod
    def of(cls, block: nn.Module, left: int) -> "Layer":
        """The layer of a block. Args: left: encoder frames before a chunk that it sees."""
        if isinstance(block, ConformerBlock):
            attention, conv = block.attention, block.convolution.depthwise
            return cls(conv.out_channels, attention.heads, attention.head_dim, conv.kernel_size[0], left, CONFORMER)
        if isinstance(block, DnnBlock):
            return cls(block.norm.normalized_shape[0], 1, 1, 2 * block.splice, 1, SPLICES)
        return cls(block.forwards.lstm.hidden_size, 1, 1, 2, 1, LSTM)  # type: ignore[union-attr]

    def shapes(self) -> dict[str, tuple[str | int, ...]]:
        """Shapes of the six states, in their order."""
        kept: tuple[str | int, ...] = (self.left, "N", self.heads * self.head_dim)
        conv: tuple[str | int, ...] = ("N", self.dim, self.kernel // 2)
        nonlin: tuple[str | int, ...] = (1, "N", self.left, 3 * self.dim // 4)
        return dict(zip(SLOTS, (kept, nonlin, kept, kept, conv, conv), strict=True))


def to_slot(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A state of ours as theirs, and the other way round: keys and values have time first there, an LSTM's state a last axis."""
    if name in ("key", "value"):
        return tensor.transpose(0, 1)
    if name in LSTM:
        return tensor.unsqueeze(-1) if tensor.dim() == 2 else tensor.squeeze(-1)
    return tensor


class OneChunk(nn.Module):
    """A model whose forward pass takes a chunk and states, in the layout above, without those that are passed through."""

    def __init__(self, model: AsrModel, layers: list[Layer]):
        super().__init__()
        self.model, self.layers = model, layers
        # of what the normalisation keeps
        self.sizes = model.state_sizes()[0]
        self.lean = LeanChunk(model, time_first=True) if is_lean(model) else None

    def forward(self, feats: torch.Tensor, *kept: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Args: feats (N, width, D); kept: the state of the front end, if the normalisation has one, the states of each layer in its
              order, and (N,) int64 encoder frames so far.

        Returns: log-probabilities (N, chunk, V), and the states after the chunk.
        """
        *flat, seen = kept
        rest, slot = iter(flat), to_slot if self.lean is None else _same
        states: list[State] = [{name: from_embed(next(rest), size) for name, size in self.sizes.items()}]
        states += [{name: slot(name, next(rest)) for name in layer.uses} for layer in self.layers]
        if self.lean is None:
            hidden, after = self.model.encode_chunk(feats, states, seen)
            log_probs = self.model.classify(hidden)
        else:
            log_probs, after = self.lean(feats, states, seen)
        out = [to_embed(after[0][name]) for name in self.sizes]
        out += [
            slot(name, state[name]) for layer, state in zip(self.layers, after[1:], strict=True) for name in layer.uses
        ]
        return log_probs, *out, seen + self.model.chunk


def to_embed(sums: torch.Tensor) -> torch.Tensor:
    """What the normalisation keeps as the state of their front end, zeros behind it. Args: sums (N, C), C at most 7296."""
    return functional.pad(sums, (0, math.prod(EMBED_SIZE) - int(sums.shape[1]))).view(-1, *EMBED_SIZE)


def from_embed(embed: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The other way round. Args: size: (C,)."""
    return embed.flatten(1)[:, : size[0]]


def _same(_, tensor):
    return tensor


class StreamingCtcGraphs:
    """See HeadGraphs."""

    files: Sequence[str] = (FILE,)
    sherpa = SHERPA

    def build(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The one graph; see HeadGraphs."""
        model = with_halves(model)
        layers = [Layer.of(block, model.left) for block in model.blocks]
        states = {
            f"cached_{slot}_{number}": Value(f"cached_{slot}_{number}", REAL, shape)
            for number, layer in enumerate(layers)
            for slot, shape in layer.shapes().items()
        }
        live = [f"cached_{slot}_{number}" for number, layer in enumerate(layers) for slot in layer.uses.values()]
        seen, embed = Value("processed_lens", INTEGER, ("N",)), Value("embed_states", REAL, ("N", *EMBED_SIZE))
        x = Value("x", REAL, ("N", model.chunk_frames(), model.spec["feature_dim"]))
        log_probs = Value("log_probs", REAL, ("N", model.chunk, model.spec["vocab_size"]))
        own = [embed] if model.state_sizes()[0] else []
        inputs = [x, *own, *(states[name] for name in live), seen]
        example = tuple(_example(value) for value in inputs)
        outputs = [log_probs, *(Value(f"new_{v.name}", v.element, v.shape) for v in inputs[1:])]
        graph = trace(OneChunk(float_twin(model), layers), example, inputs, outputs)
        pass_through_(graph, [*states.values(), embed, seen])
        finished(graph, model)
        helper.set_model_props(
            graph, describe_layers(layers) | {READ: str(x.shape[1]), ADVANCED: str(chunk_shift(model))}
        )
        return {FILE: graph}

    def open(
        self, contents: dict[str, bytes], features: FeatureConfig, tokens: list[str], name: str
    ) -> StreamingRecogniser:
        """See HeadGraphs."""
        recogniser = StreamingRecogniser(StreamingNetwork(contents[FILE]), features, tokens, name)
        # refused here, not when a sound comes
        recogniser.stream()
        return recogniser

    def compare(self, model: AsrModel, recogniser: Recogniser) -> tuple[float, float]:
        """Compare log-probabilities; see HeadGraphs."""
        return compare_chunks(model, cast(StreamingRecogniser, recogniser).network)

    def describe(self, model: AsrModel, tokens: list[str]) -> str:
        """The inputs and outputs, the end of a sound, the blank."""
        width, shift = model.chunk_frames(), chunk_shift(model)
        return README.format(
            chunk_ms=10 * shift, width=width, shift=shift, last=width - 1, frames=model.chunk, silence_ms=10 * width,
            count=6 * len(model.blocks) + 2, dim=model.spec["feature_dim"], vocab_size=model.spec["vocab_size"],
            blank=tokens[BLANK_ID], blank_id=BLANK_ID,
        )  # fmt: skip


def _example(value):
    """Numbers to trace with, for two streams."""
    shape = [2 if size == "N" else size for size in value.shape]
    if value.element == INTEGER:
        return torch.arange(2)
    return torch.linspace(-1.0, 1.0, int(np.prod(shape))).view(shape)


def describe_layers(layers: list[Layer]) -> dict[str, str]:
    """What sherpa-onnx reads from the metadata to make the states of a new stream."""
    keys = {"encoder_dims": "dim", "query_head_dims": "head_dim", "value_head_dims": "head_dim", "num_heads": "heads"}
    keys |= {"cnn_module_kernels": "kernel", "left_context_len": "left"}
    lists = {key: ",".join(str(getattr(layer, name)) for layer in layers) for key, name in keys.items()}
    return {"model_type": STREAMING_TYPE, "num_encoder_layers": ",".join("1" for _ in layers)} | lists


def pass_through_(graph: onnx.ModelProto, states: list[Value]) -> None:
    """Give a graph all states of the layout, in its order; those it does not compute come out as they went in."""
    body = graph.graph
    ins, outs = ({value.name: value for value in values} for values in (body.input, body.output))
    first_in, first_out = body.input[0], body.output[0]
    for state in states:
        if state.name not in ins:
            new = f"new_{state.name}"
            body.node.append(helper.make_node("Identity", [state.name], [new]))
            ins[state.name] = helper.make_tensor_value_info(state.name, state.element, state.shape)
            outs[new] = helper.make_tensor_value_info(new, state.element, state.shape)
    names = [state.name for state in states]
    kept = [ins[name] for name in names], [outs[f"new_{name}"] for name in names]
    # copies, because clearing the lists empties what is in them
    for values, first, rest in ((body.input, first_in, kept[0]), (body.output, first_out, kept[1])):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in (first, *rest)]
        del values[:]
        values.extend(copies)
