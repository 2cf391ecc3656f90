"""Runtimes: what runs a finished folder. One table; every program opens folders through `load_recogniser`."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.exports import check_sums, folder_kind
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import read_tokens
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.deploy.runtimes.transducer import ENCODER, TransducerRecogniser
from steps.deploy.screen import is_foreign, screen, streams


class Recogniser(Protocol):
    """Whatever turns one utterance into text. Use it in a `with` statement where it may hold a process.

    hears: `features`, (T, D) float32 arrays of the kind `features` says, or `audio`, (S,) float32 samples in [-1, 1] at the
    rate it says.   features: FeatureConfig.   kinds: kinds of decoding that `recognise` returns, `greedy` first.
    """

    hears: str
    features: FeatureConfig

    def __enter__(self) -> "Recogniser":
        """Start whatever process it needs."""

    def __exit__(self, *_: object) -> None:
        """End it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """See above."""

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text by kind of decoding. Args: name: the utterance, for messages.  Raises: UserError."""

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> dict | None:
        """Also recognise with the words of a file alone. Returns: facts about the list; None where it cannot be used."""

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> dict | None:
        """Also take each recording for one of the labels of a file. Returns: facts; None where it cannot be used."""

    def use_graph(self, folder: str | Path) -> dict | None:
        """Also recognise with the language model whose graph a folder holds. Returns: facts; None where it cannot be used."""

    def run(self, heard: np.ndarray) -> None:
        """Run the network on one utterance: what is timed."""

    def end_profiling(self) -> list[str]:
        """Paths of onnxruntime's profiles, when opened with a `profile_prefix`. Raises: UserError in other runtimes."""


@dataclass(frozen=True)
class Runtime:
    """A row of the table.

    packages: packages whose versions a decoding records.   reads: the kind of folder it runs, see `folder_kind`.
    open: (folder, device, num_threads, profile_prefix) -> Recogniser.   own: whether it is the default for such folders.
    """

    packages: tuple[str, ...]
    reads: str
    open: Callable[[Path, str, int, str | None], Recogniser]
    own: bool = False


def _open_torch(folder: Path, device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    # here, so that an exported folder is opened without torch
    from steps.deploy.runtimes.torch_model import TorchCtc, TorchTransducer
    from steps.models.build import read_spec

    if read_spec(folder).get("head") == "transducer":
        return TransducerRecogniser(TorchTransducer(folder, device, num_threads), *_read_beside(folder))
    return CtcRecogniser(TorchCtc(folder, device, num_threads), *_read_beside(folder))


def _open_onnx(folder: Path, _device: str, num_threads: int, prefix: str | None) -> Recogniser:
    if is_foreign(folder):
        # here, because it loads torch
        from steps.deploy.runtimes.foreign import ForeignRecogniser

        return ForeignRecogniser(folder, num_threads)
    # here, so that the process of sherpa-onnx loads no second onnxruntime
    from steps.deploy.runtimes.onnx_model import OnnxModel
    from steps.deploy.runtimes.onnx_transducer import OnnxTransducer

    if (folder / ENCODER).is_file() and streams(folder):
        from steps.deploy.runtimes.streaming_transducer import StreamingTransducer, StreamingTransducerRecogniser

        return StreamingTransducerRecogniser(StreamingTransducer(folder, num_threads, prefix), *_read_beside(folder))
    if (folder / ENCODER).is_file():
        return TransducerRecogniser(OnnxTransducer(folder, num_threads, prefix), *_read_beside(folder))
    if streams(folder):
        from steps.deploy.runtimes.streaming import StreamingNetwork, StreamingRecogniser

        return StreamingRecogniser(StreamingNetwork(folder, num_threads, prefix), *_read_beside(folder))
    return CtcRecogniser(OnnxModel(folder, num_threads, prefix), *_read_beside(folder))


def _open_sherpa(folder: Path, _device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    from steps.deploy.runtimes.sherpa import SherpaProcess

    return SherpaProcess(folder, num_threads)


def _open_hub(folder: Path, device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    from steps.deploy.runtimes.outside import HubWriter

    return HubWriter(folder, device, num_threads)


def _open_ctranslate(folder: Path, _device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    from steps.deploy.runtimes.outside import CTranslateWriter

    return CTranslateWriter(folder, num_threads)


def _read_beside(folder: Path) -> tuple[FeatureConfig, list[str], str]:
    features = load_config(FeatureConfig, folder / "features.yaml")
    return features, read_tokens(folder / "tokens.txt"), str(folder)


RUNTIMES = {
    "torch": Runtime(("torch", "numpy"), reads="model", open=_open_torch, own=True),
    "onnxruntime": Runtime(("onnxruntime", "numpy"), reads="export", open=_open_onnx, own=True),
    "sherpa-onnx": Runtime(("sherpa-onnx", "numpy"), reads="export", open=_open_sherpa),
    "transformers": Runtime(("transformers", "torch", "numpy"), reads="hub", open=_open_hub, own=True),
    "faster-whisper": Runtime(
        ("faster-whisper", "ctranslate2", "numpy"), reads="ctranslate2", open=_open_ctranslate, own=True
    ),
}
# how messages call what a runtime reads
FOLDERS = {
    "model": "model folders",
    "export": "exported folders",
    "hub": "Hugging Face folders",
    "ctranslate2": "CTranslate2 folders",
}


def runtime_of(folder: str | Path, name: str = "own") -> str:
    """The runtime that opens a folder.

    Args:    name: a name in RUNTIMES, or `own`: torch for a model folder, onnxruntime for an exported one, ...
    Raises:  MissingInput when the folder is none of these, UserError when that runtime does not read such a folder.
    """
    kind = folder_kind(folder)
    if name == "own":
        return next(key for key, runtime in RUNTIMES.items() if runtime.own and runtime.reads == kind)
    if (wants := RUNTIMES[name].reads) != kind:
        remedy = "; name the export/ in it" if (kind, wants) == ("model", "export") else ""
        raise UserError(f"{folder}: {name} reads {FOLDERS[wants]} only{remedy}")
    return name


def load_recogniser(
    folder: str | Path,
    device: str = "cpu",
    num_threads: int = 1,
    runtime: str = "own",
    profile_prefix: str | None = None,
) -> Recogniser:
    """Open a folder that some runtime reads; a model.json or ONNX file in it stands for the folder.

    Args:    device: torch device.   runtime: see `runtime_of`.   profile_prefix: path prefix of onnxruntime's profiles, if any.
    Raises:  MissingInput, UserError.
    """
    folder = Path(folder)
    if folder.suffix in (".onnx", ".json") and folder.is_file():
        folder = folder.parent
    name = runtime_of(folder, runtime)
    if RUNTIMES[name].reads == "export":
        check_sums(folder)
        for path in sorted(folder.glob("*.onnx")):
            # models of others have them, and run in onnxruntime alone
            screen(path, branches=name == "onnxruntime" and is_foreign(folder))
    return RUNTIMES[name].open(folder, device, num_threads, profile_prefix)


def frame_recogniser(folder: str | Path, num_threads: int = 1) -> CtcRecogniser:
    """Open a folder for what needs log-probabilities of features that it has: a CTC model of whole utterances.

    Raises: MissingInput, UserError.
    """
    recogniser = load_recogniser(folder, num_threads=num_threads)
    if not isinstance(recogniser, CtcRecogniser) or recogniser.hears != "features":
        raise UserError(
            f"{folder}: no frame-wise posteriors of features come from it; name the model folder of a CTC model"
        )
    return recogniser


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed packages, by name."""
    return {package: importlib.metadata.version(package) for package in packages}
