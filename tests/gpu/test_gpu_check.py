"""The GPU check itself, as far as it can be tried without a GPU."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from steps.core.config import load_config
from steps.data.batches import plan_batches
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from tests.gpu import card, limits, report, throughput
from tests.gpu.corpus import make_corpus
from tests.gpu.measured import ROOT, MeasuredTrainer, settings, train_until_measured


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    make_corpus(folder, utterances=60, recordings=12, sound=True)
    return folder


def test_the_corpus_is_one_and_the_same_stored_and_on_the_fly(made_up):
    tokenizer = Tokenizer.load(made_up / "tokenizer")
    assert tokenizer.vocab_size == 500
    features = load_config(FeatureConfig, ROOT / "conf/features.yaml")
    stored, computed = (SpeechDataset(made_up / "train", tokenizer, features, way) for way in ("ark", "on_the_fly"))
    assert stored.num_frames.tolist() == computed.num_frames.tolist()
    assert stored.features(3).shape == computed.features(3).shape
    assert len({stored.text(index) for index in range(60)}) == 60
    assert stored.num_frames.min() >= 200 and stored.num_frames.max() <= 1600
    assert not stored.unknown


@pytest.mark.parametrize("source", ["ark", "on_the_fly"])
def test_what_is_measured_is_what_was_trained_on(made_up, source, monkeypatch):
    """Two updates after one that warms up: the second and the third batch of the plan."""
    monkeypatch.setattr(MeasuredTrainer, "lengths_of", ((1, 0.0), (2, 0.0)))
    small = {"d_model": 16, "head_dim": 8, "subsampling_channels": [4, 4], "num_blocks": 1,
             "block": {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}}  # fmt: skip
    config = settings("teacher", max_batch_frames=6000, loader_workers=1) | {"model": small, "source": source}
    watch = train_until_measured(made_up, config, "cpu").watch
    data = MeasuredTrainer.last.train_data
    batches = [data.num_frames[indices] for indices in plan_batches(data.num_frames, 6000, 0, 0)[1:3]]
    assert watch.updates == 2
    assert watch.frames == sum(batch.sum() for batch in batches)
    assert watch.padded == sum(batch.max() * len(batch) for batch in batches)
    assert 0 < watch.waited_s < watch.seconds


def test_plans_cover_what_was_promised():
    rows = [row for name in ("teacher", "small_conformer", "large_conformer") for row in throughput.plan(name, 16)]
    assert {(name, loop.get("bf16", True)) for name, loop, _ in rows} == {
        (name, bf16) for name in ("teacher", "small_conformer", "large_conformer") for bf16 in (False, True)
    }
    assert [loop["loader_workers"] for _, loop, _ in throughput.plan("on_the_fly", 16)] == [4, 8, 14]
    assert {source for *_, source in throughput.plan("on_the_fly", 1)} == {"on_the_fly"}


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_peaks_are_those_of_the_very_card(name, tflops):
    assert card.peak_flops(name) == (tflops and tflops * 1e12)


def test_a_missing_package_leaves_out_what_needs_it():
    left_out = card.left_out(lambda package: package != "pytest")
    assert left_out == {"tests": "needs pytest"}
    left_out = card.left_out(lambda package: package not in ("kaldiio", "soundfile"))
    assert set(left_out) == set(card.SECTIONS) and set(left_out.values()) == {"needs kaldiio, soundfile"}


def test_the_gpu_is_busy_while_any_kernel_runs():
    def event(name, start, end, where=DeviceType.CUDA, note=False):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, device_type=where, time_range=span, is_user_annotation=note)

    events = [event("product", 0, 2000), event("copy", 1000, 3000), event("product", 7000, 8000)]
    events += [event("Optimizer.step", 0, 9000, note=True), event("aten::mm", 0, 9000, DeviceType.CPU)]
    events += [event("cudaStreamSynchronize", 3000, 7000, DeviceType.CPU)]
    facts = limits.kernel_facts(events, updates=2)
    assert facts["gpu_busy_ms"] == 2.0 and facts["gpu_busy_share_profiled"] == 0.5
    assert facts["launched_per_update"] == 1.5
    assert facts["kernels"] == {"product": [1.0, 1.5], "copy": [0.5, 1.0]}
    assert facts["driver_calls"] == {"cudaStreamSynchronize": [0.5, 2.0]}


def row(model, source="ark", speed=8000.0, **others):
    known = {"parameters": 15_600_000, "precision": "bf16", "loader_workers": 8, "max_batch_frames": 36000}
    known |= {
        "deterministic": False,
        "ms_per_update": 40.0,
        "waiting_share": 0.1,
        "padding_share": 0.08,
        "tflops": 20.0,
    }
    known |= {"bf16_peak_share": 0.02, "memory_gb": None}
    return {"model": model, "source": source, "audio_s_per_s": speed} | known | others


def test_the_report_names_goal_failures_and_who_keeps_up():
    error = {"model": "large_conformer", "source": "ark", "loop": {"bf16": False}, "error": "OutOfMemoryError: 80 GB"}
    results = {
        "sections": [["small_conformer", "ok", "30"], ["kills", "cut off after 120 s", "120"]],
        "small_conformer": [row("small_conformer"), row("small_conformer", speed=20000.0, max_batch_frames=72000)],
        "large_conformer": [error],
        "on_the_fly": [row("small_conformer", "on_the_fly", 7900.0), row("small_conformer", "on_the_fly", 3000.0)],
    }
    text = report.page(results, "trial")
    assert "here 8,000." in text
    assert "keep up: 99%" in text and "do not keep up: 38%" in text
    assert "OutOfMemoryError: 80 GB" in text and "cut off after 120 s" in text
    assert "not measured here" in report.page(results | {"small_conformer": None}, "trial")


def test_without_the_device_nothing_begins_and_the_report_says_so(tmp_path):
    words = ["tests/gpu.sh", "--out", tmp_path / "out", "--device", "cuda:99", "--commit", "abc"]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cuda:99: torch" in done.stdout and "no such CUDA device" in done.stdout
    assert json.loads((tmp_path / "out/results.json").read_text())["sections"][0][:2] == ["card", "failed"]
    assert (tmp_path / "out/results.md").is_file() and "no such CUDA device" in (tmp_path / "out/gpu.log").read_text()


@pytest.mark.parametrize("words", [[], ["--out"], ["--out", "x", "--only", "speed"], ["--fast"]])
def test_wrong_usage_is_refused(words, tmp_path):
    done = subprocess.run([ROOT / "tests/gpu.sh", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "tests/gpu.sh --out results" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_check_runs_on_a_cpu(tmp_path):
    words = [ROOT / "tests/gpu.sh", "--out", tmp_path / "out", "--device", "cpu", "--quick"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {became for _, became, _ in results["sections"]} == {"ok"} and len(results["sections"]) == 10
    assert results["kills"]["kills"] == 2
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert sys.version.split()[0] == results["card"]["python"]
