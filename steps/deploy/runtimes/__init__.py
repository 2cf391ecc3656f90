"""Runtimes: what runs a finished folder. One table; every program opens folders through `load_recogniser`."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.exports import check_sums, is_exported
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import read_tokens
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.deploy.screen import screen


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

    def run(self, heard: np.ndarray) -> None:
        """Run the network on one utterance: what is timed."""

    def end_profiling(self) -> list[str]:
        """Paths of onnxruntime's profiles, when opened with a `profile_prefix`. Raises: UserError in other runtimes."""


@dataclass(frozen=True)
class Runtime:
    """A row of the table.

    packages: packages whose versions a decoding records.   exported: whether it runs exported folders (else model folders).
    open: (folder, device, num_threads, profile_prefix) -> Recogniser.   own: whether it is the default for such folders.
    """

    packages: tuple[str, ...]
    exported: bool
    open: Callable[[Path, str, int, str | None], Recogniser]
    own: bool = False


def _open_torch(folder: Path, device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    # here, so that an exported folder is opened without torch
    from steps.deploy.runtimes.torch_model import TorchModel

    return CtcRecogniser(TorchModel(folder, device, num_threads), *_read_beside(folder))


def _open_onnx(folder: Path, _device: str, num_threads: int, prefix: str | None) -> Recogniser:
    # here, so that the process of sherpa-onnx loads no second onnxruntime
    from steps.deploy.runtimes.onnx_model import OnnxModel

    return CtcRecogniser(OnnxModel(folder, num_threads, prefix), *_read_beside(folder))


def _open_sherpa(folder: Path, _device: str, num_threads: int, _prefix: str | None) -> Recogniser:
    from steps.deploy.runtimes.sherpa import SherpaProcess

    return SherpaProcess(folder, num_threads)


def _read_beside(folder: Path) -> tuple[FeatureConfig, list[str], str]:
    features = load_config(FeatureConfig, folder / "features.yaml")
    return features, read_tokens(folder / "tokens.txt"), str(folder)


RUNTIMES = {
    "torch": Runtime(("torch", "numpy"), exported=False, open=_open_torch, own=True),
    "onnxruntime": Runtime(("onnxruntime", "numpy"), exported=True, open=_open_onnx, own=True),
    "sherpa-onnx": Runtime(("sherpa-onnx", "numpy"), exported=True, open=_open_sherpa),
}


def runtime_of(folder: str | Path, name: str = "own") -> str:
    """The runtime that opens a folder.

    Args:    name: a name in RUNTIMES, or `own`: torch for a model folder, onnxruntime for an exported one.
    Raises:  MissingInput when the folder is neither, UserError when that runtime does not read such a folder.
    """
    exported = is_exported(folder)
    if name == "own":
        return next(key for key, runtime in RUNTIMES.items() if runtime.own and runtime.exported == exported)
    if RUNTIMES[name].exported != exported:
        wants = "exported folders only; name the export/ in it" if RUNTIMES[name].exported else "model folders only"
        raise UserError(f"{folder}: {name} reads {wants}")
    return name


def load_recogniser(
    folder: str | Path,
    device: str = "cpu",
    num_threads: int = 1,
    runtime: str = "own",
    profile_prefix: str | None = None,
) -> Recogniser:
    """Open a model folder or an exported folder; a model.json or ONNX file in it stands for the folder.

    Args:    device: torch device.   runtime: see `runtime_of`.   profile_prefix: path prefix of onnxruntime's profiles, if any.
    Raises:  MissingInput, UserError.
    """
    folder = Path(folder)
    if folder.suffix in (".onnx", ".json") and folder.is_file():
        folder = folder.parent
    name = runtime_of(folder, runtime)
    if RUNTIMES[name].exported:
        check_sums(folder)
        for path in sorted(folder.glob("*.onnx")):
            screen(path)
    return RUNTIMES[name].open(folder, device, num_threads, profile_prefix)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed packages, by name."""
    return {package: importlib.metadata.version(package) for package in packages}
