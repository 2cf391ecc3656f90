"""Noise, reverberation and volume: the ratio asked for, nothing moved in time, and no memory but (seed, epoch, utterance)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.data.augment import SpecAugmentConfig, augment_wave
from steps.data.batches import BatchLoader
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import train_tokenizer
from steps.data.wave_augment import (
    WaveAugment,
    WaveAugmentConfig,
    add_noise,
    coloured_noise,
    list_sounds,
    reverberate,
    simulated_response,
)
from steps.training.settings import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
TONE = (0.1 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)).astype(np.float32)
ALL = {"reverb": {"share": 0.7}, "noise": {"share": 0.7}, "volume_db": [-6, 6]}


def config(**settings):
    return from_dict(WaveAugmentConfig, settings, "test")


def changed(settings=ALL, seed=0, epoch=0, utt_id="a"):
    return augment_wave(TONE, WaveAugment(config(**settings), RATE), seed, epoch, utt_id)


@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_ratio_is_the_one_asked_for(snr_db, exponent):
    noise = coloured_noise(RATE, exponent, np.random.default_rng(0))
    added = add_noise(TONE, noise, snr_db) - TONE
    assert 10 * np.log10(np.mean(TONE**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=1e-6)


def test_brown_noise_is_low_and_white_noise_flat():
    power = {e: np.abs(np.fft.rfft(coloured_noise(1 << 14, e, np.random.default_rng(0)))) ** 2 for e in (0, 2)}
    low, high = slice(10, 100), slice(4000, 8000)
    assert power[0][low].mean() == pytest.approx(power[0][high].mean(), rel=0.4)
    assert power[2][low].mean() > 1000 * power[2][high].mean()


def test_a_room_keeps_length_power_and_onset_and_decays():
    rng = np.random.default_rng(0)
    response = simulated_response(0.4, 5.0, RATE, rng)
    tail = response[1:]
    assert response[0] == 1 and 10 * np.log10(1 / np.sum(tail**2)) == pytest.approx(5.0)
    early, late = np.mean(tail[:1600] ** 2), np.mean(tail[-1600:] ** 2)
    assert 10 * np.log10(early / late) == pytest.approx(45, abs=4)  # 60 dB in 0.4 s, 0.3 s apart
    click = np.zeros(RATE)
    click[5000] = 1
    wet = reverberate(click, response)
    assert len(wet) == RATE and np.argmax(np.abs(wet)) == 5000 and not wet[:4999].round(9).any()
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2))


def test_a_pure_function_of_seed_epoch_and_utterance():
    before = TONE.copy()
    assert np.array_equal(changed(), changed()) and np.array_equal(TONE, before)
    assert changed().dtype == np.float32 and changed().shape == TONE.shape
    for other in ({"seed": 1}, {"epoch": 1}, {"utt_id": "b"}):
        assert not np.array_equal(changed(), changed(**other))


def test_share_is_the_share_and_nothing_on_changes_nothing():
    assert np.array_equal(changed({}), TONE)
    touched = [not np.array_equal(changed({"noise": {"share": 0.3}}, utt_id=str(i)), TONE) for i in range(300)]
    assert 0.2 < np.mean(touched) < 0.4
    assert np.abs(changed({"volume_db": [40, 40]})).max() == pytest.approx(0.99)


def test_measured_rooms_and_recorded_noise(tmp_path):
    response = np.zeros(800)
    response[[120, 400]] = 0.9, 0.4  # the direct sound arrives after 120 samples
    # Of several channels the first is taken.
    soundfile.write(tmp_path / "room.wav", np.stack([response, response[::-1]], axis=1), RATE)
    wet = changed({"reverb": {"share": 1, "folder": str(tmp_path)}})
    expected = reverberate(TONE, np.concatenate([[0.9], np.zeros(279), [0.4]]))
    assert np.abs(wet - expected).max() < 1e-3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no sound files"):
        changed({"noise": {"folder": str(tmp_path / "empty")}})
    soundfile.write(tmp_path / "empty/short.wav", 0.1 * np.random.default_rng(1).standard_normal(100), 8000)
    noisy = changed({"noise": {"share": 1, "folder": str(tmp_path / "empty"), "snr_db": [10, 10]}})
    assert 10 * np.log10(np.mean(TONE**2) / np.mean((noisy - TONE) ** 2)) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("bad", [{"noise": {"snr_db": [20, 5]}}, {"reverb": {"share": 2}}, {"volume_db": [1]}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        config(**bad)


def test_a_training_from_extracted_features_refuses_it():
    with pytest.raises(ConfigError, match="augment.wave needs source: on_the_fly"):
        from_dict(TrainConfig, {"augment": {"wave": {"volume_db": [-3, 3]}}}, "x.yaml")


@pytest.fixture
def data(tmp_path):
    utterances = []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(
            path, TONE[: 8000 + 1000 * i] + 0.01 * np.random.default_rng(i).standard_normal(8000 + 1000 * i), RATE
        )
        utterances.append(Utterance(f"s{i}-{i}", f"s{i}", "ab ba", str(path), duration_s=0.5 + i / 16))
    write_data_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def test_a_resumed_epoch_gives_the_batches_of_an_undisturbed_one(data):
    dataset = SpeechDataset(data, train_tokenizer(["ab ba"]), FeatureConfig(), "on_the_fly")
    augment = from_dict(SpecAugmentConfig, {"wave": ALL}, "test")
    fill, batches = np.zeros(80, np.float32), [([0, 3], 1.0), ([1, 5], 1.0), ([2, 4], 1.0)]
    whole = BatchLoader(dataset, batches, augment, fill, seed=3, epoch=2)
    feats = [whole[i].feats for i in range(3)]
    resumed = BatchLoader(dataset, batches[2:], augment, fill, seed=3, epoch=2)
    assert resumed[0].feats.equal(feats[2])
    other = BatchLoader(dataset, batches[2:], augment, fill, seed=3, epoch=3)
    assert not other[0].feats.equal(feats[2])
    clean = BatchLoader(dataset, batches[2:], augment, fill, seed=3, epoch=2, clean=True)[0]
    assert clean.feats.equal(feats[2]) and clean.clean.equal(
        BatchLoader(dataset, batches[2:], None, fill, 0, 0)[0].feats
    )
    plain = BatchLoader(dataset, batches[2:], SpecAugmentConfig(), fill, seed=3, epoch=2)
    assert plain[0].feats.shape == feats[2].shape and not plain[0].feats.equal(feats[2])


def test_offline_copies_are_what_training_hears(data, tmp_path):
    (tmp_path / "wave.yaml").write_text("noise: {share: 1, snr_db: [10, 10]}\n")
    options = ["--data", data, "--config", tmp_path / "wave.yaml", "--out", tmp_path, "--seed", "5"]
    command = [
        sys.executable,
        "-m",
        "steps.augment_data",
        *options,
        "--set",
        "noisy",
        "--copies",
        "2",
        "--originals",
        "true",
    ]
    subprocess.run([*map(str, command)], cwd=ROOT, check=True, capture_output=True)
    made = {utt.utt_id: utt for utt in read_data_dir(tmp_path / "noisy")}
    assert len(made) == 18 and made["s0-0"].audio.endswith("0.wav")
    heard, _ = soundfile.read(made["aug2-s0-0"].audio, dtype="float32")
    clean, _ = soundfile.read(made["s0-0"].audio, dtype="float32")
    augment = WaveAugment(config(noise={"share": 1, "snr_db": [10, 10]}), RATE)
    assert np.abs(heard - augment_wave(clean, augment, 5, 1, "s0-0")).max() < 1e-4


def test_a_folder_of_noises_may_be_links_and_hold_hidden_files(tmp_path):
    soundfile.write(tmp_path / "kitchen.wav", np.ones(160), 16000)
    folder = tmp_path / "noises"
    folder.mkdir()
    (folder / "far").symlink_to(tmp_path)
    (folder / "self").symlink_to("self")
    (folder / "._kitchen.wav").write_bytes(b"no sound")
    assert list_sounds(str(folder)) == [f"{folder}/far/kitchen.wav"]
