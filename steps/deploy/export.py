"""Export of a model folder: ONNX files, compared with torch before they are written, with their tokens and features."""

import hashlib
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from steps.core.cli import UserError, say
from steps.core.config import load_config
from steps.core.exports import GRAPH, GRAPH_WORDS, ORIGIN, SAMPLES_FILE, SHERPA_TOKENS, SUMS, model_hashes, write_sums
from steps.core.outdir import atomic_file, sha256_file, write_json, write_text
from steps.data.feature_config import FeatureConfig
from steps.data.feature_text import describe_features
from steps.data.tokenizer import read_tokens
from steps.deploy.fixed_point import PRODUCTS, float_operators
from steps.deploy.graph import OLDEST_ONNXRUNTIME, opset_of
from steps.deploy.graphs import graphs_of
from steps.deploy.graphs.ctc import CtcGraphs, SamplesNetwork, compare
from steps.deploy.macs import quantized_fraction
from steps.deploy.nbits import MICROSOFT, keep_packed_, oldest_runtime
from steps.deploy.repeats import nodes_of
from steps.deploy.runtimes.sherpa import computes, sherpa_tokens, takes_for_byte_bpe
from steps.deploy.runtimes.transducer import DECODER, ENCODER, JOINER
from steps.models.asr_model import AsrModel
from steps.models.build import load_model
from steps.models.codes import is_packed
from steps.models.conformer import FeedForward
from steps.models.fixed_point import float_products, has_ranges
from steps.models.quant_layers import quantized_layers

BESIDE = ("tokens.txt", "features.yaml")
# how sound goes in -> the file: features frame by frame, which every runtime of ours reads, or samples in a row (sherpa-onnx)
LAYOUTS = {"features": "model.onnx", "samples": SAMPLES_FILE}
# files of an earlier export, which may have been of another kind
OF_EARLIER = (SUMS, ORIGIN, SHERPA_TOKENS, GRAPH, GRAPH_WORDS, "graph.json", "model.onnx", ENCODER, DECODER, JOINER)
# what a Linear in codes becomes: codes that are unpacked when the file is loaded, or stay as they are (MatMulNBits)
PRODUCTS_OF_CODES = ("unpacked", "nbits")
# products of integers whose activations get their scales as the file runs
DYNAMIC = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
# a node for half of what a feed-forward module gives, where its scales cannot be halved in the file
HALF_BYTES = 48
README = """\
A speech recogniser: {head}, {quantization}.

{files}- features.yaml: what goes in, below in words.
- SHA256SUMS: checksums of these files, which are all that a runtime needs; `sha256sum -c SHA256SUMS`.
- export.json: checksums of the model that this was made of.

{features}
Look-ahead: {look_ahead}.

Needs onnxruntime {oldest} or later (ONNX opset {opset}, IR version {ir}){microsoft}.

Run: python3 -m steps.transcribe THIS_FOLDER a.wav
{sherpa}{integer}"""
SAMPLES = """\
A speech recogniser: CTC, {quantization}, in the layout that sherpa-onnx reads as an omnilingual CTC model.

- model_samples.onnx: input x (N, S) float32, an utterance of {rate} Hz each, brought to mean 0 and variance 1, which sherpa-onnx
  does; output log_probs (N, U, {vocab_size}).
- tokens.txt: `symbol id` lines; the blank is {blank} = 0; U+2581 stands for a space.
- SHA256SUMS: checksums of these files. export.json: of the model that this was made of.

Look-ahead: the whole utterance. Needs onnxruntime {oldest} or later (ONNX opset {opset}, IR version {ir}){microsoft}.

Run: sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model="model_samples.onnx", tokens="{tokens}")
"""
BYTE_BPE = f"""\
sherpa-onnx would take this tokens.txt for byte-level BPE because of its letters, and silently drop some of them.
{SHERPA_TOKENS} is the file for it: the same symbols and one more, which the model never emits.
"""
INTEGER = """\

Activations are quantized with a scale for each tensor, so a batch gives slightly different numbers from its utterances one
by one, as do other processors and runtime versions. Weights have {bits} bits, {stored}; no integer kernel
saturates.
"""
FIXED = """\

Activations have 8 bits with scales that are the same for every sound, so a batch gives what its utterances give one by one, but
for a last bit here and there. Products take them from DequantizeLinear and give theirs to QuantizeLinear (QDQ form), so that
runtimes multiply 8-bit integers and add up in 32 bits. Weights have {bits} bits, {stored}; no integer kernel
saturates.
Products in float: {products}. Other operators that compute in float: {operators}.
"""

IN_FLOAT = """\

Activations are float, and so are all products. Weights have {bits} bits,
{stored}.
"""


