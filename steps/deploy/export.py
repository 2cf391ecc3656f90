"""Export of a model folder: an ONNX file, compared with torch before it is written, and its tokens and features."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import numpy_helper

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.outdir import atomic_file, sha256_file, write_text
from steps.data.feature_config import FeatureConfig
from steps.deploy.graph import float_graph, float_twin, quantized_layers, strip_
from steps.deploy.integer import integer_graph_
from steps.deploy.runtimes import CHECKED, SUMS, OnnxModel, Recogniser, read_tokens
from steps.deploy.sherpa import computes
from steps.models.build import load_model

FLOAT_TOLERANCE = 1e-4  # nats, largest difference of any valid frame
LOWEST_SNR_DB = 10.0  # of an int8 graph; 30 to 40 is usual, a wrong scale or gate order gives 6 or less
LENGTHS = (8, 64, 157, 500)  # feature frames of single utterances compared
RAGGED = (331, 250, 97, 3)  # of one padded batch
README = """\
A speech recogniser: CTC, {quantization}.

- model.onnx: inputs x (N, T, {dim}) float32 features and x_lens (N,) int64 frames; outputs log_probs
  (N, U, {vocab_size}) and log_probs_lens (N,). Mean and variance normalisation are inside.
- tokens.txt: `symbol id` lines; the blank is {blank} = {blank_id}; U+2581 stands for a space.
- features.yaml: Kaldi {kind} of {rate} Hz audio with samples in [-1, 1], window {window}, {low:g} Hz to {high}.
- SHA256SUMS: of these three; `sha256sum -c SHA256SUMS`.

Run: python3 -m steps.transcribe THIS_FOLDER a.wav
{sherpa}{integer}"""
SHERPA = """\
Or: sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
    model="model.onnx", tokens="tokens.txt", sample_rate={rate}, feature_dim={dim})
"""
INTEGER = """\

Activations are quantized with a scale for each tensor, so a batch gives slightly other numbers than its utterances one
by one, and so do other processors and runtime versions. Weights of {bits} bits, a byte each; no integer kernel saturates.
"""


@dataclass(frozen=True)
class ExportReport:
    """What an export came to.

    size_bytes: of model.onnx.   tensor_bytes: of the weights in it.
    largest_difference: from torch over valid frames, nats.
    snr_db: power of the log-probabilities around their frame's mean against that of the difference.
    integer_layers: quantized layers in the graph.
    """

    size_bytes: int
    tensor_bytes: int
    largest_difference: float
    snr_db: float
    integer_layers: int


def export_folder(model_dir, out):
    """Export a model folder. model.onnx is written last.

    Args:    model_dir: model folder.   out: folder to write.
    Returns: ExportReport.   Raises: MissingInput, UserError when the file would not compute what the model does.
    """
    model_dir, out = Path(model_dir), Path(out)
    model = load_model(model_dir)
    features, tokens = load_config(FeatureConfig, model_dir / "features.yaml"), read_tokens(model_dir / "tokens.txt")
    graph = build_graph(model)
    content = graph.SerializeToString(deterministic=True)
    exported = OnnxModel(content)
    recogniser = Recogniser(exported, features, tokens, str(model_dir))
    difference, snr_db = compare(model, exported)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").unlink(missing_ok=True)
    for name in ("tokens.txt", "features.yaml"):
        write_text(out / name, (model_dir / name).read_text(encoding="utf-8"))
    write_text(out / "README.md", describe(model, recogniser))
    sums = {name: sha256_file(out / name) for name in CHECKED if name != "model.onnx"}
    sums["model.onnx"] = hashlib.sha256(content).hexdigest()
    write_text(out / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    with atomic_file(out / "model.onnx", "wb") as file:
        file.write(content)
    tensor_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in graph.graph.initializer)
    return ExportReport(len(content), tensor_bytes, difference, snr_db, len(quantized_layers(model)))


def build_graph(model):
    """The ONNX graph of a model, float or quantized. Args: model: CtcModel on the CPU.  Returns: onnx.ModelProto."""
    graph = float_graph(float_twin(model))
    layers = quantized_layers(model)
    if layers:
        integer_graph_(graph, layers, model.spec["quantization"]["bits"])
    strip_(graph)
    return graph


def compare(model, exported):
    """Compare torch and onnxruntime on single utterances and on a ragged batch of features around the corpus mean.

    Args:    model: CtcModel.   exported: OnnxModel.
    Returns: largest difference over valid frames, nats; signal-to-noise ratio, dB.
    Raises:  UserError when lengths differ, a number is not finite, or the difference is too large.
    """
    random = torch.Generator().manual_seed(0)
    pairs = []
    for lengths in [[length] for length in LENGTHS] + [list(RAGGED)]:
        shape = (len(lengths), max(lengths), model.spec["feature_dim"])
        feats = model.feature_mean + torch.randn(shape, generator=random) / model.feature_scale
        with torch.inference_mode():
            expected, expected_lengths = (t.numpy() for t in model(feats, torch.tensor(lengths)))
        log_probs, out_lengths = exported.log_probs(feats.numpy(), np.array(lengths, dtype=np.int64))
        if log_probs.shape != expected.shape or not np.array_equal(out_lengths, expected_lengths):
            raise UserError(f"export: for lengths {lengths} the graph gives other lengths than the model; not usable")
        is_valid = np.arange(expected.shape[1]) < expected_lengths[:, None]
        pairs.append((expected[is_valid], log_probs[is_valid]))
    expected, log_probs = (np.concatenate(values) for values in zip(*pairs, strict=True))  # (frames, V)
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


def measure(expected, log_probs):
    """Largest difference and signal-to-noise ratio; NaN when a number is not finite. Args: both (frames, V)."""
    noise = log_probs.astype(np.float64) - expected
    signal = expected - expected.mean(axis=1, keepdims=True, dtype=np.float64)
    powers = (signal**2).mean(), max((noise**2).mean(), 1e-30)
    return float(np.abs(noise).max()), float(10 * np.log10(powers[0] / powers[1]))


def same_path(expected, log_probs):
    """Whether the best token of every frame is the same, but for ties closer than the tolerance."""
    chosen = np.take_along_axis(expected, log_probs.argmax(axis=1)[:, None], axis=1)[:, 0]
    return bool((expected.max(axis=1) - chosen <= 2 * FLOAT_TOLERANCE).all())


def describe(model, recogniser):
    """README.md of the exported folder."""
    features = recogniser.features
    high = features.high_freq_hz
    quantized = quantized_layers(model)
    sherpa = SHERPA.format(rate=features.sample_rate_hz, dim=features.dim) if computes(features) else ""
    return README.format(
        quantization=f"{len(quantized)} layers in int8" if quantized else "float32",
        dim=features.dim,
        vocab_size=model.spec["vocab_size"],
        blank=recogniser.tokens[recogniser.blank_id],
        blank_id=recogniser.blank_id,
        kind=features.kind,
        rate=features.sample_rate_hz,
        window=features.window,
        low=features.low_freq_hz,
        high=f"{high:g} Hz" if high > 0 else f"{-high:g} Hz under half that rate",
        sherpa=sherpa,
        integer=INTEGER.format(bits=model.spec["quantization"]["bits"]) if quantized else "",
    )
