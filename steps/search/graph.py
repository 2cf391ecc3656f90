"""Decoding along a graph of words with an n-gram model: the best path through it, with the beam that sherpa-onnx uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steps.search.lexicon import SPACE

EPSILON = 0
# those of sherpa-onnx: FasterDecoderOptions of kaldi-decoder, and ctc_max_active
BEAM, MOST_ACTIVE = 16.0, 3000


class GraphDecoder:
    """Viterbi search with a beam, by kaldi-decoder. `ended`: whether the last path came to an end of the graph.

    Args:   graph_file: OpenFst file, checked (steps/lm/fst.py): token ids plus one on its inputs, words on its outputs.
            tokens: text of each, V of them.   words: text of each output, the first being none; None: the outputs are tokens, which
            make up words.   beam, most_active: nats, states kept.
    Raises: ImportError when kaldi-decoder or kaldifst is missing.
    """

    def __init__(
        self,
        graph_file: str | Path,
        tokens: Sequence[str],
        words: Sequence[str] | None = None,
        beam: float = BEAM,
        most_active: int = MOST_ACTIVE,
    ):
        # here, because they are optional
        import kaldi_decoder
        import kaldifst

        self._kaldi, self._fst_library = kaldi_decoder, kaldifst
        self.num_tokens, self.joined, self.ended = len(tokens), words is None, True
        self.words = ["", *tokens] if words is None else words
        self._graph = kaldifst.StdVectorFst.read(str(graph_file))
        options = kaldi_decoder.FasterDecoderOptions(beam=beam, max_active=most_active)
        self._decoder = kaldi_decoder.FasterDecoder(self._graph, options)

    def decode(self, log_probs: np.ndarray) -> str:
        """The words of the best path of one utterance.

        Args:    log_probs: (T, V) float, natural log.
        Returns: words joined by single spaces; of a path that breaks off within a word, those before it.
        Raises:  ValueError when the shape does not fit the tokens.
        """
        log_probs = np.ascontiguousarray(log_probs, dtype=np.float32)
        if log_probs.ndim != 2 or log_probs.shape[1] != self.num_tokens:
            raise ValueError(f"expected (T, {self.num_tokens}) log-probabilities, not {log_probs.shape}")
        self.ended = True
        if not len(log_probs):
            return ""
        self._decoder.decode(self._kaldi.DecodableCtc(log_probs))
        self.ended = self._decoder.reached_final()
        found, path = self._decoder.get_best_path()
        if not found:
            return ""
        _, _, outputs, _ = self._fst_library.get_linear_symbol_sequence(path)
        said = [self.words[i] for i in outputs if i != EPSILON]
        return " ".join("".join(said).replace(SPACE, " ").split() if self.joined else said)
