"""A recipe from a made-up corpus to its report: its own reader, options, features, tokenizer and decoding.

Only the sizes are other ones than the recipe's: a tiny network and one speed, given on the command line.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path

from tests.local import corpora

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
model: {d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 1,
        block: {heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}
loop: {epochs: 3, max_batch_frames: 2000, average_last: 1, dev_every: 50}
optim: {peak_lr: 1.0e-2}
"""
RATES = {"timit": "PER", "aishell": "CER"}
SIZES = {"yesno": {"count": 30}}  # of made-up corpora
COUNTED = ("librispeech", "timit", "aishell", "yesno")  # their readers check the published counts


def prepare_line(recipe):
    """The recipe's own prepare command, its variables still in it."""
    keep = "recipe_dir='$recipe_dir' corpus_dir='$corpus_dir' nj='$nj'"
    script = f'set -e; {keep}; . utils/parse_options.sh; . utils/settings.sh; . recipes/{recipe}/recipe.sh; printf %s "$prepare"'
    line = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return line + (" --check-counts false" if recipe in COUNTED else "")


def run_sh(recipe, folder, *options):
    """Run the recipe on its made-up corpus. Args: options: more of run.sh's. Returns: what it wrote to standard output."""
    words = ["./run.sh", "--recipe", recipe, "--workdir", folder, "--corpus-dir", folder / "corpus"]
    words = [*map(str, words), "--prepare", prepare_line(recipe), "--num-threads", "1", "--device", "cpu", "--nj", "1"]
    words += map(str, options)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, shlex.join(words) + "\n" + done.stdout + done.stderr
    return done.stdout


def run_recipe(recipe, folder):
    """Make the corpus, run all stages. Returns: content of results.json."""
    getattr(corpora, recipe)(folder / "corpus", **SIZES.get(recipe, {}))
    (folder / "tiny.yaml").write_text(MODEL)
    chain = f"teacher - train_teacher {folder}/tiny.yaml"
    # noise knows of a recipe only its units, and test_chain.py looks at it with words
    stress = "10" if recipe in RATES else ""
    options = ["--teachers", "teacher", "--compare", "", "--speeds", "1.0", "--stress", stress]
    run_sh(recipe, folder, "--chain", chain, *options)
    return json.loads((folder / f"exp/{recipe}/report/results.json").read_text())


def check_recipe(recipe, folder):
    """Run a recipe and look at its report: one model, scored on every test set, in the rate of its language."""
    results = run_recipe(recipe, folder)
    assert results["rows"] and all(row["model"] == "teacher" for row in results["rows"])
    for row in results["rows"]:
        score = row["scores"]["greedy"]
        assert score["words"] > 0 and score["rate"] == RATES.get(recipe, "WER")
    return results


def check_preparation(recipe, folder):
    """Run a recipe up to its tokenizer, and see that the rest of it, its own chain, is planned from there."""
    getattr(corpora, recipe)(folder / "corpus")
    run_sh(recipe, folder, "--stop-stage", "2", "--speeds", "1.0")
    planned = run_sh(recipe, folder, "--speeds", "1.0", "--dry-run")
    assert planned.count(": up to date") == 3, planned
    assert "stage 3 teacher: would run" in planned and "stage 9 report: would run" in planned
