"""CTC models that others exported: one ONNX file with its tokens.txt and, where its kind is not known, a features.yaml.

Known by `model_type` in the file's metadata, as sherpa-onnx knows them: icefall's zipformer2_ctc, wenet_ctc, NeMo's EncDecCTCModel
and its kin, sense_voice_ctc, telespeech_ctc. Others are read by their inputs and outputs: features (N, T, D) or (N, D, T) float, or
samples (N, S), and, if it wants them, lengths (N,) or, with samples, a mask (N, S); float16 or float32. Out come logits,
log-probabilities or probabilities (N, T', V) or (T', N, V), and perhaps their lengths.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from steps.core.cli import MissingInput, UserError
from steps.core.config import from_dict, load_config
from steps.data.feature_config import FeatureConfig
from steps.data.foreign_features import ForeignFeatures
from steps.data.tokenizer import BLANK, SPACE, read_tokens
from steps.data.units import Units
from steps.deploy.runtimes.onnx_model import ORT_ERRORS, open_session
from steps.deploy.runtimes.sherpa import takes_for_byte_bpe
from steps.deploy.screen import screen
from steps.deploy.sense_voice import KIND, PROMPTS, SenseVoice

NEMO: dict[str, Any] = {"mel": "slaney", "window": "hanning", "low_freq_hz": 0.0, "high_freq_hz": 0.0}
# its outputs are (T', N, V)
TELESPEECH = "telespeech_ctc"
KINDS: dict[str, dict[str, Any]] = {
    "zipformer2_ctc": {},
    "wenet_ctc": {"sample_scale": 32768.0},
    "EncDecCTCModel": NEMO,
    "EncDecCTCModelBPE": NEMO,
    "EncDecHybridRNNTCTCBPEModel": NEMO,
    KIND: {"window": "hamming", "high_freq_hz": 0.0, "snip_edges": True, "sample_scale": 32768.0},
    TELESPEECH: {
        "kind": "mfcc",
        "num_mel_bins": 40,
        "low_freq_hz": 40.0,
        "high_freq_hz": -200.0,
        "snip_edges": True,
        "sample_scale": 32768.0,
        "normalise": "per_feature",
    },
}
# Byte-level BPE of icefall writes bytes that are no ASCII character as letters of this range (icefall/byte_utils.py). An alphabet
# that sherpa-onnx takes for it has fewer of them.
BYTE_LETTERS = range(0x100, 0x1A7)
LEAST_BYTE_LETTERS = 28
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# feature frames of the first trial; a second one of twice as many tells the rate, and whether any length will do
TRIAL = 400
# feature frames up to which a model that fails is taken to hear nothing: fewer than its first layers need
LEAST_HEARD = 16
# slowest and fastest: a frame every so many feature frames
RATES = range(1, 17)


def is_byte_bpe(tokens: list[str]) -> bool:
    """Whether symbols are those of icefall's byte-level BPE, of a script whose first bytes sherpa-onnx knows it by: 0xD9 and above."""
    letters = {letter for token in tokens for letter in token if not letter.isascii() and letter != SPACE}
    enough = len(letters) >= LEAST_BYTE_LETTERS and all(ord(letter) in BYTE_LETTERS for letter in letters)
    return enough and takes_for_byte_bpe(tokens)


