"""Decoding of an exported folder by sherpa-onnx, in a process of its own.

sherpa-onnx is optional, brings its own onnxruntime, and ends its process when it cannot read a model; hence the separate
process. It computes the features itself, from samples: what is tested is the folder as an application would use it.
The child (`python3 -m steps.deploy.runtimes.sherpa FOLDER THREADS RATE DIM [GRAPH_FOLDER]`) reads from standard input, again and
again, a count of samples (8 bytes, little-endian) and that many float32; for each it writes one line of JSON: {kind: text}. A
count below 0 asks a model that streams for [{kind: text}, chunks], timed as in steps/deploy/realtime.py.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.exports import GRAPH, SAMPLES_FILE, SHERPA_TOKENS
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import SPACE, read_tokens
from steps.deploy.graph_files import check_graph, graph_facts, read_graph_words
from steps.deploy.pieces import feed
from steps.deploy.realtime import Chunk, Pace, TimedRecogniser, simulate
from steps.deploy.runtimes.transducer import DECODER, ENCODER, JOINER
from steps.deploy.screen import metadata, streaming_graph, streams

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "sherpa-onnx"
# Graphs of version 0.1 fail on fewer than 7 frames; later ones fill them up.
SHORT_S = 0.1
# a symbol that no model emits, with bytes above those of the rule below
NEVER = "\u2047"


def computes(features: FeatureConfig) -> bool:
    """Whether sherpa-onnx can compute these features."""
    return features == FeatureConfig(sample_rate_hz=features.sample_rate_hz, num_mel_bins=features.num_mel_bins)


def takes_for_byte_bpe(tokens: list[str]) -> bool:
    """Whether sherpa-onnx mistakes symbols for byte-level BPE and drops letters, as with upper-case Ewe or Hausa.

    It does when the highest byte of all symbols, without a leading space (U+2581), is 0xC6, that of U+0180 to U+01BF.
    Source: IsByteBPE in sherpa-onnx/csrc/symbol-table.cc.
    """
    symbols = [token.removeprefix(SPACE).encode() for token in tokens]
    return max((byte for symbol in symbols for byte in symbol), default=0) == 0xC6


def sherpa_tokens(tokens: list[str]) -> str:
    """Content of a tokens.txt that it reads correctly: with one more symbol, of a higher byte, which no model emits."""
    return "".join(f"{symbol} {i}\n" for i, symbol in enumerate([*tokens, NEVER]))


def check_tokens(folder: Path) -> None:
    """Refuse a folder whose letters sherpa-onnx would drop. Raises: MissingInput, UserError."""
    tokens, own = read_tokens(folder / "tokens.txt"), folder / SHERPA_TOKENS
    if takes_for_byte_bpe(tokens) and not own.is_file():
        what = "sherpa-onnx takes it for byte-level BPE and drops letters"
        raise UserError(f"{folder}/tokens.txt: {what}; export the model again, which also writes {SHERPA_TOKENS}")
    if own.is_file() and own.read_bytes() != sherpa_tokens(tokens).encode():
        raise UserError(f"{own}: does not belong to tokens.txt beside it; export the model again")


def version() -> str:
    """Version of sherpa-onnx. Raises: UserError when it is not installed."""
    if importlib.util.find_spec("sherpa_onnx") is None:
        raise UserError("sherpa-onnx is not installed; pip install -r requirements-sherpa.txt")
    return importlib.metadata.version(PACKAGE)


class SherpaProcess:
    """An exported folder opened by sherpa-onnx; see Recogniser in steps/deploy/runtimes. Use in a `with` statement.

    Args:   folder: exported folder.   num_threads: CPU threads.
    Raises: UserError when sherpa-onnx is missing, computes no such features, or gives up on the folder.
    """

    hears = "audio"
    kinds: tuple[str, ...] = ("greedy",)

    def __init__(self, folder: str | Path, num_threads: int = 1):
        version()
        self.folder = Path(folder)
        self.features = load_config(FeatureConfig, self.folder / "features.yaml")
        if self.features.kind == "samples" and not (self.folder / SAMPLES_FILE).is_file():
            raise UserError(
                f"{folder}: sherpa-onnx reads another layout: steps.export_model --layout samples --out FOLDER"
            )
        if self.features.kind != "samples" and not computes(self.features):
            raise UserError(
                f"{folder}/features.yaml: sherpa-onnx computes no such features, only the default fbank; leave out sherpa=true or --runtime"
            )
        check_tokens(self.folder)
        sizes = (num_threads, self.features.sample_rate_hz, self.features.num_mel_bins)
        self.command = [
            sys.executable,
            "-m",
            "steps.deploy.runtimes.sherpa",
            str(self.folder.resolve()),
            *map(str, sizes),
        ]

    def __enter__(self) -> "SherpaProcess":
        # not a pipe: nobody would empty it, so it could fill up
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )
        self.requests, self.answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.answers.close()
        self.process.wait()
        self.errors.close()

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> None:
        """See Recogniser; a word list cannot be used here."""

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> None:
        """See Recogniser; a list of labels cannot be used here."""

    def use_graph(self, folder: str | Path) -> dict | None:
        """See Recogniser; the process starts anew, with sherpa-onnx's `ctc_graph`. Raises: MissingInput, UserError."""
        if any((self.folder / name).is_file() for name in (SAMPLES_FILE, ENCODER)) or streams(self.folder):
            # its loaders of these take no graph; of models with states, that was not tried
            return None
        check_graph(folder, read_tokens(self.folder / "tokens.txt"))
        self.kinds = ("greedy", "lm")
        self.command.append(str(Path(folder).resolve()))
        self.__exit__()
        self.__enter__()
        return graph_facts(folder)

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one utterance, words separated by single spaces.

        Args:    heard: (S,) float32 array in [-1, 1] at the rate of features.yaml.   name: for messages.
        Returns: {"greedy": text} and, with a graph, "lm".   Raises: UserError when the process has ended.
        """
        return {kind: " ".join(text.split()) for kind, text in self._ask(heard, name, 1).items()}

    def in_real_time(self, heard: np.ndarray, name: str) -> tuple[dict[str, str], list[Chunk]]:
        """See TimedRecogniser; the processor time is that of its own process. Raises: UserError when that has ended."""
        texts, chunks = self._ask(heard, name, -1)
        return {kind: " ".join(text.split()) for kind, text in texts.items()}, [Chunk(*chunk) for chunk in chunks]

    def pace(self) -> Pace:
        """See TimedRecogniser. Raises: UserError for a model of whole utterances."""
        if not streams(self.folder):
            raise UserError(f"{self.folder}: hears whole utterances; export a model with `streaming` in its settings")
        # here, because the table of runtimes opens this file
        from steps.deploy.runtimes import load_recogniser

        return cast(TimedRecogniser, load_recogniser(self.folder)).pace()

    def _ask(self, heard, name, sign):
        """What the process answers. Args: sign: -1: timed."""
        samples = np.ascontiguousarray(heard, dtype="<f4")
        try:
            self.requests.write(struct.pack("<q", sign * len(samples)) + samples.tobytes())
            self.requests.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            seconds = len(samples) / self.features.sample_rate_hz
            remedy = (
                "; exports of version 0.1 end on sound this short: export the model again" if seconds < SHORT_S else ""
            )
            raise UserError(f"{self.folder}: sherpa-onnx gave up at {name}: {self._last_words()}{remedy}")
        return json.loads(line)

    def run(self, heard: np.ndarray) -> None:
        """See Recogniser. Args: heard (S,) float32."""
        self.recognise(heard, "the utterance")

    def end_profiling(self) -> list[str]:
        """See Recogniser."""
        raise UserError("only onnxruntime profiles what it runs")

    def _last_words(self):
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"status {status}; {lines[-1] if lines else 'no message'}"


def serve(folder: str, num_threads: int, sample_rate_hz: int, feature_dim: int, graph: str | None = None) -> None:
    """Child: answer requests until standard input ends. Args: graph: folder of a graph, if any."""
    answers = os.fdopen(os.dup(1), "wb")
    # whatever the library prints goes to standard error
    os.dup2(2, 1)
    import sherpa_onnx

    own, samples_file = Path(folder) / SHERPA_TOKENS, Path(folder) / SAMPLES_FILE
    path, online = str(streaming_graph(folder) or f"{folder}/model.onnx"), streams(folder)
    tokens = str(own if own.is_file() else Path(folder) / "tokens.txt")
    settings = {"tokens": tokens, "num_threads": num_threads, "sample_rate": sample_rate_hz, "feature_dim": feature_dim}
    open_file = sherpa_onnx.OfflineRecognizer
    if samples_file.is_file():
        recognisers = {"greedy": open_file.from_omnilingual_asr_ctc(str(samples_file), tokens, num_threads)}
    elif (Path(folder) / ENCODER).is_file():
        files = {Path(name).stem: f"{folder}/{name}" for name in (ENCODER, DECODER, JOINER)}
        opener = sherpa_onnx.OnlineRecognizer if online else open_file
        recognisers = {"greedy": opener.from_transducer(**files, **settings)}
    else:
        kind = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc if online else open_file.from_zipformer_ctc
        recognisers = {"greedy": kind(model=path, **settings)}
    words = None if graph is None else read_graph_words(graph)
    if graph is not None:
        recognisers["lm"] = open_file.from_zipformer_ctc(model=path, **settings, ctc_graph=f"{graph}/{GRAPH}")
    # frames that a chunk reads: as much silence behind a sound brings its last words out
    silence = int(metadata(path)["T"]) * sample_rate_hz // 100 if online else 0
    while head := sys.stdin.buffer.read(8):
        (count,) = struct.unpack("<q", head)
        samples = np.frombuffer(sys.stdin.buffer.read(4 * abs(count)), dtype="<f4")
        texts: dict[str, str] = {}
        chunks: list[Chunk] = []
        if online:
            live = OnlineStream(recognisers["greedy"], sample_rate_hz, silence)
            if count < 0:
                chunks = simulate(live, samples, sample_rate_hz)
            else:
                live.hear_all(samples)
            texts["greedy"] = live.text
        for kind, recogniser in recognisers.items() if not online else ():
            stream = recogniser.create_stream()
            stream.accept_waveform(sample_rate_hz, samples)
            recogniser.decode_stream(stream)
            # its text with a graph is the spelling that was heard; the words, where there are some, what a lexicon calls it
            result = stream.result
            called = words if kind == "lm" else None
            texts[kind] = result.text if called is None else " ".join(called[number] for number in result.words)
        answer = [texts, [astuple(chunk) for chunk in chunks]] if count < 0 else texts
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


class OnlineStream:
    """Child: one sound while an OnlineRecognizer hears it; see Live in steps/deploy/realtime.py.

    Args: silence: samples of it that are put behind the sound.
    """

    def __init__(self, recogniser: Any, rate_hz: int, silence: int):
        self.recogniser, self.rate_hz, self.silence = recogniser, rate_hz, silence
        self.stream = recogniser.create_stream()

    def hear(self, samples: np.ndarray) -> None:
        """See Live."""
        self.stream.accept_waveform(self.rate_hz, samples)

    def advance(self) -> bool:
        """See Live."""
        if not self.recogniser.is_ready(self.stream):
            return False
        self.recogniser.decode_stream(self.stream)
        return True

    def end(self) -> None:
        """See Live."""
        self.hear(np.zeros(self.silence, "<f4"))
        self.stream.input_finished()

    @property
    def text(self) -> str:
        """See Live."""
        return " ".join(self.recogniser.get_result(self.stream).split())

    def hear_all(self, samples: np.ndarray) -> None:
        """A sound in pieces of 10 to 500 ms, to its end."""
        for piece in feed(samples, self.rate_hz):
            self.hear(piece)
            while self.advance():
                pass
        self.end()
        while self.advance():
            pass


if __name__ == "__main__":
    threads, rate_hz, dim = map(int, sys.argv[2:5])
    serve(sys.argv[1], threads, rate_hz, dim, sys.argv[5] if len(sys.argv) > 5 else None)
