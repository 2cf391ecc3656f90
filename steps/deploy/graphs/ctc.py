"""The graph of a CTC model: one file, from features to log-probabilities."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnx
import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.exports import SAMPLES_FILE
from steps.data.feature_config import FeatureConfig
from steps.deploy.graph import Value, float_twin, strip_, trace
from steps.deploy.integer import integer_graph_
from steps.deploy.lean import with_halves
from steps.deploy.runtimes import Recogniser
from steps.deploy.runtimes.base import SHORTEST
from steps.deploy.runtimes.ctc import CtcRecogniser, Network
from steps.deploy.runtimes.onnx_model import OnnxModel, open_session
from steps.models.asr_model import AsrModel
from steps.models.codes import is_packed
from steps.models.fixed_point import has_ranges
from steps.models.heads.ctc import BLANK_ID
from steps.models.quant_layers import Quantized, quantized_layers

FILE = "model.onnx"
# what sherpa-onnx adds to the variance of samples that it normalises (offline-omnilingual-asr-ctc-model.cc)
SHERPA_FLOOR = 1e-5
EXAMPLE_LENGTHS = (101, 87)
# nats, largest difference of any valid frame
FLOAT_TOLERANCE = 1e-4
# int8 graphs: 30 to 40 is usual, a wrong scale or gate order gives 6 or less
LOWEST_SNR_DB = 10.0
# feature frames: of single utterances that are compared, and of one padded batch; torch takes 8 or more
LENGTHS = (8, 64, 157, 500)
RAGGED = (331, 250, 97, 3)
README = """\
- model.onnx: inputs x (N, T, {dim}) float32 features and x_lens (N,) int64 frames; outputs log_probs
  (N, U, {vocab_size}) and log_probs_lens (N,). Mean and variance normalisation are inside.
- tokens.txt: `symbol id` lines; the blank is {blank} = {blank_id}; U+2581 stands for a space.
- Greedy search: take the best symbol of each frame, merge runs of the same one, drop the blanks, join the rest.
"""
SHERPA = """\
Or: sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
    model="model.onnx", tokens="{tokens}", sample_rate={rate}, feature_dim={dim})
"""


class FilledUp(nn.Module):
    """A model that takes features of any length, even a single frame: short ones are padded.

    The front end cannot take fewer than SHORTEST frames, and runtimes do not check: in sherpa-onnx a sound under 70 ms was
    an exception. Lengths are as before, so a sound too short for an encoder frame has none.
    """

    def __init__(self, model: AsrModel):
        super().__init__()
        self.model = model

    def forward(self, feats: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Args, Returns: as for AsrModel."""
        frames = torch.clamp(torch.tensor(feats.shape[1]), min=SHORTEST)
        return self.model(nn.functional.pad(feats, (0, 0, 0, SHORTEST))[:, :frames], lengths)


