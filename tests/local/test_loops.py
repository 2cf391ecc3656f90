"""A transcript that says one thing over and over is known from what people say."""

import numpy as np
import pytest

from local.loops import LEAST_STRETCH, loops


@pytest.mark.parametrize(
    "text",
    ["a b c " * 5, "x a a a a a y", "thank you very much for watching " * 6, "谢谢观看" * 10, "oh " + "ha" * 30 + " yes", "好" * 20],
)  # fmt: skip
def test_loops_of_words_and_of_characters(text):
    assert loops(text, 5)


@pytest.mark.parametrize(
    "text",
    [
        "", "a b c " * 4, "a a a a b", "bye bye", "no no no", "ONE ONE ONE ONE TWO", "hahahahaha", "sooooo 1000000 .....", "好好好好",
        "one none none none none", "thank you very much for watching " * 4,
    ],
)  # fmt: skip
def test_what_people_say_is_no_loop(text):
    assert not loops(text, 5)


def test_loops_of_as_few_repeats_as_are_allowed():
    assert loops("go a b c d a b c d", 2) and loops("a b c d e a b c d e", 2)
    assert not loops("a b c d e a b c d", 2) and not loops("couscous murmur", 2)


def test_loops_are_those_that_comparing_all_stretches_finds():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        words = list(map(str, rng.integers(0, 2, rng.integers(0, 14))))
        most = int(rng.integers(2, 5))
        slow = any(
            words[start : start + length * most] == words[start : start + length] * most
            for length in range(1, len(words) // most + 1)
            for start in range(len(words) - length * most + 1)
        )
        assert loops(" ".join(words), most) is slow or len(" ".join(words)) >= LEAST_STRETCH
        found += slow
    assert 50 < found < 250
