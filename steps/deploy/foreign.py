"""CTC models that others exported: one ONNX file with its tokens.txt and, where its kind is not known, a features.yaml.

Known by `model_type` in the file's metadata, as sherpa-onnx knows them: icefall's zipformer2_ctc, wenet_ctc, NeMo's EncDecCTCModel
and its kin, sense_voice_ctc, telespeech_ctc. Others are read by their inputs and outputs: features (N, T, D) or (N, D, T) float, or
samples (N, S), and, if it wants them, lengths (N,); logits or log-probabilities (N, T', V), and perhaps their lengths.
"""

from pathlib import Path
from typing import Any

import numpy as np

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
# feature frames of the trial by which sizes and rate are found
TRIAL = 400
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
        self.sense_voice = SenseVoice(self.meta, files[0]) if self.meta.get("model_type") == KIND else None
        self.features = self._features()
        self._find_inputs(files[0])
        tokens = read_tokens(self.folder / "tokens.txt")
        if self.sense_voice and self.sense_voice.blank_id < len(tokens):
            tokens[self.sense_voice.blank_id] = BLANK
        trial = np.zeros((TRIAL, self.features.dim), np.float32)
        outputs = self._run(trial)
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
        self.stride = round(TRIAL / max(1, len(outputs)))
        if self.stride not in RATES:
            raise UserError(
                f"{folder}: {len(outputs)} frames of {TRIAL}: no CTC model of {RATES[0]} to {RATES[-1]} frames a step"
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
        lengths = [kind for kind in kinds[1:] if kind[0] in INTEGERS and kind[1] == 1]
        counts = (4,) if self.sense_voice else (1, 2)
        samples = self.features.kind == "samples"
        if kinds[:1] == [("tensor(float)", 2)] and not samples:
            raise UserError(f"{path}: hears samples, not features; say `kind: samples` in features.yaml beside it")
        sound = kinds[:1] == [("tensor(float)", 2 if samples else 3)] and len(kinds) == 1 + len(lengths) in counts
        if not sound or not outputs or (outputs[0].type, len(outputs[0].shape)) != ("tensor(float)", 3):
            shown = ", ".join(f"{value.name} {value.type} {value.shape}" for value in (*inputs, *outputs))
            raise UserError(
                f"{path}: not an offline CTC model of whole utterances, by its inputs and outputs ({shown[:300]})"
            )
        self.names = [value.name for value in inputs]
        self.integers = [INTEGERS[kind] for kind, _ in lengths]
        self.turned = False
        if samples:
            return
        dim, shape = self.features.dim * (self.sense_voice.window if self.sense_voice else 1), inputs[0].shape
        if shape[2] != dim and shape[1] != dim and isinstance(shape[2], int):
            raise UserError(f"{path}: wants {shape[2]} features, features.yaml gives {dim}")
        # (N, D, T)
        self.turned = shape[2] != dim and (shape[1] == dim or self.meta.get("model_type", "").startswith("EncDec"))

    def _run(self, feats: np.ndarray) -> np.ndarray:
        """Outputs of one utterance, as the model gives them. Args: feats (T, D).  Returns: (T', outputs)."""
        if self.sense_voice:
            feats = self.sense_voice.stack(feats)
        if self.features.kind == "samples":
            feats = feats.reshape(-1)
        given = [np.ascontiguousarray(feats.T if self.turned else feats, np.float32)[None]]
        numbers = [len(feats), *(self.sense_voice.asked if self.sense_voice else [])]
        given += [np.array([number], kind) for number, kind in zip(numbers, self.integers, strict=False)]
        try:
            log_probs, *rest = self.session.run(None, dict(zip(self.names, given, strict=True)))
        except ORT_ERRORS as error:
            raise UserError(
                f"{self.folder}: does not run on features {feats.shape} ({' '.join(str(error).split())[:200]})"
            ) from None
        if self.meta.get("model_type") == TELESPEECH:
            log_probs = log_probs.swapaxes(0, 1)
        frames = int(rest[0][0]) if rest and np.asarray(rest[0]).shape == (1,) else log_probs.shape[1]
        if not 0 <= frames <= log_probs.shape[1] or not np.isfinite(log_probs).all():
            raise UserError(f"{self.folder}: its outputs are not finite, or of fewer frames than it says")
        return log_probs[0, PROMPTS if self.sense_voice else 0 : frames]

    def log_probs(self, feats: np.ndarray) -> np.ndarray:
        """Posteriors of one utterance. Args: feats (T, D) float32.  Returns: (T', V) float32, normalised, units in our order."""
        return self.units.pick(self._run(feats))
