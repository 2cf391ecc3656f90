"""The benchmark counts what it should, samples by seed, and its file fits the report."""

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from steps import benchmark as program
from steps.compress.footprint import macs_per_second
from steps.core.cli import UserError
from steps.core.config import save_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import sha256_file
from steps.data import features
from steps.data.feature_config import FeatureConfig
from steps.deploy import benchmark as library
from steps.deploy.benchmark import (
    Passes,
    latency_row,
    name_folders,
    ratio_rows,
    sample_utterances,
    speed_row,
    time_in_turns,
)
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.models.build import build_model, new_spec, save_model


def test_every_task_runs_on_every_input_in_every_repeat():
    calls = []
    tasks = {name: lambda value, name=name: calls.append((name, value)) for name in "ab"}
    passes = time_in_turns(tasks, {"a": [1, 2], "b": [3]}, repeats=6, seed=0)
    assert [calls.count(call) for call in (("a", 1), ("a", 2), ("b", 3))] == [7, 7, 7]
    assert [calls.index(("a", 1)) - calls.index(("a", 2))] == [-1]
    assert all(len(p.cpu_s) == len(p.wall_s) == 6 for p in passes.values())
    assert {len(times) for times in passes["a"].wall_s} == {2} and {len(times) for times in passes["b"].cpu_s} == {1}
    firsts = {next(call[0] for call in calls[i : i + 3]) for i in range(0, 21, 3)}
    assert firsts == {"a", "b"}  # the order changes


def test_sleeping_is_wall_time_and_not_cpu_time():
    passes = time_in_turns({"sleep": time.sleep}, {"sleep": [0.01]}, repeats=5, seed=0)["sleep"]
    assert min(passes.totals("wall_s")) >= 0.01 and max(passes.totals()) < 0.01


MADE = Passes(
    [[0.5, 0.5], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [100.0, 0.0]], [[1.0, 1.0]] * 3 + [[8.0, 1.0], [9.0, 0.0]]
)
FEATURES = Passes([[0.25, 0.25]] * 5, [[0.5, 1.0]] * 5)


def test_speed_is_the_median_per_second_of_audio():
    row = speed_row(MADE, FEATURES, audio_s=10.0)
    assert row == {"rtf": 0.3, "rtf_spread": 0.2, "rtf_features": 0.05, "rtf_with_features": 0.35, "wall_rtf": 0.2}


def test_latency_is_of_features_and_network_together():
    """Ten calls: 1.5 s and 2 s three times each, 8.5, 2, 9.5 and 1 s."""
    assert latency_row(MADE, FEATURES)["latency_ms"] == {"p50": 2000.0, "p90": 8600.0, "p99": 9410.0}


def test_ratios_pair_the_repeats():
    """What slows both models down in a repeat leaves their ratio alone."""
    slow = Passes([[2.0 * sum(times)] for times in MADE.cpu_s], MADE.wall_s)
    rows = ratio_rows("small", ["big"], {"small": MADE, "big": slow}, {"small": {"bytes": 5}, "big": {"bytes": 20}})
    assert rows == {"big": {"times_faster": 2.0, "low": 2.0, "high": 2.0, "bytes": 0.25}}


def test_samples_follow_the_seed():
    utterances = list(range(100))
    assert sample_utterances(utterances, 100, 0) == utterances
    drawn = sample_utterances(utterances, 10, 0)
    assert drawn == sorted(drawn) == sample_utterances(utterances, 10, 0) != sample_utterances(utterances, 10, 1)
    assert len(set(drawn)) == 10


def test_names_are_those_of_the_models(tmp_path):
    folders = [tmp_path / "a/export", tmp_path / "b/export", tmp_path / "shipped"]
    assert list(name_folders(folders)) == ["a", "b", "shipped"]
    with pytest.raises(UserError, match="both called 'a'"):
        name_folders([tmp_path / "a/export", tmp_path / "c/a"])


def beside(root):
    """What belongs to every model folder."""
    return {name: root / name for name in ("tokens.txt", "tokenizer.model", "features.yaml")}


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """Experiment folder with two exported models, and a data folder of four utterances."""
    root = tmp_path_factory.mktemp("exp")
    (root / "tokens.txt").write_text("<blk> 0\na 1\nb 2\n")
    (root / "tokenizer.model").write_bytes(b"not read")
    save_config(root / "features.yaml", FeatureConfig(num_mel_bins=20))
    for name, units in (("small", 8), ("large", 400)):
        torch.manual_seed(0)
        model = build_model(new_spec("dnn", {"d_model": 16, "block": {"units": units}}, 20, 3, "test")).eval()
        save_model(root / name, model, beside(root))
        export_folder(root / name, root / name / "export")
    random = np.random.default_rng(0)
    utterances = []
    for number in range(4):
        path = root / f"{number}.wav"
        soundfile.write(path, random.uniform(-0.1, 0.1, 16000), 16000)
        utterances.append(Utterance(f"s-{number}", "s", "a b", str(path)))
    write_data_dir(root / "data", utterances)
    return root


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, args)])
    program.main()


