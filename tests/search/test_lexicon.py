"""Lexicon search: only words of the list, the spoken ones when the posteriors are clear, the best path of all."""

import itertools

import numpy as np
import pytest

from steps.data import tokenizer
from steps.search.lexicon import SPACE, LexiconDecoder, has_single_characters, spell_words

CHARS = ["<blk>", "<unk>", SPACE, *"ABCD"]
SUBWORDS = ["<blk>", "<unk>", SPACE + "A", "B", SPACE + "AB", "BA", SPACE + "CAD"]
SPELLED = {"ABBA": [4, 5], "CAD": [6], "A": [2], "ABB": [4, 3], "AB": [4], "ABBB": [4, 3, 3]}


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def random_log_probs(rng, frames, num_tokens, spread=2.0):
    return log_softmax(spread * rng.normal(size=(frames, num_tokens)))


def peaked(path, num_tokens, peak=0.9):
    log_probs = np.full((len(path), num_tokens), np.log((1 - peak) / (num_tokens - 1)))
    log_probs[np.arange(len(path)), path] = np.log(peak)
    return log_probs


def path_of(text):
    """Token ids of a picture of frames: '.' blank, '_' space."""
    return [CHARS.index({".": "<blk>", "_": SPACE}.get(char, char)) for char in text]


def best_by_trying_all(log_probs, read, word_score=0.0):
    """The word sequence of the best of all paths; `read` turns collapsed ids into text, or None when it is no words."""
    scores = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = read([i for i, _ in itertools.groupby(path) if i])
        if text is not None:
            score = log_probs[np.arange(len(path)), path].sum() + word_score * len(text.split())
            scores[text] = max(score, scores.get(text, -np.inf))
    return max(scores, key=scores.get)


def test_a_space_is_what_the_tokenizer_says():
    assert SPACE == tokenizer.SPACE  # steps/search imports nothing of ours


def test_one_word_lexicon_gives_that_word_only():
    rng = np.random.default_rng(0)
    decoder = LexiconDecoder(["ABBA"], CHARS)
    for frames in (1, 2, 7, 30, 100):
        text = decoder.decode(random_log_probs(rng, frames, len(CHARS)))
        assert set(text.split()) <= {"ABBA"}
    assert text


@pytest.mark.parametrize(
    "frames, text",
    [
        ("_AB.BA_CAD", "ABBA CAD"),
        ("AB.BA_CAD_", "ABBA CAD"),
        ("..AAB..BA.__.__CCADD..", "ABBA CAD"),
        ("_A_.A__AA.A_", "A A AA"),
        ("_CBD_", "CAD"),
        (".....", ""),
        ("_", ""),
    ],
)
def test_characters_spell_the_spoken_words(frames, text):
    decoder = LexiconDecoder(["ABBA", "CAD", "A", "AA"], CHARS)
    assert decoder.decode(peaked(path_of(frames), len(CHARS))) == text


@pytest.mark.parametrize(
    "path, text",
    [
        ([4, 5, 6], "ABBA CAD"),
        ([0, 4, 4, 0, 5, 5, 6, 6, 0, 6, 6], "ABBA CAD CAD"),
        ([2, 0, 2, 2, 6], "A A CAD"),
        ([4, 3, 3, 0, 3], "ABBB"),
        ([0, 0], ""),
    ],
)
def test_subwords_spell_the_spoken_words(path, text):
    decoder = LexiconDecoder(list(SPELLED), SUBWORDS, encode=SPELLED.get)
    assert decoder.decode(peaked(path, len(SUBWORDS))) == text


def test_characters_give_the_best_path_of_all():
    words, pieces = ["AB", "B", "BA", "ABB"], CHARS[:5]

    def read(ids):
        text = "".join(pieces[i] for i in ids).replace(SPACE, " ").split()
        return " ".join(text) if all(word in words for word in text) else None

    rng = np.random.default_rng(3)
    for word_score in [0.0, 1.5, -1.0] * 5:
        log_probs = random_log_probs(rng, 6, len(pieces))
        decoder = LexiconDecoder(words, pieces, word_score=word_score)
        assert decoder.decode(log_probs) == best_by_trying_all(log_probs, read, word_score)


