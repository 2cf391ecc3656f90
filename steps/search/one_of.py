"""The best of a closed list of labels, for recordings that hold one label each: commands, keywords, digits.

A label's score is the logarithm of its exact CTC probability, the sum over all paths that spell it, not only the best one; so
there is no beam and nothing to tune. The work per frame grows with the letters of all labels together.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

# as in steps/data/tokenizer.py, which must not be imported from here
SPACE = "\u2581"
# states of all labels together; more would take seconds a recording
MOST_STATES = 500_000


class OneOf:
    """Scores labels by the CTC forward algorithm, all at once.

    With tokens of single characters one of which is the space, spaces before and behind the label and more than one between
    its words change nothing, as they change nothing in the text: all such paths are added up. With other tokens the
    label has one spelling, that of `encode`.

    Args:   labels: what a recording can hold, words separated by single blanks; duplicates are ignored.   pieces: text of
            each token id.   blank_id: index of the CTC blank.   encode: text -> token ids; None: character by character.
            special_ids: ids that no label may use (blank, unknown).
    Raises: ValueError when there is no label, one cannot be spelled, or there are too many.
    Source: Graves et al. 2006, section 4.1, the forward variables; the states of spaces are ours.
    """

    def __init__(
        self,
        labels: Iterable[str],
        pieces: Sequence[str],
        blank_id: int = 0,
        encode: Callable[[str], Iterable[int]] | None = None,
        special_ids: Collection[int] = (0, 1),
    ):
        self.labels = list(dict.fromkeys(labels))
        if not self.labels:
            raise ValueError("the list of labels is empty")
        if sum(map(len, self.labels)) > MOST_STATES:
            raise ValueError(f"{len(self.labels)} labels of so many letters are too many to try one by one")
        self.num_tokens, self.blank_id = len(pieces), blank_id
        ids = {piece: i for i, piece in enumerate(pieces) if i not in special_ids}
        self.space_id = ids.get(SPACE) if encode is None else None
        rows, bad = [], []
        for label in self.labels:
            words = _spell(label, pieces, ids, encode)
            usable = words is not None and all(i not in special_ids for word in words for i in word)
            rows.append(self._states(words) if words is not None and usable else [])
            bad += [] if usable else [label]
        if bad:
            more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
            some = ", ".join(bad[:20])
            raise ValueError(f"{len(bad)} of {len(self.labels)} labels cannot be spelled with the tokens: {some}{more}")
        self._pack(rows)

    def _states(self, words: Sequence[Sequence[int]]) -> list[tuple[int, int, bool]]:
        """States of a label, from left to right: (token that enters it, token that stays in it, whether it may follow the last
        but one). Token `num_tokens` stands for blank or space, whichever.
        """
        gap, blank = self.num_tokens, self.blank_id
        states = [(gap, gap, False)]
        for number, word in enumerate(words):
            if number:
                # blanks before the first space, then that space and whatever blanks and spaces follow
                states += [(blank, blank, False), (self.space_id or 0, gap, True)]
            for place, token in enumerate(word):
                if place:
                    states.append((blank, blank, False))
                states.append((token, token, place > 0 and token != word[place - 1]))
        return [*states, (gap, gap, False)]

    def _pack(self, rows: Sequence[Sequence[tuple[int, int, bool]]]) -> None:
        """All states as arrays (L, K), short rows filled up with states that nothing leads to."""
        longest = max(map(len, rows))
        if len(rows) * longest > MOST_STATES:
            raise ValueError(f"{len(rows)} labels of up to {longest} states are too many to try one by one")
        shape = (len(rows), longest)
        self._enter, self._stay = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._skips = np.zeros(shape, bool)
        self._last = np.array([len(row) - 1 for row in rows])
        for number, row in enumerate(rows):
            enter, stay, skips = zip(*row, strict=True)
            self._enter[number, : len(row)] = enter
            self._stay[number, : len(row)] = stay
            self._skips[number, : len(row)] = skips

    def scores(self, log_probs: np.ndarray) -> np.ndarray:
        """Logarithm of the probability of every label.

        Args:    log_probs: (T, V) float, natural log.
        Returns: (L,) float64, nats; minus infinity for a label that does not fit into T frames.
        Raises:  ValueError when the shape does not fit the tokens.
        """
        log_probs = np.asarray(log_probs, dtype=np.float64)
        if log_probs.ndim != 2 or log_probs.shape[1] != self.num_tokens:
            raise ValueError(f"expected (T, {self.num_tokens}) log-probabilities, not {log_probs.shape}")
        gap = log_probs[:, self.blank_id]
        if self.space_id is not None:
            gap = np.logaddexp(gap, log_probs[:, self.space_id])
        # alpha: before the first frame, a state of its own leads to the first gap and to the first token
        alpha, began = np.full(self._enter.shape, -np.inf), 0.0
        for frame in np.column_stack([log_probs, gap]):
            before = np.full_like(alpha, -np.inf)
            before[:, 1:] = alpha[:, :-1]
            two_before = np.full_like(alpha, -np.inf)
            two_before[:, 2:] = np.where(self._skips[:, 2:], alpha[:, :-2], -np.inf)
            before = np.logaddexp(before, two_before)
            before[:, :2] = np.logaddexp(before[:, :2], began)
            alpha = np.logaddexp(alpha + frame[self._stay], before + frame[self._enter])
            began = -np.inf
        rows = np.arange(len(alpha))
        return np.logaddexp(alpha[rows, self._last], alpha[rows, self._last - 1])

    def decode(self, log_probs: np.ndarray) -> str:
        """The most probable label, of equal ones the first; "" when none fits into the frames. Args, Raises: as of `scores`."""
        scores = self.scores(log_probs)
        best = int(scores.argmax())
        return self.labels[best] if scores[best] > -np.inf else ""


def _spell(
    label: str, pieces: Sequence[str], ids: dict[str, int], encode: Callable[[str], Iterable[int]] | None
) -> list[list[int]] | None:
    """Token ids of a label, a list for each word; one list for tokens that hold their spaces. None: there is no spelling."""
    if encode is not None:
        spelling = list(encode(label))
        text = "".join(pieces[i] for i in spelling).replace(SPACE, " ").strip(" ")
        return [spelling] if spelling and text == label else None
    words = label.split(" ")
    if (
        not all(words)
        or (len(words) > 1 and SPACE not in ids)
        or any(char not in ids for word in words for char in word)
    ):
        return None
    return [[ids[char] for char in word] for word in words]
