"""From features to text with a CTC model, whatever runs it: greedy search; with a list of words or labels, or a graph, theirs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from steps.core.cli import MissingInput, UserError
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.deploy.graph_files import graph_facts, open_graph
from steps.deploy.runtimes.base import FeatureRecogniser, filled_up
from steps.search import lexicon
from steps.search.graph import GraphDecoder
from steps.search.greedy import emitted_log_probs, greedy_search
from steps.search.one_of import OneOf
from steps.search.transducer_lexicon import TransducerLexicon

SPECIAL = ("<blk>", "<unk>", "<eps>", "<blank>")
Decoder = TypeVar("Decoder", lexicon.LexiconDecoder, TransducerLexicon)


class Network(Protocol):
    """OnnxModel or TorchModel. feature_dim: D.   vocab_size: V."""

    feature_dim: int
    vocab_size: int

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""


class CtcRecogniser(FeatureRecogniser):
    """A CTC network with the features it hears and the tokens it emits; see Recogniser in steps/deploy/runtimes.

    Args, Attributes: see FeatureRecogniser.   decoder: LexiconDecoder, after `use_words`.   graph: GraphDecoder, after
    `use_graph`.   chooser: OneOf, after `use_labels`.   sure: see steps.deploy.recognition.decode_all.
    """

    model: Network

    def __init__(self, model: Network, features: FeatureConfig, tokens: list[str], name: str):
        super().__init__(model, features, tokens, name)
        self.decoder: lexicon.LexiconDecoder | None = None
        self.graph: GraphDecoder | None = None
        self.chooser: OneOf | None = None
        self.sure: list[float] = []

    def __enter__(self) -> "CtcRecogniser":
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Greedy, lexicon with a word list, lm with a graph, one_of with a list of labels."""
        more = {"lexicon": self.decoder, "lm": self.graph, "one_of": self.chooser}
        return ("greedy", *(kind for kind, decoder in more.items() if decoder is not None))

    @property
    def spells(self) -> bool:
        """Whether there are units to spell with; not in an encoder whose output layer is still to come."""
        return bool(set(self.tokens) - set(SPECIAL))

    def log_probs(self, feats: np.ndarray) -> np.ndarray:
        """Log-probabilities of one utterance. Args: feats (T, D) float32.  Returns: (T', V) float32."""
        log_probs, lengths = self.model.log_probs(*filled_up(feats))
        return log_probs[0, : lengths[0]]

    def run(self, heard: np.ndarray) -> None:
        """Run the network on one utterance: what is timed. Args: heard (T, D) float32."""
        self.log_probs(heard)

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> dict | None:
        """Also recognise with the words of a file alone.

        Args:    folder: the folder this was opened from; a subword model needs tokenizer.model in it or in its parent.
                 word_score: see DecodeConfig.
        Returns: {"count", "sha256"} of the word list; None where there are no units to spell with, as in an encoder whose output
                 layer is still to come.   Raises: MissingInput, UserError.
        """
        if not self.spells:
            return None
        self.decoder = open_lexicon(lexicon.LexiconDecoder, words_file, folder, self.tokens, self.blank_id, word_score)
        return {"count": len(self.decoder.words), "sha256": sha256_file(words_file)}

    def use_graph(self, folder: str | Path) -> dict | None:
        """Also recognise with the graph of a folder. Returns: facts about it.   Raises: MissingInput, UserError."""
        if not self.spells:
            return None
        self.graph = open_graph(folder, self.tokens)
        return graph_facts(folder)

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> dict | None:
        """Also take each recording for one of the labels of a file. Args, Returns, Raises: as of `use_words`."""
        if not self.spells:
            return None
        labels = read_labels(labels_file)
        try:
            self.chooser = OneOf(labels, self.tokens, self.blank_id, *spelling(folder, self.tokens, self.blank_id))
        except ValueError as error:
            raise UserError(f"{labels_file}: {error}") from None
        return {"count": len(self.chooser.labels), "sha256": sha256_file(labels_file)}

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one utterance, words separated by single spaces.

        Args:    heard: (T, D) float32 features.   name: for messages.
        Returns: {"greedy": text} and, with a word list, "lexicon", with a graph "lm", with a list of labels "one_of".
        Raises:  UserError for features of another width, or when a log-probability is not finite.
        """
        self.check_heard(heard, name)
        return self.read(np.asarray(self.log_probs(heard)), name)

    def read(self, log_probs: np.ndarray, name: str) -> dict[str, str]:
        """Text of the log-probabilities of one utterance. Args: log_probs (T', V).  Returns, Raises: see `recognise`."""
        if not np.isfinite(log_probs).all():
            raise UserError(f"{name}: the model returned log-probabilities that are not finite")
        (ids,) = greedy_search(log_probs[None], [len(log_probs)], self.blank_id)
        self.sure = emitted_log_probs(log_probs, self.blank_id)
        texts = {"greedy": self.words(ids)}
        if self.decoder is not None:
            texts["lexicon"] = self.decoder.decode(log_probs)
        if self.graph is not None:
            texts["lm"] = self.graph.decode(log_probs)
        if self.chooser is not None:
            texts["one_of"] = self.chooser.decode(log_probs)
        return texts


def read_words(path: str | Path) -> list[str]:
    """Read a word list, one word per line; empty lines are skipped. Returns: list of words, each once.

    Raises: MissingInput; UserError listing lines that hold more than one word, or when no word is left.
    """
    lines = read_lines(path, "word list")
    bad = [str(number) for number, line in enumerate(lines, start=1) if len(line.split()) > 1]
    if bad:
        raise UserError(f"{path}: expected one word per line; more than one in line {', '.join(bad[:10])}")
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise UserError(f"{path}: the word list is empty")
    return words


def read_labels(path: str | Path) -> list[str]:
    """Read a list of labels, one per line, blanks between words; empty lines are skipped. Returns: list of labels, each once.

    Raises: MissingInput; UserError when no label is left.
    """
    labels = [" ".join(line.split()) for line in read_lines(path, "list of labels")]
    if not any(labels):
        raise UserError(f"{path}: the list of labels is empty")
    return list(dict.fromkeys(filter(None, labels)))


def read_lines(path: str | Path, what: str) -> list[str]:
    """Lines of a UTF-8 text file, with or without a byte order mark. Args: what: it is, for messages.

    Raises: MissingInput, UserError.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such {what}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def spelling(
    folder: str | Path, tokens: list[str], blank_id: int
) -> tuple[Callable[[str], Iterable[int]] | None, set[int]]:
    """How text becomes tokens: the tokenizer's `encode`, None for single characters; ids that no text may use."""
    special_ids = {blank_id, *(i for i, token in enumerate(tokens) if token in SPECIAL)}
    if lexicon.has_single_characters(tokens, special_ids):
        return None, special_ids
    return load_tokenizer(folder).encode, special_ids


def open_lexicon(
    kind: type[Decoder],
    words_file: str | Path,
    folder: str | Path,
    tokens: list[str],
    blank_id: int,
    word_score: float = 0.0,
) -> Decoder:
    """Build a decoder of this kind for the words of a file. Args: as for `use_words`.

    Raises: MissingInput, UserError.
    """
    words = read_words(words_file)
    encode, special_ids = spelling(folder, tokens, blank_id)
    try:
        return kind(words, tokens, blank_id, encode, special_ids, word_score)
    except ValueError as error:
        raise UserError(f"{words_file}: {error}") from None


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, or of an exported folder in one. Raises: MissingInput."""
    for place in (Path(folder), Path(folder).parent):
        if (place / "tokenizer.model").is_file():
            return Tokenizer.load(place)
    raise MissingInput(f"{folder}: spelling words in tokens needs tokenizer.model here or one folder up")
