"""Estimates an n-gram model from text: modified Kneser-Ney, interpolated, with cut-offs of counts.

Checked first: no kept library with wheels does this (KenLM's estimator is a program to be built, its wheels only read).
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from steps.lm.ngram import BEGIN, END, NEVER, UNKNOWN, Gram, NGram, set_backoffs_

# distinct n-grams of all orders that are counted before the text is refused
MOST_NGRAMS = 20_000_000
# where a text is too small or too odd to tell: those of KenLM's lmplz --discount_fallback
FALLBACK = (0.5, 1.0, 1.5)


def count_ngrams(
    sentences: Iterable[Sequence[str]], order: int, vocabulary: Collection[str] | None = None
) -> list[Counter[Gram]]:
    """Count n-grams, sentences between <s> and </s>.

    Args:    vocabulary: words that others than these are not told apart from: they count as <unk>. None: all of the text.
    Returns: counts, one Counter for each order from 1; <s> alone is not among them.
    Raises:  ValueError when there are too many.
    """
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [w if vocabulary is None or w in vocabulary else UNKNOWN for w in sentence]
        padded = (BEGIN, *words, END)
        for last in range(1, len(padded)):
            for length in range(1, min(order, last + 1) + 1):
                counts[length - 1][padded[last - length + 1 : last + 1]] += 1
        if sum(map(len, counts)) > MOST_NGRAMS:
            raise ValueError(f"over {MOST_NGRAMS:,} different n-grams; take less text or a lower order")
    return counts


def estimate(counts: list[Counter[Gram]], min_counts: Sequence[int], vocabulary: Collection[str]) -> NGram:
    """Estimate a model; unigrams are interpolated with the uniform distribution, so that every known word has a probability.

    Args:    counts: from `count_ngrams`.   min_counts: n-grams seen less often are left out, one number for each order,
             none lower than the one before; the first has to be 1.   vocabulary: known words; those of the text are, too.
    Source:  Chen, Goodman 1998 (TR-10-98, Harvard), section 3; as back-off weights: Heafield et al. 2013, section 2.
    """
    words = sorted({gram[0] for gram in counts[0]} | set(vocabulary) | {END})
    lower: dict[Gram, float] = {(): 1.0 / len(words)}
    probs = []
    for length, raw in enumerate(counts, start=1):
        seen = raw if length == len(counts) else continuations(raw, counts[length])
        lower = interpolate(seen, lower, [(w,) for w in words] if length == 1 else list(seen))
        least = min_counts[length - 1]
        kept = lower if least <= 1 else {gram: p for gram, p in lower.items() if raw[gram] >= least}
        probs.append({gram: math.log10(p) for gram, p in sorted(kept.items())})
    probs[0][(BEGIN,)] = NEVER
    model = NGram(probs, {})
    set_backoffs_(model)
    return model


def continuations(raw: Counter[Gram], longer: Iterable[Gram]) -> Counter[Gram]:
    """How many different words stand before each n-gram; where only the beginning of a sentence can, how often it was seen."""
    found = Counter(gram[1:] for gram in longer)
    found.update({gram: count for gram, count in raw.items() if gram[0] == BEGIN})
    return found


def interpolate(seen: Counter[Gram], lower: dict[Gram, float], grams: Iterable[Gram]) -> dict[Gram, float]:
    """Probabilities of n-grams of one order.

    Args: seen: their counts.   lower: probabilities of the order below.   grams: those that are wanted.
    """
    discounts = find_discounts(seen.values())
    totals: Counter[Gram] = Counter()
    for gram, count in seen.items():
        totals[gram[:-1]] += count
    freed: dict[Gram, float] = dict.fromkeys(totals, 0.0)
    for gram, count in seen.items():
        freed[gram[:-1]] += discounts[min(count, 3)] / totals[gram[:-1]]
    probs = {}
    for gram in grams:
        context = gram[:-1]
        below = lower[gram[1:]]
        if context not in totals:
            probs[gram] = below
            continue
        own = max(0.0, seen[gram] - discounts[min(seen[gram], 3)]) / totals[context]
        probs[gram] = own + freed[context] * below
    return probs


def find_discounts(counts: Iterable[int]) -> tuple[float, float, float, float]:
    """What is taken from counts of 0, 1, 2, and 3 or more; FALLBACK where their numbers do not tell.

    Source: Chen, Goodman 1998, equation 17; FALLBACK: Heafield et al. 2013.
    """
    numbers = Counter(counts)
    if not all(numbers[i] for i in (1, 2, 3, 4)):
        return 0.0, *FALLBACK
    base = numbers[1] / (numbers[1] + 2 * numbers[2])
    one, two, more = (i - (i + 1) * base * numbers[i + 1] / numbers[i] for i in (1, 2, 3))
    return (0.0, one, two, more) if 0 < one < 1 and 0 < two < 2 and 0 < more < 3 else (0.0, *FALLBACK)
