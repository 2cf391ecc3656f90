"""Paths in data folders: relative within a work folder, so that moved and copied ones read their own files, and only those."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.places import Places, work_folder
from steps.core.provenance import without_work_folder
from steps.core.tables import write_table
from steps.data.archives import read_feats_scp
from steps.data.index import open_index

ROOT = Path(__file__).resolve().parents[2]
IDS = ("ann-1", "ann-2")


def fill(work):
    """A work folder: corpus/1.wav in it, out.wav beside it, audio and features made in it."""
    data = work / "data/x"
    files = [work / "corpus/1.wav", data / "audio/2.wav", data / "test/feats/feats.1.ark", work / "exp/x/.lock"]
    for path in (*files, work.parent / "out.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return data / "test"


def write(folder, *paths):
    rows = [Utterance(utt_id, "ann", "A", str(path), duration_s=1.0) for utt_id, path in zip(IDS, paths, strict=False)]
    write_data_dir(folder, rows)
    write_table(folder / "utt2num_frames", dict.fromkeys(IDS, "5"))
    write_table(
        folder / "feats.scp", {utt_id: f"{folder.absolute()}/feats/feats.1.ark:{i}7" for i, utt_id in enumerate(IDS)}
    )


def audio(folder):
    return [os.path.abspath(utt.audio) for utt in read_data_dir(folder, check_audio=False)]


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def test_files_in_the_work_folder_are_named_relative_to_the_data_folder_and_others_as_they_are(work):
    folder = fill(work)
    write(folder, work / "corpus/1.wav", work.parent / "out.wav")
    assert (folder / "wav.scp").read_text() == f"ann-1 ../../../corpus/1.wav\nann-2 {work.parent}/out.wav\n"
    assert (folder / "feats.scp").read_text() == "ann-1 ./feats/feats.1.ark:07\nann-2 ./feats/feats.1.ark:17\n"
    write(folder, folder.parent / "audio/2.wav", folder / "3.wav")
    assert (folder / "wav.scp").read_text() == "ann-1 ../audio/2.wav\nann-2 ./3.wav\n"
    assert audio(folder) == [f"{folder.parent}/audio/2.wav", f"{folder}/3.wav"]
    index = open_index(folder)
    assert index.utterance(0).audio == f"{folder.parent}/audio/2.wav"
    assert (
        index.value("feats.scp", 1, "ann-2")
        == f"{folder}/feats/feats.1.ark:17"
        == read_feats_scp(folder / "feats.scp")["ann-2"]
    )


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_moved_or_copied_work_reads_its_own_files(work, how, capsys):
    folder = fill(work)
    write(folder, work / "corpus/1.wav", folder.parent / "audio/2.wav")
    new = work.with_name("new")
    (shutil.move if how == "moved" else shutil.copytree)(work, new)
    assert audio(new / "data/x/test") == [f"{new}/corpus/1.wav", f"{new}/data/x/audio/2.wav"]
    assert set(read_feats_scp(new / "data/x/test/feats.scp").values()) == {
        f"{new}/data/x/test/feats/feats.1.ark:{i}7" for i in range(2)
    }
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("original", ["there", "gone"])
def test_absolute_paths_of_older_versions_are_read_and_a_copy_says_that_it_reads_its_own(work, original, capsys):
    folder = fill(work)
    write(folder, work / "corpus/1.wav", folder.parent / "audio/2.wav")
    wav, feats = f"{folder.parent}/audio/2.wav", f"{folder}/feats/feats.1.ark:17"
    (folder / "wav.scp").write_text(f"ann-1 {work}/corpus/1.wav\nann-2 {wav}\n")
    (folder / "feats.scp").write_text(f"ann-1 {folder}/feats/feats.1.ark:07\nann-2 {feats}\n")
    assert audio(folder)[1] == wav and read_feats_scp(folder / "feats.scp")["ann-2"] == feats
    assert capsys.readouterr().out == ""
    new = work.with_name("new")
    shutil.copytree(work, new)
    if original == "gone":
        shutil.rmtree(work)
    copy = new / "data/x/test"
    assert audio(copy)[1] == f"{new}/data/x/audio/2.wav"
    assert read_feats_scp(copy / "feats.scp")["ann-2"] == f"{copy}/feats/feats.1.ark:17"
    assert open_index(copy).utterance(1).audio == f"{new}/data/x/audio/2.wav"
    said = capsys.readouterr().out
    assert said.count("but was copied or moved from there; its own files are read") == 4, "once each time it is opened"
    assert f"{copy}: names files in {folder}/feats, but" in said
    if original == "there":
        run = [sys.executable, "-I", "-S", str(ROOT / "utils/fix_data_dir.py"), str(copy)]
        subprocess.run(run, check=True, capture_output=True)
        assert (copy / "feats.scp").read_text() == "ann-1 ./feats/feats.1.ark:07\nann-2 ./feats/feats.1.ark:17\n"
        assert (copy / "wav.scp").read_text().splitlines()[1] == "ann-2 ../audio/2.wav"


def test_data_of_another_work_folder_is_read_but_never_in_silence(work, capsys):
    folder, other = fill(work), fill(work.with_name("other"))
    (folder / "feats/feats.1.ark").unlink()
    (folder / "feats").rmdir()
    assert Places(folder).opened(f"{other}/feats/feats.1.ark:7") == f"{other}/feats/feats.1.ark:7"
    assert f"names files in {other}/feats, which is data of another work folder" in capsys.readouterr().out
    assert Places(folder).opened("/corpora/test/audio/2.wav") == "/corpora/test/audio/2.wav"
    assert capsys.readouterr().out == ""


def test_other_relative_paths_belong_to_the_working_directory_as_in_kaldi(work, monkeypatch):
    folder = fill(work)
    monkeypatch.chdir(work)
    assert Places(folder).opened("corpus/1.wav") == "corpus/1.wav"
    assert Places("data/x/test").written("corpus/1.wav") == "../../../corpus/1.wav"
    assert Places("data/x/test").opened("../../../corpus/1.wav") == "corpus/1.wav"
    monkeypatch.chdir(work.parent)
    assert Places(folder).written("out.wav") == "out.wav"
    assert Places(folder).written("./out.wav") == f"{work.parent}/out.wav", "else it would be read as one in the folder"
    assert Places(folder).written("../x.wav") == f"{work.parent.parent}/x.wav"


def test_commands_stay_as_they_are(work):
    places = Places(fill(work))
    for command in ("cat ../x.wav |", "../bin/play a.sph |", "| ./x"):
        assert places.written(command) == places.opened(command) == command


def test_links_on_the_way(work):
    """What readers have resolved is still found to lie in the work folder; a data folder that is a link is read as such."""
    real = work.with_name("disk")
    folder = fill(real)
    work.symlink_to(real)
    assert Places(work / "data/x/test").written(f"{folder.parent}/audio/2.wav") == "../audio/2.wav"
    scratch = work.with_name("scratch")
    shutil.move(folder, scratch)
    folder.symlink_to(scratch)
    assert Places(folder).opened(Places(folder).written(f"{real}/data/x/audio/2.wav")) == f"{real}/data/x/audio/2.wav"


def test_a_folder_that_is_in_no_work_folder_keeps_the_paths_out_of_it(tmp_path):
    folder = tmp_path / "mine"
    write(folder, tmp_path / "1.wav", folder / "2.wav")
    assert (folder / "wav.scp").read_text() == f"ann-1 {tmp_path}/1.wav\nann-2 ./2.wav\n"


def test_the_work_folder_is_known_by_its_two_halves(tmp_path):
    for name in ("data/x/test/split2/1", "exp/x/model/export", "data/y/test"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/x", "data/x/test/split2/1", "exp/x/model/export"):
        assert work_folder(tmp_path / name) == str(tmp_path)
    for name in ("data/y/test", "", "data"):
        assert work_folder(tmp_path / name) is None


def test_commands_that_are_kept_name_no_place(tmp_path):
    (tmp_path / "data/x").mkdir(parents=True)
    (tmp_path / "exp/x/model").mkdir(parents=True)
    model = tmp_path / "exp/x/model"
    assert without_work_folder(f"--teacher={tmp_path}/exp/x/a,{tmp_path}/exp/x/b", model) == "--teacher=exp/x/a,exp/x/b"
    assert without_work_folder(f"/b{tmp_path}/x", model) == f"/b{tmp_path}/x"
    assert without_work_folder(str(model), tmp_path / "nowhere") == str(model)
