"""Makes an n-gram model smaller: n-grams go without which it predicts almost the same."""

import math

from steps.lm.ngram import BEGIN, NEVER, TINY, Gram, NGram, followers, left_over, set_backoffs_


def prune(model: NGram, threshold: float) -> NGram:
    """Leave out n-grams, from the longest down to bigrams, each of which raises the perplexity by less than a share.

    What longer n-grams that stay begin with, stays. Of a Kneser-Ney model the contexts' own probabilities are only rough
    (Chelba et al. 2010), so look at the perplexity of dev.

    Args:   threshold: share, such as 1e-6; 0 leaves out nothing.
    Source: Stolcke 1998 (arXiv:cs/0006025), section 3; SRILM's -prune.
    """
    pruned = NGram([dict(grams) for grams in model.probs], dict(model.backoffs))
    for length in range(model.order, 1, -1):
        longer = pruned.probs[length] if length < model.order else {}
        needed = {gram[:-1] for gram in longer}
        for context, words in followers(pruned.probs[length - 1]).items():
            for word in _dispensable(pruned, context, words, threshold):
                if (*context, word) not in needed:
                    del pruned.probs[length - 1][*context, word]
    while pruned.order > 1 and not pruned.probs[-1]:
        pruned.probs.pop()
    set_backoffs_(pruned)
    return pruned


def _dispensable(model: NGram, context: Gram, words: list[str], threshold: float) -> list[str]:
    """Those words behind a context whose loss raises the perplexity by less than the threshold."""
    own, lower = left_over(model, context, words)
    if own <= TINY or lower <= TINY:
        own, lower = TINY, TINY
    weight = context_prob(model, context)
    found = []
    for word in words:
        log_prob = model.probs[len(context)][*context, word] * math.log(10)
        log_below = model.log10_prob(word, context[1:]) * math.log(10)
        grown = math.log((own + math.exp(log_prob)) / (lower + math.exp(log_below)))
        change = math.exp(log_prob) * (log_below + grown - log_prob) + own * (grown - math.log(own / lower))
        if math.expm1(-weight * change) < threshold:
            found.append(word)
    return found


def context_prob(model: NGram, context: Gram) -> float:
    """Probability of the words of a context; 1 for the beginning of a sentence."""
    log10 = sum(model.log10_prob(word, context[:i]) for i, word in enumerate(context) if word != BEGIN)
    return 10 ** max(NEVER, log10)
