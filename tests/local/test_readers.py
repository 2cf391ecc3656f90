"""The readers of LibriSpeech, TIMIT, AISHELL and yesno on made-up copies in the real layout, and what all readers share."""

import functools
import hashlib
import http.server
import tarfile
import threading
from unittest import mock

import numpy as np
import pytest

from tests.local import corpora
from tests.local.readers import good, refused, sizes

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
    assert "left out 1 recording without a transcript" in said
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