def test_subwords_give_the_best_path_of_all():
    """Words may begin and end with the same piece, where only a blank keeps them apart."""
    pieces = ["<blk>", SPACE + "A", "B", SPACE + "AB"]
    spelled = {"A": [1], "AB": [3], "ABB": [3, 2], "AA": [1, 1]}
    readings = {tuple(ids) for ids in spelled.values()}

    def read(ids):
        found = {0}
        for end in range(1, len(ids) + 1):
            if any(start in found and tuple(ids[start:end]) in readings for start in range(end)):
                found.add(end)
        return "".join(pieces[i] for i in ids).replace(SPACE, "") if len(ids) in found else None

    decoder = LexiconDecoder(list(spelled), pieces, encode=spelled.get, special_ids=(0,))
    rng = np.random.default_rng(4)
    for _ in range(30):
        log_probs = random_log_probs(rng, 6, len(pieces))
        assert decoder.decode(log_probs).replace(" ", "") == best_by_trying_all(log_probs, read)


@pytest.mark.parametrize("word_score", [-1.0, 0.0, 1.5])
def test_a_word_is_said_again_only_after_a_blank(word_score):
    """Words of one piece: every path reads as one sequence of words."""
    pieces, words = ["<blk>", SPACE + "A", SPACE + "B"], {"A": [1], "B": [2]}
    decoder = LexiconDecoder(list(words), pieces, encode=words.get, special_ids=(0,), word_score=word_score)
    rng = np.random.default_rng(8)
    for _ in range(20):
        log_probs = random_log_probs(rng, 6, len(pieces), spread=1.0)
        best = best_by_trying_all(log_probs, lambda ids: " ".join(pieces[i][1:] for i in ids), word_score)
        assert decoder.decode(log_probs) == best


@pytest.mark.parametrize("words", [["AB", "ABB"], ["ABB", "AB"]], ids=str)
def test_a_letter_is_said_twice_only_with_a_blank_between(words):
    decoder = LexiconDecoder(words, CHARS)
    for frames, text in (("ABBB_", "AB"), ("AB.B_", "ABB"), ("AB.BB", "ABB"), ("ABB", "AB")):
        assert decoder.decode(peaked(path_of(frames), len(CHARS))) == text


def test_word_score_trades_words():
    log_probs = random_log_probs(np.random.default_rng(5), 60, len(CHARS), spread=1.0)
    counts = [
        len(LexiconDecoder(["A", "AB", "CAD"], CHARS, word_score=score).decode(log_probs).split())
        for score in (-20.0, 0.0, 20.0)
    ]
    assert counts == sorted(counts) and counts[0] < counts[2]


def test_blank_may_have_any_id():
    rng = np.random.default_rng(6)
    order = [6, 1, 2, 3, 4, 5, 0]
    plain = LexiconDecoder(["ABBA", "CAD"], CHARS)
    moved = LexiconDecoder(["ABBA", "CAD"], [CHARS[i] for i in order], blank_id=6, special_ids=(1, 6))
    for _ in range(5):
        log_probs = random_log_probs(rng, 40, len(CHARS))
        assert moved.decode(log_probs[:, order]) == plain.decode(log_probs) != ""


def test_no_frames_and_wrong_shapes():
    decoder = LexiconDecoder(["A"], CHARS)
    assert decoder.decode(np.zeros((0, len(CHARS)))) == ""
    with pytest.raises(ValueError, match=r"\(T, 7\)"):
        decoder.decode(np.zeros((4, 6)))
    with pytest.raises(ValueError, match="empty"):
        LexiconDecoder([], CHARS)


def test_words_that_cannot_be_spelled_are_listed():
    with pytest.raises(ValueError, match="2 of 3 words.*: XYZ AE"):
        spell_words(["AB", "XYZ", "AE"], CHARS)
    with pytest.raises(ValueError, match="1 of 1"):
        spell_words(["B"], SUBWORDS, encode=lambda word: [1])
    with pytest.raises(ValueError, match="1 of 1"):
        spell_words(["B"], SUBWORDS, encode=lambda word: [2, 3])  # spells AB


def test_spelling_follows_the_tokens():
    assert spell_words(["AB"], CHARS) == [[3, 4, 2]]
    assert spell_words(["ABBA"], SUBWORDS, encode=SPELLED.get) == [[4, 5]]
    assert has_single_characters(CHARS) and not has_single_characters(SUBWORDS)


def test_tokens_without_a_space():
    """Transcripts of one word each give a tokenizer without the space."""
    pieces = ["<blk>", "<unk>", "A", "B"]
    assert LexiconDecoder(["AB", "BB"], pieces).decode(peaked([0, 3, 0, 3, 3], 4)) == "BB"
