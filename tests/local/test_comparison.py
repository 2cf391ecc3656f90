"""Errors between two transcripts, per word or per character."""

from local.comparison import disagreement


def test_disagreement_is_per_word():
    assert disagreement("a b c d", "a x c") == 0.5
    assert disagreement("a", "a b c") == 2.0
    assert disagreement("", "a") == 1.0


def test_characters_are_compared_where_they_are_counted():
    assert disagreement("今天天气非常好", "今天天气非常好吧", "char") == 1 / 7
