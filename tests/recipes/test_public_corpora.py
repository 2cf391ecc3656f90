"""The recipes of public corpora, end to end on made-up copies."""

import pytest

from tests.recipes.corpus_runs import ROOT, check_recipe

PUBLIC = ["librispeech", "timit", "aishell", "yesno"]
OTHERS = ["commonvoice", "msc", "kaldi", "manifest", "labelled_folder"]  # test_own_corpora.py


@pytest.mark.parametrize("recipe", PUBLIC)
def test_recipe(recipe, tmp_path):
    check_recipe(recipe, tmp_path)
    if recipe == "aishell":  # characters are the units, and they survive to the report
        errors = (tmp_path / "exp/aishell/teacher/decode_test_onnx/errors_greedy.txt").read_text(encoding="utf-8")
        assert errors.startswith("%CER") and "最 大 的 限 购" in " ".join(errors.split())
        assert "greedy CER" in (tmp_path / "exp/aishell/report/report.md").read_text(encoding="utf-8")


def test_every_recipe_that_reads_a_corpus_is_run():
    recipes = {path.parent.name for path in ROOT.glob("recipes/*/recipe.sh")}
    # hub: what it reads is kaldi's, and it needs a model (test_hub.py)
    assert recipes - {"home", "an4", "an4_noise", "an4_streaming", "an4_unlabelled", "an4_whisper", "hub"} == {
        *PUBLIC,
        *OTHERS,
    }


@pytest.mark.parametrize("recipe", [*PUBLIC, *OTHERS])
def test_recipes_and_their_readers_are_short(recipe):
    """A corpus takes less than a hundred lines; what reads everybody's own data has more cases to mind."""
    for path in (ROOT / f"recipes/{recipe}/recipe.sh", ROOT / f"local/prepare_{recipe}.py"):
        assert len(path.read_text().splitlines()) < (100 if recipe in PUBLIC else 200)
    assert (ROOT / f"recipes/{recipe}/README.md").is_file()
