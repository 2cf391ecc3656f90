"""N-gram models: what is estimated sums to one, rare things get what they should, pruning costs what it says."""

import itertools
import math
import random
from collections import Counter

import pytest

from steps.lm.estimate import FALLBACK, continuations, count_ngrams, estimate, find_discounts
from steps.lm.ngram import BEGIN, END, NEVER, UNKNOWN, NGram, perplexity, set_backoffs_
from steps.lm.prune import context_prob, prune

TEXT = [line.split() for line in ("a b c", "a b", "b c a b", "c", "a b c d", "d a b", "a c b a")]
WORDS = ["a", "b", "c", "d", "e"]


def train(order, least=None, words=WORDS, text=TEXT):
    return estimate(count_ngrams(text, order, words), least or [1] * order, words)


def total(model, context):
    return sum(10 ** model.log10_prob(word, context) for (word,) in model.probs[0] if word != BEGIN)


@pytest.fixture(scope="module")
def large():
    """A trigram of random sentences: enough counts for discounts of its own."""
    counts = count_ngrams(random_sentences(0, 150), 3)
    assert all(find_discounts(c.values())[1:] != FALLBACK for c in counts[1:])
    return estimate(counts, [1, 1, 1], ())


def random_sentences(seed, number):
    """Sentences of eight words that depend on the word before."""
    rng = random.Random(seed)
    for _ in range(number):
        last, words = 0, []
        for _ in range(8):
            last = (last * 3 + rng.choice((0, 0, 1, 5)) + rng.randrange(2)) % 61
            words.append(f"w{last}")
        yield words


@pytest.mark.parametrize("order, least", [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (4, [1, 1, 1, 1]), (3, [1, 2, 2])])
def test_probabilities_sum_to_one_after_every_context(order, least):
    model = train(order, least)
    contexts = [*model.contexts(), ("a", "e"), ("d", "d")]
    assert all(math.isclose(total(model, context), 1.0, abs_tol=1e-9) for context in contexts)


def test_those_of_a_larger_text_and_of_what_is_left_of_it_too(large):
    for model in (large, prune(large, 1e-4), prune(large, 1e-2)):
        assert all(math.isclose(total(model, context), 1.0, abs_tol=1e-9) for context in model.contexts())


def test_a_known_word_that_was_never_seen_can_come_and_the_list_alone_is_uniform():
    assert 0 < 10 ** train(2).log10_prob("e", ("a",)) < 10 ** train(2).log10_prob("d", ("a",))
    uniform = train(1, text=[])
    assert {round(10**p, 9) for gram, p in uniform.probs[0].items() if gram != (BEGIN,)} == {round(1 / 6, 9)}


def test_counts_are_of_sentences_with_their_ends():
    counts = count_ngrams([["a", "x"], ["a"]], 2, {"a"})
    assert counts[0] == {("a",): 2, (UNKNOWN,): 1, (END,): 2}
    assert counts[1] == {(BEGIN, "a"): 2, ("a", UNKNOWN): 1, (UNKNOWN, END): 1, ("a", END): 1}


def test_a_lower_order_counts_different_words_before_not_how_often():
    text = [["san", "francisco"]] * 20 + [["in", "may"], ["by", "may"], ["of", "may"], ["may"]]
    counts = count_ngrams(text, 2)
    assert continuations(counts[0], counts[1])[("may",)] == 4 and counts[0][("francisco",)] == 20
    model = estimate(counts, [1, 1], ())
    assert model.probs[0][("may",)] > model.probs[0][("francisco",)]


def test_discounts_are_those_of_the_paper_and_of_lmplz_where_a_text_is_too_small():
    # 10 once, 4 twice, 2 three times, 1 four times: Y = 10 / 18
    found = find_discounts([1] * 10 + [2] * 4 + [3] * 2 + [4] + [9] * 3)
    y = 10 / 18
    assert found == pytest.approx((0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2))
    assert find_discounts([1, 1, 5]) == (0, *FALLBACK)
    assert find_discounts([1] * 10 + [2] + [3] * 5 + [4]) == (0, *FALLBACK), "of two it would take less than nothing"