class OfSamples(nn.Module):
    """A model of samples that takes them in a row, all of an utterance, and gives log-probabilities alone.

    Args: model: FilledUp.   dim: samples a frame; what fills none at the end is left out.
    """

    def __init__(self, model: nn.Module, dim: int):
        super().__init__()
        self.model, self.dim = model, dim

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Args: samples (N, S) float32.  Returns: (N, T', V) float32."""
        frames = samples.shape[1] // self.dim
        feats = samples[:, : frames * self.dim].reshape(samples.shape[0], frames, self.dim)
        log_probs, lengths = self.model(feats, torch.zeros_like(samples[:, 0], dtype=torch.int64) + frames)
        return log_probs[:, : lengths[0]]


class CtcGraphs:
    """See HeadGraphs."""

    files: Sequence[str] = (FILE,)
    sherpa = SHERPA

    def build(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The one graph; see HeadGraphs."""
        dim, vocab_size = model.spec["feature_dim"], model.spec["vocab_size"]
        real, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
        inputs = [Value("x", real, ("N", "T", dim)), Value("x_lens", integer, ("N",))]
        outputs = [Value("log_probs", real, ("N", "U", vocab_size)), Value("log_probs_lens", integer, ("N",))]
        example = example_features(dim), torch.tensor(EXAMPLE_LENGTHS)
        model = with_halves(model)
        graph = trace(FilledUp(float_twin(model)), example, inputs, outputs)
        return {FILE: finished(graph, model)}

    def build_of_samples(self, model: AsrModel) -> dict[str, onnx.ModelProto]:
        """The one graph, of samples in a row."""
        dim, vocab_size, real = model.spec["feature_dim"], model.spec["vocab_size"], onnx.TensorProto.FLOAT
        inputs, outputs = [Value("x", real, ("N", "S"))], [Value("log_probs", real, ("N", "U", vocab_size))]
        example, twin = example_features(dim).flatten(1)[:, :-7], float_twin(model)
        wave = getattr(model.config, "wave", None)
        if wave is not None and wave.variance_floor == SHERPA_FLOOR:
            # done already, and a second time would make quiet sound louder
            twin.frontend.normalised = False
        graph = trace(OfSamples(FilledUp(twin), dim), (example,), inputs, outputs)
        return {SAMPLES_FILE: finished(graph, model)}

    def open(self, contents: dict[str, bytes], features: FeatureConfig, tokens: list[str], name: str) -> CtcRecogniser:
        """See HeadGraphs."""
        return CtcRecogniser(OnnxModel(contents[FILE]), features, tokens, name)

    def compare(self, model: AsrModel, recogniser: Recogniser) -> tuple[float, float]:
        """Compare log-probabilities; see HeadGraphs."""
        return compare(model, cast(CtcRecogniser, recogniser).model)

    def describe(self, model: AsrModel, tokens: list[str]) -> str:
        """The inputs and outputs, and the blank."""
        dim, vocab_size = model.spec["feature_dim"], model.spec["vocab_size"]
        return README.format(dim=dim, vocab_size=vocab_size, blank=tokens[BLANK_ID], blank_id=BLANK_ID)


def example_features(dim: int) -> torch.Tensor:
    """What is traced with. Returns: (2, T, D) float32."""
    return torch.linspace(-1.0, 1.0, 2 * max(EXAMPLE_LENGTHS) * dim).view(2, max(EXAMPLE_LENGTHS), dim)


def finished(graph: onnx.ModelProto, model: AsrModel, layers: Mapping[str, Quantized] | None = None) -> onnx.ModelProto:
    """A traced graph with the model's codes in it, and without what nobody reads.

    Args: layers: quantized ones that are in this graph; default: all of the model.
    """
    layers, quantization = quantized_layers(model) if layers is None else layers, model.spec["quantization"]
    packed = bool(layers) and is_packed(quantization)
    if layers:
        integer_graph_(graph, layers, packed)
    # compilers for NPUs look for products in QDQ form in the graph itself
    strip_(graph, model.head.name, share=packed and not has_ranges(quantization))
    return graph


class SamplesNetwork:
    """A graph of `build_of_samples` as a Network, each utterance alone. Args: content: of its file."""

    def __init__(self, content: bytes, feature_dim: int, vocab_size: int):
        self.session, self.feature_dim, self.vocab_size = open_session(content), feature_dim, vocab_size

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Network; samples are normalised as by sherpa-onnx, and some that fill no frame lie behind each utterance."""
        rows = []
        for row, length in zip(feats, lengths, strict=True):
            samples = row[:length].ravel()
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(SHERPA_FLOOR))
            samples = np.append(samples, np.ones(self.feature_dim - 1, dtype=np.float32))
            rows.append(self.session.run(None, {"x": samples[None]})[0][0])
        lens = np.array([len(row) for row in rows])
        return np.stack([np.pad(row, ((0, max(lens) - len(row)), (0, 0))) for row in rows]), lens


def compare(model: AsrModel, exported: Network) -> tuple[float, float]:
    """Compare torch and onnxruntime on single utterances and on a ragged batch of features around the corpus mean.

    Args:    exported: its `log_probs` are what the head's `probe` gives.
    Returns: largest difference over valid frames, nats; signal-to-noise ratio, dB.
    Raises:  UserError when lengths differ, a number is not finite, or the difference is too large.
    """
    random = torch.Generator().manual_seed(0)
    pairs = []
    for lengths in [[length] for length in LENGTHS] + [list(RAGGED)]:
        shape = (len(lengths), max(lengths), model.spec["feature_dim"])
        feats = model.feature_mean + torch.randn(shape, generator=random) / model.feature_scale
        with torch.inference_mode():
            outputs, expected_lengths = model(feats, torch.tensor(lengths))
            expected, expected_lengths = model.head.probe(model, outputs).numpy(), expected_lengths.numpy()
        log_probs, out_lengths = exported.log_probs(feats.numpy(), np.array(lengths, dtype=np.int64))
        if log_probs.shape != expected.shape or not np.array_equal(out_lengths, expected_lengths):
            raise UserError(f"export: for lengths {lengths} the graph gives other lengths than the model; not usable")
        is_valid = np.arange(expected.shape[1]) < expected_lengths[:, None]
        pairs.append((expected[is_valid], log_probs[is_valid]))
    # (frames, V) each
    expected, log_probs = (np.concatenate(values) for values in zip(*pairs, strict=True))
    return check_same(model, expected, log_probs)


def check_same(model: AsrModel, expected: np.ndarray, log_probs: np.ndarray) -> tuple[float, float]:
    """What torch and onnxruntime differ by. Args: both (frames, V).  Returns, Raises: see `compare`."""
    difference, snr_db = measure(expected, log_probs)
    if quantized_layers(model):
        if not snr_db >= LOWEST_SNR_DB:
            raise UserError(
                f"export: the int8 graph is {snr_db:.1f} dB from the model, not {LOWEST_SNR_DB}; not usable"
            )
    elif not difference <= FLOAT_TOLERANCE or not same_path(expected, log_probs):
        raise UserError(
            f"export: the graph is {difference:.2g} nats from the model, over {FLOAT_TOLERANCE}; not usable"
        )
    return difference, snr_db


def measure(expected: np.ndarray, log_probs: np.ndarray) -> tuple[float, float]:
    """Largest difference and signal-to-noise ratio; NaN when a number is not finite. Args: both (frames, V)."""
    noise = log_probs.astype(np.float64) - expected
    signal = expected - expected.mean(axis=1, keepdims=True, dtype=np.float64)
    powers = (signal**2).mean(), max((noise**2).mean(), 1e-30)
    return float(np.abs(noise).max()), float(10 * np.log10(powers[0] / powers[1]))


def same_path(expected: np.ndarray, log_probs: np.ndarray) -> bool:
    """Whether the best token of every frame is the same, except for ties within the tolerance."""
    chosen = np.take_along_axis(expected, log_probs.argmax(axis=1)[:, None], axis=1)[:, 0]
    return bool((expected.max(axis=1) - chosen <= 2 * FLOAT_TOLERANCE).all())