@dataclass(frozen=True)
class ExportReport:
    """What an export came to.

    size_bytes: size of the ONNX files.   tensor_bytes: size of the weights in them.
    largest_difference: largest difference from torch over valid frames, nats.
    snr_db: power of the log-probabilities around their frame's mean against that of the difference.
    integer_layers: number of quantized layers in the graphs.
    sherpa_tokens: whether sherpa-onnx would misread tokens.txt and has its own file instead.   files: names of the ONNX files.
    """

    size_bytes: int
    tensor_bytes: int
    largest_difference: float
    snr_db: float
    integer_layers: int
    sherpa_tokens: bool
    files: tuple[str, ...]


def export_folder(
    model_dir: str | Path, out: str | Path, layout: str = "features", chunk_ms: int | None = None,
    min_quantized_fraction: float = 0.0, matmul: str = "unpacked",
) -> ExportReport:  # fmt: skip
    """Export a model folder. SHA256SUMS, which lists what ships, is written last.

    Args:   model_dir: model folder.   out: folder to write.   layout: see LAYOUTS.   chunk_ms: of a streaming model, instead of
            its own; 0: for whole utterances.   min_quantized_fraction: of multiplications, 0..1, of one file model.onnx.
            matmul: see PRODUCTS_OF_CODES.
    Raises: MissingInput, UserError when a file would not compute what the model does, multiplies too much in float, or has no
            such layout.
    """
    model_dir, out = Path(model_dir), Path(out)
    if other := [name for name in LAYOUTS.values() if name != LAYOUTS[layout] and (out / name).is_file()]:
        raise UserError(f"{out}: holds {other[0]}, an export of another layout; choose another --out")
    files, model = model_hashes(model_dir), load_model(model_dir)
    use_chunk(model, chunk_ms, model_dir)
    if matmul == "nbits":
        keep_packed_(model, str(model_dir))
    features, tokens = load_config(FeatureConfig, model_dir / "features.yaml"), read_tokens(model_dir / "tokens.txt")
    head = graphs_of(model)
    graphs = of_samples(model, str(model_dir)) if layout == "samples" else head.build(model)
    contents = {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    if layout == "samples":
        difference, snr_db = compare(model, SamplesNetwork(contents[SAMPLES_FILE], features.dim, len(tokens)))
    else:
        difference, snr_db = head.compare(model, head.open(contents, features, tokens, str(model_dir)))
    if min_quantized_fraction or has_ranges(model.spec["quantization"]):
        check_integers(model_dir, contents, min_quantized_fraction)
    texts = {name: (model_dir / name).read_text(encoding="utf-8") for name in BESIDE}
    if misread := is_misread(features, tokens, layout):
        texts[SHERPA_TOKENS] = sherpa_tokens(tokens)
    write_folder(out, texts, contents, describe(model, features, tokens, list(graphs.values()), layout), files)
    tensors = [tensor for graph in graphs.values() for tensor in graph.graph.initializer]
    tensor_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in tensors)
    size_bytes = sum(map(len, contents.values()))
    layers = len(quantized_layers(model))
    return ExportReport(size_bytes, tensor_bytes, difference, snr_db, layers, misread, tuple(contents))


