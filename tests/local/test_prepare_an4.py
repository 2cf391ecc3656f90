"""The AN4 reader on small made-up trees in both layouts, on archives, and on the corpus itself where there is one."""

import contextlib
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from local import prepare_an4
from steps.core.cli import run_main
from steps.core.datadir import read_data_dir, validate_data_dir

SPEAKERS = {"train": ["fash", "fbbh", "msct", "mdcs"], "test": ["fcaw", "mdms2"]}
WORDS = ["YES", "A B C", "ENTER SIX"]


def make_corpus(root, suffix):
    """A tree as the corpus has it; Sphinx transcripts, the test ones without <s>."""
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "an4.dic").write_text("A  AH\nA(2)  EY\nB  B IY\nC  S IY\nENTER  EH\nSIX  S\nYES  Y\nZOO  Z\n\n")
    for name, speakers in SPEAKERS.items():
        ids, transcripts = [], []
        for speaker in speakers:
            folder = f"{'an4' if name == 'train' else 'an4test'}_clstk/{speaker}"
            audio = root / ("flac" if suffix == ".flac" else "wav") / folder
            audio.mkdir(parents=True)
            for number, words in enumerate(WORDS):
                stem = f"an{number}-{speaker}-b"
                ids.append(f"{folder}/{stem}\n")
                transcripts.append(f"<s> {words} </s> ({stem})\n" if name == "train" else f"{words} ({stem})\n")
                samples = np.full(1600 * (number + 1), 0.1 + 0.01 * len(ids) + 0.005 * (name == "test"))
                format = {"format": "NIST", "subtype": "PCM_16"} if suffix == ".sph" else {}
                soundfile.write(audio / f"{stem}{suffix}", samples, 16000, **format)
        (root / "etc" / f"an4_{name}.fileids").write_text("".join(ids))
        (root / "etc" / f"an4_{name}.transcription").write_text("".join(transcripts))
    return root


