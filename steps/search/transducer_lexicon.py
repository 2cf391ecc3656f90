"""Lexicon search with a transducer: the words of a list, all equally likely, no language model."""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from steps.search.lexicon import SPACE, spell_words
from steps.search.transducer import BLANK_ID, Join, Predict, check_finite, last_units, log_softmax

# paths further below the best are dropped, in nats, and all but so many of the best
MARGIN, MOST_PATHS = 20.0, 1000
_ROOT, _NO_WORD, _NO_SPACE = 0, -1, -1
# node of the tree, last units -> score in nats, number of its history
Paths = dict[tuple[int, tuple[int, ...]], tuple[float, int]]


class TransducerLexicon:
    """Search over the words of a list, one unit a frame at most as in `greedy_search`.

    Paths in the same place of the same word after the same last units have the same future, and one is kept: alignments of the
    same words are added up; of different words the likelier stay. Where words have less in common than the margin, that is exact.

    Args:   words: the words that may be recognised; duplicates are ignored.   pieces: text of each token id.   blank_id: 0.
            encode, special_ids: see `spell_words`.   word_score: nats added for each word; below 0 gives fewer words.
    Attributes: words.   children: by unit, of each node of the tree of spellings.   ends: the word of nodes where a spelling ends.
            space: unit that may be left out at the end, and stand between words; -1: none.
    Raises: ValueError when the list is empty or a word cannot be spelled.
    Source: token passing, Young, Russell, Thornton 1989, over the alignments of Kang et al. 2023 (arXiv:2211.00484, section 3.3).
    """

    def __init__(
        self,
        words: Iterable[str],
        pieces: Sequence[str],
        blank_id: int = BLANK_ID,
        encode: Callable[[str], Iterable[int]] | None = None,
        special_ids: Collection[int] = (0, 1),
        word_score: float = 0.0,
    ):
        self.words, self.word_score, self.blank_id = list(dict.fromkeys(words)), word_score, blank_id
        if not self.words:
            raise ValueError("the word list is empty")
        spellings = spell_words(self.words, pieces, encode, special_ids)
        # as in LexiconDecoder: extra spaces may stand anywhere between words of characters, and the last word needs none
        self.space = list(pieces).index(SPACE) if encode is None and SPACE in pieces else _NO_SPACE
        labelled = list(enumerate(spellings)) + ([] if self.space == _NO_SPACE else [(_NO_WORD, [self.space])])
        self.children: list[dict[int, int]] = [{}]
        self.ends: dict[int, int] = {}
        for label, spelling in labelled:
            node = _ROOT
            for unit in spelling:
                if unit not in self.children[node]:
                    self.children[node][unit] = len(self.children)
                    self.children.append({})
                node = self.children[node][unit]
            self.ends[node] = label

    def decode(
        self, encoded: np.ndarray, predict: Predict, join: Join, context: int, never: Collection[int] = ()
    ) -> str:
        """The most likely words of one utterance.

        Args:    encoded (T, J) float32.   others: as for `greedy_search`.
        Returns: words joined by single spaces; "" when silence is the most likely.
        Raises:  ValueError when a score is not finite.
        """
        search = _Search(self, predict, join, context, [self.blank_id, *never])
        for frame in encoded:
            search.advance(frame)
        return " ".join(self.words[label] for label in search.best())


class _Search:
    """One utterance. Args: lexicon: whose words.   silent: units that count as the blank.   others: as for `greedy_search`."""

    def __init__(self, lexicon: TransducerLexicon, predict: Predict, join: Join, context: int, silent: list[int]):
        self.lexicon, self.predict, self.join, self.context, self.silent = lexicon, predict, join, context, silent
        self.paths: Paths = {(_ROOT, tuple(last_units([], context))): (0.0, 0)}
        # (number of the earlier history, word) of each, by number; the first has no words
        self.histories: list[tuple[int, int]] = [(0, _NO_WORD)]
        self.numbers: dict[tuple[int, int], int] = {}
        self.predicted: dict[tuple[int, ...], np.ndarray] = {}

    def log_probs(self, frame: np.ndarray) -> dict[tuple[int, ...], list[float]]:
        """Scores of all units, the blank first, after the last units of each path. Raises: ValueError: not finite."""
        lasts = list(dict.fromkeys(last for _, last in self.paths))
        if new := [last for last in lasts if last not in self.predicted]:
            self.predicted |= dict(zip(new, self.predict(np.array(new, dtype=np.int64)), strict=True))
        heard = np.repeat(frame[None], len(lasts), axis=0)
        logits = self.join(heard, np.stack([self.predicted[last] for last in lasts])).astype(np.float64)
        check_finite(logits)
        log_probs = log_softmax(logits)
        log_probs[:, self.lexicon.blank_id] = np.logaddexp.reduce(log_probs[:, self.silent], axis=1)
        return dict(zip(lasts, log_probs.tolist(), strict=True))

    def advance(self, frame: np.ndarray) -> None:
        """Go on by one frame. Args: frame (J,)."""
        scores, before, self.paths = self.log_probs(frame), self.paths, {}
        blank = self.lexicon.blank_id
        top = -np.inf
        for (node, last), (score, history) in before.items():
            row = scores[last]
            self.add(node, last, score + row[blank], history)
            top = max(top, score + row[blank])
            for unit, child in self.lexicon.children[node].items():
                onward = score + row[unit]
                if onward < top - MARGIN:
                    continue
                top = max(top, onward)
                after = (*last, unit)[-self.context :]
                if self.lexicon.children[child]:
                    self.add(child, after, onward, history)
                if child in self.lexicon.ends:
                    self.add(_ROOT, after, *self.end(child, onward, history))
        self.prune()

    def add(self, node: int, last: tuple[int, ...], score: float, history: int) -> None:
        """One more path into a place."""
        there = self.paths.get((node, last))
        if there is None:
            self.paths[node, last] = (score, history)
        elif there[1] == history:
            self.paths[node, last] = (float(np.logaddexp(there[0], score)), history)
        elif score > there[0]:
            self.paths[node, last] = (score, history)

    def end(self, node: int, score: float, history: int) -> tuple[float, int]:
        """End the word of a node. Returns: score and history with it."""
        label = self.lexicon.ends[node]
        if label == _NO_WORD:
            return score, history
        number = self.numbers.setdefault((history, label), len(self.histories))
        if number == len(self.histories):
            self.histories.append((history, label))
        return score + self.lexicon.word_score, number

    def prune(self) -> None:
        """Drop what is too far below the best; the best between words stays, so that there always is a text."""
        least = max(score for score, _ in self.paths.values()) - MARGIN
        kept = sorted((path for path in self.paths.items() if path[1][0] >= least), key=lambda path: -path[1][0])
        between = max((path for path in self.paths.items() if path[0][0] == _ROOT), key=lambda path: path[1][0])
        self.paths = dict([*kept[:MOST_PATHS], between])

    def best(self) -> list[int]:
        """The words of the best path that is not within one, but for the space behind it."""
        found: dict[int, float] = {}
        for (node, _), (score, history) in self.paths.items():
            if node != _ROOT:
                end = self.lexicon.children[node].get(self.lexicon.space, -1)
                if end not in self.lexicon.ends:
                    continue
                score, history = self.end(end, score, history)
            found[history] = float(np.logaddexp(found.get(history, -np.inf), score))
        history = max(found, key=lambda number: found[number])
        labels = []
        while history:
            history, label = self.histories[history]
            labels.append(label)
        return labels[::-1]
