"""An exported streaming CTC model in onnxruntime: sound goes in as it arrives, chunk after chunk.

The file is in the layout of sherpa-onnx's online zipformer2_ctc (steps/deploy/graphs/ctc_streaming.py), and what runs here is
the loop that sherpa-onnx runs: a chunk is computed as soon as one frame more than it reads is there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.data.online_features import ChunkFeatures
from steps.deploy.pieces import feed
from steps.deploy.realtime import Chunk, Pace, simulate
from steps.deploy.runtimes.ctc import CtcRecogniser, Network
from steps.deploy.runtimes.onnx_model import find_graph, open_session
from steps.deploy.screen import STREAMING_TYPE
from steps.search.greedy import continue_greedy

# of the metadata: frames read and frames advanced by a chunk
READ, ADVANCED = "T", "decode_chunk_len"
MOST_FRAMES = 4096
# numbers of all states of one stream
MOST_KEPT = 1 << 26
ELEMENTS = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class ChunkNetwork(Protocol):
    """What runs chunk by chunk. feature_dim: D.   width, shift: feature frames that a chunk reads, and advances by."""

    feature_dim: int
    width: int
    shift: int

    def first_states(self, batch: int = 1) -> list[np.ndarray]:
        """What is known before the first chunk. Args: batch: N."""

    def step(self, feats: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """One chunk of every stream. Args: feats (N, width, D) float32.  Returns: (N, T', ...); states for the next chunk."""


def chunk_sizes(meta: Mapping[str, str], kind: str) -> tuple[int, int]:
    """Frames that a chunk reads, and advances by, from the metadata of a file; 0 and 0 for one of another `model_type` than `kind`, or
    with numbers that cannot be."""
    numbers = [meta.get(key, "") for key in (READ, ADVANCED)]
    if meta.get("model_type") != kind or not all(n.isascii() and n.isdigit() and len(n) < 6 for n in numbers):
        return 0, 0
    width, shift = map(int, numbers)
    return (width, shift) if 1 <= shift <= width <= MOST_FRAMES else (0, 0)


def each_chunk(network: ChunkNetwork, feats: np.ndarray) -> Iterator[np.ndarray]:
    """What a network gives for the whole chunks of features. Args: feats (T, D) float32.  Yields: (T', ...)."""
    states = network.first_states()
    for start in range(0, len(feats) - network.width + 1, network.shift):
        found, states = network.step(feats[None, start : start + network.width], states)
        yield found[0]


def filled_chunks(network: ChunkNetwork, feats: np.ndarray) -> np.ndarray:
    """Features with the last frame repeated to the end of a chunk. Args: feats (T, D).  Returns: (T or more, D)."""
    missing = network.width - len(feats)
    behind = missing if missing > 0 else -(len(feats) - network.width) % network.shift
    return np.pad(feats, ((0, behind), (0, 0)), mode="edge")


class StreamingNetwork:
    """The file of a streaming CTC model.

    Args: source: exported folder, ONNX file, or the file's content.   num_threads: CPU threads.
          profile_prefix: see `open_session`.
    Attributes: feature_dim: D.   vocab_size: V.   width, shift: feature frames that a chunk reads, and advances by.
                stride: of them, those that a frame of the encoder stands for.   sessions: the one InferenceSession.
    Raises: MissingInput; UserError for another kind of file.
    """

    def __init__(self, source: str | Path | bytes, num_threads: int = 1, profile_prefix: str | None = None):
        source = find_graph(source)
        session = open_session(source, num_threads, profile_prefix)
        self.sessions = [session]
        self.name = "the graph" if isinstance(source, bytes) else str(source)
        meta, inputs = session.get_modelmeta().custom_metadata_map, session.get_inputs()
        outputs = session.get_outputs()
        self.width, self.shift = chunk_sizes(meta, STREAMING_TYPE)
        self.feature_dim, self.vocab_size = (value.shape[-1] for value in (inputs[0], outputs[0]))
        self.states = [(value.name, ELEMENTS.get(value.type), value.shape) for value in inputs[1:]]
        kept = [np.prod([1 if isinstance(s, str) else s for s in shape], dtype=float) for _, _, shape in self.states]
        fits = self.width > 0 and len(inputs) == len(outputs)
        fits = fits and inputs[0].shape[1:] == [self.width, self.feature_dim] and isinstance(self.vocab_size, int)
        frames = outputs[0].shape[1]
        fits = fits and isinstance(frames, int) and frames > 0 and self.shift % frames == 0
        if not fits or None in [kind for _, kind, _ in self.states] or sum(kept) > MOST_KEPT:
            raise UserError(
                f"{self.name}: not a streaming CTC model from steps.export_model, by its inputs and metadata"
            )
        self.stride = self.shift // frames
        self.inputs = [value.name for value in inputs]

    def first_states(self, batch: int = 1) -> list[np.ndarray]:
        """What is known before the first chunk. Args: batch: N."""
        sizes = [[batch if isinstance(size, str) else size for size in shape] for _, _, shape in self.states]
        return [np.zeros(size, kind) for size, (_, kind, _) in zip(sizes, self.states, strict=True)]

    def step(self, feats: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """One chunk of every stream. Args: feats (N, width, D) float32.  Returns: (N, T', V) float32; states for the next chunk."""
        log_probs, *after = self.sessions[0].run(None, dict(zip(self.inputs, (feats, *states), strict=True)))
        return log_probs, after


class Stream:
    """One sound while it arrives. Args: recogniser: that made it."""

    def __init__(self, recogniser: "StreamingRecogniser"):
        self.recogniser, self.network = recogniser, recogniser.network
        self.features = ChunkFeatures(recogniser.features, self.network.width, self.network.shift)
        self.states = self.network.first_states()
        self.parts: list[np.ndarray] = []
        # what the first `read` of the parts say
        self.ids: list[int] = []
        self.read, self.last = 0, recogniser.blank_id

    def hear(self, samples: np.ndarray) -> None:
        """More sound, not computed yet. Args: samples (S,) float32 in [-1, 1]."""
        self.features.accept(samples)

    def advance(self) -> bool:
        """Compute the next chunk, if its sound is there. Returns: whether it was."""
        return self.compute(self.features.chunk())

    def compute(self, frames: np.ndarray | None) -> bool:
        """Run the network on the frames of a chunk. Args: frames (T, D) float32; None: there is none.  Returns: whether there was."""
        if frames is None:
            return False
        log_probs, self.states = self.network.step(frames[None], self.states)
        self.parts.append(log_probs[0])
        return True

    def accept(self, samples: np.ndarray) -> None:
        """More sound, and all that can be computed of it. Args: samples (S,) float32 in [-1, 1]."""
        self.hear(samples)
        while self.advance():
            pass

    def end(self) -> None:
        """The sound has ended: silence behind it makes chunks of what is not read yet."""
        self.features.finish(self.network.width)

    def finish(self) -> None:
        """The sound has ended: all that is not read yet goes through the network."""
        self.end()
        while self.advance():
            pass

    def forget(self) -> None:
        """Keep no log-probabilities of what `text` has read: for sound without end."""
        del self.parts[: self.read]
        self.read = 0

    @property
    def log_probs(self) -> np.ndarray:
        """Of all frames so far, (T', V) float32."""
        return np.concatenate([np.empty((0, self.network.vocab_size), np.float32), *self.parts])

    @property
    def text(self) -> str:
        """What has been recognised so far, greedily; it only grows. Raises: UserError when a log-probability is not finite."""
        for part in self.parts[self.read :]:
            if not np.isfinite(part).all():
                raise UserError(f"{self.network.name}: the model returned log-probabilities that are not finite")
            ids, self.last = continue_greedy(part, self.last, self.recogniser.blank_id)
            self.ids += ids
            self.read += 1
        return self.recogniser.words(self.ids)


class StreamingRecogniser(CtcRecogniser):
    """A streaming network with the features it hears and the tokens it emits; see Recogniser in steps/deploy/runtimes.

    Args: network, features, tokens, name: as for CtcRecogniser.
    """

    hears = "audio"

    def __init__(self, network: StreamingNetwork, features: FeatureConfig, tokens: list[str], name: str):
        # CtcRecogniser only asks it for its sizes: log_probs is overridden below
        super().__init__(cast(Network, network), features, tokens, name)
        self.network = network

    def stream(self) -> Stream:
        """A new sound. Raises: UserError for features that need the whole of one."""
        return Stream(self)

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one sound, fed in pieces of 10 to 500 ms as if somebody spoke. Args, Returns: see CtcRecogniser, but samples (S,)."""
        if heard.ndim != 1:
            raise UserError(f"{name}: a streaming model hears samples (S,), not {heard.shape}")
        stream = self.stream()
        for piece in feed(heard, self.features.sample_rate_hz):
            stream.accept(piece)
        stream.finish()
        return self.read(stream.log_probs, name)

    def in_real_time(self, heard: np.ndarray, name: str) -> tuple[dict[str, str], list[Chunk]]:
        """As `recognise`, but fed and timed as in steps/deploy/realtime.py. Returns: texts by kind; the chunks."""
        stream = self.stream()
        chunks = simulate(stream, heard, self.features.sample_rate_hz)
        return self.read(stream.log_probs, name), chunks

    def pace(self) -> Pace:
        """See TimedRecogniser."""
        return Pace.of(self.network, self.features)

    def log_probs(self, feats: np.ndarray) -> np.ndarray:
        """Log-probabilities of whole chunks of features. Args: feats (T, D) float32.  Returns: (T', V) float32."""
        none = np.empty((0, self.network.vocab_size), np.float32)
        return np.concatenate([none, *each_chunk(self.network, feats)])

    def run(self, heard: np.ndarray) -> None:
        """Run the network on the features of one utterance, the last frame repeated to the end of a chunk: what is timed."""
        self.log_probs(filled_chunks(self.network, heard))
