"""From features to text with a transducer, whatever runs it: greedily; if asked for, with a list of words, by modified beam search."""

from pathlib import Path
from typing import Protocol

import numpy as np

from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import UNKNOWN
from steps.deploy.runtimes.base import FeatureRecogniser, filled_up
from steps.deploy.runtimes.ctc import open_lexicon
from steps.search.transducer import beam_search, emissions, greedy_search, log_softmax
from steps.search.transducer_lexicon import TransducerLexicon

# of an export, as sherpa-onnx calls the parts
ENCODER, DECODER, JOINER = "encoder.onnx", "decoder.onnx", "joiner.onnx"


class Scorer(Protocol):
    """Predictor and joiner. vocab_size: V.   context: how many of the last units count."""

    vocab_size: int
    context: int

    def predict(self, last: np.ndarray) -> np.ndarray:
        """Run the predictor. Args: last (N, context) int64, -1: none.  Returns: (N, J) float32."""

    def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Run the joiner. Args: (N, J) float32 each.  Returns: (N, V) float32, unnormalised."""


class Network(Scorer, Protocol):
    """OnnxTransducer or TorchTransducer. feature_dim: D."""

    feature_dim: int

    def encode(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the encoder. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', J) float32, (N,) int64."""


class Probed:
    """A transducer that scores every frame after units that differ from frame to frame, as TransducerHead.probe does."""

    def __init__(self, model: Network):
        self.model, self.feature_dim, self.vocab_size = model, model.feature_dim, model.vocab_size

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        encoded, out_lengths = self.model.encode(feats, lengths)
        return probe(self.model, encoded), out_lengths


def probe(model: Scorer, encoded: np.ndarray) -> np.ndarray:
    """Scores of frames after units that differ from frame to frame. Args: encoded (N, T', J).  Returns: (N, T', V) log-probabilities."""
    rows, frames, width = encoded.shape
    last = (np.arange(frames)[:, None] + np.arange(model.context)) % model.vocab_size
    predicted = np.tile(model.predict(last.astype(np.int64)), (rows, 1))
    logits = model.join(encoded.reshape(-1, width), predicted)
    return log_softmax(logits).reshape(rows, frames, -1)


class TransducerRecogniser(FeatureRecogniser):
    """A transducer with the features it hears and the tokens it emits; see Recogniser in steps/deploy/runtimes.

    The unknown unit is never emitted, as in sherpa-onnx.

    Args, Attributes: see FeatureRecogniser.   paths: of the beam, after `use_beam`.   lexicon: after `use_words`.
    """

    model: Network

    def __init__(self, model: Network, features: FeatureConfig, tokens: list[str], name: str):
        super().__init__(model, features, tokens, name)
        self.paths = 0
        self.lexicon: TransducerLexicon | None = None
        self.never = [tokens.index(UNKNOWN)] if UNKNOWN in tokens else []
        if self.blank_id:
            raise UserError(f"{name}/tokens.txt: the blank of a transducer is token 0, not {self.blank_id}")

    def __enter__(self) -> "TransducerRecogniser":
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Greedy, lexicon with a word list, beam if asked for."""
        return ("greedy", *(["lexicon"] if self.lexicon else []), *(["beam"] if self.paths else []))

    def use_beam(self, paths: int) -> None:
        """Also recognise by modified beam search. Args: paths: at least 1."""
        self.paths = paths

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> dict:
        """Also recognise with the words of a file alone. Args, Returns, Raises: as of CtcRecogniser.use_words."""
        self.lexicon = open_lexicon(TransducerLexicon, words_file, folder, self.tokens, self.blank_id, word_score)
        return {"count": len(self.lexicon.words), "sha256": sha256_file(words_file)}

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> None:
        """See Recogniser; a transducer's units depend on one another, and a list of labels cannot be used."""

    def use_graph(self, folder: str | Path) -> None:
        """See Recogniser; nor can a graph."""

    def encode(self, feats: np.ndarray) -> np.ndarray:
        """Run the encoder on one utterance. Args: feats (T, D) float32.  Returns: (T', J) float32."""
        encoded, lengths = self.model.encode(*filled_up(feats))
        return encoded[0, : lengths[0]]

    def probe(self, feats: np.ndarray) -> np.ndarray:
        """Scores of one utterance's frames, see `probe` above. Args: feats (T, D) float32.  Returns: (T', V) log-probabilities."""
        return probe(self.model, self.encode(feats)[None])[0]

    def run_all(self, heard: np.ndarray) -> None:
        """See FeatureRecogniser."""
        self.probe(heard)

    def greedy(self, encoded: np.ndarray) -> list[int]:
        """Token ids by greedy search. Args: encoded (T', J).  Raises: ValueError when a score is not finite."""
        model = self.model
        (ids,) = greedy_search(encoded[None], [len(encoded)], model.predict, model.join, model.context, self.never)
        return ids

    def emissions(self, encoded: np.ndarray) -> tuple[list[int], list[int]]:
        """Token ids by greedy search, and the frame that emits each. Args: see `greedy`.  Raises: UserError."""
        try:
            return emissions(encoded, self.model.predict, self.model.join, self.model.context, self.never)
        except ValueError as error:
            raise UserError(f"the model returned {error}") from None

    def beam(self, encoded: np.ndarray) -> str:
        """Text by modified beam search, after `use_beam`. Args, Raises: see `greedy`."""
        model = self.model
        return self.words(beam_search(encoded, model.predict, model.join, model.context, self.paths, self.never))

    def searched(self, encoded: np.ndarray) -> dict[str, str]:
        """Texts of the searches that were asked for beside the greedy one, by kind. Args, Raises: see `greedy`."""
        model, texts = self.model, {}
        if self.lexicon:
            texts["lexicon"] = self.lexicon.decode(encoded, model.predict, model.join, model.context, self.never)
        return texts | ({"beam": self.beam(encoded)} if self.paths else {})

    def run(self, heard: np.ndarray) -> None:
        """Run the networks and greedy search, which decides what they hear, on one utterance. Args: heard (T, D) float32."""
        self.greedy(self.encode(heard))

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one utterance, words separated by single spaces.

        Args:    heard: (T, D) float32 features.   name: for messages.
        Returns: {"greedy": text} and, after `use_words`, "lexicon", after `use_beam` "beam".
        Raises:  UserError for features of another width, or when a score is not finite.
        """
        self.check_heard(heard, name)
        encoded = self.encode(heard)
        try:
            return {"greedy": self.words(self.greedy(encoded))} | self.searched(encoded)
        except ValueError as error:
            raise UserError(f"{name}: the model returned {error}") from None
