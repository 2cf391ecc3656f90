"""Folders whose names are the labels: what is read, what is refused."""

import itertools

import numpy as np

from tests.local import corpora
from tests.local.readers import good, refused, sizes


def test_labelled_folder_as_speech_commands(tmp_path):
    corpora.labelled_folder(tmp_path / "sc")
    sets, _ = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "sc")
    assert sizes(sets) == {"train": (32, 4), "dev": (8, 1), "test": (8, 1)}
    assert {utt.text for utt in sets["train"]} == {"tab", "bed", "turn on", "go"}
    assert (tmp_path / "out/words.txt").read_text().split() == ["bed", "go", "on", "tab", "turn"]
    assert (tmp_path / "out/labels.txt").read_text() == "bed\ngo\ntab\nturn on\n"
    lists = {"validation_list.txt": "0", "testing_list.txt": "1"}
    for name, speaker in lists.items():
        lines = [f"{label}/0000000{speaker}_nohash_{take}.wav\n" for label in ("tab", "go") for take in (0, 1)]
        (tmp_path / "sc" / name).write_text("".join(lines))
    said = refused("labelled_folder", tmp_path / "b", "--corpus-dir", tmp_path / "sc")
    assert "speaker 00000000 is in train and dev" in said  # bed and turn_on of both speakers stay in train


def test_labelled_folder_says_which_of_two_files_of_one_name_is_taken(tmp_path):
    corpora.labelled_folder(tmp_path / "sc", takes=1)
    first = tmp_path / "sc/tab/00000000_nohash_0.wav"
    corpora.save(first.with_suffix(".ogg"), corpora.whistle(["TAB"], 0))
    sets, said = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "sc")
    assert f"1 file left out for another of that name, e.g. {first.with_suffix('.ogg')} for {first.name}" in said
    audio = [utt.audio for utts in sets.values() for utt in utts]
    assert len(audio) == 24 and all(path.endswith(".wav") for path in audio)


def test_links_are_followed_and_what_file_managers_leave_is_left_out(tmp_path):
    corpora.labelled_folder(tmp_path / "sc", takes=1)
    (tmp_path / "sc/tab").rename(tmp_path / "elsewhere")
    (tmp_path / "sc/tab").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sc/bed/up").symlink_to(tmp_path / "sc")
    (tmp_path / "sc/bed/self").symlink_to("self")
    for name in (".DS_Store", "._00000000_nohash_0.wav"):
        (tmp_path / "sc/bed" / name).write_bytes(b"no sound")
    sets, said = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "sc")
    assert "4 labels: bed, go, tab, turn on" in said and sum(len(utts) for utts in sets.values()) == 24


def test_names_that_differ_in_vowel_signs_stay_apart(tmp_path):
    """Signs of Indic scripts and Hebrew points are marks, no letters."""
    labels, speakers = ["\u0915\u093f", "\u0915\u0940", "\u05d1\u05bc", "\u05d1"], ["\u0930\u0940", "\u0930\u0942", "c"]
    for number, (label, speaker) in enumerate(itertools.product(labels, speakers)):
        corpora.save(tmp_path / f"in/{label}/{speaker}_nohash_0.wav", np.full(1600, 0.01 * (number + 1)))
    sets, _ = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "in")
    found = [utt for utts in sets.values() for utt in utts]
    assert {utt.text for utt in found} == set(labels) and {utt.speaker for utt in found} == set(speakers)


def test_labelled_folder_patterns(tmp_path):
    for speaker in "abc":
        for take in range(2):
            corpora.save(
                tmp_path / f"in/{speaker}/day{take}/stop-{take}.flac",
                corpora.whistle(["stop"], 2 * ord(speaker) + take),
            )
    corpora.save(tmp_path / "in/a/odd.wav", np.ones(1600))
    option = ["--pattern", "{speaker}/{session}/{label}-*"]
    sets, said = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "in", *option)
    assert sizes(sets) == {"train": (2, 1), "dev": (2, 1), "test": (2, 1)} and sets["train"][0].text == "stop"
    assert "1 of 7 files do not fit the pattern and are left out, e.g. a/odd" in said
    said = refused("labelled_folder", tmp_path / "b", "--corpus-dir", tmp_path / "in", "--pattern", "{speaker}/*")
    assert "must have {label} once" in said
    said = refused(
        "labelled_folder", tmp_path / "b", "--corpus-dir", tmp_path / "in", "--pattern", "x{label}/{speaker}"
    )
    assert "files are named like a/day0/stop-0; tell the layout with --pattern" in said
