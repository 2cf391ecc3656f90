"""Features: Kaldi's numbers, from any sound file; faulty audio is refused."""

import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from steps.core.cli import MissingInput, UserError
from steps.core.config import ConfigError, from_dict, load_config, save_config
from steps.core.datadir import Utterance
from steps.data.archives import load_feature_matrix
from steps.data.feature_config import FeatureConfig
from steps.data.feature_text import describe_features
from steps.data.features import change_speed, compute_features, load_audio, utterance_features

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FeatureConfig()


def noise(seconds, rate_hz=16000, seed=0):
    """Noise with a slow swell, (S,) float32 within [-1, 1]."""
    count = round(seconds * rate_hz)
    samples = np.random.default_rng(seed).normal(size=count) * np.sin(np.arange(count) / 3000) * 0.1
    return samples.clip(-1, 1).astype(np.float32)


def tone(hertz, seconds, rate_hz):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def loudest_hertz(samples, rate_hz):
    spectrum = np.abs(np.fft.rfft(np.asarray(samples) * np.hanning(len(samples))))
    return spectrum.argmax() * rate_hz / len(samples)


def kaldi_native(samples, config):
    """The same features by kaldi-native-fbank, which ships them."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions() if config.kind == "fbank" else knf.MfccOptions()
    options.frame_opts.samp_freq = config.sample_rate_hz
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = config.snip_edges
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq, options.mel_opts.high_freq = config.low_freq_hz, config.high_freq_hz
    if config.kind == "mfcc":
        options.num_ceps, options.use_energy = config.num_ceps, False
    engine = knf.OnlineFbank(options) if config.kind == "fbank" else knf.OnlineMfcc(options)
    engine.accept_waveform(config.sample_rate_hz, samples.tolist())
    engine.input_finished()
    return np.stack([engine.get_frame(i) for i in range(engine.num_frames_ready)])


def from_the_description(samples, config):
    """The features by the numbered steps of `describe_features`, in numpy alone. Only the window is looked up by its name."""
    text, rate = describe_features(config), config.sample_rate_hz
    (length, shift) = map(int, re.search(r"Frames: (\d+) samples, every (\d+)", text).groups())
    (fft, bins) = int(re.search(r"up to (\d+) samples", text)[1]), int(re.search(r"6. (\d+) triangular", text)[1])
    low, high = map(float, re.search(r"from ([\d.]+) Hz\s+to ([\d.]+) Hz", text).groups())
    samples = np.asarray(samples, np.float64)
    if level := re.search(r"root mean square of ([\d.e-]+)", text):
        samples = samples * float(level[1]) / np.sqrt(np.mean(samples**2))
    if start := re.search(rf"starts at sample {shift} t - (\d+)", text):
        count, first = round(len(samples) / shift), -int(start[1])
    else:
        count, first = 1 + (len(samples) - length) // shift, 0
    places = first + shift * np.arange(count)[:, None] + np.arange(length)
    places = np.where(places < 0, -1 - places, places)
    frames = samples[np.where(places >= len(samples), 2 * len(samples) - 1 - places, places)]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))
    windows = {"povey": (hann**0.85, "^0.85"), "hamming": (0.54 - 0.46 * (1 - 2 * hann), "0.54 - 0.46 cos"),
               "rectangular": (1.0, "none")}  # fmt: skip
    window, said = windows[config.window]
    assert said in text
    power = np.abs(np.fft.rfft(frames * window, fft)[:, :-1]) ** 2
    mel = 1127 * np.log(1 + np.arange(fft // 2) * rate / fft / 700)
    points = np.linspace(*(1127 * np.log(1 + np.array([low, high]) / 700)), bins + 2)
    rise = (mel - points[:-2, None]) / (points[1:-1] - points[:-2])[:, None]
    fall = (points[2:, None] - mel) / (points[2:] - points[1:-1])[:, None]
    logs = np.log(np.maximum(power @ np.maximum(0, np.minimum(rise, fall)).T, 1.1920929e-07))
    if "8. Cepstrum" not in text:
        return logs
    ceps = int(re.search(r"the first (\d+) of them", text)[1])
    k = np.arange(ceps)[:, None]
    basis = np.sqrt(2 / bins) * np.cos(np.pi * k * (np.arange(bins) + 0.5) / bins) / np.where(k == 0, np.sqrt(2), 1)
    return logs @ basis.T * (1 + 11 * np.sin(np.pi * k[:, 0] / 22))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        FeatureConfig(snip_edges=True, window="hamming", level_dbfs=-25.0),
        FeatureConfig(sample_rate_hz=8000, num_mel_bins=40, high_freq_hz=3600.0, window="rectangular"),
        FeatureConfig(kind="mfcc", num_mel_bins=23, num_ceps=13, frame_length_ms=20.0),
    ],
    ids=str,
)
def test_a_client_can_be_written_from_the_description(config):
    for samples in (noise(0.5037, config.sample_rate_hz), np.zeros(4000, np.float32)):
        if config.level_dbfs and not samples.any():
            continue
        mine, theirs = (
            compute_features(torch.from_numpy(samples), config).numpy(),
            from_the_description(samples, config),
        )
        assert mine.shape == theirs.shape
        # very quiet frames differ most: of float32 against float64
        assert np.abs(mine - theirs).max() <= (2e-3 if config.kind == "fbank" else 1e-2)


def test_a_level_makes_features_the_same_however_loud_the_recording_was():
    config = FeatureConfig(level_dbfs=-25.0)
    samples = torch.from_numpy(noise(1.0))
    wanted = compute_features(samples, config)
    assert (compute_features(samples * 0.02, config) - wanted).abs().max() < 1e-3
    assert (compute_features(samples * 0.02, CONFIG) - compute_features(samples, CONFIG)).abs().max() > 5
    # energies are those of sound at that level
    at_level = samples * 10 ** (-25 / 20) / samples.square().mean().sqrt()
    assert (compute_features(at_level, CONFIG) - wanted).abs().max() < 1e-3
    silence = compute_features(torch.zeros(8000), config)
    assert torch.isfinite(silence).all() and torch.equal(silence, compute_features(torch.zeros(8000), CONFIG))


def test_settings_without_a_level_are_written_as_before_there_was_one(tmp_path):
    save_config(tmp_path / "a.yaml", CONFIG)
    assert "level_dbfs" not in (tmp_path / "a.yaml").read_text()
    levelled = FeatureConfig(level_dbfs=-25.0)
    save_config(tmp_path / "b.yaml", levelled)
    assert load_config(FeatureConfig, tmp_path / "a.yaml") == CONFIG
    assert load_config(FeatureConfig, tmp_path / "b.yaml") == levelled != CONFIG
    for level in (0.0, 3.0, -61.0):
        with pytest.raises(ConfigError, match="level_dbfs must be in"):
            from_dict(FeatureConfig, {"level_dbfs": level}, "features.yaml")


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        FeatureConfig(snip_edges=True),
        FeatureConfig(sample_rate_hz=8000, num_mel_bins=40, high_freq_hz=3600.0),
        FeatureConfig(kind="mfcc"),
        FeatureConfig(kind="mfcc", num_mel_bins=23, num_ceps=13),
    ],
    ids=str,
)
@pytest.mark.parametrize("seconds", [0.0251, 0.3333, 2.5])
def test_same_numbers_as_kaldi_native_fbank(config, seconds):
    samples = noise(seconds, config.sample_rate_hz)
    mine = compute_features(torch.from_numpy(samples), config).numpy()
    theirs = kaldi_native(samples, config)
    assert mine.shape == theirs.shape and mine.shape[1] == config.dim and mine.dtype == np.float32
    assert np.abs(mine - theirs).max() <= (2e-3 if config.kind == "fbank" else 1e-2)


@pytest.mark.skipif("AN4_DIR" not in os.environ, reason="AN4_DIR does not name a copy of AN4")
def test_same_numbers_as_kaldi_native_fbank_on_real_speech():
    paths = sorted(Path(os.environ["AN4_DIR"]).rglob("an4test_clstk/*/cen[12]*.*"))
    assert len(paths) >= 15
    for path in paths:
        samples = load_audio(str(path), 16000)
        difference = compute_features(samples, CONFIG).numpy() - kaldi_native(samples.numpy(), CONFIG)
        assert np.abs(difference).max() <= 2e-3, path


def test_digital_silence_has_finite_features():
    feats = compute_features(torch.zeros(16000), CONFIG)
    assert feats.shape == (100, 80) and torch.isfinite(feats).all()


@pytest.mark.parametrize("shape", [(399,), (0,), (1, 16000)])
def test_too_few_samples_or_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="filling a frame"):
        compute_features(torch.zeros(shape), CONFIG)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "plp"}, {"window": "hann"}, {"num_mel_bins": 2}, {"sample_rate_hz": 100}, {"frame_length_ms": 0.5},
        {"kind": "mfcc", "num_ceps": 90}, {"low_freq_hz": -1.0}, {"high_freq_hz": 9000.0}, {"high_freq_hz": -7990.0},
        {"num_bins": 80},
    ],
    ids=str,
)  # fmt: skip
def test_faulty_settings_are_refused(data):
    with pytest.raises(ConfigError):
        from_dict(FeatureConfig, data, "features.yaml")


def test_the_frame_rate_is_fixed():
    with pytest.raises(ConfigError, match="features.yaml: frame_shift_ms must be 10.0, not 12.5"):
        from_dict(FeatureConfig, {"frame_shift_ms": 12.5}, "features.yaml")


def test_settings_round_trip_and_the_shipped_ones_are_the_default(tmp_path):
    config = FeatureConfig(kind="mfcc", num_ceps=13)
    save_config(tmp_path / "features.yaml", config)
    assert load_config(FeatureConfig, tmp_path / "features.yaml") == config
    assert load_config(FeatureConfig, ROOT / "conf" / "features.yaml") == CONFIG


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.sph", "PCM_16"), ("b.wav", "FLOAT")]
)
def test_formats_read_as_the_same_samples(tmp_path, name, subtype):
    samples = np.round(noise(0.5) * 32768) / 32768
    soundfile.write(tmp_path / name, samples, 16000, subtype, format="NIST" if name.endswith("sph") else None)
    read = load_audio(str(tmp_path / name), 16000)
    assert read.dtype == torch.float32 and np.abs(read.numpy() - samples).max() == 0


def test_limits_cut_exactly_and_a_small_overshoot_is_dropped(tmp_path):
    samples = noise(1.0)
    soundfile.write(tmp_path / "a.wav", samples, 16000, "FLOAT")
    path = str(tmp_path / "a.wav")
    assert np.array_equal(load_audio(path, 16000, 0.25, 0.5), samples[4000:8000])
    assert np.array_equal(load_audio(path, 16000, 0.5), samples[8000:])
    assert np.array_equal(load_audio(path, 16000, 0.5, 1.4), samples[8000:])
    for limits in ((0.0, 1.6), (1.0, 1.2), (0.5, 0.5)):
        with pytest.raises(UserError, match="the sound file has 1.00 s"):
            load_audio(path, 16000, *limits)


def test_one_of_several_channels_is_named_or_the_file_refused(tmp_path):
    left, right = noise(0.5, seed=1), noise(0.5, seed=2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, "FLOAT")
    assert np.array_equal(load_audio(str(tmp_path / "a.wav"), 16000, channel=2), right)
    with pytest.raises(UserError, match="2 channels"):
        load_audio(str(tmp_path / "a.wav"), 16000)
    utt = Utterance("u", "s", "X", str(tmp_path / "a.wav"))
    with pytest.raises(UserError, match="2 channels"):
        utterance_features(utt, CONFIG)
    wanted = compute_features(torch.from_numpy(right), CONFIG)
    assert torch.equal(utterance_features(utt, CONFIG, channel=2), wanted)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path, rate_hz):
    soundfile.write(tmp_path / "a.wav", tone(1000, 1.0, rate_hz), rate_hz, "FLOAT")
    samples = load_audio(str(tmp_path / "a.wav"), 16000)
    assert abs(len(samples) - 16000) <= 1
    assert np.abs(samples.numpy()[1000:15000] - tone(1000, 1.0, 16000)[1000:15000]).max() < 0.02


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.97, 1.5])
def test_speed_changes_length_and_pitch_as_sox_does(factor):
    samples = change_speed(torch.from_numpy(tone(1000, 2.0, 16000)), factor)
    assert abs(len(samples) - 32000 / factor) <= 1
    assert abs(loudest_hertz(samples, 16000) - 1000 * factor) < 2
    assert Fraction(factor).limit_denominator(100) == Fraction(str(factor))


def test_faulty_audio_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(MissingInput, match="no such sound file"):
        load_audio(str(path), 16000)
    for bad in (np.array([0.1, np.nan, 0.1]), np.array([0.1, np.inf])):
        soundfile.write(path, bad, 16000, "FLOAT")
        with pytest.raises(UserError, match="samples are not finite"):
            load_audio(str(path), 16000)
    soundfile.write(path, noise(0.1) * 32768, 16000, "FLOAT")
    with pytest.raises(UserError, match=r"not scaled to \[-1, 1\]"):
        load_audio(str(path), 16000)
    soundfile.write(path, np.zeros(0), 16000)
    with pytest.raises(UserError, match="has 0.00 s"):
        load_audio(str(path), 16000)
    path.write_bytes(b"not a sound file")
    with pytest.raises(UserError, match="not a readable sound file"):
        load_audio(str(path), 16000)
    soundfile.write(path.with_suffix(".flac"), noise(1.0), 16000)
    whole = path.with_suffix(".flac").read_bytes()
    path.with_suffix(".flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        load_audio(str(path.with_suffix(".flac")), 16000)
    soundfile.write(path, noise(0.02), 16000)
    with pytest.raises(UserError, match="utterance u has 0.020 s"):
        utterance_features(Utterance("u", "s", "X", str(path)), CONFIG)


def test_commands_are_never_run(tmp_path):
    for place in (f"touch {tmp_path}/owned |", f"| touch {tmp_path}/owned", f"touch {tmp_path}/owned |:0"):
        with pytest.raises(UserError):
            load_audio(place, 16000)
        with pytest.raises(UserError):
            load_feature_matrix(place)
    assert not (tmp_path / "owned").exists()
