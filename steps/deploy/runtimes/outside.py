"""Sequence-to-sequence recognisers from elsewhere: folders of `transformers` (Whisper, Moonshine, ...) and of CTranslate2.

They hear audio and write text; they have no frame-wise posteriors, so they teach by what they transcribe. The libraries are
optional (requirements-hub.txt, requirements-whisper.txt), read local files only, and run no code of a folder.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.cli import UserError
from steps.core.jsonfile import read_json
from steps.data.feature_config import FeatureConfig

# text of one piece of at most LONGEST_S of audio; a decoder that never ends is stopped here
MOST_TOKENS = 400
WHISPER_RATE_HZ = 16000


class _Writer:
    """What both have in common; see Recogniser in steps/deploy/runtimes."""

    hears, kinds = "audio", ("greedy",)
    folder: Path
    features: FeatureConfig
    language: str | None = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> None:
        """See Recogniser; a word list cannot be used here."""

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> None:
        """See Recogniser; a list of labels cannot be used here."""

    def use_graph(self, folder: str | Path) -> None:
        """See Recogniser; a graph cannot be used here."""

    def use_language(self, language: str) -> None:
        """Transcribe this language instead of guessing it. Args: language: code such as en."""
        self.language = language

    def write(self, samples: np.ndarray) -> str:
        """Text of at most LONGEST_S of sound. Args: samples (S,) float32."""
        raise NotImplementedError

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one piece, words separated by single spaces. Args: heard (S,) float32 in [-1, 1]; name: for messages."""
        try:
            text = self.write(heard)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.folder}: gave up at {name}: {' '.join(str(error).split())[:200]}") from None
        return {"greedy": " ".join(text.split())}

    def run(self, heard: np.ndarray) -> None:
        """See Recogniser. Args: heard (S,) float32."""
        self.recognise(heard, "the utterance")

    def end_profiling(self) -> list[str]:
        """See Recogniser."""
        raise UserError("only onnxruntime profiles what it runs")


class HubWriter(_Writer):
    """A folder of `transformers` for one of its AutoModelForSpeechSeq2Seq.

    Args:   device: torch device.   num_threads: CPU threads.
    Raises: UserError when the library or a file is missing, or when the folder holds pickled weights or code.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", num_threads: int = 1):
        self.folder = Path(folder)
        check_hub_folder(self.folder)
        _require("transformers", "requirements-hub.txt")
        import torch
        from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

        torch.set_num_threads(num_threads)
        self.device, options = device, {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor = AutoProcessor.from_pretrained(self.folder, **options)
            # whatever is stored: its features are float32, and many CPUs have no products of halves
            model = AutoModelForSpeechSeq2Seq.from_pretrained(
                self.folder, use_safetensors=True, dtype=torch.float32, **options
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: transformers does not read it as a speech recogniser: {reason}") from None
        self.model = model.to(device).eval()
        self.features = FeatureConfig(sample_rate_hz=self.processor.feature_extractor.sampling_rate)

    def write(self, samples: np.ndarray) -> str:
        """See _Writer. Greedy search."""
        import torch

        rate_hz = self.features.sample_rate_hz
        inputs = self.processor(samples, sampling_rate=rate_hz, return_tensors="pt", return_attention_mask=True)
        options: dict[str, Any] = {"max_new_tokens": MOST_TOKENS, "num_beams": 1, "do_sample": False}
        if self.language is not None:
            options["language"] = self.language
        with torch.no_grad():
            ids = self.model.generate(**inputs.to(self.device), **options)
        return self.processor.batch_decode(ids, skip_special_tokens=True)[0]


class CTranslateWriter(_Writer):
    """A Whisper model converted to CTranslate2, run by faster-whisper on the CPU, greedily and without its own cutting.

    Args:   num_threads: CPU threads.   Raises: UserError when the library or a file is missing.
    """

    features = FeatureConfig(sample_rate_hz=WHISPER_RATE_HZ)
    # see steps.deploy.recognition.decode_all
    sure: list[float]

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.folder = Path(folder)
        # without it the library would look for one on the web
        if not (self.folder / "tokenizer.json").is_file():
            raise UserError(f"{folder}/tokenizer.json: no such file; copy it from the model that was converted")
        _require("faster_whisper", "requirements-whisper.txt")
        from faster_whisper import WhisperModel

        try:
            self.model = WhisperModel(str(self.folder), device="cpu", cpu_threads=num_threads, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: faster-whisper does not read it: {reason}") from None

    def write(self, samples: np.ndarray) -> str:
        """See _Writer."""
        segments, _ = self.model.transcribe(
            samples,
            language=self.language,
            beam_size=1,
            # else what it is not sure of is drawn again at random, other text in every run
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            max_new_tokens=MOST_TOKENS,
        )
        found = list(segments)
        self.sure = [segment.avg_logprob for segment in found for _ in segment.tokens]
        return " ".join(segment.text for segment in found)


def check_hub_folder(folder: Path) -> None:
    """Refuse a folder of `transformers` that would run code or unpickle, or of a CTC model. Raises: UserError."""
    # here, because it loads torch
    from steps.models.hub_convert import FAMILIES, SEQUENCE
    from steps.models.hub_folder import check_code
    from steps.models.limits import LARGEST_SPEC_BYTES

    check_code(folder)
    kind = read_json(folder / "config.json", LARGEST_SPEC_BYTES).get("model_type")
    if kind in FAMILIES and kind not in SEQUENCE:
        raise UserError(f"{folder}: {kind} has CTC models; name the folder that steps.import_model makes of it")
    if not any(folder.glob("*.safetensors")):
        remedy = "save it with save_pretrained(..., safe_serialization=True)"
        raise UserError(f"{folder}: no *.safetensors here, and pickled weights are not opened; {remedy}")


def _require(package: str, requirements: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed; pip install -r {requirements}")