class ForeignCtc:
    """A foreign model, opened and tried.

    Args:   folder: with one .onnx file and tokens.txt.   num_threads: CPU threads.
    Attributes: features: what it hears.   vocabulary: text of its units in our order (steps.data.units).   stride: feature frames
            from one of its frames to the next.
    Raises: MissingInput; UserError for a file that is no such model.
    """

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.folder = Path(folder)
        files = sorted(self.folder.glob("*.onnx"))
        if len(files) != 1:
            names = ", ".join(path.name for path in files) or "none"
            raise UserError(
                f"{folder}: expected one .onnx file, found {names}; put one, its tokens.txt and features.yaml apart"
            )
        screen(files[0], branches=True)
        self.session = open_session(files[0], num_threads)
        self.meta = self.session.get_modelmeta().custom_metadata_map
        # what it refuses is told here, or is an utterance too short for it
        self.quiet = onnxruntime.RunOptions()
        self.quiet.log_severity_level = 4
        self.sense_voice = SenseVoice(self.meta, files[0]) if self.meta.get("model_type") == KIND else None
        self.features = self._features()
        self._find_inputs(files[0])
        if not (self.folder / "tokens.txt").is_file():
            raise MissingInput(
                f"{folder}/tokens.txt: no such file; one line `symbol id` for each output, {BLANK} the blank, {SPACE} the space "
                "(a vocab.json has them the other way round)"
            )
        tokens = read_tokens(self.folder / "tokens.txt")
        if self.sense_voice and self.sense_voice.blank_id < len(tokens):
            tokens[self.sense_voice.blank_id] = BLANK
        # of silence some models of samples make NaN
        noise = np.random.default_rng(0).normal(scale=0.01, size=(2 * TRIAL, self.features.dim)).astype(np.float32)
        outputs, more = self._run(noise[:TRIAL]), self._run(noise)
        # icefall's lists end with symbols that only graphs use
        while len(tokens) > outputs.shape[1] and tokens[-1].startswith("#"):
            tokens.pop()
        if len(tokens) != outputs.shape[1]:
            raise UserError(f"{folder}: the model has {outputs.shape[1]} outputs, tokens.txt {len(tokens)} tokens")
        if is_byte_bpe(tokens):
            raise UserError(
                f"{folder}/tokens.txt: byte-level BPE, whose symbols are bytes and not letters, is not read here; transcribe with "
                "a program that does, such as sherpa-onnx: steps.transcribe_data --command"
            )
        self.units = Units(tokens, self.folder / "tokens.txt")
        self.vocabulary = self.units.vocabulary
        # feature frames a step: 3 % off a whole number is what a last, unfilled one does
        rate = TRIAL / max(1, len(more) - len(outputs))
        self.stride = round(rate)
        if self.stride not in RATES or abs(rate - self.stride) > 0.03 * rate:
            raise UserError(
                f"{folder}: {len(outputs)} frames of {TRIAL}, {len(more)} of {2 * TRIAL}: no CTC model with a frame for each "
                f"{RATES[0]} to {RATES[-1]} frames of 10 ms"
            )

    def _features(self) -> FeatureConfig:
        path, kind = self.folder / "features.yaml", self.meta.get("model_type", "")
        if path.is_file():
            return load_config(ForeignFeatures, path).plain()
        if kind not in KINDS:
            raise MissingInput(
                f"{path}: no such file, and model_type {kind[:40]!r} is none of {', '.join(KINDS)}; describe its features there "
                "(kind: samples for a model that hears samples; keys: steps/data/foreign_features.py)"
            )
        normalise = self.meta.get("normalize_type") or "none"
        if normalise not in ("none", "per_feature", "all_features"):
            raise UserError(f"{self.folder}: normalize_type {normalise[:40]!r} is not known; say it in {path}")
        bins = [size for size in self.session.get_inputs()[0].shape[1:] if isinstance(size, int)]
        if self.sense_voice:
            bins = [self.sense_voice.dim]
        facts = {"normalise": normalise, **KINDS[kind]}
        if bins:
            facts |= {"num_mel_bins": bins[0]} | ({"num_ceps": bins[0]} if facts.get("kind") == "mfcc" else {})
        features: ForeignFeatures = from_dict(ForeignFeatures, facts, f"{self.folder}: {kind}")
        return features.plain()

    def _find_inputs(self, path: Path) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        kinds = [(value.type, len(value.shape)) for value in inputs]
        samples = self.features.kind == "samples"
        if kinds and kinds[0][0] in FLOATS and kinds[0][1] == 2 and not samples:
            raise UserError(f"{path}: hears samples, not features; say `kind: samples` in features.yaml beside it")
        beside = [(INTEGERS[kind], rank) for kind, rank in kinds[1:] if kind in INTEGERS and (rank == 1 or samples)]
        counts = (4,) if self.sense_voice else (1, 2)
        sound = kinds and kinds[0][0] in FLOATS and kinds[0][1] == (2 if samples else 3)
        known = len(kinds) == 1 + len(beside) in counts and all(rank < 3 for _, rank in beside)
        if not (sound and known and outputs and outputs[0].type in FLOATS and len(outputs[0].shape) == 3):
            shown = ", ".join(f"{value.name} {value.type} {value.shape}" for value in (*inputs, *outputs))
            raise UserError(
                f"{path}: not an offline CTC model of whole utterances, by its inputs and outputs ({shown[:300]})"
            )
        self.names, self.beside = [value.name for value in inputs], beside
        self.real = FLOATS[kinds[0][0]]
        self.turned, shape = False, inputs[0].shape
        if not samples:
            dim = self.features.dim * (self.sense_voice.window if self.sense_voice else 1)
            if shape[2] != dim and shape[1] != dim and isinstance(shape[2], int):
                raise UserError(f"{path}: wants {shape[2]} features, features.yaml gives {dim}")
            # (N, D, T)
            self.turned = shape[2] != dim and (shape[1] == dim or self.meta.get("model_type", "").startswith("EncDec"))
        if isinstance(length := shape[2 if self.turned else 1], int):
            raise UserError(f"{path}: takes inputs of length {length} alone; export it with a length of any size")

    def _given(self, feats: np.ndarray) -> dict[str, np.ndarray]:
        """What goes into the model. Args: feats (T, D)."""
        if self.sense_voice:
            feats = self.sense_voice.stack(feats)
        if self.features.kind == "samples":
            feats = feats.reshape(-1)
        length = len(feats)
        numbers = [length, *(self.sense_voice.asked if self.sense_voice else [])]
        given = [np.ascontiguousarray(feats.T if self.turned else feats, self.real)[None]]
        given += [
            np.array([number], kind) if rank == 1 else np.ones((1, length), kind)
            for number, (kind, rank) in zip(numbers, self.beside, strict=False)
        ]
        return dict(zip(self.names, given, strict=True))

    def _run(self, feats: np.ndarray) -> np.ndarray:
        """Outputs of one utterance, as the model gives them. Args: feats (T, D).  Returns: (T', outputs)."""
        try:
            said, *rest = self.session.run(None, self._given(feats), self.quiet)
        except ORT_ERRORS as error:
            raise UserError(
                f"{self.folder}: does not run on features {feats.shape} ({' '.join(str(error).split())[:200]})"
            ) from None
        if self.meta.get("model_type") == TELESPEECH or (said.shape[0] > 1 and said.shape[1] == 1):
            said = said.swapaxes(0, 1)
        counted = rest and np.asarray(rest[0]).shape == (1,) and np.asarray(rest[0]).dtype.kind == "i"
        frames = int(rest[0][0]) if counted else said.shape[1]
        if not 0 <= frames <= said.shape[1] or np.isnan(said).any() or np.isposinf(said).any():
            raise UserError(f"{self.folder}: its outputs are not finite, or of fewer frames than it says")
        said = said[0, PROMPTS if self.sense_voice else 0 : frames].astype(np.float32)
        # probabilities, which are log-probabilities of nothing
        if said.size and said.min() >= 0 and np.allclose(said.sum(axis=1), 1, atol=1e-2):
            said = np.log(said.clip(min=1e-30))
        return said.clip(min=-1e30)

    def log_probs(self, feats: np.ndarray) -> np.ndarray:
        """Posteriors of one utterance. Args: feats (T, D) float32.  Returns: (T', V) float32, normalised, units in our order; (0, V)
        for an utterance shorter than what the model needs."""
        try:
            said = self._run(feats)
        except UserError:
            if len(feats) > LEAST_HEARD:
                raise
            return np.zeros((0, len(self.units.columns)), np.float32)
        return self.units.pick(said)
