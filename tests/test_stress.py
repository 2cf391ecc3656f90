"""Decoding in noise: what is written, what the level does, and that a second run gives the same bytes."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from steps import stress as program
from steps.core.config import save_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.models.build import build_model, new_spec, save_model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An exported model of random weights that says something, and a data folder of three utterances."""
    root = tmp_path_factory.mktemp("stress")
    (root / "tokens.txt").write_text("<blk> 0\na 1\nb 2\nc 3\n\u2581 4\n", encoding="utf-8")
    (root / "tokenizer.model").write_bytes(b"not read")
    save_config(root / "features.yaml", FeatureConfig(num_mel_bins=20))
    torch.manual_seed(0)
    model = build_model(new_spec("dnn", {"d_model": 16, "block": {"units": 32}}, 20, 5, "test")).eval()
    save_model(root / "m", model, {f: root / f for f in ("tokens.txt", "tokenizer.model", "features.yaml")})
    export_folder(root / "m", root / "m/export")
    random, utterances = np.random.default_rng(0), []
    for number in range(3):
        soundfile.write(root / f"{number}.wav", random.uniform(-0.3, 0.3, 12000), 16000)
        utterances.append(Utterance(f"s-{number}", "s", "a b c", str(root / f"{number}.wav")))
    write_data_dir(root / "data", utterances)
    return root


def run(monkeypatch, root, out, *options):
    words = ["stress", "--model", root / "m/export", "--data", root / "data", "--out", out]
    words += [*([] if "--config" in options else ["--config", "conf/decode.yaml"]), *options]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    program.main()
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_levels_are_written_and_repeatable(root, tmp_path, monkeypatch):
    files = run(monkeypatch, root, tmp_path / "a", "--snr-db", 10, -5)
    assert set(files) == {"greedy_10dB.txt", "greedy_-5dB.txt", "noise.json"}
    content = json.loads(files["noise.json"])
    assert [level["snr_db"] for level in content["levels"]] == [10, -5]
    assert content["ids"] == ["s-0", "s-1", "s-2"] and content["words"] == [3, 3, 3]
    assert run(monkeypatch, root, tmp_path / "b", "--snr-db", 10, -5) == files
    assert run(monkeypatch, root, tmp_path / "c", "--snr-db", 10, -5, "--seed", 1) != files


def test_errors_are_counted_in_the_units_of_the_decoding_settings(root, tmp_path, monkeypatch):
    (tmp_path / "char.yaml").write_text("unit: char\nfold: {c: dd}\n")
    files = run(monkeypatch, root, tmp_path / "a", "--snr-db", 10, "--config", tmp_path / "char.yaml")
    assert json.loads(files["noise.json"])["words"] == [4, 4, 4]  # a, b, d, d


def test_what_fills_no_frame_is_recognised_as_empty(root, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "short.wav", np.full(160, 0.1), 16000)
    utterances = [*read_data_dir(root / "data"), Utterance("s-3", "s", "a b", str(tmp_path / "short.wav"))]
    write_data_dir(tmp_path / "data", utterances)
    whole = run(monkeypatch, root, tmp_path / "a", "--snr-db", 10)
    files = run(monkeypatch, root, tmp_path / "b", "--snr-db", 10, "--data", tmp_path / "data")
    level, without = (json.loads(one["noise.json"])["levels"][0] for one in (files, whole))
    assert level["errors"] == [*without["errors"], 2]
    assert "1 utterance shorter than one frame, recognised as empty: s-3" in capsys.readouterr().out


def test_noise_far_below_the_speech_changes_nothing(root, tmp_path, monkeypatch):
    files = run(monkeypatch, root, tmp_path / "a", "--snr-db", 200)
    recogniser = load_recogniser(root / "m/export")
    for line in files["greedy_200dB.txt"].decode().splitlines():
        utt_id, _, text = line.partition(" ")
        feats = utterance_features(Utterance(utt_id, "s", "", str(root / f"{utt_id[2:]}.wav")), recogniser.features)
        assert text == recogniser.recognise(feats.numpy(), utt_id)["greedy"]
