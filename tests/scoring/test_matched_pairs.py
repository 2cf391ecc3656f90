"""The matched pairs test: segments by hand, symmetry, and its level when nothing differs."""

import math
import random

import pytest

from steps.scoring.matched_pairs import errors_at_words, matched_pairs_test, segment_differences


def segments(ref, a, b):
    return segment_differences(errors_at_words(ref, a), errors_at_words(ref, b))


def test_errors_lie_at_their_words():
    assert errors_at_words("a b c", "a x c d") == [0, 0, 0, 1, 0, 0, 1]
    assert errors_at_words("a b", "b") == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8", []),
        ("x 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8", [1]),
        ("x 2 3 4 5 6 7 y", "1 2 3 4 5 6 7 8", [1, 1]),  # far apart: two segments
        ("x 2 y 4 5 6 7 8", "1 2 3 4 5 6 7 8", [2]),  # one good word between: one segment
        ("x 2 3 4 5 6 7 8", "1 2 3 y 5 6 7 8", [1, -1]),  # two good words in both between
        ("x 2 3 4 5 6 7 8", "1 2 y 4 5 6 7 8", [0]),
        ("1 2 3 4 5 6 7", "1 2 3 4 5 6 7 8 9", [0]),
    ],
)
def test_segments_are_bounded_by_two_words_both_have_right(a, b, expected):
    assert segments("1 2 3 4 5 6 7 8", a, b) == expected


def texts(rng, count, rate):
    refs = {f"u{i}": " ".join(rng.choices("abcdefgh", k=10)) for i in range(count)}

    def spoil(text):
        return " ".join("x" if rng.random() < rate else word for word in text.split())

    return refs, spoil


def test_order_only_changes_the_sign():
    refs, spoil = texts(random.Random(0), 100, 0.1)
    a, b = ({u: spoil(t) for u, t in refs.items()} for _ in range(2))
    one, two = matched_pairs_test(refs, a, b), matched_pairs_test(refs, b, a)
    assert (one.z, one.p, one.segments) == (-two.z, two.p, two.segments)
    same = matched_pairs_test(refs, a, a)
    assert same.p == 1 and same.z == 0


def test_z_and_p_are_the_textbooks():
    """One segment an utterance, so that its differences are known: 1 three times, 0 once."""
    refs = {str(i): "a b c d" for i in range(4)}
    a = refs | {str(i): "a x c d" for i in range(3)} | {"3": "a b y d"}
    b = refs | {"3": "a b z d"}
    found = matched_pairs_test(refs, a, b)
    assert (found.segments, found.mean) == (4, 0.75)
    assert found.z == pytest.approx(0.75 / (0.5 / 2))  # the deviation of 1, 1, 1, 0 is a half
    assert found.p == pytest.approx(math.erfc(found.z / 2**0.5))


@pytest.mark.parametrize(("segments", "p"), [(1, 1.0), (2, 0.5), (7, 2 / 128), (60, 2.0**-59)])
def test_where_all_segments_differ_alike_the_sign_test_tells(segments, p):
    refs = {str(i): "a b c d" for i in range(segments)}
    worse = dict.fromkeys(refs, "a x c d")
    found = matched_pairs_test(refs, worse, refs)
    assert (found.segments, found.mean, found.p) == (segments, 1.0, pytest.approx(p))
    assert found.z >= 0 and math.erfc(found.z / 2**0.5) == pytest.approx(p, rel=1e-6)
    assert math.isfinite(
        matched_pairs_test(dict.fromkeys(range(3000), "a"), *(dict.fromkeys(range(3000), x) for x in "ab")).z
    )
    other = matched_pairs_test(refs, refs, worse)
    assert (other.z, other.p) == (-found.z, found.p)


def test_a_clear_difference_is_found_and_chance_is_not():
    rng = random.Random(1)
    refs, spoil = texts(rng, 200, 0.05)
    good = {u: spoil(t) for u, t in refs.items()}
    _, worse = texts(rng, 0, 0.15)
    assert matched_pairs_test(refs, {u: worse(t) for u, t in refs.items()}, good).p < 0.001
    found = 0
    for _ in range(200):
        a, b = ({u: spoil(t) for u, t in list(refs.items())[:60]} for _ in range(2))
        found += matched_pairs_test({u: refs[u] for u in a}, a, b).p < 0.05
    assert found <= 22  # 5 % of 200, and chance
