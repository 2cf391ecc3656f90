"""Every recipe from a made-up corpus to its report: the recipe's own reader, options, features, tokenizer and decoding.

Only the sizes are other ones than the recipe's: a tiny network and one speed, given on the command line.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.local import corpora

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
model: {d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 1,
        block: {heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}
loop: {epochs: EPOCHS, max_batch_frames: 2000, average_last: 1, dev_every: 50}
optim: {peak_lr: 1.0e-2}
"""
RECIPES = {  # name -> (maker of the corpus, name of its error rate, extra options)
    "librispeech": (corpora.librispeech, "WER", {"LIBRISPEECH_SIZE": "mini"}),
    "timit": (corpora.timit, "PER", {}),
    "aishell": (corpora.aishell, "CER", {}),
    "yesno": (corpora.yesno, "WER", {}),
    "commonvoice": (corpora.commonvoice, "WER", {}),
    "kaldi": (corpora.kaldi, "WER", {}),
    "manifest": (corpora.manifest, "WER", {}),
    "labelled_folder": (corpora.labelled_folder, "WER", {}),
}


def test_every_recipe_that_reads_a_corpus_is_here():
    recipes = {path.parent.name for path in ROOT.glob("recipes/*/recipe.sh")}
    assert recipes - {"home", "an4"} == set(RECIPES)
