"""Every corpus reader on a made-up copy in the real layout: what is read, what is odd, what is refused."""

import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import soundfile

from steps.core.datadir import read_data_dir, validate_data_dir
from tests.local import corpora
from tests.local.readers import good, prepare, refused, sizes

PART = ("--check-counts", "false")


def test_librispeech_mini_has_a_dev_set_of_its_own_speakers(tmp_path):
    corpora.librispeech(tmp_path)
    sets, _ = good("librispeech", tmp_path, "--corpus-dir", tmp_path, *PART)
    assert sizes(sets)["test"] == (12, 4) and sizes(sets)["train"][0] + sizes(sets)["dev"][0] == 12
    utt = next(utt for utt in sets["test"] if utt.utt_id == "119-198-0000")
    assert (utt.speaker, utt.text) == ("119", corpora.texts(119, 3)[0])


def test_librispeech_sizes_and_the_folder_itself(tmp_path):
    corpora.librispeech(tmp_path, ["train-clean-100", "dev-clean", "test-clean", "test-other"], speakers=2)
    sets, _ = good("librispeech", tmp_path, "--corpus-dir", tmp_path / "LibriSpeech", "--size", "100", *PART)
    assert sizes(sets) == dict.fromkeys(["train", "dev", "test_clean", "test_other"], (6, 2))
    said = refused("librispeech", tmp_path / "b", "--corpus-dir", tmp_path, "--size", "100")
    assert "the published corpus 28539 utterances, 251 speakers, 100.6 hours" in said
    said = refused("librispeech", tmp_path / "c", "--corpus-dir", tmp_path, "--size", "960")
    assert "no folder train-clean-360" in said and "no folder train-other-500" in said


def test_librispeech_lists_what_is_missing(tmp_path):
    folder = corpora.librispeech(tmp_path) / "LibriSpeech/train-clean-5/19/198"
    (folder / "19-198-0001.flac").unlink()
    corpora.save(folder / "19-198-0009.flac", np.zeros(1600))
    said = refused("librispeech", tmp_path, "--corpus-dir", tmp_path, *PART)
    assert "19-198.trans.txt:2: no sound file 19-198-0001.flac" in said and "19-198-0009.flac: no transcript" in said


@pytest.mark.parametrize(("upper", "suffix"), [(True, ".WAV"), (False, ".WAV"), (True, ".WAV.wav")])
def test_timit_in_either_case(tmp_path, upper, suffix):
    corpora.timit(tmp_path, upper, suffix)
    sets, _ = good("timit", tmp_path, "--corpus-dir", tmp_path, *PART)
    assert {name: sorted({utt.speaker for utt in utts}) for name, utts in sets.items()} == {
        "train": ["fcjf0", "mdac0", "mrcg0"], "dev": ["faks0"], "test": ["fdhc0", "mdab0"],
    }  # fmt: skip
    assert [utt.utt_id for utt in sets["dev"]] == ["faks0-si648", "faks0-sx37"]
    assert sets["dev"][1].text == "sil sh ix hh eh vcl d ax uw zh sil"  # q is left out


def test_timit_folds_61_to_48_to_39():
    from local.prepare_timit import TO_48
    from steps.core.config import load_config
    from steps.deploy.recognition import DecodeConfig

    fold = load_config(DecodeConfig, "recipes/timit/conf/decode.yaml").fold
    phones48 = set(TO_48.values()) - {""}
    assert len(TO_48) == 61 and len(phones48) == 48
    assert len({fold.get(phone, phone) for phone in phones48}) == 39 and set(fold) <= phones48


def test_timit_refuses_a_label_that_is_no_phone(tmp_path):
    corpora.timit(tmp_path)
    (tmp_path / "TIMIT/TRAIN/DR1/FCJF0/SX37.PHN").write_text("0 100 h#\n100 200 xx\n")
    assert "SX37.PHN:2: expected `start end phone`" in refused("timit", tmp_path, "--corpus-dir", tmp_path, *PART)


