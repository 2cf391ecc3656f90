"""The graphs of a transducer: encoder, predictor (which sherpa-onnx calls decoder) and joiner, a file each."""

from collections.abc import Sequence
from typing import cast

import onnx
import torch
from onnx import TensorProto
from torch import nn

from steps.data.feature_config import FeatureConfig
from steps.deploy.graph import Value, float_twin, trace
from steps.deploy.graphs.ctc import EXAMPLE_LENGTHS, FilledUp, compare, example_features, finished
from steps.deploy.lean import with_halves
from steps.deploy.runtimes import Recogniser
from steps.deploy.runtimes.onnx_transducer import OnnxTransducer
from steps.deploy.runtimes.transducer import DECODER, ENCODER, JOINER, Probed, TransducerRecogniser
from steps.models.asr_model import AsrModel
from steps.models.heads.transducer import JOINER_LAYERS, PREDICTOR_LAYERS
from steps.models.quant_layers import quantized_layers

ENCODER_README = """\
- encoder.onnx: inputs x (N, T, {dim}) float32 features and x_lens (N,) int64 frames; outputs encoder_out
  (N, U, {joiner}) and encoder_out_lens (N,). Mean and variance normalisation are inside.
"""
README = """\
- decoder.onnx: input y (N, {context}) int64, the last {context} symbols that were emitted, at first {first};
  output decoder_out (N, {joiner}).
- joiner.onnx: inputs encoder_out (N, {joiner}) of one frame and decoder_out; output logit (N, {vocab_size}).
  Frame by frame, the symbol with the highest logit is emitted and goes into y, unless it is the blank{unknown};
  then comes the next frame: one symbol a frame, at most.
- tokens.txt: `symbol id` lines; the blank is {blank} = 0; U+2581 stands for a space.
"""
SHERPA = """\
Or: sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx",
    tokens="{tokens}", sample_rate={rate}, feature_dim={dim})
"""


class Predictor(nn.Module):
    """(N, context) int64 -> (N, J). Of three axes, so that a Linear becomes a MatMul, which can be rewritten to codes."""

    def __init__(self, model: AsrModel):
        super().__init__()
        self.model = model

    def forward(self, last: torch.Tensor) -> torch.Tensor:
        """See TransducerHead.predict."""
        return self.model.head.predict(self.model, last.unsqueeze(1))[:, 0]  # type: ignore[attr-defined]


class Joiner(nn.Module):
    """Two of (N, J) -> (N, V); three axes as above."""

    def __init__(self, model: AsrModel):
        super().__init__()
        self.model = model

    def forward(self, encoded: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """See TransducerHead.join."""
        logits = self.model.head.join(self.model, encoded.unsqueeze(1), predicted.unsqueeze(1))  # type: ignore[attr-defined]
        return logits[:, 0]


class TransducerGraphs:
    """See HeadGraphs."""

    files: Sequence[str] = (ENCODER, DECODER, JOINER)
    sherpa = SHERPA

    def encoder(self, twin: AsrModel) -> onnx.ModelProto:
        """The graph of the encoder, float. Args: twin: see `float_twin`."""
        dim = twin.spec["feature_dim"]
        return trace(
            FilledUp(twin),
            (example_features(dim), torch.tensor(EXAMPLE_LENGTHS)),
            [Value("x", TensorProto.FLOAT, ("N", "T", dim)), Value("x_lens", TensorProto.INT64, ("N",))],
            [
                Value("encoder_out", TensorProto.FLOAT, ("N", "U", twin.head_sizes.joiner)),
                Value("encoder_out_lens", TensorProto.INT64, ("N",)),
            ],
        )

    def build(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The three graphs; see HeadGraphs."""
        model = with_halves(model)
        twin, sizes, joiner = float_twin(model), model.head_sizes, model.head_sizes.joiner
        share = torch.linspace(-1.0, 1.0, 2 * joiner).view(2, joiner)
        shares = [Value(name, TensorProto.FLOAT, ("N", joiner)) for name in ("encoder_out", "decoder_out")]
        graphs = {
            ENCODER: self.encoder(twin),
            DECODER: trace(
                Predictor(twin),
                (torch.arange(2 * sizes.context).view(2, -1) % model.vocab_size,),
                [Value("y", TensorProto.INT64, ("N", sizes.context))],
                shares[1:],
            ),
            JOINER: trace(
                Joiner(twin), (share, share), shares, [Value("logit", TensorProto.FLOAT, ("N", model.vocab_size))]
            ),
        }
        coded = quantized_layers(model)
        for file, graph in graphs.items():
            finished(graph, model, {name: layer for name, layer in coded.items() if file_of(name) == file})
        # what sherpa-onnx asks for
        onnx.helper.set_model_props(
            graphs[DECODER], {"vocab_size": str(model.vocab_size), "context_size": str(sizes.context)}
        )
        return graphs

    def open(
        self, contents: dict[str, bytes], features: FeatureConfig, tokens: list[str], name: str
    ) -> TransducerRecogniser:
        """See HeadGraphs."""
        return TransducerRecogniser(OnnxTransducer(contents), features, tokens, name)

    def compare(self, model: AsrModel, recogniser: Recogniser) -> tuple[float, float]:
        """Compare the scores of every frame after units that differ from frame to frame; see HeadGraphs."""
        return compare(model, Probed(cast(TransducerRecogniser, recogniser).model))

    def describe(self, model: AsrModel, tokens: list[str]) -> str:
        """The inputs and outputs, and how they make a text."""
        sizes = model.head_sizes
        return self.describe_encoder(model) + README.format(
            joiner=sizes.joiner, context=sizes.context, vocab_size=model.vocab_size,
            first=", ".join(["-1"] * (sizes.context - 1) + ["0"]), blank=tokens[0],
            unknown=" or <unk>" if "<unk>" in tokens else "",
        )  # fmt: skip

    def describe_encoder(self, model: AsrModel) -> str:
        """Lines about the encoder's file."""
        return ENCODER_README.format(dim=model.spec["feature_dim"], joiner=model.head_sizes.joiner)


def file_of(layer: str) -> str:
    """The file that a layer of the model is in. Args: layer: its name."""
    part = layer.split(".")[0]
    return DECODER if part in PREDICTOR_LAYERS else JOINER if part in JOINER_LAYERS else ENCODER
