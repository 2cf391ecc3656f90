"""The graphs of each head, by its name: which files an export has, how they are made, and what they must compute."""

from collections.abc import Sequence
from typing import Protocol

import onnx

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.deploy.graphs.ctc import CtcGraphs
from steps.deploy.graphs.ctc_streaming import StreamingCtcGraphs
from steps.deploy.graphs.transducer import TransducerGraphs
from steps.deploy.graphs.transducer_streaming import StreamingTransducerGraphs
from steps.deploy.runtimes import Recogniser
from steps.models.asr_model import AsrModel


class HeadGraphs(Protocol):
    """What deploy has to know about a head.

    files: ONNX files of an export, by the names that runtimes look for.   sherpa: lines of its README on how sherpa-onnx opens
    them, with {tokens}, {rate} and {dim}.
    """

    files: Sequence[str]
    sherpa: str

    def build(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The graphs by file name, float or quantized. Args: model: on the CPU."""

    def open(self, contents: dict[str, bytes], features: FeatureConfig, tokens: list[str], name: str) -> Recogniser:
        """The files before they are written, as onnxruntime runs them. Raises: UserError when they do not fit together."""

    def compare(self, model: AsrModel, recogniser: Recogniser) -> tuple[float, float]:
        """Compare torch and onnxruntime. Args: recogniser: from `open`.

        Returns: largest difference, nats; signal-to-noise ratio, dB.   Raises: UserError when the two differ too much.
        """

    def describe(self, model: AsrModel, tokens: list[str]) -> str:
        """Lines of the export's README about the files: inputs, outputs, blank."""


GRAPHS: dict[str, HeadGraphs] = {"ctc": CtcGraphs(), "transducer": TransducerGraphs()}
# of models that run in chunks
STREAMING_GRAPHS: dict[str, HeadGraphs] = {"ctc": StreamingCtcGraphs(), "transducer": StreamingTransducerGraphs()}


def graphs_of(model: AsrModel) -> HeadGraphs:
    """The graphs of a model's head. Raises: UserError when there are none."""
    known, kind = (STREAMING_GRAPHS, "streaming ") if model.chunk else (GRAPHS, "")
    if model.head.name not in known:
        raise UserError(f"a {kind}{model.head.name} model cannot be exported; heads with graphs: {', '.join(known)}")
    return known[model.head.name]
