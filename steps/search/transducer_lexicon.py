"""Lexicon search with a transducer: the words of a list, all equally likely, no language model."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from steps.search.lexicon import SPACE, spell_words
from steps.search.transducer import BLANK_ID, Join, Predict, check_finite, last_units, log_softmax

# paths further below the best are dropped, in nats, all but so many of the best, and all but so many in one place
MARGIN, MOST_PATHS, MOST_IN_PLACE = 14.0, 1000, 4
_ROOT, _NO_WORD, _NO_SPACE = 0, -1, -1
# node of the tree and last units: what comes next depends on nothing else
Place = tuple[int, tuple[int, ...]]
# number of an earlier history and the word that has ended since, if any -> score in nats
Sums = dict[tuple[int, int], float]


class TransducerLexicon:
    """Search over the words of a list, one unit a frame at most as in `greedy_search`.

    The alignments of the same words are added up. Of different words that meet in the same place of a word, after the same last
    units, the likeliest few go on.

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
        # what a word costs or gives counts when it has ended, and paths within words have that before them
        self.margin = MARGIN + abs(lexicon.word_score)
        # in each place: score, number of the history
        self.paths: dict[Place, list[tuple[float, int]]] = {(_ROOT, tuple(last_units([], context))): [(0.0, 0)]}
        # (number of the earlier history, word) of each, by number; the first has no words
        self.histories: list[tuple[int, int]] = [(0, _NO_WORD)]
        self.numbers: dict[tuple[int, int], int] = {}
        self.predicted: dict[tuple[int, ...], np.ndarray] = {}

    def advance(self, frame: np.ndarray) -> None:
        """Go on by one frame. Args: frame (J,)."""
        blanks, likely = self.scores(frame)
        found: dict[Place, Sums] = {}
        lexicon = self.lexicon
        for (node, last), paths in self.paths.items():
            for score, history in paths:
                add(found, (node, last), (history, _NO_WORD), score + blanks[last])
            children = lexicon.children[node]
            for unit, log_prob in likely[last]:
                if unit not in children:
                    continue
                child, after = children[unit], (*last, unit)[-self.context :]
                label = lexicon.ends.get(child)
                for score, history in paths:
                    if lexicon.children[child]:
                        add(found, (child, after), (history, _NO_WORD), score + log_prob)
                    if label is not None:
                        bonus = 0.0 if label == _NO_WORD else lexicon.word_score
                        words = self.numbers.get((history, label))
                        ended = (history, label) if words is None else (words, _NO_WORD)
                        add(found, (_ROOT, after), ended, score + log_prob + bonus)
        self.prune(found)

    def scores(
        self, frame: np.ndarray
    ) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], list[tuple[int, float]]]]:
        """Of the blank, and of those units that may matter, after the last units of each path. Raises: ValueError: not finite."""
        best: dict[tuple[int, ...], float] = {}
        for (_, last), paths in self.paths.items():
            best[last] = max(best.get(last, -math.inf), paths[0][0])
        lasts = list(best)
        new = [last for last in lasts if last not in self.predicted]
        known = dict(zip(new, self.predict(np.array(new, dtype=np.int64)), strict=True)) if new else {}
        self.predicted = {last: known[last] if last in known else self.predicted[last] for last in lasts}
        logits = self.join(np.repeat(frame[None], len(lasts), axis=0), np.stack(list(self.predicted.values())))
        check_finite(logits)
        log_probs = log_softmax(logits.astype(np.float64))
        blank = np.logaddexp.reduce(log_probs[:, self.silent], axis=1)
        so_far = np.array(list(best.values()))
        log_probs[:, self.silent] = -np.inf
        likely: dict[tuple[int, ...], list[tuple[int, float]]] = {last: [] for last in lasts}
        rows, units = np.nonzero(log_probs + so_far[:, None] >= (so_far + blank).max() - self.margin)
        for row, unit, log_prob in zip(rows.tolist(), units.tolist(), log_probs[rows, units].tolist(), strict=True):
            likely[lasts[row]].append((unit, log_prob))
        return dict(zip(lasts, blank.tolist(), strict=True)), likely

    def prune(self, found: dict[Place, Sums]) -> None:
        """Keep the best few of each place and of all; the best between words stays, so that there always is a text."""
        kept = []
        for place, sums in found.items():
            best = sorted(sums.items(), key=lambda path: -path[1])[:MOST_IN_PLACE]
            kept += [(score, place, words) for words, score in best]
        kept.sort(key=lambda path: -path[0])
        between = next(path for path in kept if path[1][0] == _ROOT)
        least = kept[0][0] - self.margin
        kept = [path for path in kept[:MOST_PATHS] if path[0] >= least]
        self.paths = {}
        for score, place, words in kept if between in kept else [*kept, between]:
            self.paths.setdefault(place, []).append((score, self.number(*words)))

    def number(self, history: int, label: int) -> int:
        """The number of a history with a word behind it."""
        if label == _NO_WORD:
            return history
        number = self.numbers.setdefault((history, label), len(self.histories))
        if number == len(self.histories):
            self.histories.append((history, label))
        return number

    def best(self) -> list[int]:
        """The words of the best path that is not within one, but for the space behind it."""
        found: dict[Place, Sums] = {}
        lexicon = self.lexicon
        for (node, _), paths in self.paths.items():
            end = _ROOT if node == _ROOT else lexicon.children[node].get(lexicon.space, _ROOT)
            label = _NO_WORD if node == _ROOT else lexicon.ends.get(end)
            if label is not None:
                for score, history in paths:
                    bonus = 0.0 if label == _NO_WORD else lexicon.word_score
                    add(found, (_ROOT, ()), (self.number(history, label), _NO_WORD), score + bonus)
        (history, _), _ = max(found[_ROOT, ()].items(), key=lambda path: path[1])
        labels = []
        while history:
            history, label = self.histories[history]
            labels.append(label)
        return labels[::-1]


def add(found: dict[Place, Sums], place: Place, words: tuple[int, int], score: float) -> None:
    """Add alignments to those of the same words in a place."""
    sums = found.setdefault(place, {})
    other = sums.get(words)
    if other is not None:
        score = max(score, other) + math.log1p(math.exp(-abs(score - other)))
    sums[words] = score
