"""Sets without transcripts: what readers make of them, and what labelled sets still owe."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from local import leaks, prepare_librispeech
from steps.core.cli import UserError
from steps.core.datadir import read_data_dir, validate_data_dir, write_data_dir
from tests.local import corpora
from tests.local.readers import prepare, refused
from tests.made_up_recogniser import make_model_folder

ROOT = Path(__file__).resolve().parents[2]
OPTION = ("--unlabelled", "extra")


def read(reader, tmp_path, *options, extra="extra"):
    """Run a reader that must succeed. Args: extra: the set without text.  Returns: dict set -> list of Utterance, what was printed."""
    out = tmp_path / "out"
    status, said, complaint = prepare(reader, "--corpus-dir", tmp_path / "in", "--out", out, *options)
    assert status == 0, complaint
    folders = [path.parent for path in out.glob("*/wav.scp")]
    for folder in folders:
        validate_data_dir(folder, audio=True, need_text=folder.name != extra)
    return {folder.name: read_data_dir(folder, need_text=folder.name != extra) for folder in folders}, said


def sound(path, speaker, text="DOG"):
    corpora.save(path, corpora.whistle([text], speaker))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def manifest(root):
    """The corpus, and the set extra: a row without a text, and one with an empty one."""
    corpora.manifest(root)
    for number in range(3):
        sound(root / f"extra/{number}.wav", 30 + number)
    row = {"audio_filepath": "extra/0.wav", "speaker": "sp 0"}
    write_rows(root / "extra.jsonl", [row, row | {"audio_filepath": "extra/1.wav", "text": ""}])


def kaldi(root):
    corpora.kaldi(root)
    shutil.copytree(root / "train", root / "extra")
    (root / "extra/text").unlink()
    for number in range(4):
        sound(root / f"wav/extra{number}.wav", 30 + number, "DOG" * 20)
    scp = root / "extra/wav.scp"
    scp.write_text(scp.read_text().replace("wav/train", "wav/extra"))


def labelled_folder(root):
    corpora.labelled_folder(root)
    sound(root / "extra/a.wav", 30)
    sound(root / "extra/deep/00000009_nohash_7.wav", 31)
    # would be of the label extra
    sound(root / "extra/00000010_nohash_0.wav", 33)


READERS = {"manifest": manifest, "kaldi": kaldi, "labelled_folder": labelled_folder}


@pytest.mark.parametrize("reader", READERS)
def test_a_set_without_transcripts_is_read_and_changes_no_other(tmp_path, reader):
    READERS[reader](tmp_path / "in")
    sets, said = read(reader, tmp_path, *OPTION)
    out = tmp_path / "out"
    assert not (out / "extra/text").exists() and (out / "extra/utt2dur").is_file()
    assert len(sets["extra"]) == {"manifest": 2, "kaldi": 12, "labelled_folder": 3}[reader]
    assert {utt.utt_id for utt in sets["extra"]}.isdisjoint(utt.utt_id for utt in sets["train"])
    assert "extra: " in said and "h, without transcripts" in said and said.count("without transcripts") == 1
    lists = {path.name: path.read_text() for path in out.glob("*.txt")}
    assert lists and not any(line == "" for text in lists.values() for line in text.splitlines())
    shutil.rmtree(out)
    (tmp_path / "in/extra.jsonl").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "in/extra")
    alone, _ = read(reader, tmp_path)
    assert alone == {name: utterances for name, utterances in sets.items() if name != "extra"}
    assert lists == {path.name: path.read_text() for path in out.glob("*.txt")}


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ("manifest", "no extra.jsonl, .json, .csv or .tsv, and no row whose split is extra"),
        ("kaldi", "no data folder (a folder with wav.scp) for extra=extra; there are: dev, test, train"),
        ("labelled_folder", "in/extra: no sound files"),
    ],
)
def test_a_set_that_is_not_there_is_named(tmp_path, reader, said):
    getattr(corpora, reader)(tmp_path / "in")
    options = ("--corpus-dir", tmp_path / "in", "--out", tmp_path / "out", *OPTION)
    status, _, message = prepare(reader, *options)
    assert status in (1, 5) and said in message and len(message.splitlines()) <= 2
    assert not list((tmp_path / "out").glob("*/wav.scp"))


def test_labelled_sets_still_need_their_transcripts(tmp_path):
    manifest(tmp_path / "a")
    path = tmp_path / "a/dev_manifest.json"
    path.write_text(path.read_text(encoding="utf-8-sig").replace('"text"', '"note"', 1))
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path / "a", *OPTION)
    assert "dev_manifest.json:1: no text; expected" in said
    kaldi(tmp_path / "b")
    (tmp_path / "b/dev/text").unlink()
    assert "b/dev/text: no such file" in refused("kaldi", tmp_path, "--corpus-dir", tmp_path / "b", *OPTION)
    assert "extra/text: no such file" in refused(
        "kaldi", tmp_path, "--corpus-dir", tmp_path / "b", "--sets", "train=train,dev=extra,test=test"
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_a_recording_of_a_labelled_set_is_refused(tmp_path, reader, name):
    READERS[reader](tmp_path / "in")
    _, said = read(reader, tmp_path, *OPTION)
    (of_set, *_) = read_data_dir(tmp_path / f"out/{name}")
    shutil.rmtree(tmp_path / "out")
    options = [*OPTION]
    if reader == "kaldi":
        for table in ("wav.scp", "segments", "utt2spk", "spk2utt"):
            shutil.copy(tmp_path / f"in/{name}/{table}", tmp_path / f"in/extra/{table}")
    else:
        shutil.copy(of_set.audio, tmp_path / "in/extra/0.wav")
    if name != "train":
        # else the speaker alone would be a leak
        (tmp_path / "prepare.yaml").write_text("shared_speakers: true\n")
        options += ["--options", tmp_path / "prepare.yaml"]
    message = refused(reader, tmp_path, "--corpus-dir", tmp_path / "in", *options)
    assert "same recording" in message and f"{name}/{of_set.utt_id} and extra/" in message


def test_a_folder_written_by_hand_is_compared_too(tmp_path, monkeypatch, capsys):
    manifest(tmp_path / "in")
    sets, _ = read("manifest", tmp_path, *OPTION)
    out = tmp_path / "out"
    labelled = [str(out / name) for name in ("train", "dev", "test")]
    monkeypatch.setattr(sys, "argv", ["leaks", "--labelled", *labelled, "--unlabelled", str(out / "extra")])
    leaks.main()
    assert capsys.readouterr().out == ""
    more, test = sets["extra"], sets["test"]
    write_data_dir(out / "extra", [replace(more[0], speaker=test[0].speaker), *more[1:]], need_text=False)
    leaks.main()
    assert f"1 speaker of {out / 'extra'} ({test[0].speaker}) is also held out" in capsys.readouterr().out
    for own in (test[0], sets["train"][0]):
        copy = str(shutil.copy(own.audio, tmp_path / "copy.wav"))
        write_data_dir(out / "extra", [replace(more[0], audio=copy), *more[1:]], need_text=False)
        with pytest.raises(UserError, match=f"{own.utt_id} and .*extra/{more[0].utt_id} are the same recording"):
            leaks.main()


def test_speakers_of_train_may_be_in_it_but_none_of_dev_or_test(tmp_path):
    manifest(tmp_path / "in")
    sets, _ = read("manifest", tmp_path, *OPTION)
    assert {utt.speaker for utt in sets["extra"]} == {"sp_0"} <= {utt.speaker for utt in sets["train"]}
    shutil.rmtree(tmp_path / "out")
    path = tmp_path / "in/extra.jsonl"
    path.write_text(path.read_text().replace("sp 0", "sp 4", 1))
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path / "in", *OPTION)
    assert "speaker sp_4 is in dev and extra" in said


def test_what_it_is_called_does_not_make_it_the_training_set(tmp_path):
    kaldi(tmp_path / "in")
    options = ("--sets", "tr=train,cv=dev,et=test,train_more=extra", "--unlabelled", "train_more")
    status, _, said = prepare("kaldi", "--corpus-dir", tmp_path / "in", "--out", tmp_path / "out", *options)
    assert status == 0, said
    assert not (tmp_path / "out/train_more/text").exists() and (tmp_path / "out/words.txt").read_text()


def test_rows_of_one_manifest_are_told_apart_by_their_split(tmp_path):
    manifest(tmp_path / "in")
    rows = []
    for name in ("train", "dev", "test"):
        path = tmp_path / f"in/{name}_manifest.json"
        rows += [json.loads(line) | {"split": name} for line in path.read_text(encoding="utf-8-sig").splitlines()]
        path.unlink()
    rows.append({"audio_filepath": "extra/2.wav", "speaker": "new", "split": "Extra", "text": "what was heard"})
    write_rows(tmp_path / "in/manifest.jsonl", rows)
    (tmp_path / "in/extra.jsonl").unlink()
    sets, said = read("manifest", tmp_path, *OPTION)
    assert [(utt.speaker, utt.text) for utt in sets["extra"]] == [("new", "")] and len(sets["train"]) == 12
    assert (
        "extra: 1 transcript not used" in said and "extra: 1 utterance, 1 speaker, 0.00 h, without transcripts" in said
    )
    shutil.rmtree(tmp_path / "out")
    rows[0] |= {"text": ""}
    write_rows(tmp_path / "in/manifest.jsonl", rows)
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path / "in", *OPTION)
    assert "manifest.jsonl:1: text is ''" in said


def test_problems_of_its_rows_have_file_and_line(tmp_path):
    manifest(tmp_path / "in")
    rows = [{"audio_filepath": "extra/0.wav"}, {"audio_filepath": "gone.wav"}, {"audio_filepath": "extra/0.wav"}]
    write_rows(tmp_path / "in/extra.jsonl", [*rows, {"audio_filepath": "extra/1.wav", "duration": 99}])
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path / "in", *OPTION)
    assert "extra.jsonl:2: no such sound file" in said and "extra.jsonl:4: duration is 99 s" in said
    assert "extra.jsonl:3: the recording of" in said


def test_ids_that_the_training_set_has_get_longer(tmp_path):
    corpora.manifest(tmp_path / "in", "csv")
    sound(tmp_path / "in/extra/0_0.wav", 30)
    (tmp_path / "in/extra/metadata.csv").write_text("file_name,speaker_id\n0_0.wav,sp 0\n")
    sets, _ = read("manifest", tmp_path, *OPTION)
    assert [utt.utt_id for utt in sets["extra"]] == ["sp_0-0_0-extra"]
    assert "sp_0-0_0" in [utt.utt_id for utt in sets["train"]]


def test_preparation_treats_its_sound_and_asks_for_no_text(tmp_path):
    manifest(tmp_path / "in")
    sound(tmp_path / "in/extra/1.wav", 31, "DOG" * 10)
    (tmp_path / "prepare.yaml").write_text(
        "text: {case: lower, punctuation: remove}\n"
        "filter: {sets: [train, extra], min_s: 0.1, max_s: 2.0, min_chars_per_s: 0.5, alphabet: abdegiot yes, max_run: 2}\n"
    )
    sets, said = read("manifest", tmp_path, *OPTION, "--options", tmp_path / "prepare.yaml")
    assert [utt.utt_id for utt in sets["extra"]] == ["sp_0-extra_0"]
    assert "extra: dropped 1 of 2 utterances (too long: 1)" in said


def test_each_file_of_a_folder_is_a_speaker_unless_the_pattern_tells(tmp_path):
    labelled_folder(tmp_path / "in")
    sound(tmp_path / "in/extra/tab/00000008_nohash_0.wav", 32)
    sets, said = read("labelled_folder", tmp_path, *OPTION)
    speakers = {utt.speaker for utt in sets["extra"]}
    assert speakers == {"extra_a", "extra_00000010_nohash_0", "00000009", "00000008"}
    assert "extra: 2 of 4 files do not fit the pattern: each counts as a speaker of its own" in said


def test_a_fork_transcribes_them_and_trains_on_all(tmp_path):
    """Stage 0 of run.sh, with a recogniser that has learnt nothing and writes something."""
    manifest(tmp_path / "in")
    # a part of a file: extra has segments, train has none
    path = tmp_path / "in/extra.jsonl"
    path.write_text(path.read_text().replace('"text"', '"offset": 0.05, "text"'))
    fork = tmp_path / "mine"
    subprocess.run([ROOT / "utils/fork_recipe.sh", "manifest", fork], check=True, capture_output=True)
    torch.manual_seed(0)
    make_model_folder(tmp_path / "model", "char")
    (fork / "conf/any.yaml").write_text("text: {markers: keep}\nfilter: {min_chars_per_s: null}\n")
    with open(fork / "recipe.sh", "a") as file:
        file.write(f"unlabelled_sets=extra\ntranscribe_with={tmp_path}/model\ntranscripts=any.yaml\n")
    words = [ROOT / "run.sh", "--recipe", fork, "--corpus-dir", tmp_path / "in", "--stop-stage", "0", "--nj", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    data = fork / "data/mine"
    extra = {utt.utt_id for utt in read_data_dir(data / "extra", need_text=False)}
    joined = {utt.utt_id: utt for utt in read_data_dir(data / "train_all")}
    labelled = {utt.utt_id: utt for utt in read_data_dir(data / "train")}
    heard = joined.keys() - labelled.keys()
    assert len(extra) == 2 and heard and heard <= extra and joined == joined | labelled
    assert all(joined[utt_id].text for utt_id in heard) and not (data / "extra/text").exists()


def test_parts_of_librispeech_beside_those_with_text(tmp_path):
    corpora.librispeech(tmp_path / "in")
    corpora.librispeech(tmp_path / "in", ["train-clean-360"], speakers=3, first=700)
    part, options = "train-clean-360", ("--check-counts", "false")
    sets, said = read("librispeech", tmp_path, "--unlabelled", part, *options, extra=part)
    assert {name: len(utts) for name, utts in sets.items()} == {"train": 6, "dev": 6, "test": 12, part: 9}
    assert not any(utt.text for utt in sets[part]) and f"{part}: 9 transcripts not used" in said
    words = {word for name in ("train", "dev") for utt in sets[name] for word in utt.text.split()}
    assert set((tmp_path / "out/words.txt").read_text().split()) == words
    totals = [sum(counts) for counts in zip(*prepare_librispeech.TRAIN_PARTS.values(), strict=True)]
    assert totals == pytest.approx(prepare_librispeech.COUNTS["960"]["train"])
    for size, name, there in (("mini", "dev-clean", "there are train-clean-100, train-clean-360, train-other-500"),
                              ("100", "train-clean-100", "there are train-clean-360, train-other-500"),
                              ("960", "train-clean-360", "it has all parts")):  # fmt: skip
        options = ("--corpus-dir", tmp_path / "in", "--size", size, "--unlabelled", name)
        said = refused("librispeech", tmp_path / "c", *options)
        assert f"--unlabelled {name}: no part beside those of --size {size}; {there}" in said
