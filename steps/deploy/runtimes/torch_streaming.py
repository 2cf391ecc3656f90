"""A streaming model folder run by torch, chunk by chunk with what earlier chunks left behind.

What comes out is what the masked forward pass gives of the whole sound, its end included: the last chunk has as many frames as
are left, and no silence is put behind it.
"""

from typing import Any, cast

import numpy as np
import torch

from steps.deploy.realtime import Pace
from steps.deploy.runtimes.streaming import Stream, StreamingNetwork, StreamingRecogniser
from steps.deploy.runtimes.streaming_transducer import (
    ChunkTransducer,
    StreamingTransducerRecogniser,
    TransducerStream,
)
from steps.deploy.runtimes.torch_model import TorchTransducer
from steps.models.asr_model import AsrModel


class TorchChunks:
    """A model that runs in chunks, with the interface of StreamingNetwork. Args: device: torch device.   name: for messages."""

    def __init__(self, model: AsrModel, device: str, name: str):
        self.model, self.device, self.name = model, device, name
        self.width, self.stride = model.chunk_frames(), int(model.frontend.stride)
        self.shift = self.stride * model.chunk
        # feature frames that make a frame of the encoder
        self.least = self.stride + int(model.frontend.look_ahead)
        self.feature_dim, self.vocab_size = model.spec["feature_dim"], model.spec["vocab_size"]

    def first_states(self, batch: int = 1) -> list[torch.Tensor]:
        """What is known before the first chunk: the states of the model in their order, and (N,) int64 frames so far."""
        flat = [tensor for state in self.model.first_states(batch) for tensor in state.values()]
        return [*flat, torch.zeros(batch, dtype=torch.int64, device=self.device)]

    @torch.inference_mode()
    def step(self, feats: np.ndarray, states: list[torch.Tensor]) -> tuple[np.ndarray, list[torch.Tensor]]:
        """One chunk of every stream; fewer frames than it reads: the last one.

        Args:    feats (N, width or less, D) float32.   Returns: (N, T', ...) float32, what the head gives; states for the next chunk.
        """
        *flat, seen = states
        rest, there = iter(flat), feats.shape[1]
        names = self.model.state_sizes()
        kept = [{name: next(rest) for name in own} for own in names]
        padded = np.pad(feats, ((0, 0), (0, self.width - there), (0, 0)))
        hidden, after = self.model.encode_chunk(
            torch.from_numpy(padded).to(self.device), kept, seen, torch.full_like(seen, there)
        )
        frames = min(int(self.model.output_lengths(torch.tensor(there))), self.model.chunk)
        outputs = self.model.classify(hidden)[:, :frames].cpu().numpy()
        return outputs, [
            *(state[name] for state, own in zip(after, names, strict=True) for name in own),
            seen + frames,
        ]


class TorchTransducerChunks(TorchChunks):
    """A transducer that runs in chunks; see ChunkTransducer. Args: opened: its model folder.   name: for messages."""

    def __init__(self, opened: TorchTransducer, name: str):
        super().__init__(opened.model, opened.device, name)
        self.context, self.joiner = opened.context, opened.model.head_sizes.joiner
        self.predict, self.join = opened.predict, opened.join


class TorchStream(Stream):
    """One sound while it arrives, which ends with no silence behind it."""

    ended = False

    def end(self) -> None:
        """The sound has ended: its last chunk is not a whole one."""
        self.features.end()
        self.ended = True

    def advance(self) -> bool:
        """See Stream."""
        if super().advance():
            return True
        return self.ended and self.compute(self.features.rest(cast(TorchChunks, self.network).least))


class TorchStreaming(StreamingRecogniser):
    """A streaming model folder; see StreamingRecogniser."""

    def stream(self) -> Stream:
        """A new sound. Raises: UserError for features that need the whole of one."""
        return TorchStream(self)

    def pace(self) -> Pace:
        """See TimedRecogniser."""
        return Pace.of(self.network, self.features, silence=0)


class TorchTransducerStream(TorchStream, TransducerStream):
    """See both."""


class TorchStreamingTransducer(StreamingTransducerRecogniser):
    """A streaming model folder of a transducer; see StreamingTransducerRecogniser."""

    def stream(self, name: str = "the sound") -> TransducerStream:
        """See StreamingTransducerRecogniser."""
        return TorchTransducerStream(self, name)

    def pace(self) -> Pace:
        """See TimedRecogniser."""
        return Pace.of(self.network, self.features, silence=0)


def stream_by_torch(recogniser: Any, folder: str) -> TorchStreaming | TorchStreamingTransducer:
    """What hears a sound as it arrives, of a model folder that was opened. Args: folder: for messages."""
    opened = recogniser.model
    if isinstance(opened, TorchTransducer):
        chunks = cast(ChunkTransducer, TorchTransducerChunks(opened, folder))
        return TorchStreamingTransducer(chunks, recogniser.features, recogniser.tokens, folder)
    network = cast(StreamingNetwork, TorchChunks(opened.model, opened.device, folder))
    return TorchStreaming(network, recogniser.features, recogniser.tokens, folder)
