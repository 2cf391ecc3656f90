"""Graphs: the best path through one is the best of all paths under CTC, lexicon and n-gram model, found by trying them all."""

import itertools
import math

import numpy as np
import pytest

from steps.lm.estimate import count_ngrams, estimate
from steps.lm.fst import Fst, check_fst, read_fst, write_fst
from steps.lm.graph import Weights, build_graph, build_token_graph
from steps.lm.ngram import BEGIN, END, NGram
from steps.search.graph import GraphDecoder
from steps.search.lexicon import LexiconDecoder

# blank, space, three letters
TOKENS = ["<blk>", "\u2581", "a", "b"]
CHARS = {"A": [(2,)], "AA": [(2, 2)], "AB": [(2, 3)], "BA": [(3, 2)]}
SUBWORDS = {"a": [(1,)], "ab": [(1, 2)], "ba": [(2, 1)], "c": [(3,), (1, 1)]}
TEXT = [line.split() for line in ("A BA", "AA AB A", "BA", "A A A", "AB BA A", "BA BA AA")]
SCALES = [Weights(), Weights(0.4, 1.5), Weights(2.0, -1.0, {"BA": 2.5, "ba": 2.5})]


def train(words, order):
    text = [[dict(zip(CHARS, words, strict=True))[word] for word in sentence] for sentence in TEXT]
    return estimate(count_ngrams(text, order), [1] * order, words)


def random_log_probs(rng, frames, tokens):
    scores = 2.0 * rng.normal(size=(frames, tokens))
    return (scores - np.log(np.exp(scores).sum(-1, keepdims=True))).astype(np.float32)


def best_path(fst: Fst, words, log_probs):
    """Viterbi over all states, without a beam. Returns: words and score of the best path."""
    sources = np.repeat(np.arange(len(fst.finals)), fst.counts)
    best = {fst.start: (0.0, ())}

    def follow(states, wanted, score_of):
        found = {}
        for state, (score, said) in states.items():
            for arc in fst.arcs[sources == state]:
                if (arc["ilabel"] > 0) == wanted:
                    new = score - float(arc["weight"]) + score_of(int(arc["ilabel"]))
                    text = (*said, words[arc["olabel"]]) if arc["olabel"] else said
                    if new > found.get(int(arc["next"]), (-math.inf,))[0]:
                        found[int(arc["next"])] = new, text
        return found

    def close(states):
        layer = states
        while layer := follow(layer, False, lambda label: 0.0):
            layer = {s: v for s, v in layer.items() if v[0] > states.get(s, (-math.inf,))[0]}
            states = states | layer
        return states

    best = close(best)
    for frame in log_probs:
        best = close(follow(best, True, lambda label, frame=frame: float(frame[label - 1])))
    ends = [(score - float(fst.finals[state]), said) for state, (score, said) in best.items()]
    score, said = max(ends, key=lambda end: end[0])
    return " ".join(said), score


def best_by_trying_all(model, spellings, weights, space_id, log_probs):
    """The best word sequence of all paths, and its score. Every sequence of tokens is read in all ways."""
    ways = [(word, tuple(ids)) for word, several in spellings.items() for ids in several]

    def read(tokens, context=(BEGIN,), first=True):
        """Yields (words, their score) of all ways to read tokens as words."""
        if space_id is not None and tokens and tokens[0] == space_id:
            yield from read(tokens[1:], context, True)
            return
        if not tokens:
            yield (), weights.lm_scale * math.log(10) * model.log10_prob(END, context)
        for word, ids in ways:
            if tokens[: len(ids)] == ids and (space_id is None or first):
                score = weights.lm_scale * math.log(10) * model.log10_prob(word, context)
                score += weights.word_score + weights.boosts.get(word, 0.0)
                for said, more in read(tokens[len(ids) :], (*context, word), False):
                    yield (word, *said), score + more

    best = (-math.inf, ())
    cache = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(i for i, _ in itertools.groupby(path) if i)
        if tokens not in cache:
            cache[tokens] = max(read(tokens), key=lambda one: one[1], default=((), -math.inf))
        said, score = cache[tokens]
        best = max(best, (score + float(log_probs[np.arange(len(path)), path].sum()), said))
    return " ".join(best[1]), best[0]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spellings, space_id", [(CHARS, 1), (SUBWORDS, None)], ids=["characters", "subwords"])