def write_folder(
    out: Path, texts: dict[str, str], contents: dict[str, bytes], readme: str, files: dict[str, str]
) -> None:
    """Write what ships, and first remove what an earlier export left.

    Args: texts, contents: of the files that SHA256SUMS lists.   files: hashes of the model folder's.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (*OF_EARLIER, *contents):
        (out / old).unlink(missing_ok=True)
    for name, text in (*texts.items(), ("README.md", readme)):
        write_text(out / name, text)
    write_json(out / ORIGIN, {"files": files})
    for name, content in contents.items():
        with atomic_file(out / name, "wb") as file:
            file.write(content)
    sums = {name: sha256_file(out / name) for name in texts}
    write_sums(out, sums | {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})


def of_samples(model: AsrModel, name: str) -> dict[str, onnx.ModelProto]:
    """The graph of samples in a row. Raises: UserError for a model that does not hear the same in scaled samples."""
    wave, mel = (getattr(model.config, key, None) for key in ("wave", "mel"))
    if not isinstance(graphs_of(model), CtcGraphs) or not (wave or mel):
        raise UserError(f"{name}: layout samples is for CTC models that hear samples (type hub)")
    if not (wave.normalise if wave else mel is not None and mel.kind == "seamless"):
        raise UserError(
            f"{name}: layout samples: sherpa-onnx brings the sound to variance 1, and what this model hears depends on its level"
        )
    return CtcGraphs().build_of_samples(model)


def use_chunk(model: AsrModel, chunk_ms: int | None, where: str | Path) -> None:
    """Let a streaming model hear in chunks of another length. Args: chunk_ms: None: its own.  Raises: UserError."""
    if chunk_ms is None:
        return
    try:
        model.use_chunk(chunk_ms)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def check_integers(model_dir: Path, contents: dict[str, bytes], least: float) -> None:
    """Say what multiplies in float. Args: contents: ONNX files by name.  Raises: UserError when less than `least` is of integers."""
    if set(contents) != {"model.onnx"}:
        raise UserError("--min-quantized-fraction is for models of one file model.onnx; leave it out")
    with tempfile.TemporaryDirectory() as temp:
        for name, content in contents.items():
            (Path(temp) / name).write_bytes(content)
        for name in BESIDE:
            shutil.copy(model_dir / name, temp)
        share, left = quantized_fraction(temp)
    told = f"{share:.1%} of the multiplications are of integers"
    told += "".join(f", {part:.1%} {name} in float" for name, part in left.items())
    if share < least:
        raise UserError(
            f"{model_dir}: {told}; --min-quantized-fraction {least:g} asks for more: quantize more layers, or ask for less"
        )
    say(told)


def export_bytes(model: AsrModel, model_dir: str | Path, trained: bool = True) -> int:
    """Bytes of what would ship: ONNX files, tokens and features.

    Args: model_dir: where tokens and features are.   trained: False: scales may still change, and this is the most it can become.
    """
    graphs = sum(graph.ByteSize() for graph in graphs_of(model).build(model).values())
    halves = 0 if trained else sum(isinstance(module, FeedForward) for module in model.modules())
    beside = sum((Path(model_dir) / name).stat().st_size for name in BESIDE)
    features = load_config(FeatureConfig, Path(model_dir) / "features.yaml")
    tokens = read_tokens(Path(model_dir) / "tokens.txt")
    if is_misread(features, tokens):
        beside += len(sherpa_tokens(tokens).encode())
    return graphs + halves * HALF_BYTES + beside


def is_misread(features: FeatureConfig, tokens: list[str], layout: str = "features") -> bool:
    """Whether sherpa-onnx would open the export and misread its tokens.txt, so that it needs its own."""
    return (computes(features) or layout == "samples") and takes_for_byte_bpe(tokens)


def describe(
    model: AsrModel, features: FeatureConfig, tokens: list[str], graphs: list[onnx.ModelProto], layout: str = "features"
) -> str:
    """README.md of the exported folder."""
    domains = {node.domain for graph in graphs for node in nodes_of(graph)}
    quantized = quantized_layers(model)
    bits = sorted({layer.format.bits for layer in quantized.values()})
    packed = is_packed(model.spec["quantization"])
    stored = "packed, and unpacked by a runtime once, when it opens the file" if packed else "stored in a byte each"
    stored += "; those of MatMulNBits stay packed" if "MatMulNBits" in kinds_of(graphs) else ""
    common = {
        "quantization": f"{len(quantized)} layers in {'codes' if packed else 'int8'}" if quantized else "float32",
        "oldest": oldest_runtime(model, OLDEST_ONNXRUNTIME), "opset": max(map(opset_of, graphs)), "ir": max(g.ir_version for g in graphs),
        "microsoft": (", with its com.microsoft operators" if MICROSOFT in domains else "")
        + ("; what comes several times is a function of the file" if any(graph.functions for graph in graphs) else ""),
    }  # fmt: skip
    if layout == "samples":
        file = SHERPA_TOKENS if takes_for_byte_bpe(tokens) else "tokens.txt"
        rate, size = features.sample_rate_hz, len(tokens)
        return SAMPLES.format(rate=rate, vocab_size=size, blank=tokens[0], tokens=file, **common)
    return README.format(
        head=model.head.name.upper(),
        files=graphs_of(model).describe(model, tokens),
        features=describe_features(features),
        **common,
        look_ahead=describe_look_ahead(model, features.frame_shift_ms),
        sherpa=describe_sherpa(graphs_of(model).sherpa, features, tokens) if computes(features) else "",
        integer=describe_integers(model, graphs, bits=" and ".join(map(str, bits)), stored=stored) if quantized else "",
    )


def describe_integers(model: AsrModel, graphs: list[onnx.ModelProto], **common: str) -> str:
    """What is computed in integers, and what in float. Args: common: words about the weights."""
    if not has_ranges(model.spec["quantization"]):
        return (INTEGER if kinds_of(graphs) & DYNAMIC else IN_FLOAT).format(**common)
    operators = sorted({name for graph in graphs for name in float_operators(graph)} - PRODUCTS)
    return FIXED.format(products=", ".join(float_products(model)) or "none", operators=", ".join(operators), **common)


def kinds_of(graphs: list[onnx.ModelProto]) -> set[str]:
    """Operators of some graphs."""
    return {node.op_type for graph in graphs for node in nodes_of(graph)}


def describe_sherpa(how: str, features: FeatureConfig, tokens: list[str]) -> str:
    """How sherpa-onnx opens the folder. Args: how: the head's lines."""
    misread = takes_for_byte_bpe(tokens)
    name = SHERPA_TOKENS if misread else "tokens.txt"
    call = how.format(tokens=name, rate=features.sample_rate_hz, dim=features.dim)
    return call + BYTE_BPE if misread else call


def describe_look_ahead(model: AsrModel, frame_shift_ms: float) -> str:
    """How far ahead of the frame that it emits a model hears."""
    frames = model.look_ahead()
    return "the whole utterance" if math.isinf(frames) else f"{frames * frame_shift_ms:g} ms"
