"""The three exported files of a transducer, run by onnxruntime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steps.core.cli import MissingInput, UserError
from steps.deploy.runtimes.onnx_model import open_session
from steps.deploy.runtimes.transducer import DECODER, ENCODER, JOINER
from steps.search.transducer import MOST_CONTEXT

FLOAT, INTEGER = "tensor(float)", "tensor(int64)"
# type and rank of inputs, then of outputs
Kinds = list[tuple[str, int]]


class ExportedParts:
    """The three files of an exported transducer, of which predictor and joiner are the same whatever the encoder hears.

    Args: source: exported folder, or the files' contents by name.   num_threads: CPU threads.
          profile_prefix: see `open_session`; each file adds its name.
    Attributes: feature_dim: D.   vocab_size: V.   context: last units that the predictor gets.   sessions: of the three files.
    """

    encoder_kinds: Kinds

    def __init__(
        self, source: str | Path | Mapping[str, bytes], num_threads: int = 1, profile_prefix: str | None = None
    ):
        kinds = {ENCODER: self.encoder_kinds, DECODER: [(INTEGER, 2), (FLOAT, 2)], JOINER: [(FLOAT, 2)] * 3}
        self.sessions, widths = [], {}
        for name in kinds:
            file = source[name] if isinstance(source, Mapping) else Path(source) / name
            if isinstance(file, Path) and not file.is_file():
                raise MissingInput(f"{file}: no such file; export the model (steps.export_model)")
            prefix = profile_prefix and f"{profile_prefix}_{Path(name).stem}"
            session = open_session(file, num_threads, prefix)
            values = [*session.get_inputs(), *session.get_outputs()]
            widths[name] = [value.shape[-1] for value in values if value.shape[1:]]
            fits = [(value.type, len(value.shape)) for value in values] == kinds[name]
            if not fits or not all(isinstance(width, int) for width in widths[name]):
                shown = name if isinstance(file, bytes) else file
                raise UserError(f"{shown}: not part of a transducer from steps.export_model, by its inputs and outputs")
            self.sessions.append(session)
        # features, what is kept; frames, what is kept
        own = widths[ENCODER]
        self.feature_dim, width = own[0], own[len(own) // 2]
        self.context, *shared, self.vocab_size = widths[DECODER] + widths[JOINER]
        if set(shared) != {width} or not 1 <= self.context <= MOST_CONTEXT:
            where = "the graphs" if isinstance(source, Mapping) else source
            raise UserError(f"{where}: its three files are not of one transducer; export the model again")
        self._names = [[value.name for value in session.get_inputs()] for session in self.sessions]

    def _run(self, number, *inputs):
        return self.sessions[number].run(None, dict(zip(self._names[number], inputs, strict=True)))

    def predict(self, last: np.ndarray) -> np.ndarray:
        """See Network."""
        return self._run(1, last)[0]

    def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """See Network."""
        return self._run(2, encoded, predicted)[0]


class OnnxTransducer(ExportedParts):
    """An exported transducer of whole utterances; see ExportedParts."""

    encoder_kinds = [(FLOAT, 3), (INTEGER, 1), (FLOAT, 3), (INTEGER, 1)]

    def encode(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Network."""
        encoded, out_lengths = self._run(0, feats, lengths)
        return encoded, out_lengths
