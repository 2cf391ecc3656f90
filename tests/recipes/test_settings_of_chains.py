"""Every recipe can be run as far as that shows without a corpus: its settings are read, and make models, here and not hours later."""

import dataclasses
import os
import re
import shlex
import subprocess

import pytest

from steps.compress.plan import prune_structured
from steps.compress.quantize_config import QuantizeConfig
from steps.core.config import load_config
from steps.data.feature_config import FeatureConfig
from steps.models.build import build_model, new_spec
from steps.prune_model import PruneConfig
from steps.quantize_model import LearntConfig
from steps.training.settings import TrainConfig
from tests.recipes.corpus_runs import ROOT

CLASSES = {
    "train_teacher": TrainConfig,
    "distill_student": TrainConfig,
    "prune_model": PruneConfig,
    "quantize_model": LearntConfig,
}
VOCAB_SIZE = 30


def kinds():
    """Every recipe, once for each value that its recipe.sh lets its variable have. Returns: (recipe, variable or None, value)."""
    for path in sorted(ROOT.glob("recipes/*/recipe.sh")):
        choice = re.search(r"\$\(choice (\w+) ([^)]*)\)", path.read_text())
        values = choice[2].split() if choice else [None]
        yield from ((path.parent.name, choice and choice[1], value) for value in values)


def dry_run(recipe, variable, value, folder):
    """What `--dry-run` prints."""
    words = [ROOT / "run.sh", "--recipe", ROOT / "recipes" / recipe, "--dry-run", "--workdir", folder]
    words += ["--transcribe-with", folder, "--transcribe-check", folder] if value == "heard" else []
    environment = os.environ | ({variable: value} if variable else {})
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def commands(printed):
    """What a dry run would call. Yields: (step, {option: its first word})."""
    for line in filter(lambda line: " -m steps." in line, printed.splitlines()):
        called = shlex.split(line)
        start = called.index("-m")
        options = [at for at, word in enumerate(called) if at > start and word.startswith("--")]
        yield called[start + 1].removeprefix("steps."), {called[at]: (called[at + 1 :] or [""])[0] for at in options}


@pytest.mark.parametrize(("recipe", "variable", "value"), list(kinds()))
def test_every_recipe_dry_runs_and_its_settings_make_models(recipe, variable, value, tmp_path):
    printed, seen = dry_run(recipe, variable, value, tmp_path), 0
    assert "stage 9 report: would run" in printed
    for step, options in commands(printed):
        if step not in CLASSES:
            continue
        seen += 1
        path = ROOT / options["--config"]
        reads_data = step != "quantize_model" or "--data" in options
        config = load_config(CLASSES[step] if reads_data else QuantizeConfig, path)
        # what goes on from a model has its sizes
        if (
            isinstance(config, TrainConfig)
            and config.type != "hub"
            and not (step == "train_teacher" and "--init" in options)
        ):
            dim = load_config(FeatureConfig, ROOT / options["--features"]).dim
            rest = (config.head, config.normalisation, config.head_sizes)
            spec = new_spec(config.type, config.model, dim, VOCAB_SIZE, step, f"{path}: model", *rest)
            assert sum(parameter.numel() for parameter in build_model(spec).parameters()) > 10_000
    assert seen


@pytest.mark.slow
def test_a_model_of_the_usual_shape_can_be_cut_as_the_hub_recipe_says():
    """Twelve layers of width 768 behind a front end that takes over a third of the work: known before hours of fine-tuning."""
    config = load_config(PruneConfig, ROOT / "recipes/hub/conf/short.yaml").structured
    sizes = {"num_blocks": 12, "block": {"heads": 12, "ff": 3072}, "wave": {}}
    model = build_model(new_spec("hub", sizes, 160, VOCAB_SIZE, "test"))
    small, told = prune_structured(model, dataclasses.replace(config, importance="magnitude"))
    before, after = told["macs_per_second"]
    assert 0.5 < after / before <= config.keep and len(small.blocks) == 6
    assert all(size >= whole / 3 for whole, size in told["sizes"].values())
