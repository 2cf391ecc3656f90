"""Greedy search: what CTC's collapsing rule promises."""

import itertools

import numpy as np
import pytest

from steps.search.greedy import continue_greedy, emitted_log_probs, greedy_search


def one_hot(path, num_tokens=5):
    """(T, V) scores whose best path is `path`."""
    return np.eye(num_tokens, dtype=np.float32)[list(path)].reshape(len(path), num_tokens)


def collapse(path, blank):
    return [token for token, _ in itertools.groupby(path) if token != blank]


@pytest.mark.parametrize("blank", [0, 3])
def test_collapses_any_path(blank):
    for path in itertools.product(range(4), repeat=4):
        assert greedy_search(one_hot(path)[None], [4], blank) == [collapse(path, blank)]


def test_tokens_are_as_sure_as_where_they_begin():
    """One for each token that is found, none for blanks and repeats."""
    log_probs = np.log(one_hot([0, 1, 1, 0, 1, 2, 2]) * [[0.5], [0.9], [0.8], [0.5], [0.7], [0.6], [0.3]] + 1e-9)
    np.testing.assert_allclose(np.exp(emitted_log_probs(log_probs)), [0.9, 0.7, 0.6], rtol=1e-6)
    assert emitted_log_probs(log_probs[:1]) == []


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    log_probs, lengths = rng.normal(size=(6, 20, 5)), [20, 0, 7, 1, 13, 19]
    batch = greedy_search(log_probs, lengths)
    for row, length, found in zip(log_probs, lengths, batch, strict=True):
        assert greedy_search(row[None, :length], [length]) == [found]
    assert batch[1] == []


def test_tensors_and_arrays_agree():
    torch = pytest.importorskip("torch")
    log_probs = np.random.default_rng(1).normal(size=(3, 9, 5)).astype(np.float32)
    tensor = torch.tensor(log_probs, requires_grad=True)
    assert greedy_search(tensor, torch.tensor([9, 5, 2])) == greedy_search(log_probs, [9, 5, 2])
    assert greedy_search(tensor.bfloat16(), [9, 5, 2]) is not None


@pytest.mark.parametrize("shape, lengths, blank", [((2, 3), [3, 3], 0), ((2, 3, 4), [3], 0), ((1, 3, 4), [4], 0),
                                                  ((1, 3, 4), [-1], 0), ((1, 3, 4), [3], 4)])  # fmt: skip
def test_refuses_what_does_not_fit(shape, lengths, blank):
    with pytest.raises(ValueError):
        greedy_search(np.zeros(shape), lengths, blank)


@pytest.mark.parametrize("seed", range(5))
def test_parts_that_go_on_say_what_the_whole_says(seed):
    """Few tokens, so that many last beyond the end of a part; parts without frames, too."""
    random = np.random.default_rng(seed)
    log_probs, blank_id = random.normal(size=(40, 3)), seed % 3
    found, last = [], blank_id
    for part in np.split(log_probs, np.sort(random.integers(0, 41, 12))):
        ids, last = continue_greedy(part, last, blank_id)
        found += ids
    assert found == greedy_search(log_probs[None], [40], blank_id)[0] and len(found) > 8
