"""One face for a model folder (runs in torch) and an exported folder (runs in onnxruntime)."""

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import join_pieces

SUMS, CHECKED = "SHA256SUMS", ("tokens.txt", "features.yaml", "model.onnx")
BLANKS = ("<blk>", "<blank>", "<eps>")
SHORTEST = 8  # feature frames that every front end can digest; shorter utterances are filled up with padding
ORT_ERRORS = tuple(
    value for value in vars(ort_errors).values() if isinstance(value, type) and issubclass(value, Exception)
)


def open_session(model, num_threads=1, profile_prefix=None):
    """An onnxruntime session on the CPU whose threads do not spin while they wait.

    Args:   model: path of an ONNX file, or its content as bytes.   num_threads: of one operator; operators run in turn.
            profile_prefix: path; `end_profiling` writes the shapes of all that ran, the same on every processor, to a file that
            begins so.
    Raises: UserError when onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", "0")
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
        options.add_session_config_entry("session.disable_prepacking", "1")  # the profile leaves packed weights out
        # no layouts: they pad channels to the width of this processor's vectors, and the shapes with them
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        name = "the graph" if isinstance(model, bytes) else model
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: onnxruntime cannot load it ({reason}); export the model again") from None


class OnnxModel:
    """An exported CTC model.

    Args: source: exported folder, ONNX file, or the file's content as bytes.   num_threads: CPU threads.
          profile_prefix: see `open_session`.
    Attributes: feature_dim: D.   vocab_size: V.   session: of onnxruntime.
    """

    def __init__(self, source, num_threads=1, profile_prefix=None):
        if not isinstance(source, bytes):
            source = Path(source) / "model.onnx" if Path(source).is_dir() else Path(source)
            if not source.is_file():
                raise MissingInput(f"{source}: no such file; export the model (steps.export_model)")
        self.session = open_session(source, num_threads, profile_prefix)
        name = "the graph" if isinstance(source, bytes) else source
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        ranks = [len(value.shape) for value in (*inputs, *outputs)]
        if ranks != [3, 1, 3, 1] or not isinstance(inputs[0].shape[2], int) or not isinstance(outputs[0].shape[2], int):
            raise UserError(f"{name}: not a CTC model from steps.export_model, by its inputs and outputs")
        self.feature_dim, self.vocab_size = inputs[0].shape[2], outputs[0].shape[2]
        self._inputs = [value.name for value in inputs]

    def log_probs(self, feats, lengths):
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        return self.session.run(None, dict(zip(self._inputs, (feats, lengths), strict=True)))


class TorchModel:
    """A model folder behind the same face. Args: device: of torch.   num_threads: CPU threads of this process."""

    def __init__(self, folder, device="cpu", num_threads=1):
        import torch  # here, so that an exported folder is opened without it

        from steps.models.build import load_model

        torch.set_num_threads(num_threads)
        self.model = load_model(folder, device)
        self.device = device
        self.feature_dim, self.vocab_size = self.model.spec["feature_dim"], self.model.spec["vocab_size"]

    def log_probs(self, feats, lengths):
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        import torch

        with torch.inference_mode():
            inputs = (torch.tensor(array, device=self.device) for array in (feats, lengths))
            return tuple(output.cpu().numpy() for output in self.model(*inputs))


class Recogniser:
    """A model with the features it wants and the tokens it emits.

    Attributes: model: OnnxModel or TorchModel.  features: FeatureConfig.  tokens: text of each id.  blank_id.
    """

    def __init__(self, model, features, tokens, name):
        self.model, self.features, self.tokens = model, features, tokens
        self.blank_id = next((tokens.index(blank) for blank in BLANKS if blank in tokens), None)
        if self.blank_id is None:
            raise UserError(f"{name}/tokens.txt: no blank among the tokens ({', '.join(BLANKS)})")
        if len(tokens) != model.vocab_size:
            raise UserError(f"{name}: the model has {model.vocab_size} outputs, tokens.txt {len(tokens)} tokens")
        if features.dim != model.feature_dim:
            raise UserError(f"{name}: the model wants {model.feature_dim} features, features.yaml gives {features.dim}")

    def log_probs(self, feats):
        """Log-probabilities of one utterance. Args: feats (T, D) float32.  Returns: (T', V) float32."""
        length = len(feats)
        if length < SHORTEST:
            feats = np.pad(feats, ((0, SHORTEST - length), (0, 0)))
        log_probs, lengths = self.model.log_probs(feats[None], np.array([length], dtype=np.int64))
        return log_probs[0, : lengths[0]]

    def text(self, ids):
        """Text of token ids. Returns: str without spaces at its ends."""
        return join_pieces(self.tokens, ids, self.blank_id)


def read_tokens(path):
    """Read tokens.txt, one `symbol id` line per token, ids from 0 upwards. Returns: list of symbols, index = id.

    Raises: MissingInput; UserError naming the line that does not fit.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file; make the folder again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if lines[-1] == "":
        lines.pop()
    tokens, seen = [], set()
    for number, line in enumerate(lines):
        symbol, _, index = line.rpartition(" ")
        if not symbol or index != str(number):
            raise UserError(f"{path}:{number + 1}: expected `symbol {number}`, not {line!r}")
        if symbol in seen:
            raise UserError(f"{path}:{number + 1}: symbol {symbol!r} is there twice")
        tokens.append(symbol)
        seen.add(symbol)
    return tokens


def check_sums(folder):
    """Compare the files of an exported folder with its SHA256SUMS, if it has one. Raises: UserError naming the file that differs."""
    path = folder / SUMS
    if not path.is_file():
        return
    lines = [line.split("  ", 1) for line in path.read_bytes().decode("utf-8", "replace").splitlines()]
    told = {words[-1]: words[0] for words in lines}
    for name in CHECKED:
        if not (folder / name).is_file():
            raise MissingInput(f"{folder / name}: no such file; {path} has it; copy or export the folder again")
        if told.get(name) != sha256_file(folder / name):
            raise UserError(f"{folder / name}: not the file that {SUMS} names; copy or export the folder again")


def load_recogniser(folder, device="cpu", num_threads=1):
    """Open a model folder (model.json: torch) or an exported folder (model.onnx: onnxruntime, on the CPU).

    Returns: Recogniser.   Raises: MissingInput, UserError.
    """
    folder = Path(folder)
    if folder.name in ("model.onnx", "model.json") and folder.is_file():
        folder = folder.parent
    if (folder / "model.onnx").is_file():
        check_sums(folder)
        model = OnnxModel(folder, num_threads)
    elif (folder / "model.json").is_file():
        model = TorchModel(folder, device, num_threads)
    else:
        raise MissingInput(f"{folder}: neither model.onnx nor model.json here; name a model folder or its export/")
    features = load_config(FeatureConfig, folder / "features.yaml")
    return Recogniser(model, features, read_tokens(folder / "tokens.txt"), str(folder))
