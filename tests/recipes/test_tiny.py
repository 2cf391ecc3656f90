"""The corpus of the test recipe: counts, separate speakers and texts, the same bytes from the same seed."""

import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.datadir import read_data_dir

ROOT = Path(__file__).resolve().parents[2]
SETS = {"train": 120, "dev": 24, "test": 24}


def prepare(out, *options):
    command = [sys.executable, "tests/recipes/tiny/prepare.py", "--out", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=ROOT)
    return {path.name: path.read_bytes() for path in out.glob("audio/*.wav")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, prepare(out)


def test_counts(tiny):
    out, audio = tiny
    sets = {name: read_data_dir(out / name) for name in SETS}
    assert {name: len(utts) for name, utts in sets.items()} == SETS
    assert len(audio) == sum(SETS.values())
    assert 120 < sum(utt.duration_s for utt in sets["train"]) < 300


def test_speakers_and_texts_are_in_one_set_only(tiny):
    sets = {name: read_data_dir(tiny[0] / name) for name in SETS}
    for field, per_set in (("speaker", [6, 3, 4]), ("text", [120, 24, 24])):
        values = [{getattr(utt, field) for utt in sets[name]} for name in SETS]
        assert [len(found) for found in values] == per_set
        assert len(set.union(*values)) == sum(per_set)


def test_the_word_list_covers_every_text_and_train_every_letter(tiny):
    words = set((tiny[0] / "words.txt").read_text(encoding="utf-8").split())
    texts = {name: [utt.text for utt in read_data_dir(tiny[0] / name)] for name in SETS}
    assert {word for found in texts.values() for text in found for word in text.split()} <= words
    assert set("".join(words)) <= set("".join(texts["train"]))
    assert all(2 <= len(word) <= 3 for word in words)


def test_the_seed_decides_every_byte(tiny, tmp_path):
    assert prepare(tmp_path / "same") == tiny[1]
    assert prepare(tmp_path / "other", "--seed", "1") != tiny[1]