def test_the_best_path_is_the_best_of_all(order, spellings, space_id):
    rng, model, said = np.random.default_rng(order), train(list(spellings), order), set()
    for frames, weights in zip((1, 4, 5), SCALES, strict=True):
        fst, words = build_graph(model, spellings, weights, space_id=space_id)
        check_fst(fst, 4, len(words))
        for _ in range(3):
            log_probs = random_log_probs(rng, frames, 4)
            text, score = best_path(fst, words, log_probs)
            expected, best = best_by_trying_all(model, spellings, weights, space_id, log_probs)
            assert score == pytest.approx(best, abs=1e-4) and text == expected
            said.update(text.split())
    assert len(said) > 1


@pytest.mark.parametrize("order", [1, 2, 3])
def test_tokens_themselves_are_weighed_as_the_model_of_tokens_says(order):
    tokens = ["<blk>", "\u2581", "A", "B"]
    model = estimate(count_ngrams([["A", "\u2581", "B", "A"], ["B", "B"], ["A"]], order), [1] * order, tokens[1:])
    rng, weights, said = np.random.default_rng(order), Weights(0.8, 0.6), set()
    fst, outputs = build_token_graph(model, tokens, weights), ["<eps>", *tokens]
    check_fst(fst, 4, 5)
    assert not (fst.arcs["olabel"] - fst.arcs["ilabel"])[fst.arcs["olabel"] > 0].any(), "numbered as they go in"
    for frames in (1, 4, 5, 5):
        log_probs = random_log_probs(rng, frames, 4)
        text, score = best_path(fst, outputs, log_probs)
        ways = {token: [(i,)] for i, token in enumerate(tokens) if i}
        expected, best = best_by_trying_all(model, ways, weights, None, log_probs)
        assert score == pytest.approx(best, abs=1e-4) and text == expected
        said.update(text.split())
    assert len(said) == 3
    # what the model does not know cannot come out
    fst = build_token_graph(model, ["<blk>", "C", "A", "B"], weights)
    assert set(fst.arcs["olabel"]) == {0, 3, 4}
    with pytest.raises(ValueError, match="no token is in the language model"):
        build_token_graph(model, ["<blk>", "C", "<s>"], weights)


def test_spaces_around_tokens_are_free_and_those_between_are_weighed():
    tokens = ["<blk>", "\u2581", "A", "B"]
    model = estimate(count_ngrams([["A", "\u2581", "B", "A"], ["B", "B"], ["A"]], 3), [1] * 3, tokens[1:])
    rng, weights, around = np.random.default_rng(1), Weights(0.8, 0.6), 0
    ways = {token: [(i,)] for i, token in enumerate(tokens) if i}
    free = build_token_graph(model, tokens, weights, space_id=1)
    check_fst(free, 4, 5)
    for frames in (1, 3, 4, 5, 5, 5):
        log_probs = random_log_probs(rng, frames, 4)
        log_probs[[0, -1], 1] += 2.0
        text, score = best_path(free, ["<eps>", *tokens], log_probs)
        # the best of all ways to give silence at the ends to spaces, or to blanks, and what is between to the model
        splits = [(i, j) for i in range(frames + 1) for j in range(i, frames + 1)]
        outer = np.maximum(log_probs[:, 0], log_probs[:, 1]).astype(float)
        found = (
            (best_by_trying_all(model, ways, weights, None, log_probs[i:j]), outer[:i].sum() + outer[j:].sum())
            for i, j in splits
        )
        expected, best = max(((said, value + more) for (said, value), more in found), key=lambda one: one[1])
        assert score == pytest.approx(best, abs=1e-4) and text == expected
        around += best > best_path(build_token_graph(model, tokens, weights), ["<eps>", *tokens], log_probs)[1] + 0.1
    assert around >= 3, "spaces at the ends cost something without"


