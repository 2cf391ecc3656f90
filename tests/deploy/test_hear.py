"""What a model hears of a recording is what it was trained on, whatever program reads it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from deploy.test_pieces import RATE, speech

from steps import transcribe
from steps.core.datadir import Utterance
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features, utterance_samples
from steps.deploy.export import export_folder
from steps.deploy.pieces import cut_features
from steps.deploy.recognition import hear

ROOT = Path(__file__).resolve().parents[2]
LEVELLED = FeatureConfig(sample_rate_hz=RATE, num_mel_bins=20, high_freq_hz=-200.0, level_dbfs=-25.0)


@pytest.fixture
def recordings(tmp_path):
    """Path of a recording, and of the same one much quieter, kept in float."""
    samples = speech([0.5], 2.0)
    for name, gain in (("loud", 1.0), ("quiet", 0.01)):
        soundfile.write(tmp_path / f"{name}.wav", samples * gain, RATE, subtype="FLOAT")
    return str(tmp_path / "loud.wav"), str(tmp_path / "quiet.wav")


def test_raw_recordings_are_heard_as_the_features_of_stage_1(recordings):
    recogniser = SimpleNamespace(features=LEVELLED, hears="features")
    for path in recordings:
        utt = Utterance("u", "s", "", path)
        (heard,) = hear(recogniser, utt)
        assert np.array_equal(heard, utterance_features(utt, LEVELLED).numpy())
    loud, quiet = (next(hear(recogniser, Utterance("u", "s", "", path))) for path in recordings)
    assert np.abs(loud - quiet).max() < 1e-3
    unlevelled = utterance_features(Utterance("u", "s", "", recordings[1]), replace(LEVELLED, level_dbfs=None))
    assert np.abs(loud - unlevelled.numpy()).max() > 5


@pytest.mark.parametrize("rate_hz", [RATE, 2 * RATE])
@pytest.mark.parametrize("speed", [1.0, 1.1])
def test_recognisers_of_samples_hear_what_features_are_made_of(recordings, rate_hz, speed):
    utt = Utterance("u", "s", "", recordings[0], 0.25, 1.5, speed=speed)
    config = FeatureConfig(sample_rate_hz=rate_hz, num_mel_bins=20, high_freq_hz=-200.0)
    (heard,) = hear(SimpleNamespace(features=config, hears="audio"), utt)
    assert np.array_equal(heard, utterance_samples(utt, rate_hz).numpy())


def test_sound_that_is_heard_as_it_was_recorded_needs_no_torch(recordings):
    code = f"""
import sys, types
from steps.core.datadir import Utterance
from steps.data.feature_config import FeatureConfig
from steps.deploy.recognition import hear
recogniser = types.SimpleNamespace(features=FeatureConfig(sample_rate_hz={RATE}), hears="audio")
assert len(list(hear(recogniser, Utterance("u", "s", "", sys.argv[1])))) == 1
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, recordings[0]], cwd=ROOT).returncode == 0


def test_pieces_of_a_long_recording_are_at_the_level_of_the_whole(tmp_path):
    samples = speech([6.0, 12.0, 19.0, 24.0, 30.0], 37.0)
    # one half is much quieter
    samples[: 18 * RATE] *= 0.05
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    utt = Utterance("u", "s", "", str(tmp_path / "long.wav"))
    pieces = list(hear(SimpleNamespace(features=LEVELLED, hears="features"), utt))
    stored = cut_features(utterance_features(utt, LEVELLED).numpy(), LEVELLED)
    assert len(pieces) > 2 and len(stored) > 2
    for mine, theirs in ((pieces[0], stored[0]), (pieces[-1], stored[-1])):
        assert abs(np.median(mine) - np.median(theirs)) < 0.3


def test_an_export_says_all_of_its_features_and_transcribes_raw_recordings_alike(tmp_path, make, recordings, capsys):
    from deploy.conftest import save_folder

    export_folder(save_folder(tmp_path / "plain", make("dnn")), tmp_path / "plain/export")
    export_folder(save_folder(tmp_path / "level", make("dnn"), LEVELLED), tmp_path / "level/export")
    words = (tmp_path / "level/export/README.md").read_text()
    for fact in (
        "[-1, 1]",
        "0.05623413 (-25 dBFS)",
        "merge runs of the same one",
        "0.97",
        "x[-1] = x[0]",
        "^0.85",
        "mean is subtracted",
        "1.1920929e-07",
        "mirrored",
    ):
        assert fact in words
    assert "Level: as recorded" in (tmp_path / "plain/export/README.md").read_text()
    with transcribe.load_recogniser(tmp_path / "level/export", device="cpu", num_threads=1) as recogniser:
        assert transcribe.transcribe(recogniser, recordings, out := Lines()) == 0
    texts = [re.split(r"\t", line)[1] for line in out.lines]
    assert texts[0] == texts[1] and texts[0]


class Lines:
    """Takes what is printed."""

    def __init__(self):
        self.lines = []

    def write(self, text):
        self.lines += [text] if text.strip() else []

    def flush(self):
        pass
