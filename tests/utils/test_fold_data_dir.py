"""Folds share no speaker, cover all, and are of like size."""

import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.datadir import Utterance, read_data_dir, write_data_dir

ROOT = Path(__file__).resolve().parents[2]


def fold(*options):
    command = [sys.executable, "utils/fold_data_dir.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    utterances = [
        Utterance(f"s{s}-{u}", f"s{s}", "a", str(tmp_path / "a.wav"), duration_s=1.0 + s)
        for s in range(9)
        for u in range(3)
    ]
    write_data_dir(tmp_path / "all", utterances)
    return tmp_path / "all"


def test_folds_share_no_speaker_and_cover_all(source, tmp_path):
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    tested, sizes = [], []
    for number in (1, 2, 3, 4):
        out = tmp_path / f"fold{number}"
        done = fold("--source", source, "--folds", 4, "--fold", number, "--out", out)
        assert done.returncode == 0, done.stderr
        sets = {name: read_data_dir(out / name) for name in ("train", "dev", "test")}
        speakers = [{utt.speaker for utt in utts} for utts in sets.values()]
        assert sum(map(len, speakers)) == 9 == len(set.union(*speakers))
        tested += [utt.utt_id for utt in sets["test"]]
        sizes.append(sum(utt.duration_s for utt in sets["test"]))
    assert sorted(tested) == [utt.utt_id for utt in read_data_dir(source)]
    assert max(sizes) < 1.6 * min(sizes)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_the_word_list_goes_along(source, tmp_path):
    assert fold("--source", source, "--folds", 3, "--fold", 1, "--out", tmp_path / "a").returncode == 0
    assert not (tmp_path / "a/words.txt").exists()
    (source.parent / "words.txt").write_text("a\n")
    (source.parent / "sound.json").write_text('{"trim": true}\n')
    (source.parent / "labels.txt").write_text("a b\n")
    assert fold("--source", source, "--folds", 3, "--fold", 1, "--out", tmp_path / "a").returncode == 0
    assert (tmp_path / "a/words.txt").read_text() == "a\n"
    assert (tmp_path / "a/sound.json").read_text() == '{"trim": true}\n'
    assert (tmp_path / "a/labels.txt").read_text() == "a b\n"


def test_what_cannot_be_split_is_refused(source, tmp_path):
    assert (
        "9 speakers cannot make 10 folds"
        in fold("--source", source, "--folds", 10, "--fold", 1, "--out", tmp_path).stderr
    )
    assert fold("--source", source, "--folds", 3, "--fold", 4, "--out", tmp_path).returncode == 2
    assert fold("--source", source, "--folds", 2, "--fold", 1, "--out", tmp_path).returncode == 2


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_a_source_among_the_folders_to_write_is_refused_before_anything_is_written(source, tmp_path, name):
    (tmp_path / "out").mkdir()
    own = source.rename(tmp_path / "out" / name)
    before = {path: path.read_bytes() for path in own.iterdir()}
    done = fold("--source", own, "--folds", 3, "--fold", 1, "--out", tmp_path / "out")
    assert done.returncode == 1 and f"{name} is the source; name another --out" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert {path: path.read_bytes() for path in own.iterdir()} == before