@pytest.mark.parametrize("archives", [True, False])
def test_aishell_is_characters_and_says_what_has_no_transcript(tmp_path, archives):
    corpora.aishell(tmp_path, archives)
    sets, said = good("aishell", tmp_path, "--corpus-dir", tmp_path / "data_aishell", *PART)
    assert sizes(sets) == {"train": (8, 3), "dev": (6, 2), "test": (6, 2)}
    assert "1 recordings have no transcript" in said
    assert {utt.text for utt in sets["dev"]} == {"而对楼市", "成交抑制作用", "最大的限购"}
    assert sets["dev"][0].utt_id == "S0724-BAC009S0724W0122"


def test_yesno(tmp_path):
    corpora.yesno(tmp_path)
    options = tmp_path / "options.yaml"
    options.write_text("shared_speakers: true\n")
    sets, said = good("yesno", tmp_path, "--corpus-dir", tmp_path, "--options", options)
    assert sizes(sets) == {"train": (27, 1), "dev": (4, 1), "test": (29, 1)}
    utt = sets["train"][0]
    assert utt.text.split() == [("NO", "YES")[int(digit)] for digit in utt.utt_id.split("-")[1].split("_")]
    assert "1 speaker is in several sets" in said
    assert "speaker one is in train and dev and test" in refused("yesno", tmp_path / "b", "--corpus-dir", tmp_path)


def test_commonvoice(tmp_path):
    corpora.commonvoice(tmp_path)
    sets, _ = good("commonvoice", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (8, 4), "dev": (6, 3), "test": (6, 3)}
    first, second = corpora.texts(0, 2)
    assert sets["train"][0].text == f"{first.capitalize()}, {first.split()[0].lower()}’s."
    assert sets["train"][1].text == f'{second.title()} "{second.lower()}"!'
    assert len(sets["train"][0].speaker) == 16


def test_commonvoice_refuses_missing_clips_and_columns(tmp_path):
    top = corpora.commonvoice(tmp_path) / "cv-corpus-21.0-2025-03-14/en"
    (top / "clips/common_voice_en_1010.mp3").unlink()
    assert "train.tsv:4: no sound file clips/" in refused("commonvoice", tmp_path, "--corpus-dir", top)
    (top / "dev.tsv").write_text("path\tsentence\n")
    assert "dev.tsv:1: no column client_id" in refused("commonvoice", tmp_path, "--corpus-dir", top)
    shutil.copytree(top, top.parent / "fr")
    assert "name the language's folder" in refused("commonvoice", tmp_path, "--corpus-dir", tmp_path)


def test_kaldi_with_segments(tmp_path):
    corpora.kaldi(tmp_path)
    sets, _ = good("kaldi", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    utt = sets["train"][1]
    assert utt.start_s > 0 and abs(utt.end_s - utt.start_s - utt.duration_s) < 1e-6


def test_kaldi_commands_run_only_when_allowed(tmp_path):
    corpora.kaldi(tmp_path, pipe=True)
    assert "a command in wav.scp: cat" in refused("kaldi", tmp_path, "--corpus-dir", tmp_path)
    sets, said = good("kaldi", tmp_path, "--corpus-dir", tmp_path, "--allow-pipes", "true")
    assert "1 commands of wav.scp were run" in said
    assert Counter(utt.audio.endswith(".flac") for utt in sets["train"]) == {True: 3, False: 9}
    shutil.rmtree(tmp_path / "out")
    scp = tmp_path / "train/wav.scp"
    scp.write_text(scp.read_text().replace("cat ", "false "))
    said = refused("kaldi", tmp_path, "--corpus-dir", tmp_path, "--allow-pipes", "true")
    assert "gave no sound" in said


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


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_manifest(tmp_path, kind):
    corpora.manifest(tmp_path, kind)
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert sets["train"][0].speaker == "sp_0" and sets["train"][0].text.endswith(", yes?")


def test_manifest_of_segments_in_one_list_is_split_by_speakers(tmp_path):
    corpora.save(tmp_path / "long.wav", corpora.whistle(["ABED" * 20], 1))
    rows = [
        f'{{"audio_filepath": "long.wav", "offset": {i / 2}, "duration": 0.5, "text": "a {i}", "speaker": "s{i}"}}\n'
        for i in range(10)
    ]
    (tmp_path / "manifest.json").write_text("".join(rows))
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (8, 8), "dev": (1, 1), "test": (1, 1)}
    assert {utt.duration_s for utts in sets.values() for utt in utts} == {0.5}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"audio_filepath": "a.wav"}', "train.jsonl:1: no text"),
        ('{"audio_filepath": "b.wav", "text": "x"}', "train.jsonl:1: no such sound file"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": "soon"}', "offset and duration must be seconds"),
        ('{"audio_filepath": ["a.wav"], "text": "x"}', "no audio"),
        ("[1, 2]", "train.jsonl:1: expected one JSON object a line"),
        ("\x00\x01", "train.jsonl:1: expected one JSON object a line"),
    ],
)
def test_manifest_mistakes_have_a_place(tmp_path, line, said):
    corpora.manifest(tmp_path)
    corpora.save(tmp_path / "a.wav", np.ones(1600))
    (tmp_path / "train_manifest.json").unlink()
    (tmp_path / "train.jsonl").write_text(line + "\n")
    assert said in refused("manifest", tmp_path, "--corpus-dir", tmp_path)


