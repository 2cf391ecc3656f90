"""Transducer searches: greedy by hand, beam against all transcripts written out."""

import itertools

import numpy as np
import pytest

from steps.search.transducer import beam_search, emissions, greedy_search, last_units

UNITS = 4


def made_up(seed=0, sharpness=3.0):
    """A predictor and a joiner with random tables. Returns: predict, join."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(UNITS + 1, UNITS + 1, 6))
    out = random.normal(size=(6, UNITS)) * sharpness
    return (lambda last: table[last[:, 0], last[:, 1]]), (lambda heard, said: np.tanh(heard + said) @ out)


def frames(rows, count, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, count, 6)).astype(np.float32)


def test_the_first_units_are_the_blank_and_none():
    assert last_units([], 2) == [-1, 0] and last_units([5], 2) == [0, 5] and last_units([5, 6, 7], 2) == [6, 7]
    assert last_units([], 1) == [0] and last_units([5], 3) == [-1, 0, 5]


def test_greedy_emits_the_best_unit_of_a_frame_and_goes_on_from_it():
    predict, join = made_up()
    (encoded,) = frames(1, 12)
    ids, last = [], [-1, 0]
    for frame in encoded:
        best = int(join(frame[None], predict(np.array([last]))).argmax())
        if best not in (0, 3):
            ids, last = [*ids, best], [last[1], best]
    assert greedy_search(encoded[None], [12], predict, join, 2, never=[3]) == [ids]
    heard, at = emissions(encoded, predict, join, 2, never=[3])
    assert heard == ids and all(
        greedy_search(encoded[None], [frame + 1], predict, join, 2, never=[3]) == [ids[: number + 1]]
        and greedy_search(encoded[None], [frame], predict, join, 2, never=[3]) == [ids[:number]]
        for number, frame in enumerate(at)
    )
    assert len(ids) > 3 and 3 in greedy_search(encoded[None], [12], predict, join, 2)[0]


def test_padding_and_neighbours_change_nothing():
    predict, join = made_up()
    encoded = frames(3, 12)
    together = greedy_search(encoded, [12, 5, 0], predict, join, 2)
    alone = [greedy_search(row[None, :n], [n], predict, join, 2)[0] for row, n in zip(encoded, (12, 5, 0), strict=True)]
    assert together == alone and together[2] == [] and together[0]
    assert greedy_search(np.zeros((0, 0, 6)), [], predict, join, 2) == []


def probability(encoded, ids, predict, join):
    """Sum over the alignments of a transcript."""
    total = 0.0
    for chosen in itertools.combinations(range(len(encoded)), len(ids)):
        done, log_prob = 0, 0.0
        for time, frame in enumerate(encoded):
            logits = join(frame[None], predict(np.array([last_units(list(ids[:done]), 2)])))[0]
            log_probs = logits - np.log(np.exp(logits).sum())
            log_prob += log_probs[ids[done] if time in chosen else 0]
            done += time in chosen
        total += np.exp(log_prob)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all_transcripts(seed):
    predict, join = made_up(seed, sharpness=1.0)
    (encoded,) = frames(1, 4, seed)
    every = [ids for length in range(5) for ids in itertools.product(range(1, UNITS), repeat=length)]
    scores = {ids: np.log(probability(encoded, ids, predict, join)) / (len(ids) + 2) for ids in every}
    best = max(scores, key=scores.get)
    assert beam_search(encoded, predict, join, 2, paths=1000) == list(best)


def test_a_beam_of_one_is_greedy_and_never_emits_what_it_must_not():
    predict, join = made_up()
    (encoded,) = frames(1, 12)
    for never in ([], [3]):
        (greedy,) = greedy_search(encoded[None], [12], predict, join, 2, never)
        assert beam_search(encoded, predict, join, 2, 1, never) == greedy
        assert not set(never) & set(beam_search(encoded, predict, join, 2, 4, never))


def test_scores_that_are_not_finite_are_refused_in_speech_only():
    predict, join = made_up()
    encoded = frames(2, 3)
    encoded[1, 2] = np.nan
    greedy_search(encoded, [3, 2], predict, join, 2)
    with pytest.raises(ValueError, match="not finite"):
        greedy_search(encoded, [3, 3], predict, join, 2)
    with pytest.raises(ValueError, match="not finite"):
        beam_search(encoded[1], predict, join, 2, 2)
