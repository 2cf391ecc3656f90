"""Stored features: those computed on the fly, whatever the number of parts; missing and damaged parts are noticed."""

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

import kaldiio
import numpy as np
import pytest
import soundfile

from steps import combine_features, extract_features
from steps.combine_features import STD_FLOOR, global_stats
from steps.core.cli import MissingInput, UserError, run_main
from steps.core.datadir import Utterance, read_data_dir, read_table, write_data_dir
from steps.data.archives import load_feature_matrix, read_feats_scp
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FeatureConfig()


def noise(seconds, seed):
    """(S,) samples at 16 kHz."""
    return (np.random.default_rng(seed).normal(size=round(seconds * 16000)) * 0.1).clip(-1, 1)


def make_data(folder, count=9):
    rows = []
    for number in range(count):
        path = folder / f"{number}.wav"
        soundfile.write(path, noise(0.3 + 0.17 * (number % 4), number), 16000)
        seconds = soundfile.info(path).duration
        speed = (0.9, 1.0, 1.1)[number % 3]
        rows.append(
            Utterance(f"s{number % 2}-{number}", f"s{number % 2}", "A", str(path), 0.0, None, seconds / speed, speed)
        )
    write_data_dir(folder / "data", rows)
    return folder / "data"


def run(program, *options):
    """Run a program within this process. Returns: (exit status, what it wrote to stderr)."""
    stderr = io.StringIO()
    argv = [f"steps/{program.__name__}.py", *map(str, options)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stderr(stderr):
        return run_main(program.main), stderr.getvalue()


def extract(data, num_shards, *options, shards=None):
    results = []
    for shard in shards or range(1, num_shards + 1):
        common = ("--data", data, "--config", ROOT / "conf" / "features.yaml", "--out", data / "feats")
        results.append(run(extract_features, *common, "--shard", shard, "--num-shards", num_shards, *options))
    common = ("--data", data, "--feats", data / "feats", "--num-shards", num_shards)
    return [*results, run(combine_features, *common, "--cmvn", data / "cmvn.json")]


def test_stored_features_are_those_computed_on_the_fly_whatever_the_number_of_parts(tmp_path):
    data = make_data(tmp_path)
    contents = []
    for num_shards in (3, 1):
        results = extract(data, num_shards)
        assert [status for status, _ in results] == [0] * (num_shards + 1), results[-1]
        contents.append([(data / name).read_bytes() for name in ("cmvn.json", "utt2num_frames")])
        places, frames = read_feats_scp(data / "feats.scp"), read_table(data / "utt2num_frames")
        for utt in read_data_dir(data):
            stored = load_feature_matrix(places[utt.utt_id])
            assert np.array_equal(stored, utterance_features(utt, CONFIG).numpy())
            assert np.array_equal(stored, kaldiio.load_mat(places[utt.utt_id]))
            assert len(stored) == int(frames[utt.utt_id])
    assert contents[0] == contents[1]
    assert not (data / "feats" / "feats.2.ark").exists(), "parts of the run with more of them are left"
    stats = json.loads((data / "cmvn.json").read_text())
    rows = np.concatenate([load_feature_matrix(place) for place in places.values()]).astype(np.float64)
    assert stats["frames"] == len(rows)
    assert np.allclose(stats["mean"], rows.mean(0), rtol=1e-12) and np.allclose(stats["std"], rows.std(0), rtol=1e-9)


def test_more_parts_than_utterances_and_compression(tmp_path):
    data = make_data(tmp_path, count=2)
    results = extract(data, 4, "--compress", "true")
    assert results[-1][0] == 0, results[-1]
    for utt in read_data_dir(data):
        exact = utterance_features(utt, CONFIG).numpy()
        stored = load_feature_matrix(read_feats_scp(data / "feats.scp")[utt.utt_id])
        assert 0 < np.abs(stored - exact).max() < 0.2
    size = sum(path.stat().st_size for path in (data / "feats").glob("*.ark"))
    assert size < 0.4 * 4 * 80 * sum(map(int, read_table(data / "utt2num_frames").values()))


def test_sound_of_another_rate_is_named(tmp_path, capsys):
    data = make_data(tmp_path)
    extract(data, 1)
    assert "is resampled" not in capsys.readouterr().out
    soundfile.write(tmp_path / "0.wav", np.zeros(8000) + 0.01, 8000)
    utterances = [Utterance(f"s-{n}", "s", "A", str(tmp_path / f"{n}.wav")) for n in range(2)]
    extract_features.tell_rates(utterances, CONFIG)
    extract_features.tell_rates(utterances[:1], CONFIG)
    extract_features.tell_rates(utterances, FeatureConfig(sample_rate_hz=8000))
    mixed, low, high = capsys.readouterr().out.splitlines()
    assert mixed.startswith("note: sound of 8000 Hz is resampled to the 16000 Hz") and "mixed rates" in mixed
    assert "set sample_rate_hz: 8000 in features.yaml" in low and "nothing to hear" in low
    assert "sound of 16000 Hz is resampled to the 8000 Hz" in high and "nothing to hear" not in high


def test_a_missing_part_is_noticed_and_old_features_do_not_stay(tmp_path):
    data = make_data(tmp_path)
    assert extract(data, 2)[-1][0] == 0
    extract(data, 3, shards=[1])
    assert not (data / "feats.scp").exists()
    status, message = run(combine_features, "--data", data, "--feats", data / "feats", "--num-shards", 3)
    assert status == 5 and "feats.3.scp: no such file" in message
    (data / "feats" / "feats.3.scp").write_text("")
    (data / "feats" / "utt2num_frames.3").write_text("")
    status, message = run(combine_features, "--data", data, "--feats", data / "feats", "--num-shards", 3)
    assert status == 1 and "is missing" in message and not (data / "feats.scp").exists()
    (data / "feats" / "feats.3.scp").write_bytes((data / "feats" / "feats.1.scp").read_bytes())
    status, message = run(combine_features, "--data", data, "--feats", data / "feats", "--num-shards", 3)
    assert status == 1 and "is in an earlier part, too" in message and not (data / "feats.scp").exists()


def test_a_part_that_leads_to_another_utterance_is_refused(tmp_path):
    data = make_data(tmp_path)
    assert extract(data, 1)[-1][0] == 0
    scp = data / "feats/feats.1.scp"
    (one, first), (two, second), *rest = [line.split() for line in scp.read_text().splitlines()]
    rows = [(one, second), (two, first), *rest]
    scp.write_text("".join(f"{key} {value}\n" for key, value in rows))
    (data / "feats/utt2num_frames.1").write_text("".join(f"{key} {number}\n" for key, number in frames_of(data, rows)))
    options = ("--data", data, "--feats", data / "feats", "--num-shards", 1, "--cmvn", data / "cmvn.json")
    status, message = run(combine_features, *options)
    assert status == 1 and f"not the features of {one}; extract features again" in message


def frames_of(data, rows):
    """Id and number of frames of what its place holds. Args: rows: (id, place)."""
    return [(key, len(load_feature_matrix(str(data / "feats" / place)))) for key, place in rows]


def test_parts_made_with_different_settings_are_not_put_together(tmp_path):
    data = make_data(tmp_path)
    extract(data, 3, "--compress", "true")
    (tmp_path / "mfcc.yaml").write_text("kind: mfcc\n")
    for options in (["--config", tmp_path / "mfcc.yaml", "--compress", "true"], []):
        status, message = extract(data, 3, *options, shards=[2])[-1]
        assert status == 1 and "settings.2.yaml: other settings than settings.1.yaml" in message
        assert not (data / "feats.scp").exists()
    (data / "feats/settings.3.yaml").unlink()
    assert "settings.3.yaml: no such file" in extract(data, 3, shards=[2])[-1][1]
    assert extract(data, 2)[-1][0] == 0 and not (data / "feats/settings.3.yaml").exists()


def test_all_faulty_files_are_told_and_nothing_is_left(tmp_path):
    data = make_data(tmp_path)
    for number in (3, 5):
        soundfile.write(tmp_path / f"{number}.wav", np.full(9000, np.nan), 16000, "FLOAT")
    status, message = extract(data, 1)[0]
    assert status == 1 and "2 problems found" in message
    assert f"{tmp_path}/3.wav" in message and f"{tmp_path}/5.wav" in message
    assert list((data / "feats").iterdir()) == []


def test_damaged_feature_files_are_refused(tmp_path):
    data = make_data(tmp_path)
    extract(data, 1)
    places = list(read_feats_scp(data / "feats.scp").values())
    ark = Path(places[0].rpartition(":")[0])
    with pytest.raises(UserError, match="no Kaldi matrix starts here"):
        load_feature_matrix(f"{ark}:0")
    content = ark.read_bytes()
    ark.write_bytes(content[:-1000])
    with pytest.raises(UserError, match="damaged feature file"):
        load_feature_matrix(places[-1])
    ark.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(UserError, match="not a matrix of finite numbers"):
        load_feature_matrix(places[-1])
    with pytest.raises(MissingInput):
        load_feature_matrix(f"{ark}.gone:5")


def test_global_stats_are_exact_far_from_zero_and_floored():
    rng = np.random.default_rng(0)
    rows = rng.normal(1e4, [1.0, 1e-6], size=(5000, 2)).astype(np.float32)
    count, mean, std = global_stats(np.split(rows, [1, 10, 2000]))
    exact = rows.astype(np.float64)
    assert count == 5000 and np.allclose(mean, exact.mean(0), rtol=1e-13)
    assert np.isclose(std[0], exact[:, 0].std(), rtol=1e-9) and std[1] == STD_FLOOR