def test_tokens_that_share_arcs_do_not_change_the_best_path(monkeypatch):
    monkeypatch.setattr("steps.lm.graph.MANY", 3)
    rng, words = (
        np.random.default_rng(0),
        {word: [ids] for word, ids in zip("abcde", [(1,), (2,), (3,), (4,), (1, 2)], strict=True)},
    )
    model = estimate(count_ngrams(["abac", "ddbe", "cab"], 2), [1, 1], words)
    fst, names = build_graph(model, words, Weights(0.5, 1.0))
    check_fst(fst, 5, len(names))
    for frames in (2, 4, 4, 4):
        log_probs = random_log_probs(rng, frames, 5)
        text, score = best_path(fst, names, log_probs)
        expected, best = best_by_trying_all(model, words, Weights(0.5, 1.0), None, log_probs)
        assert score == pytest.approx(best, abs=1e-4) and text == expected


def test_words_of_thousands_of_single_tokens_do_not_square_the_graph():
    words = {str(token): [(token,)] for token in range(1, 901)}
    model = estimate(count_ngrams([list(words)], 1), [1], words)
    fst, _ = build_graph(model, words, Weights())
    assert len(fst.arcs) < 900 * 70, "900 x 899 without groups"


def test_without_a_language_model_it_finds_what_the_lexicon_search_finds():
    rng, pieces = np.random.default_rng(0), ["<blk>", "\u2581", "A", "B"]
    decoder = LexiconDecoder(CHARS, pieces, special_ids=(0,), word_score=-0.5)
    fst, words = build_graph(train(list(CHARS), 3), CHARS, Weights(0.0, -0.5), space_id=1)
    for frames in (2, 6, 9, 12):
        log_probs = random_log_probs(rng, frames, 4)
        assert best_path(fst, words, log_probs)[0] == decoder.decode(log_probs)


def test_a_word_comes_out_with_its_last_token_where_sherpa_onnx_looks_for_it():
    for spellings, space_id in ((CHARS, 1), (SUBWORDS, None)):
        fst, words = build_graph(train(list(spellings), 2), spellings, Weights(), space_id=space_id)
        with_word = fst.arcs[fst.arcs["olabel"] > 0]
        last = {(words[o], i - 1) for o, i in zip(with_word["olabel"], with_word["ilabel"], strict=True)}
        assert last == {(word, ids[-1]) for word, ways in spellings.items() for ids in ways}


def test_words_without_a_spelling_cannot_come_and_none_at_all_is_refused():
    model = train(list(CHARS), 2)
    fst, words = build_graph(model, {"A": [(2,)], "OTHER": [(3,)]}, Weights(), space_id=1)
    assert words == ["<eps>", "A"] and set(fst.arcs["olabel"]) == {0, 1}
    with pytest.raises(ValueError, match="no word"):
        build_graph(model, {"OTHER": [(3,)]}, Weights())


def test_a_weight_behind_a_context_without_n_grams_is_paid_too():
    model = NGram([{(BEGIN,): -99.0, (END,): -0.5, ("A",): -0.3, ("BA",): -0.3}], {})
    model.probs.append({("A", "A"): -0.1})
    model.backoffs.update({("A",): -0.7, ("BA",): -2.0})
    spellings = {"A": [(2,)], "BA": [(3, 2)]}
    fst, words = build_graph(model, spellings, Weights(), space_id=1)
    for path, said in (([3, 2, 1, 2], ("BA", "A")), ([2, 1, 2], ("A", "A")), ([2, 1, 3, 2], ("A", "BA"))):
        log_probs = np.full((len(path), 4), -99.0, np.float32)
        log_probs[np.arange(len(path)), path] = 0.0
        cost = sum(model.log10_prob(word, (BEGIN, *said[:i])) for i, word in enumerate((*said, END)))
        text, score = best_path(fst, words, log_probs)
        assert text == " ".join(said) and score == pytest.approx(math.log(10) * cost, abs=1e-4)


def test_graphs_too_large_are_refused(monkeypatch):
    monkeypatch.setattr("steps.lm.graph.MOST_ARCS", 50)
    with pytest.raises(ValueError, match="over 50 arcs; prune"):
        build_graph(train(list(CHARS), 3), CHARS, Weights(), space_id=1)


