"""Which voices of a labelled folder are held out, and how few or many names are told."""

import numpy as np
import pytest

from tests.local import corpora
from tests.local.readers import good, refused

VOICES = ("--pattern", "{speaker}/{label}_{take}")


def voices(root, names=("adam", "bert", "carl", "dora", "emma", "fay")):
    """SPEAKER/LABEL_TAKE.wav. Returns: options that name the folder and its pattern."""
    for number, name in enumerate(names):
        for label in ("stop", "go"):
            rng = np.random.default_rng([number, len(label)])
            corpora.save(root / name / f"{label}_00.wav", corpora.whistle([label.upper()], number, rng=rng))
    return ["--corpus-dir", root, *VOICES]


def voices_of(sets):
    return {name: sorted({utt.speaker for utt in utts}) for name, utts in sets.items()}


@pytest.mark.parametrize(("name", "file"), [("dev", "validation_list.txt"), ("test", "testing_list.txt")])
def test_labelled_folder_honours_one_list_alone(tmp_path, name, file):
    options = voices(tmp_path / "in")
    for speaker in ("adam", "emma", "fay"):
        (tmp_path / "in" / file).write_text(f"{speaker}/stop_00.wav\r\n./{speaker}/go_00.wav \n\n")
        sets, _ = good("labelled_folder", tmp_path / speaker, *options)
        held = voices_of(sets)
        assert held[name] == [speaker] and len(sets[name]) == 2
        assert {key: len(value) for key, value in held.items()} == {"train": 4, "dev": 1, "test": 1}
        assert len(set(sum(held.values(), []))) == 6


def test_labelled_folder_lists_with_lines_that_name_nothing(tmp_path):
    options = voices(tmp_path / "in")
    path = tmp_path / "in/testing_list.txt"
    path.write_text("emma/stop_00.wav\nemma_go_00.wav\nemma\n")
    said = refused("labelled_folder", tmp_path, *options)
    assert f"{path}:2: 'emma_go_00.wav' is none of the files read (2 such lines in the list)" in said
    assert "lines look like adam/go_00.wav" in said and len(said.splitlines()) == 1
    path.write_text("emma/stop_00.wav\n")
    (tmp_path / "in/validation_list.txt").write_text("emma/stop_00\n")
    assert "emma/stop_00 is to be in dev and in test" in refused("labelled_folder", tmp_path, *options)


def test_labelled_folder_holds_out_the_speakers_named(tmp_path):
    options = voices(tmp_path / "in")
    chosen = ["--dev-speakers", "emma,adam", "--test-speakers", "fay", "bert"]
    sets, said = good("labelled_folder", tmp_path / "a", *options, *chosen)
    assert voices_of(sets) == {"train": ["carl", "dora"], "dev": ["adam", "emma"], "test": ["bert", "fay"]}
    assert "\nsound: 16000 Hz; features are computed at" in said
    assert "2 labels: go, stop\n" in said and "6 speakers: adam, bert, carl, dora, emma, fay\n" in said
    assert "dev: 4 utterances, 2 speakers, " in said and "not in words.txt; speakers adam, emma\n" in said
    (tmp_path / "in/testing_list.txt").write_text("carl/stop_00.wav\ncarl/go_00.wav\n")
    sets, _ = good("labelled_folder", tmp_path / "b", *options, "--dev-speakers", "emma")
    assert voices_of(sets)["test"] == ["carl"] and voices_of(sets)["dev"] == ["emma"]
    sets, said = good("labelled_folder", tmp_path / "c", *options, "--test-speakers", "emma")
    assert voices_of(sets)["test"] == ["emma"], "the option comes before the list"
    assert "test: 2 utterances, 1 speaker, " in said and "; speaker emma\n" in said


def test_labelled_folder_refuses_speakers_it_cannot_hold_out(tmp_path):
    options = voices(tmp_path / "in", ("adam", "bert", "emma"))
    said = refused("labelled_folder", tmp_path, *options, "--dev-speakers", "fritz")
    assert "--dev-speakers: no speaker fritz; there are adam, bert, emma" in said
    said = refused("labelled_folder", tmp_path, *options, "--dev-speakers", "emma", "--test-speakers", "emma")
    assert "is to be in dev and in test" in said
    said = refused("labelled_folder", tmp_path, *options, "--dev-speakers", "adam,bert")
    assert "1 speaker cannot be split into train and test" in said
    said = refused("labelled_folder", tmp_path, *options, "--dev-speakers", "adam,bert", "--test-speakers", "emma")
    assert "no utterances for train" in said


def test_labelled_folder_with_folders_for_sets_takes_no_speakers(tmp_path):
    for number, (name, speaker) in enumerate((("train", "adam"), ("dev", "bert"), ("test", "emma"))):
        corpora.save(tmp_path / "in" / name / speaker / "stop_00.wav", corpora.whistle(["STOP"], number))
    options = ["--corpus-dir", tmp_path / "in", *VOICES]
    assert voices_of(good("labelled_folder", tmp_path / "a", *options)[0])["dev"] == ["bert"]
    said = refused("labelled_folder", tmp_path, *options, "--dev-speakers", "adam")
    assert "folders train, dev and test are the sets" in said


def test_names_of_many_are_cut_and_of_few_are_not():
    from local.corpus import describe, names_of
    from steps.core.datadir import Utterance

    assert names_of("ba") == "a, b" and names_of("jihgfedcba") == "a, b, c, d, e, f, g, h, i, j"
    assert names_of("kjihgfedcba") == "a, b, c, d, e, f, g, h, i, j, ..."
    utts = [Utterance(f"{speaker}-1", speaker, "go", "x.wav", duration_s=1.0) for speaker in "kjihgfedcba"]
    line = describe("dev", utts, {"go"})
    assert line == "dev: 11 utterances, 11 speakers, 0.00 h, 11 words, 0 of them not in words.txt"
    assert describe("dev", utts[1:], {"go"}).endswith("; speakers a, b, c, d, e, f, g, h, i, j")
