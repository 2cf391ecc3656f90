"""The graphs of a streaming transducer: an encoder that takes one chunk of every stream at a run; predictor and joiner of any other.

The layout is that of icefall's LSTM transducers, which sherpa-onnx opens by OnlineRecognizer.from_transducer: an encoder with
two states, whose sizes the file's metadata tells. Here the first holds all that the model keeps, flattened, and the second how
many encoder frames there have been, as far as that matters. Both are zeros before the first chunk.
Source: sherpa-onnx/csrc/online-lstm-transducer-model.cc.
"""

import math
from collections.abc import Sequence
from typing import cast

import onnx
import torch
from onnx import helper
from torch import nn

from steps.data.feature_config import FeatureConfig
from steps.deploy.graph import Value, trace
from steps.deploy.graphs.chunks import chunk_shift, compare_chunks
from steps.deploy.graphs.transducer import TransducerGraphs
from steps.deploy.lean_chunks import LeanChunk, is_lean
from steps.deploy.runtimes import Recogniser
from steps.deploy.runtimes.streaming import ADVANCED, READ
from steps.deploy.runtimes.streaming_transducer import StreamingTransducer, StreamingTransducerRecogniser
from steps.deploy.runtimes.transducer import ENCODER, probe
from steps.deploy.screen import STREAMING_ENCODER_TYPE
from steps.models.asr_model import AsrModel
from steps.models.context import State

README = """\
- encoder.onnx: one chunk of {chunk_ms} ms a run, and what is kept between chunks. Inputs: x (N, {width}, {dim}) float32, the
  features of frames {shift}*i to {shift}*i + {last} in run i; h (1, N, {kept}) and c (1, N, 1) float32, zeros before the first run.
  Outputs: encoder_out (N, {frames}, {joiner}), and new_h and new_c for the next run. Mean and variance normalisation are inside.
- The end of a sound: {width} more frames of digital silence, {silence_ms} ms, make sure that its last words come out, and that a
  sound shorter than a chunk is heard at all.
"""
SHERPA = """\
Or: sherpa_onnx.OnlineRecognizer.from_transducer(
    encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx",
    tokens="{tokens}", sample_rate={rate}, feature_dim={dim})
with the silence above put into the stream before input_finished().
"""


class EncoderChunk(nn.Module):
    """A model whose forward pass takes a chunk and states, in the layout above."""

    def __init__(self, model: AsrModel):
        super().__init__()
        self.model, self.sizes = model, model.state_sizes()
        self.lean = LeanChunk(model, time_first=False) if is_lean(model) else None

    def forward(self, feats: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Args: feats (N, width, D); h (1, N, kept); c (1, N, 1).  Returns: (N, chunk, J), and the states after the chunk."""
        flat = [math.prod(size) for own in self.sizes for size in own.values()]
        parts = iter(h[0].split(flat, dim=1))
        states: list[State] = [
            {name: next(parts).reshape(-1, *size) for name, size in own.items()} for own in self.sizes
        ]
        count = c[0, :, 0].to(torch.int64)
        if self.lean is None:
            hidden, after = self.model.encode_chunk(feats, states, count)
            encoded = self.model.classify(hidden)
        else:
            encoded, after = self.lean(feats, states, count)
        kept = [state[name].flatten(1) for state, own in zip(after, self.sizes, strict=True) for name in own]
        # frames that attention could not see any more need no count, which a float32 could not hold for ever
        seen = (c + self.model.chunk).clamp(max=float(self.model.left))
        return encoded, torch.cat(kept, dim=1).unsqueeze(0), seen


class StreamingTransducerGraphs(TransducerGraphs):
    """See HeadGraphs."""

    files: Sequence[str] = TransducerGraphs.files
    sherpa = SHERPA

    def encoder(self, twin: AsrModel) -> onnx.ModelProto:
        """See TransducerGraphs."""
        real, dim, joiner = onnx.TensorProto.FLOAT, twin.spec["feature_dim"], twin.head_sizes.joiner
        kept = sum(math.prod(size) for own in twin.state_sizes() for size in own.values())
        x = Value("x", real, ("N", twin.chunk_frames(), dim))
        h, c = Value("h", real, (1, "N", kept)), Value("c", real, (1, "N", 1))
        outputs = [Value("encoder_out", real, ("N", twin.chunk, joiner))]
        outputs += [Value(f"new_{state.name}", real, state.shape) for state in (h, c)]
        shapes = [(2, *x.shape[1:]), (1, 2, kept), (1, 2, 1)]
        example = tuple(torch.linspace(0.0, 1.0, math.prod(shape)).view(shape) for shape in shapes)
        return trace(EncoderChunk(twin), example, [x, h, c], outputs)

    def build(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The three graphs; see HeadGraphs."""
        graphs = super().build(model)
        (_, _, kept), (_, _, seen) = (
            [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graphs[ENCODER].graph.input[1:]
        )
        facts = {
            "model_type": STREAMING_ENCODER_TYPE,
            "num_encoder_layers": 1,
            "d_model": kept,
            "rnn_hidden_size": seen,
        }
        facts |= {READ: model.chunk_frames(), ADVANCED: chunk_shift(model)}
        helper.set_model_props(graphs[ENCODER], {key: str(value) for key, value in facts.items()})
        return graphs

    def open(
        self, contents: dict[str, bytes], features: FeatureConfig, tokens: list[str], name: str
    ) -> StreamingTransducerRecogniser:
        """See HeadGraphs."""
        recogniser = StreamingTransducerRecogniser(StreamingTransducer(contents), features, tokens, name)
        # refused here, not when a sound comes
        recogniser.stream()
        return recogniser

    def compare(self, model: AsrModel, recogniser: Recogniser) -> tuple[float, float]:
        """Compare the scores of every frame after units that differ from frame to frame; see HeadGraphs."""
        network = cast(StreamingTransducer, cast(StreamingTransducerRecogniser, recogniser).network)
        return compare_chunks(model, network, lambda encoded: probe(network, encoded))

    def describe_encoder(self, model: AsrModel) -> str:
        """See TransducerGraphs."""
        width, shift = model.chunk_frames(), chunk_shift(model)
        kept = sum(math.prod(size) for own in model.state_sizes() for size in own.values())
        return README.format(
            chunk_ms=10 * shift, width=width, shift=shift, last=width - 1, frames=model.chunk, silence_ms=10 * width,
            kept=kept, dim=model.spec["feature_dim"], joiner=model.head_sizes.joiner,
        )  # fmt: skip