def test_labelled_folder_as_speech_commands(tmp_path):
    corpora.labelled_folder(tmp_path / "sc")
    sets, _ = good("labelled_folder", tmp_path, "--corpus-dir", tmp_path / "sc")
    assert sizes(sets) == {"train": (32, 4), "dev": (8, 1), "test": (8, 1)}
    assert {utt.text for utt in sets["train"]} == {"tab", "bed", "turn on", "go"}
    assert (tmp_path / "out/words.txt").read_text().split() == ["bed", "go", "on", "tab", "turn"]
    lists = {"validation_list.txt": "0", "testing_list.txt": "1"}
    for name, speaker in lists.items():
        lines = [f"{label}/0000000{speaker}_nohash_{take}.wav\n" for label in ("tab", "go") for take in (0, 1)]
        (tmp_path / "sc" / name).write_text("".join(lines))
    said = refused("labelled_folder", tmp_path / "b", "--corpus-dir", tmp_path / "sc")
    assert "speaker 00000000 is in train and dev" in said  # bed and turn_on of both speakers stay in train


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


@pytest.mark.parametrize("reader", ["librispeech", "aishell", "yesno"])
def test_offline_is_one_clear_line(tmp_path, reader):
    with mock.patch("local.download.PAUSES_S", ()):
        said = refused(reader, tmp_path, "--corpus-dir", "", "--mirror", "http://127.0.0.1:1/x")
    assert "name a copy with --corpus-dir" in said and len(said.splitlines()) == 1


def test_a_folder_that_is_not_there(tmp_path):
    for reader in ("timit", "commonvoice", "kaldi", "manifest", "labelled_folder"):
        assert "no such file or folder" in refused(reader, tmp_path, "--corpus-dir", tmp_path / "nowhere")


def test_an_archive_is_fetched_checked_and_unpacked(tmp_path):
    corpora.yesno(tmp_path / "web", count=30)
    with tarfile.open(tmp_path / "web/waves_yesno.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "web/waves_yesno", "waves_yesno")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "web")
    handler.log_message = lambda *args: None
    (tmp_path / "options.yaml").write_text("shared_speakers: true\n")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--mirror", f"http://127.0.0.1:{server.server_port}", "--options", tmp_path / "options.yaml", *PART]
        said = refused("yesno", tmp_path / "bad", *options)
        assert "SHA-256 is" in said and "expected c3f49e0c" in said
        digest = hashlib.sha256((tmp_path / "web/waves_yesno.tar.gz").read_bytes()).hexdigest()
        with mock.patch("local.prepare_yesno.SHA256", digest):
            sets, _ = good("yesno", tmp_path, *options)
            server.shutdown()
            assert good("yesno", tmp_path, *options)[0] == sets  # the second time nothing is fetched
    assert sum(map(len, sets.values())) == 30