def test_kaldi_decoder_finds_the_best_path_of_the_file(tmp_path):
    pytest.importorskip("kaldi_decoder")
    rng = np.random.default_rng(0)
    for spellings, space_id in ((CHARS, 1), (SUBWORDS, None)):
        fst, words = build_graph(train(list(spellings), 3), spellings, SCALES[1], space_id=space_id)
        (tmp_path / "HLG.fst").write_bytes(write_fst(fst))
        decoder = GraphDecoder(tmp_path / "HLG.fst", TOKENS, words, beam=100.0)
        for frames in (1, 5, 20):
            log_probs = random_log_probs(rng, frames, 4)
            assert decoder.decode(log_probs) == best_path(fst, words, log_probs)[0] and decoder.ended
        assert decoder.decode(np.zeros((0, 4))) == ""
        with pytest.raises(ValueError, match="expected"):
            decoder.decode(np.zeros((3, 5)))


def test_a_path_that_breaks_off_within_a_word_gives_the_words_before(tmp_path):
    pytest.importorskip("kaldi_decoder")
    spellings = {"A": [(2,)], "LONG": [(2, 3) * 30]}
    fst, words = build_graph(estimate(count_ngrams([], 1), [1], spellings), spellings, Weights(), space_id=1)
    (tmp_path / "HLG.fst").write_bytes(write_fst(fst))
    decoder = GraphDecoder(tmp_path / "HLG.fst", TOKENS, words, beam=5.0)
    path = [2, 1, *(2, 3) * 20]
    log_probs = np.full((len(path), 4), -40.0, np.float32)
    log_probs[np.arange(len(path)), path] = 0.0
    assert decoder.decode(log_probs) == "A" and not decoder.ended


@pytest.fixture(scope="module")
def content():
    return write_fst(build_graph(train(list(CHARS), 2), CHARS, Weights(), space_id=1)[0])


def test_files_read_back_as_written_and_as_kaldifst_reads_them(content, tmp_path):
    fst = read_fst(content)
    assert write_fst(fst) == content and fst.counts.sum() == len(fst.arcs)
    library = pytest.importorskip("kaldifst")
    (tmp_path / "a.fst").write_bytes(content)
    theirs = library.StdVectorFst.read(str(tmp_path / "a.fst"))
    assert theirs.num_states == len(fst.finals) and theirs.start == 0
    assert [theirs.num_arcs(state) for state in range(len(fst.finals))] == fst.counts.tolist()


def test_damaged_files_are_refused(content):
    good = read_fst(content)
    for damaged in (
        b"",
        content[:-1],
        content + b"0",
        content[:50],
        b"x" + content[1:],
        content.replace(b"vector", b"const_"),
    ):
        with pytest.raises(ValueError):
            read_fst(damaged)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=3):
            damaged[at] = rng.integers(256)
        try:
            fst = read_fst(bytes(damaged))
            check_fst(fst, 4, 5)
        except ValueError:
            refused += 1
        else:
            assert len(fst.arcs) == len(good.arcs) and fst.arcs["ilabel"].max() <= 4
    assert refused > 20


def test_labels_and_loops_that_would_harm_a_decoder_are_refused(content):
    fst = read_fst(content)
    check_fst(fst, 4, 5)
    for tokens, words, message in ((3, 5, "ilabel"), (4, 4, "olabel")):
        with pytest.raises(ValueError, match=message):
            check_fst(fst, tokens, words)
    for name, value, message in (("next", 10**6, "next"), ("weight", np.nan, "weight"), ("ilabel", -1, "ilabel")):
        arcs = fst.arcs.copy()
        arcs[name][3] = value
        with pytest.raises(ValueError, match=message):
            check_fst(Fst(0, fst.finals, fst.counts, arcs), 4, 5)
    arcs = fst.arcs.copy()
    silent = np.flatnonzero(arcs["ilabel"] == 0)[0]
    arcs["next"][silent] = np.repeat(np.arange(len(fst.finals)), fst.counts)[silent]
    with pytest.raises(ValueError, match="without end"):
        check_fst(Fst(0, fst.finals, fst.counts, arcs), 4, 5)
