"""Sound that arrives while it is recognised: what each chunk costs, and when the last word is out.

Nothing is waited for. Sound goes in as from a microphone, 10 ms at a time, and the processor time between one chunk and the
next is the chunk's; when it would have been out follows from when its sound is there and from what the chunks before took.
What is fed and timed needs neither torch nor onnxruntime here, so that sherpa-onnx's process does the same.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steps.core.cli import UserError
from steps.core.tables import small_number
from steps.data.feature_config import FeatureConfig
from steps.data.online_features import OnlineFeatures

# of sound that goes in at once
PIECE_MS = 10


class Live(Protocol):
    """A sound while it arrives: Stream in steps/deploy/runtimes/streaming.py, or whatever has its interface."""

    def hear(self, samples: np.ndarray) -> None:
        """More sound, not computed yet. Args: samples (S,) float32 in [-1, 1]."""

    def advance(self) -> bool:
        """Compute the next chunk, if its sound is there. Returns: whether it was."""

    def end(self) -> None:
        """The sound has ended; what is not computed yet can be, now."""

    @property
    def text(self) -> str:
        """What has been recognised so far."""


@dataclass(frozen=True)
class Chunk:
    """cpu_s: processor time from the end of the chunk before, features and search included.   grew: whether it brought text."""

    cpu_s: float
    grew: bool


def arriving(samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
    """A sound as a microphone would bring it. Args: samples (S,).  Yields: views of PIECE_MS that add up to it."""
    step = rate_hz * PIECE_MS // 1000
    return (samples[start : start + step] for start in range(0, len(samples), step))


def simulate(
    stream: Live, samples: np.ndarray, rate_hz: int, clock: Callable[[], float] = time.process_time
) -> list[Chunk]:
    """Let a stream hear a sound as it would arrive, to its end. Args: samples (S,) float32.  Returns: its chunks in order."""
    chunks, text, spent = [], stream.text, 0.0
    acts: Iterator[Callable[[], None]] = (functools.partial(stream.hear, piece) for piece in arriving(samples, rate_hz))
    for act in itertools.chain(acts, [stream.end]):
        begin = clock()
        act()
        while stream.advance():
            text, before = stream.text, text
            now = clock()
            chunks.append(Chunk(spent + now - begin, text != before))
            spent, begin = 0.0, now
        spent += clock() - begin
    return chunks


@dataclass(frozen=True)
class Pace:
    """What a streaming model reads, and when it is there.

    features: what it hears.   width, shift: feature frames that a chunk reads, and advances by.   stride: of them, those that a
    frame of the encoder stands for.   cache_bytes: what is kept from chunk to chunk, of one stream.
    silence: feature frames of silence that are put behind a sound.
    """

    features: FeatureConfig
    width: int
    shift: int
    stride: int
    cache_bytes: int
    silence: int

    @classmethod
    def of(cls, network: Any, features: FeatureConfig, silence: int | None = None) -> "Pace":
        """That of a network like StreamingNetwork. Args: silence: default: as much as a chunk reads."""
        kept = sum(state.nbytes for state in network.first_states())
        behind = network.width if silence is None else silence
        return cls(features, network.width, network.shift, network.stride, kept, behind)

    @property
    def chunk_s(self) -> float:
        """Sound from one chunk to the next."""
        return self.shift * self.features.frame_shift_ms / 1000

    def facts(self) -> dict[str, Any]:
        """Lengths in ms and bytes, for JSON. look_ahead_ms: sound that must be there behind the part that a frame stands for, the
        chunk's first, before it is computed."""
        hop = self.features.frame_shift_ms
        lengths = {"chunk_ms": self.shift, "reads_ms": self.width, "look_ahead_ms": self.width - self.stride}
        lengths |= {"silence_ms": self.silence}
        return {name: round(frames * hop, 3) for name, frames in lengths.items()} | {"cache_bytes": self.cache_bytes}

    def arrivals_s(self, chunks: int) -> list[float]:
        """When the sound that each chunk waits for is there, the frame behind what it reads included."""
        clock = OnlineFeatures(self.features)
        frames = [number * self.shift + self.width + 1 for number in range(chunks)]
        return [clock.samples_of(count) / self.features.sample_rate_hz for count in frames]


@dataclass(frozen=True)
class Run:
    """One sound that was recognised as it arrived. seconds: its length."""

    seconds: float
    chunks: list[Chunk]

    def last_word_s(self, arrivals_s: Sequence[float]) -> float | None:
        """From the end of the sound until its last word is out; below 0: before the end; None: there was no word.

        Args: arrivals_s: when what each chunk waits for is there. A chunk is computed then, or when the one before is done.
        """
        done = out = None
        for arrival, chunk in zip(arrivals_s, self.chunks, strict=True):
            done = (arrival if done is None else max(arrival, done)) + chunk.cpu_s
            out = done if chunk.grew else out
        return None if out is None else out - self.seconds


