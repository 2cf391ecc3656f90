"""The best label of a closed list: exact, against the sum over every path; what cannot be spelled is refused."""

import itertools

import numpy as np
import pytest
import torch

from steps.search.one_of import OneOf

SPACE = "\u2581"
PIECES = ["<blk>", "<unk>", SPACE, "a", "b"]


def random_log_probs(frames, tokens, seed):
    logits = 2 * np.random.default_rng(seed).normal(size=(frames, tokens))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def text_of(path, pieces):
    """Text of a path of token ids, as greedy search makes it: repeats merged, blanks dropped, single spaces."""
    kept = [token for token, group in itertools.groupby(path) if token != 0]
    return " ".join("".join(pieces[token] for token in kept).replace(SPACE, " ").split())


def brute_force(log_probs, pieces):
    """Probability of every text, by adding up all paths."""
    found = {}
    for path in itertools.product(range(len(pieces)), repeat=len(log_probs)):
        text = text_of(path, pieces)
        found[text] = found.get(text, 0.0) + float(np.exp(log_probs[range(len(path)), list(path)].sum()))
    return found


LABELS = ["a", "ab", "aa", "b a", "aab", "a a", "ab ba", "aba b"]


@pytest.mark.parametrize("frames", [1, 2, 4, 6])
def test_scores_are_the_sum_over_all_paths(frames):
    log_probs = random_log_probs(frames, len(PIECES), frames)
    every = brute_force(log_probs, PIECES)
    found = np.exp(OneOf(LABELS, PIECES).scores(log_probs))
    assert found == pytest.approx([every.get(label, 0.0) for label in LABELS], abs=1e-12)
    assert sum(every.values()) == pytest.approx(1) and (frames < 4 or found[3] > 0)


def test_without_a_space_among_the_tokens_it_is_the_loss_of_ctc():
    pieces = ["<blk>", "<unk>", "a", "b", "c"]
    labels = ["abc", "aabb", "cc", "b", "cabcab"]
    log_probs = random_log_probs(9, len(pieces), 0)
    expected = []
    for label in labels:
        tokens = torch.tensor([[pieces.index(char) for char in label]])
        inputs = torch.from_numpy(log_probs)[:, None], tokens, torch.tensor([9]), torch.tensor([len(label)])
        expected.append(-float(torch.nn.functional.ctc_loss(*inputs, blank=0, reduction="sum")))
    assert OneOf(labels, pieces).scores(log_probs) == pytest.approx(expected)
    assert OneOf(labels, pieces).decode(log_probs) == labels[int(np.argmax(expected))]


def test_the_sum_wins_over_the_best_path():
    pieces = ["<blk>", "<unk>", "a", "b"]
    with np.errstate(divide="ignore"):
        log_probs = np.log([[0.4, 0.0, 0.6, 0.0], [0.3, 0.0, 0.3, 0.4]])
    one_of = OneOf(["ab", "a"], pieces)
    # the single path ab has 0.24, the paths aa, a-, -a have 0.18, 0.18 and 0.12
    assert np.exp(one_of.scores(log_probs)) == pytest.approx([0.24, 0.48])
    assert one_of.decode(log_probs) == "a"


def test_subwords_have_the_spelling_of_the_tokenizer():
    pieces = ["<blk>", "<unk>", f"{SPACE}on", f"{SPACE}o", "n", "f"]
    spellings = {"on": [2], "off": [3, 5, 5], "on on": [2, 2]}
    log_probs = random_log_probs(5, len(pieces), 3)
    expected = []
    for ids in spellings.values():
        paths = (p for p in itertools.product(range(6), repeat=5) if [t for t, _ in itertools.groupby(p) if t] == ids)
        expected.append(sum(np.exp(log_probs[range(5), list(path)].sum()) for path in paths))
    one_of = OneOf(spellings, pieces, encode=spellings.__getitem__)
    assert np.exp(one_of.scores(log_probs)) == pytest.approx(expected)


def test_a_blank_that_is_not_the_first_token():
    order = [3, 4, 1, 0, 2]
    pieces = [PIECES[i] for i in order]
    log_probs = random_log_probs(5, len(PIECES), 8)
    moved = OneOf(LABELS, pieces, blank_id=3, special_ids=(3, 2)).scores(log_probs[:, order])
    assert moved == pytest.approx(OneOf(LABELS, PIECES).scores(log_probs))


def test_labels_that_do_not_fit_lose_and_no_frames_say_nothing():
    one_of = OneOf(["aaa", "ab"], PIECES)
    log_probs = random_log_probs(2, len(PIECES), 1)
    assert one_of.scores(log_probs)[0] == -np.inf and one_of.decode(log_probs) == "ab"
    assert one_of.decode(np.zeros((0, len(PIECES)))) == "" and one_of.decode(log_probs[:1]) == ""
    with pytest.raises(ValueError, match=r"expected \(T, 5\)"):
        one_of.scores(np.zeros((3, 4)))


def test_what_cannot_be_spelled_or_is_too_much_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="2 of 3 labels cannot be spelled with the tokens: xa, a  b"):
        OneOf(["a", "xa", "a  b"], PIECES)
    with pytest.raises(ValueError, match="1 of 1 labels"):
        OneOf(["a b"], ["<blk>", "<unk>", "a", "b"])
    with pytest.raises(ValueError, match="1 of 2 labels cannot be spelled with the tokens: ba"):
        OneOf(["ab", "ba"], ["<blk>", "<unk>", "a", "b"], encode=lambda text: [2, 3])
    with pytest.raises(ValueError, match="empty"):
        OneOf([], PIECES)
    assert OneOf(["a", "a"], PIECES).labels == ["a"]
    monkeypatch.setattr("steps.search.one_of.MOST_STATES", 9)
    with pytest.raises(ValueError, match="2 labels of up to 5 states are too many"):
        OneOf(["a", "ab"], PIECES)
    with pytest.raises(ValueError, match="1 labels of so many letters are too many"):
        OneOf(["a" * 10], PIECES)
