"""Lexicon decoding: the most likely sequence of words from a list, all words equally likely, no language model.

Without a language model the best path through the words can be found exactly, by dynamic programming over the prefix
tree of their spellings; no beam, nothing to tune. The work per frame grows with the tree: meant for up to 10,000 words.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

# as in steps/data/tokenizer.py, which must not be imported from here
SPACE = "\u2581"
_ROOT, _NO_WORD = 0, -1


def has_single_characters(pieces: Sequence[str], special_ids: Collection[int] = (0, 1)) -> bool:
    """Whether every piece is one character, so that any word is spelled by its characters."""
    return all(len(piece) == 1 for i, piece in enumerate(pieces) if i not in special_ids)


def spell_words(
    words: Sequence[str],
    pieces: Sequence[str],
    encode: Callable[[str], Iterable[int]] | None = None,
    special_ids: Collection[int] = (0, 1),
) -> list[list[int]]:
    """Spell each word in token ids.

    Args:   words: without duplicates.   pieces: text of each token id, U+2581 standing for a space.
            encode: text -> token ids, with its own word boundaries; None: character by character, with the space (when
                    it is a piece) at the end.
            special_ids: ids no word may use (blank, unknown).
    Returns: ids of each word, in the order of `words`.
    Raises:  ValueError listing the words that cannot be spelled.
    """
    spellings = try_to_spell(words, pieces, encode, special_ids)
    if bad := [word for word in words if word not in spellings]:
        more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
        some = " ".join(bad[:20])
        raise ValueError(f"{len(bad)} of {len(words)} words cannot be spelled with the tokens: {some}{more}")
    return [spellings[word] for word in words]


def try_to_spell(
    words: Iterable[str],
    pieces: Sequence[str],
    encode: Callable[[str], Iterable[int]] | None = None,
    special_ids: Collection[int] = (0, 1),
) -> dict[str, list[int]]:
    """Spell those words that can be spelled. Args: as for `spell_words`.  Returns: ids of each of them."""
    ids = {piece: i for i, piece in enumerate(pieces) if i not in special_ids}
    end = SPACE if SPACE in ids else ""
    spellings = {}
    for word in words:
        spelling: list[Any] = [ids.get(char) for char in word + end] if encode is None else list(encode(word))
        good = all(i is not None and i not in special_ids for i in spelling)
        if good and "".join(pieces[i] for i in spelling).replace(SPACE, "") == word:
            spellings[word] = spelling
    return spellings


class LexiconDecoder:
    """Exact Viterbi search over the words of a list.

    Args:   words: the words that may be recognised; duplicates are ignored.   pieces: text of each token id.
            blank_id: index of the CTC blank.   encode, special_ids: see `spell_words`.
            word_score: nats added for each word; below 0 gives fewer words.
    Raises: ValueError when the list is empty or a word cannot be spelled.
    Source: token passing, Young, Russell, Thornton 1989, over CTC states (Graves et al. 2006, section 4.1).
    """

    def __init__(
        self,
        words: Iterable[str],
        pieces: Sequence[str],
        blank_id: int = 0,
        encode: Callable[[str], Iterable[int]] | None = None,
        special_ids: Collection[int] = (0, 1),
        word_score: float = 0.0,
    ):
        self.words = list(dict.fromkeys(words))
        if not self.words:
            raise ValueError("the word list is empty")
        self.num_tokens, self.blank_id, self.word_score = len(pieces), blank_id, word_score
        spellings = spell_words(self.words, pieces, encode, special_ids)
        # With characters, extra spaces may stand anywhere between words, and the last word needs none.
        self.space_id = list(pieces).index(SPACE) if encode is None and SPACE in pieces else None
        self._build_tree(spellings)

    def _build_tree(self, spellings):
        """Node 0 is the root; every other has a token and a parent, and a word when a spelling ends there."""
        children, tokens, parents, ends = {}, [self.blank_id], [_ROOT], {}
        labelled = list(enumerate(spellings))
        if self.space_id is not None:
            labelled.append((_NO_WORD, [self.space_id]))
        for label, spelling in labelled:
            node = _ROOT
            for token in spelling:
                if (node, token) not in children:
                    children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = children[node, token]
            ends[node] = label
        self._tokens, self._parents = np.array(tokens), np.array(parents)
        self._end_nodes, self._end_labels = np.array(list(ends)), np.array(list(ends.values()))
        self._end_tokens = self._tokens[self._end_nodes]
        self._end_scores = np.where(self._end_labels == _NO_WORD, 0.0, self.word_score)
        # the same token as the parent's: a blank must lie between them
        self._repeats = self._tokens == self._tokens[self._parents]
        self._repeats[_ROOT] = True
        # first tokens of words
        self._first = np.flatnonzero(self._parents == _ROOT)[1:]

    def decode(self, log_probs: np.ndarray) -> str:
        """The most likely word sequence of one utterance.

        Args:   log_probs: (T, V) float, natural log.
        Returns: words joined by single spaces; "" when silence is the most likely.
        Raises:  ValueError when the shape does not fit the tokens.
        """
        log_probs = np.asarray(log_probs, dtype=np.float64)
        if log_probs.ndim != 2 or log_probs.shape[1] != self.num_tokens:
            raise ValueError(f"expected (T, {self.num_tokens}) log-probabilities, not {log_probs.shape}")
        if self.space_id is not None:
            surely_space = np.where(np.arange(self.num_tokens) == self.space_id, 0.0, -np.inf)
            log_probs = np.concatenate([log_probs, surely_space[None]])
        history = self._search(log_probs)
        labels = []
        while history is not None:
            history, label = history
            labels.append(label)
        return " ".join(self.words[label] for label in reversed(labels) if label != _NO_WORD)

    def _search(self, log_probs):
        """Pass tokens through the tree, frame by frame.

        `spoken[n]` is the score of having just emitted node n's token, `silent[n]` of having emitted blanks since then;
        at the root: a word has just ended, and blanks since then. Each state carries the index of its history.

        Returns: the best history, as (earlier history, label), or None.
        """
        shape = len(self._tokens)
        spoken, silent = np.full(shape, -np.inf), np.full(shape, -np.inf)
        spoken_from, silent_from = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        silent[_ROOT] = 0.0
        histories = [None]
        for frame in log_probs:
            ended, (token, *other) = self._end_words(spoken, spoken_from, histories)
            spoken[_ROOT], spoken_from[_ROOT] = ended
            onward = np.where(self._repeats, -np.inf, spoken[self._parents])
            onward_from = spoken_from[self._parents]
            # words that begin with the token that the best one ended in
            same = self._first[self._tokens[self._first] == token]
            onward[same], onward_from[same] = other
            scores = np.stack([spoken, silent[self._parents], onward])
            scores[0, _ROOT] = scores[1, _ROOT] = -np.inf
            origins = np.stack([spoken_from, silent_from[self._parents], onward_from])
            silent_from = np.where(spoken > silent, spoken_from, silent_from)
            silent = np.maximum(spoken, silent) + frame[self.blank_id]
            best = scores.argmax(axis=0)[None]
            spoken = np.take_along_axis(scores, best, axis=0)[0] + frame[self._tokens]
            spoken_from = np.take_along_axis(origins, best, axis=0)[0]
        (score, history), _ = self._end_words(spoken, spoken_from, histories)
        return histories[history if score > silent[_ROOT] else silent_from[_ROOT]]

    def _end_words(self, spoken, spoken_from, histories):
        """End the best word, and the best of those with another last token.

        Returns: (score, history index) of the best, and (last token of the best, score, history index of the other).
        """
        scores = spoken[self._end_nodes] + self._end_scores
        first = int(scores.argmax())
        best = self._record(first, scores, spoken_from, histories)
        token = self._end_tokens[first]
        others = np.where(self._end_tokens == token, -np.inf, scores)
        return best, (token, *self._record(int(others.argmax()), others, spoken_from, histories))

    def _record(self, end, scores, spoken_from, histories):
        if scores[end] == -np.inf:
            return -np.inf, 0
        earlier = histories[spoken_from[self._end_nodes[end]]]
        histories.append((earlier, int(self._end_labels[end])))
        return float(scores[end]), len(histories) - 1
