"""Figures of classification, by hand and by what they must add up to."""

import pytest

from steps.scoring.classes import classification, format_classes

REFS = {"1": "on", "2": "on", "3": "off", "4": "off", "5": "off", "6": "stop now"}
HYPS = {"1": "on", "2": "off", "3": "off", "4": "off", "5": "what", "6": ""}


def test_figures_by_hand():
    found = classification(REFS, HYPS)
    assert found["accuracy"] == 50
    on, off, stop = (found["classes"][name] for name in ("on", "off", "stop now"))
    assert (on["precision"], on["recall"], on["support"], on["predicted"]) == (100, 50, 2, 1)
    assert (off["precision"], off["recall"]) == pytest.approx((200 / 3, 200 / 3))
    assert (stop["precision"], stop["recall"], stop["f1"]) == (0, 0, 0)
    assert found["macro_f1"] == pytest.approx((on["f1"] + off["f1"]) / 3)
    assert found["confusions"] == {"off": {"": 1, "off": 2}, "on": {"off": 1, "on": 1}, "stop now": {"": 1}}


def test_the_matrix_adds_up_and_the_text_names_every_confusion():
    found = classification(REFS, HYPS)
    assert {name: sum(row.values()) for name, row in found["confusions"].items()} == {"off": 3, "on": 2, "stop now": 1}
    text = format_classes(found)
    assert "accuracy 50.00 %" in text and "1  on -> off" in text and "1  stop now -> (no class)" in text


def test_all_right_is_one_hundred_everywhere():
    found = classification(REFS, REFS)
    assert {found[key] for key in ("accuracy", "macro_precision", "macro_recall", "macro_f1")} == {100}
