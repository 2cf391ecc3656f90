"""The recipes of users' own data, end to end on made-up corpora."""

import pytest

from tests.recipes.corpus_runs import check_recipe
from tests.recipes.test_public_corpora import OTHERS


@pytest.mark.parametrize("recipe", OTHERS)
def test_recipe(recipe, tmp_path):
    check_recipe(recipe, tmp_path)
    if recipe == "commonvoice":  # its options lower the case and remove the quotes
        text = (tmp_path / "data/commonvoice/train/text").read_text(encoding="utf-8")
        assert text == text.lower() and '"' not in text and "," not in text