def prepare(*options, check_counts=False):
    """Run the program. Returns: (exit status, stdout, stderr)."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["local/prepare_an4.py", *map(str, options), *([] if check_counts else ["--check-counts", "false"])]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = run_main(prepare_an4.main)
    return status, stdout.getvalue(), stderr.getvalue()


def speakers(folder):
    return sorted({utt.speaker for utt in read_data_dir(folder)})


@pytest.mark.parametrize("suffix", [".flac", ".sph", ".wav"])
def test_layouts(tmp_path, suffix):
    root = make_corpus(tmp_path / "it's the corpus" / "an4", suffix)
    status, stdout, stderr = prepare("--corpus-dir", root.parent, "--out", tmp_path / "out")
    assert status == 0, stderr
    for name in ("train", "dev", "test"):
        validate_data_dir(tmp_path / "out" / name, audio=True)
        assert [utt.text for utt in read_data_dir(tmp_path / "out" / name)] == WORDS * 2
    assert speakers(tmp_path / "out" / "train") == ["fash", "mdcs"]
    assert speakers(tmp_path / "out" / "dev") == ["fbbh", "msct"]
    assert speakers(tmp_path / "out" / "test") == ["fcaw", "mdms2"]
    first = read_data_dir(tmp_path / "out" / "train")[0]
    assert (first.utt_id, first.duration_s) == ("fash-an0-fash-b", 0.1) and os.path.isabs(first.audio)
    assert (tmp_path / "out" / "words.txt").read_text().split() == ["A", "B", "C", "ENTER", "SIX", "YES", "ZOO"]
    assert "train: 6 utterances, 2 speakers, 0.00 h, 12 words, 0 of them not in words.txt" in stdout


def test_dev_in_train_and_words_outside_the_dictionary(tmp_path):
    root = make_corpus(tmp_path / "an4", ".wav")
    (root / "etc" / "an4.dic").write_text("A  AH\nB  B IY\nC  S IY\nENTER  EH\nYES  Y\n")
    status, stdout, _ = prepare("--corpus-dir", root, "--out", tmp_path / "out", "--dev-in-train", "true")
    assert status == 0 and "the dev speakers are in train, too" in stdout and "2 of them not in words.txt" in stdout
    assert speakers(tmp_path / "out" / "train") == sorted(SPEAKERS["train"])
    assert speakers(tmp_path / "out" / "dev") == ["fbbh", "msct"]


def test_archive_is_unpacked_and_read(tmp_path):
    make_corpus(tmp_path / "an4", ".sph")
    with tarfile.open(tmp_path / "an4_sphere.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "an4", "an4")
    shutil.rmtree(tmp_path / "an4")
    for _ in range(2):  # the second time over what is there
        status, _, stderr = prepare("--corpus-dir", tmp_path / "an4_sphere.tar.gz", "--out", tmp_path / "out")
        assert status == 0, stderr
    assert all(str(tmp_path / "out" / "corpus") in utt.audio for utt in read_data_dir(tmp_path / "out" / "test"))
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["up", "absolute", "link"])
def test_archives_cannot_write_elsewhere(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo({"up": "../../owned", "absolute": f"{tmp_path}/owned", "link": "an4"}[kind])
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(member)
        inner = tarfile.TarInfo("an4/owned")
        tar.addfile(inner)
    status, _, stderr = prepare("--corpus-dir", tmp_path / "bad.tar.gz", "--out", tmp_path / "out")
    assert status == 1 and len(stderr.splitlines()) == 1 and "cannot be unpacked" in stderr
    assert not (tmp_path / "owned").exists() and list((tmp_path / "out").iterdir()) == []


def test_damaged_archive(tmp_path):
    (tmp_path / "an4.tar.gz").write_bytes(b"\x1f\x8b\x08 not really")
    status, _, stderr = prepare("--corpus-dir", tmp_path / "an4.tar.gz", "--out", tmp_path / "out")
    assert status == 1 and "cannot be unpacked" in stderr and len(stderr.splitlines()) == 1


def test_everything_missing_or_odd_is_listed(tmp_path):
    root = make_corpus(tmp_path / "an4", ".wav")
    (root / "wav/an4_clstk/fash/an1-fash-b.wav").unlink()
    (root / "wav/an4_clstk/mdcs/an2-mdcs-b.wav").write_bytes(b"")
    transcripts = root / "etc" / "an4_test.transcription"
    again = "NO (an1-fcaw-b)\n"
    transcripts.write_text(transcripts.read_text().replace("YES (an0-fcaw-b)\n", "YES an0-fcaw-b\n") + again)
    status, _, stderr = prepare("--corpus-dir", root, "--out", tmp_path / "out")
    assert status == 1 and "5 problems found" in stderr
    for part in ("an4_train.fileids:2: no sound file", "an2-mdcs-b.wav: not a readable sound file",
                 "an4_test.transcription:1: expected", "an0-fcaw-b has no transcript", "an1-fcaw-b has a transcript already"):  # fmt: skip
        assert part in stderr
    assert not (tmp_path / "out").exists()


def test_wrong_counts_and_wrong_folders_are_refused(tmp_path):
    root = make_corpus(tmp_path / "an4", ".wav")
    status, _, stderr = prepare("--corpus-dir", root, "--out", tmp_path / "out", check_counts=True)
    assert status == 1 and "train has 12 utterances, 4 speakers" in stderr and "948 utterances, 74 speakers" in stderr
    status, _, stderr = prepare("--corpus-dir", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert status == 1 and "no such file or folder" in stderr


def test_transcripts_of_some_speakers_are_forgotten(tmp_path):
    root = make_corpus(tmp_path / "an4", ".flac")
    options = ["--corpus-dir", root, "--out", tmp_path / "out"]
    status, _, stderr = prepare(*options, "--labelled-speakers", "1")
    assert status == 0, stderr
    (labelled,) = speakers(tmp_path / "out" / "train")
    assert not (tmp_path / "out" / "extra" / "text").exists()
    extra = read_data_dir(tmp_path / "out" / "extra", need_text=False)
    assert {utt.speaker for utt in extra} == {"fash", "mdcs"} - {labelled} and len(extra) == len(WORDS)
    status, _, stderr = prepare(*options, "--labelled-speakers", "2")
    assert status == 1 and "there are only 2 training speakers" in stderr


def test_no_corpus_and_no_network_is_one_clear_line(tmp_path):
    with mock.patch("local.download.PAUSES_S", ()):
        status, _, stderr = prepare("--corpus-dir", "--out", tmp_path / "out", "--mirror", "http://127.0.0.1:1")
    assert status == 1 and "name a copy with --corpus-dir" in stderr and len(stderr.splitlines()) == 1


@pytest.mark.skipif("AN4_DIR" not in os.environ, reason="AN4_DIR does not name a copy of AN4")
def test_the_corpus_itself(tmp_path):
    status, stdout, stderr = prepare("--corpus-dir", Path(os.environ["AN4_DIR"]), "--out", tmp_path, check_counts=True)
    assert status == 0, stderr
    counts = {name: len(read_data_dir(tmp_path / name)) for name in ("train", "dev", "test")}
    assert counts == {"train": 858, "dev": 90, "test": 130} and "773 words, 0 of them not in" in stdout
    assert set(speakers(tmp_path / "dev")) == prepare_an4.DEV_SPEAKERS
    assert len((tmp_path / "words.txt").read_text().split()) == 101
