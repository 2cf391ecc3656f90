"""Back-off n-gram models: probabilities, weights that make them sum to one, perplexity."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
# log10 of a probability that counts as none
NEVER = -99.0
# shares of probability below this are rounding
TINY = 1e-9

Gram = tuple[str, ...]


@dataclass(frozen=True)
class NGram:
    """A back-off n-gram model.

    probs: log10 of the probability of each n-gram's last word after the others, one dict for each order, from 1.
    backoffs: log10 of the weight of a context for words that were not seen behind it; 0 where it has none.
    Source: Katz 1987; the form of ARPA files.
    """

    probs: list[dict[Gram, float]]
    backoffs: dict[Gram, float]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.probs)

    def log10_prob(self, word: str, context: Gram) -> float:
        """log10 of the probability of a word.

        Args:   context: the words before it, of which the last order - 1 count.
        Raises: KeyError when the model does not know the word.
        """
        context, total = context[max(0, len(context) - self.order + 1) :], 0.0
        while (found := self.probs[len(context)].get((*context, word))) is None:
            if not context:
                raise KeyError(word)
            total += self.backoffs.get(context, 0.0)
            context = context[1:]
        return total + found

    def contexts(self) -> Iterator[Gram]:
        """Contexts behind which n-grams were seen, shorter ones first."""
        for grams in self.probs:
            yield from dict.fromkeys(gram[:-1] for gram in grams)


@dataclass(frozen=True)
class Perplexity:
    """What a model makes of a text. words: known words and ends of sentences, which count.   unknown: words left out.

    log10: of the probability of all that counts.
    """

    sentences: int
    words: int
    unknown: int
    log10: float

    @property
    def value(self) -> float:
        """Perplexity; infinite where the text is impossible, NaN without a word."""
        if not self.words:
            return math.nan
        exponent = -self.log10 / self.words
        return 10**exponent if exponent < 300 else math.inf


def perplexity(model: NGram, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Perplexity of sentences, ends included. Unknown words are counted and left out, and stand in no context."""
    number, words, unknown, total = 0, 0, 0, 0.0
    for sentence in sentences:
        number += 1
        context: Gram = (BEGIN,)
        for word in (*sentence, END):
            if (word,) not in model.probs[0]:
                unknown, context = unknown + 1, ()
                continue
            words += 1
            total += model.log10_prob(word, context)
            context = (*context, word)[-model.order :]
    return Perplexity(number, words, unknown, total)


def left_over(model: NGram, context: Gram, words: Iterable[str]) -> tuple[float, float]:
    """What the words seen behind a context leave for the others: behind it, and behind the next shorter context.

    Args:    words: those that were seen.   Returns: two shares of probability, at least 0.
    """
    own = lower = 0.0
    for word in words:
        own += 10 ** model.probs[len(context)][*context, word]
        lower += 10 ** model.log10_prob(word, context[1:])
    return max(0.0, 1.0 - own), max(0.0, 1.0 - lower)


def set_backoffs_(model: NGram) -> None:
    """Give every context the weight with which all words behind it have a probability of one together."""
    model.backoffs.clear()
    for grams in model.probs[1:]:
        for context, words in followers(grams).items():
            own, lower = left_over(model, context, words)
            model.backoffs[context] = math.log10(own / lower) if own > TINY and lower > TINY else NEVER


def followers(grams: Iterable[Gram]) -> dict[Gram, list[str]]:
    """The last words of n-grams of one order, by what stands before them."""
    found: dict[Gram, list[str]] = {}
    for gram in grams:
        found.setdefault(gram[:-1], []).append(gram[-1])
    return found
