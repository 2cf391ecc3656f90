"""Kaldi data folders of others: segments, commands, channels, ids; what is read, what is refused."""

import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps.core.datadir import read_data_dir, validate_data_dir
from tests.local import corpora
from tests.local.readers import good, prepare, refused, sizes

ROOT = Path(__file__).resolve().parents[2]


def test_kaldi_with_segments(tmp_path):
    corpora.kaldi(tmp_path)
    sets, _ = good("kaldi", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    utt = sets["train"][1]
    assert utt.start_s > 0 and abs(utt.end_s - utt.start_s - utt.duration_s) < 1e-6


def test_kaldi_folders_may_lack_what_follows_from_utt2spk(tmp_path):
    corpora.kaldi(tmp_path)
    for path in tmp_path.glob("*/spk2utt"):
        path.unlink()
    sets, _ = good("kaldi", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets)["train"] == (12, 4) and not [*tmp_path.glob("train/spk2utt")]


def test_the_remedy_for_kaldi_folders_works(tmp_path):
    """Paths in them are relative to another folder than the one a reader is called in, and may hold blanks."""
    corpus = tmp_path / "my corpus"
    corpora.kaldi(corpus)
    text = corpus / "train/text"
    text.write_text("\r\n".join(sorted(text.read_text().splitlines(), reverse=True)))
    said = refused("kaldi", tmp_path, "--corpus-dir", corpus)
    found = re.search(r"(utils/fix_data_dir.py .*) mends what can be mended, called in the folder that paths", said)
    words = [sys.executable, ROOT / "utils/fix_data_dir.py", *shlex.split(found[1])[1:]]
    subprocess.run(words, cwd=corpus, check=True, capture_output=True)
    sets, _ = good("kaldi", tmp_path, "--corpus-dir", corpus)
    assert sizes(sets)["train"] == (12, 4)


def test_no_word_of_a_test_set_closes_the_list_whatever_it_is_called(tmp_path):
    corpora.kaldi(tmp_path)
    text = tmp_path / "test/text"
    text.write_text("".join(f"{line} unheard\n" for line in text.read_text().splitlines()))
    for sets, least in (("train=train,dev=dev,eval92=test", 2), ("tr=train,cv=dev,et=test", 1)):
        good("kaldi", tmp_path, "--corpus-dir", tmp_path, "--sets", sets)
        words = (tmp_path / "out/words.txt").read_text().split()
        assert "unheard" not in words and len(words) > least
        shutil.rmtree(tmp_path / "out")


def test_kaldi_commands_run_only_when_allowed(tmp_path):
    corpora.kaldi(tmp_path, pipe=True)
    assert "a command in wav.scp: cat" in refused("kaldi", tmp_path, "--corpus-dir", tmp_path)
    sets, said = good("kaldi", tmp_path, "--corpus-dir", tmp_path, "--allow-pipes", "true")
    assert "ran 1 command of wav.scp" in said
    assert Counter(utt.audio.endswith(".flac") for utt in sets["train"]) == {True: 3, False: 9}
    shutil.rmtree(tmp_path / "out")
    scp = tmp_path / "train/wav.scp"
    scp.write_text(scp.read_text().replace("cat ", "false "))
    said = refused("kaldi", tmp_path, "--corpus-dir", tmp_path, "--allow-pipes", "true")
    assert "gave no sound" in said


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_24", "PCM_16", "ULAW"])
def test_kaldi_commands_of_any_sample_format_keep_their_sound(tmp_path, subtype):
    corpora.kaldi(tmp_path, pipe=True)
    path = tmp_path / "wav/train0.wav"
    wanted, _ = soundfile.read(path)
    soundfile.write(path, wanted, corpora.RATE_HZ, subtype)
    sets, _ = good("kaldi", tmp_path, "--corpus-dir", tmp_path, "--allow-pipes", "true")
    kept, _ = soundfile.read(next(utt.audio for utt in sets["train"] if utt.audio.endswith(".flac")))
    assert len(kept) == len(wanted) and np.abs(kept - wanted).max() < (0.02 if subtype == "ULAW" else 4e-5)
    assert not [path for path in (tmp_path / "out/audio").iterdir() if path.suffix != ".flac"]


def test_kaldi_commands_that_are_cut_short_or_not_scaled_are_refused(tmp_path):
    corpora.kaldi(tmp_path, pipe=True)
    scp, options = tmp_path / "train/wav.scp", ["--corpus-dir", tmp_path, "--allow-pipes", "true"]
    before = scp.read_text()
    scp.write_text(before.replace("cat ", "head -c 9000 "))
    assert "gave no sound (cut short or damaged" in refused("kaldi", tmp_path, *options)
    scp.write_text(before)
    samples, rate_hz = soundfile.read(tmp_path / "wav/train0.wav")
    soundfile.write(tmp_path / "wav/train0.wav", samples * 32768, rate_hz, "FLOAT")
    assert "not scaled to [-1, 1]" in refused("kaldi", tmp_path, *options)


def test_kaldi_names_what_it_does_not_use_and_compares_times(tmp_path):
    corpora.kaldi(tmp_path)
    (tmp_path / "train/reco2file_and_channel").write_text("rec0 rec0 A\n")
    _, said = good("kaldi", tmp_path, "--corpus-dir", tmp_path)
    assert f"{tmp_path}/train: not used, though it may matter: reco2file_and_channel" in said
    utts = [line.split()[0] for line in (tmp_path / "dev/utt2spk").read_text().splitlines()]
    (tmp_path / "dev/utt2dur").write_text("".join(f"{utt} 9\n" for utt in utts))
    shutil.rmtree(tmp_path / "dev/segments", ignore_errors=True)
    assert "not 9 s" in refused("kaldi", tmp_path / "b", "--corpus-dir", tmp_path)


def test_channels_are_chosen_for_a_whole_corpus(tmp_path):
    corpora.manifest(tmp_path)
    for path in tmp_path.glob("*/*.wav"):
        samples, rate_hz = soundfile.read(path)
        soundfile.write(path, np.stack([0 * samples, samples], axis=1), rate_hz)
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert "24 of 24 sound files have several channels; say which one is meant" in said
    (tmp_path / "options.yaml").write_text("sound: {channel: 2}\n")
    sets, said = good("manifest", tmp_path, "--corpus-dir", tmp_path, "--options", tmp_path / "options.yaml")
    assert "24 of 24 sound files have several channels: channel 2 is taken, as mono copies" in said
    kept, _ = soundfile.read(sets["dev"][0].audio)
    assert kept.ndim == 1 and np.abs(kept).max() > 0.1


def test_kaldi_sets_and_wav_root(tmp_path):
    corpora.kaldi(tmp_path / "a")
    (tmp_path / "a/test").rename(tmp_path / "a/eval92")
    (tmp_path / "a/wav").rename(tmp_path / "wav")
    options = ["--corpus-dir", tmp_path / "a", "--sets", "train=train,dev=dev,test_clean=eval92"]
    assert "--wav-root names their folder" in refused("kaldi", tmp_path, *options)
    sets, _ = good("kaldi", tmp_path, *options, "--wav-root", tmp_path)
    assert set(sets) == {"train", "dev", "test_clean"}


def test_kaldi_ids_without_their_speaker_and_segments_to_the_end(tmp_path):
    """As ESPnet has them; the segments of train come in another order by speaker, and end at -1."""
    corpora.kaldi(tmp_path)
    owners = {"utt1": "t9", "utt2": "t8"}
    tables = {"utt2spk": owners, "text": dict.fromkeys(owners, "a b"), "wav.scp": {"r": "./wav/train0.wav"}}
    tables |= {"segments": {"utt1": "r 0 0.5", "utt2": "r 0.5 -1"}, "spk2utt": {"t8": "utt2", "t9": "utt1"}}
    for name, table in tables.items():
        (tmp_path / "train" / name).write_text("".join(f"{key} {value}\n" for key, value in table.items()))
    status, said, errors = prepare("kaldi", "--corpus-dir", tmp_path, "--out", tmp_path / "out")
    assert status == 0, errors
    assert "out/train: utterance ids do not begin with the speaker id" in said
    one, two = read_data_dir(tmp_path / "out/train")
    seconds = soundfile.info(tmp_path / "wav/train0.wav").duration
    assert (one.end_s, two.start_s, two.end_s) == (0.5, 0.5, pytest.approx(seconds)) and two.speaker == "t8"
    validate_data_dir(tmp_path / "out/train", audio=True, spk_sort=False)


def test_sets_that_are_not_there_are_all_named_and_none_is_lost(tmp_path):
    corpora.kaldi(tmp_path)
    (tmp_path / "dev").rename(tmp_path / "dev_clean")
    (tmp_path / "test").rename(tmp_path / "eval")
    said = refused("kaldi", tmp_path, "--corpus-dir", tmp_path)
    assert "for dev=dev, test=test; there are: dev_clean, eval, train; --sets says which is what" in said
    options = ("--corpus-dir", tmp_path, "--sets")
    assert "a set is there twice" in refused("kaldi", tmp_path, *options, "train=train,train=eval,dev=dev_clean")
    sets, _ = good("kaldi", tmp_path, *options, "train = train, dev = dev_clean, test=eval")
    assert {*sets} == {"train", "dev", "test"}


def test_files_behind_commands_are_noticed_when_they_change(tmp_path):
    corpora.kaldi(tmp_path / "corpus", pipe=True)
    far, scp = tmp_path / "far away.wav", tmp_path / "corpus/train/wav.scp"
    (tmp_path / "corpus/wav/train0.wav").rename(far)
    scp.write_text(scp.read_text().replace(f"{tmp_path}/corpus/wav/train0.wav", f"'{far}'"))
    good("kaldi", tmp_path, "--corpus-dir", tmp_path / "corpus", "--allow-pipes", "true")
    listed = [line.split("\t")[2] for line in (tmp_path / "out/corpus_files.tsv").read_text().splitlines()[1:]]
    assert str(far) in listed and not any(path.endswith(".flac") for path in listed)
