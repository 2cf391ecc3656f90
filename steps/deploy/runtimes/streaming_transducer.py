"""An exported streaming transducer in onnxruntime: its encoder hears sound as it arrives, and units come out with each chunk.

The encoder is in the layout of sherpa-onnx's online `lstm` transducers (steps/deploy/graphs/transducer_streaming.py); predictor
and joiner are those of any transducer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.deploy.pieces import feed
from steps.deploy.realtime import Chunk, Pace, simulate
from steps.deploy.runtimes.onnx_transducer import FLOAT, ExportedParts
from steps.deploy.runtimes.streaming import (
    MOST_KEPT,
    ChunkNetwork,
    Stream,
    StreamingRecogniser,
    chunk_sizes,
    each_chunk,
    filled_chunks,
)
from steps.deploy.runtimes.transducer import Network, Scorer, TransducerRecogniser
from steps.deploy.screen import STREAMING_ENCODER_TYPE
from steps.search.transducer import greedy_search


class ChunkTransducer(ChunkNetwork, Scorer, Protocol):
    """StreamingTransducer, or whatever has its interface. stride: feature frames of an encoder frame.   joiner: J."""

    stride: int
    joiner: int


class StreamingTransducer(ExportedParts):
    """An exported transducer whose encoder takes a chunk and what earlier chunks left behind.

    Args: see ExportedParts.
    Attributes: see there, and ChunkTransducer.   states: name, type and shape of what is kept between chunks.
    """

    encoder_kinds = [(FLOAT, 3)] * 6

    def __init__(
        self, source: str | Path | Mapping[str, bytes], num_threads: int = 1, profile_prefix: str | None = None
    ):
        super().__init__(source, num_threads, profile_prefix)
        encoder = self.sessions[0]
        inputs, outputs = encoder.get_inputs(), encoder.get_outputs()
        self.width, self.shift = chunk_sizes(encoder.get_modelmeta().custom_metadata_map, STREAMING_ENCODER_TYPE)
        _, frames, self.joiner = outputs[0].shape
        self.states = [(value.name, np.float32, value.shape) for value in inputs[1:]]
        shapes = [shape for _, _, shape in self.states]
        fits = self.width > 0 and inputs[0].shape[1] == self.width and shapes == [v.shape for v in outputs[1:]]
        fits = fits and all(shape[0] == 1 and isinstance(shape[1], str) for shape in shapes)
        fits = fits and isinstance(frames, int) and frames > 0 and self.shift % frames == 0
        if not fits or sum(shape[2] for shape in shapes) > MOST_KEPT:
            where = "the graphs" if isinstance(source, Mapping) else source
            raise UserError(f"{where}: not a streaming transducer from steps.export_model, by its inputs and metadata")
        self.stride = self.shift // frames

    def first_states(self, batch: int = 1) -> list[np.ndarray]:
        """See ChunkNetwork."""
        return [np.zeros((1, batch, shape[2]), np.float32) for _, _, shape in self.states]

    def step(self, feats: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """See ChunkNetwork. Returns: (N, T', J) float32; states."""
        encoded, *after = self._run(0, feats, *states)
        return encoded, after


class TransducerStream(Stream):
    """One sound while a transducer hears it. Args: recogniser: that made it.   name: of the sound, for messages."""

    def __init__(self, recogniser: "StreamingTransducerRecogniser", name: str):
        # Stream only asks it for its network, features and blank
        super().__init__(cast(StreamingRecogniser, recogniser))
        self.transducer, self.name = recogniser, name

    @property
    def log_probs(self) -> np.ndarray:
        """Not of a transducer, whose units depend on one another."""
        raise UserError(f"{self.name}: a transducer gives no log-probabilities of frames")

    @property
    def encoded(self) -> np.ndarray:
        """The joiner's share of all frames so far, (T', J) float32."""
        return np.concatenate([np.empty((0, self.transducer.network.joiner), np.float32), *self.parts])

    @property
    def text(self) -> str:
        """What has been recognised so far, greedily; never taken back. Raises: UserError when a score is not finite."""
        model, never = self.transducer.network, self.transducer.never
        for part in self.parts[self.read :]:
            search = (part[None], [len(part)], model.predict, model.join, model.context, never, [self.ids])
            try:
                (self.ids,) = greedy_search(*search)
            except ValueError as error:
                raise UserError(f"{self.name}: the model returned {error}") from None
            self.read += 1
        return self.transducer.words(self.ids)


class StreamingTransducerRecogniser(TransducerRecogniser):
    """A streaming transducer with the features it hears and the tokens it emits; see Recogniser in steps/deploy/runtimes.

    Args: network, features, tokens, name: as for TransducerRecogniser.
    """

    hears = "audio"

    def __init__(self, network: ChunkTransducer, features: FeatureConfig, tokens: list[str], name: str):
        # TransducerRecogniser never calls its `encode`: that is overridden below
        super().__init__(cast(Network, network), features, tokens, name)
        self.network = network

    def stream(self, name: str = "the sound") -> TransducerStream:
        """A new sound. Args: name: for messages.  Raises: UserError for features that need the whole of one."""
        return TransducerStream(self, name)

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one sound, fed in pieces of 10 to 500 ms as if somebody spoke; other searches begin when all of it is there.

        Args, Returns, Raises: see TransducerRecogniser, but samples (S,).
        """
        if heard.ndim != 1:
            raise UserError(f"{name}: a streaming model hears samples (S,), not {heard.shape}")
        stream = self.stream(name)
        for piece in feed(heard, self.features.sample_rate_hz):
            stream.accept(piece)
        stream.finish()
        return self.texts(stream)

    def texts(self, stream: TransducerStream) -> dict[str, str]:
        """Texts of a sound that has ended, by kind of decoding. Raises: UserError when a score is not finite."""
        texts = {"greedy": stream.text}
        try:
            return texts | (self.searched(stream.encoded) if self.kinds[1:] else {})
        except ValueError as error:
            raise UserError(f"{stream.name}: the model returned {error}") from None

    def in_real_time(self, heard: np.ndarray, name: str) -> tuple[dict[str, str], list[Chunk]]:
        """As `recognise`, but fed and timed as in steps/deploy/realtime.py. Returns: texts by kind; the chunks."""
        stream = self.stream(name)
        chunks = simulate(stream, heard, self.features.sample_rate_hz)
        return self.texts(stream), chunks

    def pace(self) -> Pace:
        """See TimedRecogniser."""
        return Pace.of(self.network, self.features)

    def encode(self, feats: np.ndarray) -> np.ndarray:
        """Run the encoder on features, the last frame repeated to the end of a chunk. Args: feats (T, D).  Returns: (T', J)."""
        return np.concatenate(list(each_chunk(self.network, filled_chunks(self.network, feats))))
