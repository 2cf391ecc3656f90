"""Every corpus reader on a made-up copy in the real layout: what is read, what is odd, what is refused."""

import functools
import hashlib
import http.server
import json
import shutil
import tarfile
import threading
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import soundfile

from steps.core.datadir import read_data_dir, validate_data_dir
from steps.core.sound import read_sound
from tests.core.sound_formats import without_xing
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


def test_commonvoice_clips_as_mozilla_encodes_them_and_a_tab_too_many(tmp_path):
    top = corpora.commonvoice(tmp_path) / "cv-corpus-21.0-2025-03-14/en"
    for path in (top / "clips").iterdir():
        without_xing(path)
    sets, said = good("commonvoice", tmp_path, "--corpus-dir", tmp_path)
    assert "train.tsv: not used, though it may matter: up_votes (2); down_votes (0); locale (en)" in said
    for utt in sets["train"]:
        samples, rate_hz = read_sound(utt.audio)
        assert utt.duration_s == round(len(samples) / rate_hz, 6)
    lines = (top / "dev.tsv").read_text(encoding="utf-8").split("\n")
    lines[2] = lines[2].replace(" ", "\t", 1)
    (top / "dev.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert "dev.tsv:3: 14 fields, expected 13" in refused("commonvoice", tmp_path / "b", "--corpus-dir", tmp_path)


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


def test_manifest_durations_are_those_of_nemo_or_refused(tmp_path):
    """Without an offset the first `duration` seconds are meant, not the whole file."""
    corpora.manifest(tmp_path)
    path = tmp_path / "train_manifest.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    corpora.save(tmp_path / "train/long.wav", corpora.whistle(["ABED" * 20], 1))
    lines.append({"audio_filepath": "train/long.wav", "duration": 1.9, "text": "a b", "speaker": "z"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets, said = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    limits = {utt.speaker: (utt.start_s, utt.end_s, utt.duration_s) for utt in sets["train"]}
    assert limits["z"] == (0.0, 1.9, 1.9) and limits["sp_0"][1] == limits["sp_0"][2] != 1.9
    assert "train_manifest.json: 1 of 13 rows have no offset and a duration shorter than the file" in said
    assert "train_manifest.json:13): its beginning is taken" in said
    path.write_text(path.read_text().replace("1.9", "1900"))
    said = refused("manifest", tmp_path / "b", "--corpus-dir", tmp_path)
    assert "train_manifest.json:13: duration is 1900 s" in said and "durations are in seconds" in said


def test_manifest_columns_that_matter(tmp_path):
    corpora.manifest(tmp_path)
    rows = []
    for name in ("train", "dev", "test"):
        for line in (tmp_path / f"{name}_manifest.json").read_text(encoding="utf-8-sig").splitlines():
            rows.append(
                json.loads(line) | {"split": {"dev": "Validation"}.get(name, name), "channel": 1, "up_votes": len(rows)}
            )
        (tmp_path / f"{name}_manifest.json").unlink()
    write = lambda: (tmp_path / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))  # noqa: E731
    write()
    sets, said = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert {utt.speaker for utt in sets["dev"]} == {"sp_4", "sp_5"}
    assert "manifest.json: not used, though it may matter: channel (1); up_votes (0, 1, 2, ...)" in said
    rows[0]["split"] = "extra"
    write()
    assert "split is 'extra'; expected train, dev" in refused("manifest", tmp_path / "b", "--corpus-dir", tmp_path)


def test_a_row_of_another_split_than_its_manifest_is_named(tmp_path):
    corpora.manifest(tmp_path)
    path = tmp_path / "dev_manifest.json"
    path.write_text(path.read_text(encoding="utf-8-sig").replace('"speaker"', '"split": "train", "speaker"', 1))
    assert "dev_manifest.json:1: split is 'train', in the manifest of dev" in refused(
        "manifest", tmp_path, "--corpus-dir", tmp_path
    )


def test_manifest_tsv_keeps_all_rows(tmp_path):
    corpora.manifest(tmp_path, "csv")
    for name in ("train", "dev", "test"):
        table = tmp_path / name / "metadata.csv"
        lines = [line.replace('"', "").replace(", yes", " yes").split(",") for line in table.read_text().splitlines()]
        lines[1][1], lines[3][1] = f'"{lines[1][1]}', f'{lines[3][1]}"'
        table.with_suffix(".tsv").write_text("\n".join("\t".join(line) for line in lines))
        table.unlink()
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert [utt.text.count('"') for utt in sets["test"]] == [1, 0, 1, 0, 0, 0]


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
    assert f"1 files are left out for another of that name, e.g. {first.with_suffix('.ogg')} for {first.name}" in said
    audio = [utt.audio for utts in sets.values() for utt in utts]
    assert len(audio) == 24 and all(path.endswith(".wav") for path in audio)


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