def test_n_grams_below_the_least_count_are_left_out_and_their_words_stay():
    full, cut = train(3), train(3, [1, 2, 2])
    counts = count_ngrams(TEXT, 3, WORDS)
    assert set(cut.probs[1]) == {gram for gram in full.probs[1] if counts[1][gram] >= 2}
    assert set(cut.probs[0]) == set(full.probs[0]) and cut.probs[2].keys() < full.probs[2].keys()


def test_perplexity_is_of_known_words_and_ends():
    model = train(3)
    by_hand = model.log10_prob("a", (BEGIN,)) + model.log10_prob("b", (BEGIN, "a")) + model.log10_prob(END, ("a", "b"))
    found = perplexity(model, [["a", "b"]])
    assert (found.words, found.unknown) == (3, 0) and found.log10 == pytest.approx(by_hand)
    assert found.value == pytest.approx(10 ** (-by_hand / 3))
    broken = perplexity(model, [["a", "x", "b"]])
    assert (broken.words, broken.unknown) == (3, 1)
    rest = model.log10_prob("a", (BEGIN,)) + model.log10_prob("b", ()) + model.log10_prob(END, ("b",))
    assert broken.log10 == pytest.approx(rest), "no word stands behind one that is not known"
    impossible = NGram([{("a",): NEVER, (END,): 0.0}], {})
    assert perplexity(impossible, [["a"] * 99]).value == pytest.approx(10 ** (99 * 99 / 100))


def test_an_order_more_helps_on_text_of_its_kind(large):
    sentences = list(random_sentences(1, 50))
    below = NGram(large.probs[:1], {})
    assert perplexity(large, sentences).value < 0.7 * perplexity(below, sentences).value


def relative_loss(model, gram):
    """By how much the perplexity grows without a bigram, by summing over all words: what Stolcke's formula stands for."""
    *context, word = gram
    context = tuple(context)
    without = NGram([dict(grams) for grams in model.probs], dict(model.backoffs))
    del without.probs[len(context)][gram]
    set_backoffs_(without)
    words = [w for (w,) in model.probs[0] if w != BEGIN]
    change = sum(
        10 ** model.log10_prob(w, context) * (model.log10_prob(w, context) - without.log10_prob(w, context))
        for w in words
    )
    return math.expm1(context_prob(model, context) * change * math.log(10))


def test_pruned_is_what_costs_less_than_the_threshold(large):
    model = NGram(large.probs[:2], {})
    set_backoffs_(model)
    losses = {gram: relative_loss(model, gram) for gram in list(model.probs[1])[::12]}
    for threshold in sorted(losses.values())[2:-2:4]:
        pruned = prune(model, threshold * 1.0001)
        assert losses.keys() & pruned.probs[1] == {gram for gram, loss in losses.items() if loss > threshold * 1.0001}
        assert pruned.probs[0] == model.probs[0]


def test_pruning_keeps_what_longer_n_grams_begin_with_and_does_less_for_less(large):
    sizes = []
    for threshold in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        pruned = prune(large, threshold)
        for longer, shorter in itertools.pairwise(reversed(pruned.probs)):
            assert all(gram[:-1] in shorter or gram[:-1] == (BEGIN,) for gram in longer)
        sizes.append(sum(map(len, pruned.probs)))
    assert sizes[0] == sum(map(len, large.probs)) and sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
    assert prune(large, 1e9).order == 1, "nothing but words is left"


def test_too_many_n_grams_are_refused(monkeypatch):
    monkeypatch.setattr("steps.lm.estimate.MOST_NGRAMS", 10)
    with pytest.raises(ValueError, match="over 10 different n-grams"):
        count_ngrams(TEXT, 3)


def test_the_same_text_gives_the_same_model():
    one, two = (train(3, text=text) for text in (TEXT, list(reversed(TEXT))))
    assert one.probs == two.probs and one.backoffs == two.backoffs and isinstance(count_ngrams(TEXT, 1)[0], Counter)
