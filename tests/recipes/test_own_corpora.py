"""The recipes of users' own data, end to end on made-up corpora."""

import pytest

from tests.recipes.corpus_runs import check_preparation, check_recipe
from tests.recipes.test_public_corpora import OTHERS

# All run whole in slow tests. These differ from others behind the tokenizer in sizes only, or have tests of their own reader.
PREPARED = ["commonvoice", "kaldi", "manifest"]
SLOW = [*PREPARED, "msc"]


@pytest.mark.parametrize("recipe", PREPARED)
def test_preparation(recipe, tmp_path):
    check_preparation(recipe, tmp_path)
    if recipe == "commonvoice":
        check_text_of_commonvoice(tmp_path)


def check_text_of_commonvoice(folder):
    """Its options lower the case and remove the quotes."""
    text = (folder / "data/commonvoice/train/text").read_text(encoding="utf-8")
    assert text == text.lower() and '"' not in text and "," not in text


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OTHERS]
)
def test_recipe(recipe, tmp_path):
    results = check_recipe(recipe, tmp_path)
    if recipe == "labelled_folder":
        for row in results["rows"]:
            found = row["scores"]["one_of"]["classification"]
            assert set(found["classes"]) == {"tab", "bed", "turn on", "go"}
            assert all("" not in taken_for for taken_for in found["confusions"].values()), "always a label"
    if recipe == "commonvoice":
        check_text_of_commonvoice(tmp_path)
    if recipe == "msc":  # signs and letters stay together up to the report, where CER stands beside WER
        errors = (tmp_path / "exp/msc/teacher/decode_test_onnx/errors_greedy.txt").read_text(encoding="utf-8")
        assert "\u0d15\u0d3f" in errors and "\u0d7b" in errors and "\u200d" not in errors
        page = (tmp_path / "exp/msc/report/report.html").read_text(encoding="utf-8")
        assert "greedy CER" in page and "greedy WER" in page
