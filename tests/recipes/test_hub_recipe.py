"""The recipe for models from a hub, end to end with a small random model and the whistles of recipe tiny."""

import json
import subprocess

import pytest

from tests.models.hub_folders import make_folder
from tests.recipes.corpus_runs import ROOT

pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")
SMALL = {
    "head": "base: {}\nloop: {{epochs: 1, max_batch_frames: 3000}}\n",
    "tuned": "base: {}\nloop: {{epochs: 2, max_batch_frames: 3000, dev_every: 2}}\noptim: {{peak_lr: 2.0e-3}}\n",
    "short": "base: {}\nstructured: {{drop_blocks: 1, keep: 0.6, importance: magnitude}}\nloop: {{epochs: 1, average_last: 1}}\n",
}


@pytest.mark.slow
def test_the_chain_runs(tmp_path):
    """Imported, fine-tuned, short of a layer, in int8, exported, scored, reported."""
    recipe = tmp_path / "tunes"
    (recipe / "conf").mkdir(parents=True)
    text = (ROOT / "recipes/hub/recipe.sh").read_text()
    text += 'prepare="python3 tests/recipes/tiny/prepare.py"\nstress=\n'
    (recipe / "recipe.sh").write_text(text)
    for name, content in SMALL.items():
        whole = ROOT / f"recipes/hub/conf/{name}.yaml"
        resolved = tmp_path / f"{name}.yaml"
        # one level of base: the recipe's own file stands in for it
        resolved.write_text(whole.read_text().replace("../../../conf/", f"{ROOT}/conf/"))
        (recipe / f"conf/{name}.yaml").write_text(flat(resolved, content))
    (recipe / "conf/tokenizer.yaml").write_text("kind: char\n")
    words = [ROOT / "run.sh", "--recipe", recipe, "--hub-model", make_folder(tmp_path / "model", "wav2vec2")]
    words += ["--device", "cpu", "--num-threads", "1", "--nj", "2"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    exp = recipe / "exp/tunes"
    rows = {row["model"]: row for row in json.loads((exp / "report/results.json").read_text())["rows"]}
    assert list(rows) == ["big", "head", "tuned", "tuned_short", "tuned_short_int8"]
    layers = [len(json.loads((exp / name / "model.json").read_text())["model"]["blocks"]) for name in rows]
    assert layers == [3, 3, 3, 2, 2]


def flat(path, changes):
    """Settings of a file with changes, without a base. Args: changes: YAML with `base: {}` for the file."""
    import yaml

    from steps.core.config import merge, read_yaml

    above = yaml.safe_load(changes.format(path))
    above.pop("base")
    return yaml.safe_dump(merge(read_yaml(path), above))
