"""Lexicon search with transducers: against all sequences of words written out; only words of the list come out."""

import itertools

import numpy as np
import pytest

from steps.search import transducer_lexicon
from steps.search.lexicon import SPACE
from steps.search.transducer import greedy_search, last_units, log_softmax
from steps.search.transducer_lexicon import TransducerLexicon

CHARS = ["<blk>", "<unk>", SPACE, *"ABC"]
SUBWORDS = ["<blk>", "<unk>", SPACE + "A", "B", SPACE + "AB", "BA"]
SPELLED = {"ABBA": [4, 5], "A": [2], "ABB": [4, 3], "AB": [4]}


def made_up(units, context, seed=0, sharpness=1.0):
    """A predictor and a joiner with random tables. Returns: predict, join."""
    random = np.random.default_rng(seed)
    tables = random.normal(size=(context, units + 1, 6))
    out = random.normal(size=(6, units)) * sharpness
    return (
        lambda last: sum(tables[place, last[:, place]] for place in range(context)),
        lambda heard, said: np.tanh(heard + said) @ out,
    )


def frames(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def probability(encoded, ids, predict, join, context, silent=(0,)):
    """Sum over the alignments of a transcript, one unit a frame at most."""
    total = 0.0
    for chosen in itertools.combinations(range(len(encoded)), len(ids)):
        done, product = 0, 1.0
        for time, frame in enumerate(encoded):
            row = np.exp(log_softmax(join(frame[None], predict(np.array([last_units(list(ids[:done]), context)])))))[0]
            product *= row[ids[done]] if time in chosen else row[list(silent)].sum()
            done += time in chosen
        total += product
    return total


def words_of(ids, pieces, words):
    """Text of token ids, or None where it is not made of the words."""
    said = "".join(pieces[i] for i in ids).replace(SPACE, " ").split()
    return " ".join(said) if set(said) <= set(words) else None


def best_by_trying_all(encoded, nets, context, pieces, words, spelled=None, word_score=0.0):
    """The words of the likeliest unit sequence of all that spell words of the list."""
    scores = {}
    for length in range(len(encoded) + 1):
        for ids in itertools.product(range(2, len(pieces)), repeat=length):
            text = words_of(ids, pieces, words)
            if text is None or (spelled and [*ids] != sum((spelled[word] for word in text.split()), [])):
                continue
            score = np.log(probability(encoded, ids, *nets, context, silent=(0, 1))) + word_score * len(text.split())
            scores[text] = np.logaddexp(scores.get(text, -np.inf), score)
    return max(scores, key=scores.get)


def decode(lexicon, encoded, nets, context):
    return lexicon.decode(encoded, *nets, context, never=[1])


@pytest.mark.parametrize("word_score", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_likeliest_words_of_all_are_found(seed, word_score):
    """With a predictor that sees all units no two texts share a path, and nothing is dropped."""
    nets, encoded = made_up(len(SUBWORDS), 5, seed), frames(5, seed)
    lexicon = TransducerLexicon(SPELLED, SUBWORDS, encode=SPELLED.get, word_score=word_score)
    best = best_by_trying_all(encoded, nets, 5, SUBWORDS, list(SPELLED), SPELLED, word_score)
    assert decode(lexicon, encoded, nets, 5) == best


@pytest.mark.parametrize("seed", range(4))
def test_characters_with_any_spaces_between_and_none_behind(seed):
    nets, encoded = made_up(len(CHARS), 5, seed), frames(5, seed)
    words = ["A", "CAB", "BB"]
    assert decode(TransducerLexicon(words, CHARS), encoded, nets, 5) == best_by_trying_all(
        encoded, nets, 5, CHARS, words
    )


def test_word_scores_give_more_or_fewer_words():
    nets, encoded = made_up(len(CHARS), 2), frames(40)
    counts = [
        len(decode(TransducerLexicon(["A", "CAB"], CHARS, word_score=score), encoded, nets, 2).split())
        for score in (-20.0, 0.0, 20.0)
    ]
    assert counts[0] == 0 < counts[1] < counts[2] == 20


@pytest.mark.parametrize("context", [1, 2, 3])
def test_clear_speech_is_what_greedy_search_says(context):
    """Each frame calls for one unit, whatever came before."""
    spoken = [3, 2, 0, 5, 3, 4, 0, 2, 2, 4, 0, 4]
    encoded = np.full((len(spoken), len(CHARS)), -3.0, np.float32)
    encoded[np.arange(len(spoken)), spoken] = 3.0
    nets = (lambda last: np.zeros((len(last), len(CHARS)))), (lambda heard, said: heard + said)
    (ids,) = greedy_search(encoded[None], [len(spoken)], *nets, context)
    assert words_of(ids, CHARS, ["A", "CAB", "BB"]) == "A CAB BB"
    assert decode(TransducerLexicon(["A", "CAB", "BB"], CHARS), encoded, nets, context) == "A CAB BB"
    # an unknown unit is silence, and what is no word becomes the nearest one
    encoded[5, [4, 1]] = encoded[5, [1, 4]]
    assert decode(TransducerLexicon(["A", "CA", "BB"], CHARS), encoded, nets, context) == "A CA BB"


@pytest.mark.parametrize("word_score", [-3.0, 4.0, 25.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_dropped_changes_no_text(seed, word_score, monkeypatch):
    nets, encoded = made_up(len(CHARS), 2, seed, sharpness=3.0), frames(60, seed)
    lexicon = TransducerLexicon(["A", "CAB", "BB", "ABC", "CC", "BACA"], CHARS, word_score=word_score)
    text = decode(lexicon, encoded, nets, 2)
    monkeypatch.setattr(transducer_lexicon, "MARGIN", 1e9)
    monkeypatch.setattr(transducer_lexicon, "MOST_PATHS", 10**9)
    assert decode(lexicon, encoded, nets, 2) == text and (len(text.split()) > 3 or word_score < 0)


@pytest.mark.parametrize("confidence, word_score", [(3.0, -15.0), (5.0, -30.0), (8.0, -15.0), (8.0, -30.0)])
def test_words_that_cost_much_are_not_judged_before_they_end(confidence, word_score, monkeypatch):
    spoken = [3, 2, 0, 5, 3, 4, 0, 2, 4, 0, 4, 2, 5, 3, 4]
    encoded = np.full((len(spoken), len(CHARS)), -confidence, np.float32)
    encoded[np.arange(len(spoken)), spoken] = confidence
    nets = (lambda last: np.zeros((len(last), len(CHARS)))), (lambda heard, said: heard + said)
    lexicon = TransducerLexicon(["A", "CAB", "BB"], CHARS, word_score=word_score)
    text = decode(lexicon, encoded, nets, 2)
    monkeypatch.setattr(transducer_lexicon, "MARGIN", 1e9)
    assert decode(lexicon, encoded, nets, 2) == text


@pytest.mark.parametrize("seed", range(12))
def test_words_that_meet_are_compared_by_all_their_alignments(seed, monkeypatch):
    """With one unit of context most texts meet; those that go on are enough for the likeliest of all."""
    monkeypatch.setattr(transducer_lexicon, "MOST_IN_PLACE", 50)
    nets, encoded = made_up(len(CHARS), 1, seed), frames(5, seed)
    words = ["A", "CAB", "BB"]
    text = decode(TransducerLexicon(words, CHARS), encoded, nets, 1)
    assert text == best_by_trying_all(encoded, nets, 1, CHARS, words)


def test_however_few_paths_are_kept_words_come_out(monkeypatch):
    nets, encoded = made_up(len(CHARS), 2, sharpness=3.0), frames(60)
    monkeypatch.setattr(transducer_lexicon, "MOST_PATHS", 1)
    text = decode(TransducerLexicon(["ABCABC", "CCB"], CHARS), encoded, nets, 2)
    assert set(text.split()) <= {"ABCABC", "CCB"}


def test_what_long_sound_needs_does_not_grow_with_all_that_was_tried():
    """A flat net, in which anything may be said: only what goes on is kept."""
    nets, lexicon = made_up(len(CHARS), 2, sharpness=0.3), TransducerLexicon(["A", "B", "C", "AB", "CA"], CHARS)
    search = transducer_lexicon._Search(lexicon, *nets, 2, [0, 1])
    for frame in frames(100):
        search.advance(frame)
    assert len(search.predicted) <= len(CHARS) ** 2
    assert len(search.histories) <= 100 * transducer_lexicon.MOST_IN_PLACE * len(CHARS) ** 2


def test_nothing_said_is_no_word():
    nets = made_up(len(CHARS), 2)
    assert decode(TransducerLexicon(["A"], CHARS), frames(0), nets, 2) == ""


def test_lists_and_scores_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="empty"):
        TransducerLexicon([], CHARS)
    with pytest.raises(ValueError, match="1 of 2 words cannot be spelled with the tokens: AX"):
        TransducerLexicon(["A", "AX"], CHARS)
    with pytest.raises(ValueError, match="not finite"):
        decode(TransducerLexicon(["A"], CHARS), np.full((3, 6), np.nan), made_up(len(CHARS), 2), 2)