def test_program(exp, monkeypatch):
    models = [exp / "small/export", exp / "large/export"]
    run(monkeypatch, "--models", *models, "--data", exp / "data", "--out", exp / "b.json", "--max-utterances", 3)
    result = json.loads((exp / "b.json").read_text())
    assert list(result["models"]) == ["small", "large"] and result["settings"]["audio_s"] == 3.0
    assert result["host"]["cpu"] and result["host"]["versions"]["onnxruntime"]
    for name, row in result["models"].items():
        spec = json.loads((exp / name / "model.json").read_text())
        files = [exp / name / "export" / f for f in ("model.onnx", "tokens.txt", "features.yaml")]
        assert row["bytes"] == sum(f.stat().st_size for f in files) and row["model_bytes"] == files[0].stat().st_size
        assert row["parameters"] == spec["parameters"] and row["files"] == {f.name: sha256_file(f) for f in files}
        assert row["macs_per_second"] == pytest.approx(macs_per_second(build_model(spec).eval()), abs=1)
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["load_s"] > 0 and row["all_threads_wall_rtf"] > 0
        # of these, the nets and the sound take less than a megabyte
        assert 5e7 < row["peak_memory_bytes"] < 1e9 and 0 < row["model_memory_bytes"] < 1e7
        assert 0 < row["rtf"] < row["rtf_with_features"] == pytest.approx(row["rtf"] + row["rtf_features"], abs=2e-7)
    small, large = result["models"]["small"], result["models"]["large"]
    assert list(large["ratios"]) == ["small"] and small["ratios"] == {}
    ratio = large["ratios"]["small"]
    assert ratio["bytes"] == round(large["bytes"] / small["bytes"], 4) > 1
    assert 0 < ratio["low"] <= ratio["times_faster"] <= ratio["high"]  # which one is faster is the machine's affair


def test_what_fills_no_frame_is_not_timed(exp, monkeypatch, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.1), 16000)
    short = Utterance("s-0", "s", "a", str(tmp_path / "short.wav"))
    for more, said in (
        ([Utterance("s-1", "s", "a", str(exp / "1.wav"))], None),
        ([], "none of 1 utterance is as long"),
    ):
        write_data_dir(tmp_path / "data", [short, *more])
        words = ("--models", exp / "small/export", "--data", tmp_path / "data", "--out", tmp_path / "b.json")
        if said:
            with pytest.raises(UserError, match=said):
                run(monkeypatch, *words)
            continue
        run(monkeypatch, *words)
        settings = json.loads((tmp_path / "b.json").read_text())["settings"]
        assert (settings["utterances"], settings["audio_s"]) == (1, 1.0)


def test_a_streaming_model_gets_its_features_chunk_by_chunk(exp, monkeypatch):
    """By a clock that counts how often features are computed. A second is 100 frames; chunks read 16 and more, and advance by 16."""
    sizes = {"d_model": 16, "context": 3, "block": {"units": 8}, "streaming": {"chunk_ms": 160}}
    save_model(exp / "stream", build_model(new_spec("dnn", sizes, 20, 3, "test")).eval(), beside(exp))
    export_folder(exp / "stream", exp / "stream/export")
    calls = []

    def counted(samples, config):
        calls.append(len(samples))
        return compute(samples, config)

    compute, width = features.compute_features, load_recogniser(exp / "stream/export").network.width
    for place in (features, library):
        monkeypatch.setattr(place, "compute_features", counted)
    clock = SimpleNamespace(
        thread_time=lambda: len(calls), process_time=time.process_time, perf_counter=lambda: len(calls)
    )
    monkeypatch.setattr(library, "time", clock)
    for name in ("measure_memory", "ratio_rows"):
        monkeypatch.setattr(library, name, lambda *_: {})
    found = library.benchmark(
        {name: exp / name / "export" for name in ("small", "stream")}, read_data_dir(exp / "data", need_text=False)
    )["models"]
    chunks = -(-(100 - width) // 16) + 1
    assert 1 < chunks < 8
    for name, most in (("small", 1), ("stream", chunks)):
        assert (found[name]["rtf"], found[name]["rtf_features"], found[name]["rtf_with_features"]) == (0, most, most)
        assert found[name]["latency_ms"]["p50"] == 1000 * most


def test_model_folders_are_refused(exp, monkeypatch):
    with pytest.raises(UserError, match="not an exported folder"):
        run(monkeypatch, "--models", exp / "small", "--data", exp / "data", "--out", exp / "c.json")


def test_an_unknown_reference_is_refused(exp, monkeypatch):
    args = ["--models", exp / "small/export", "--data", exp / "data", "--out", exp / "d.json", "--reference", "smal"]
    with pytest.raises(UserError, match="did you mean 'small'"):
        run(monkeypatch, *args)