class TimedRecogniser(Protocol):
    """A Recogniser that streams, of this process or another."""

    features: FeatureConfig

    @property
    def kinds(self) -> tuple[str, ...]:
        """See Recogniser."""

    def in_real_time(self, heard: np.ndarray, name: str) -> tuple[dict[str, str], list[Chunk]]:
        """Recognise one sound by `simulate`. Args: heard (S,) float32; name: for messages.  Returns: texts by kind; chunks."""

    def pace(self) -> Pace:
        """What a chunk reads, and when."""


class RealTime:
    """A recogniser of whole sounds that hears them as they would arrive; see Recogniser in steps/deploy/runtimes.

    Args: recogniser: that streams.   Attributes: runs: what was heard so far.   Raises: UserError for one that does not.
    """

    hears = "audio"

    def __init__(self, recogniser: TimedRecogniser):
        self.recogniser, self.features, self.kinds = recogniser, recogniser.features, recogniser.kinds
        self.pace = recogniser.pace()
        self.runs: list[Run] = []

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text by kind of decoding. Args: heard (S,) float32; name: for messages.  Raises: UserError."""
        if not self.runs:
            # what a first sound costs more is no chunk's
            self.recogniser.in_real_time(heard, name)
        texts, chunks = self.recogniser.in_real_time(heard, name)
        self.runs.append(Run(len(heard) / self.features.sample_rate_hz, chunks))
        return texts

    def summary(self) -> dict[str, Any]:
        """What steps.decode --streaming writes; its fields: steps/scoring/README.md."""
        pace = self.pace
        arrivals = pace.arrivals_s(max((len(run.chunks) for run in self.runs), default=0))
        costs = [chunk.cpu_s / pace.chunk_s for run in self.runs for chunk in run.chunks]
        waits, told = [], []
        for run in self.runs:
            own = arrivals[: len(run.chunks)]
            waits.append(run.last_word_s(own))
            told.append(run.last_word_s([min(arrival, run.seconds) for arrival in own]))
        return pace.facts() | {
            "chunks": len(costs),
            "rtf": {"mean": _rounded(np.mean, costs, 1, 6), "p95": _percentile(costs, 95, 1, 6)},
            "last_word_ms": _spread(waits),
            "last_word_told_ms": _spread(told),
        }


def describe_summary(found: dict[str, Any]) -> list[str]:
    """What `RealTime.summary` found, in lines."""
    lines = [f"chunks of {found['chunk_ms']:g} ms, {found['chunks']} of them; look-ahead {found['look_ahead_ms']:g} ms; "
             f"{found['cache_bytes']:,} bytes kept between chunks"]  # fmt: skip
    if found["chunks"]:
        rtf = found["rtf"]
        mean, most = (small_number(rtf[key], 4) for key in ("mean", "p95"))
        lines.append(f"real-time factor of a chunk: {mean} on average, {most} (95 %)")
    for key, when in (("last_word_ms", "sound that goes on"), ("last_word_told_ms", "sound whose end is told")):
        wait = found[key]
        if wait["p50"] is not None:
            text = f"last word out {wait['p50']:.0f} ms after the end of the recording (median), {wait['p95']:.0f} ms (95 %)"
            lines.append(f"{text}, of {when}")
    return lines


def _spread(seconds: Iterable[float | None]) -> dict[str, float | None]:
    """Median and 95 % of what is there, in ms."""
    values = [value for value in seconds if value is not None]
    return {f"p{share}": _percentile(values, share, 1000, 1) for share in (50, 95)}


def _percentile(values, share, scale, digits):
    return _rounded(lambda those: np.percentile(those, share), values, scale, digits)


def _rounded(function, values, scale, digits):
    return round(float(function(values)) * scale, digits) if len(values) else None


def streaming(recogniser: Any, folder: str) -> Any:
    """What hears sound as it arrives, with what a folder was opened with: an export that streams as it is, a model folder by torch,
    chunk by chunk.

    Args: recogniser: from `load_recogniser`.   folder: for messages.   Raises: UserError for one that hears whole utterances.
    """
    if hasattr(recogniser, "in_real_time"):
        return recogniser
    net = getattr(getattr(recogniser, "model", None), "model", None)
    if not getattr(net, "chunk", 0):
        what = "needs a model with `streaming` in its settings (conf/README.md, In chunks)"
        raise UserError(f"{folder}: hears whole utterances; recognising sound as it arrives {what}")
    # here, so that an exported folder is decoded without torch
    from steps.deploy.runtimes.torch_streaming import stream_by_torch

    return stream_by_torch(recogniser, folder)
