"""Speed of exported models: all in one process, in turns, so that a disturbance hits all of them alike."""

import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steps.core.cli import UserError
from steps.core.datadir import Utterance
from steps.core.exports import model_hashes, onnx_bytes, shipped_bytes
from steps.core.tables import counted
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features, utterance_samples
from steps.data.online_features import chunk_by_chunk
from steps.deploy.macs import count_macs
from steps.deploy.memory import measure_memory
from steps.deploy.realtime import arriving
from steps.deploy.runtimes import Recogniser, load_recogniser
from steps.models.build import read_spec

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
PACKAGES = ("onnxruntime", "torch", "torchaudio", "numpy")


@dataclass(frozen=True)
class Passes:
    """Seconds: one list per timed pass, one number per input. cpu_s: CPU time of the working threads.   wall_s: wall time."""

    cpu_s: list[list[float]]
    wall_s: list[list[float]]

    def totals(self, clock: str = "cpu_s") -> list[float]:
        """Seconds of each whole pass."""
        return [sum(values) for values in getattr(self, clock)]


@dataclass(frozen=True)
class Extraction:
    """How a model gets its features: of a whole utterance at once, or, as sound would arrive, chunk by chunk.

    read, advanced: frames that a chunk reads, and advances by; 0 for a model that does not stream.
    """

    features: FeatureConfig
    read: int = 0
    advanced: int = 0

    @classmethod
    def of(cls, recogniser: Recogniser) -> "Extraction":
        """That of an exported model."""
        network = getattr(recogniser, "network", None)
        return cls(recogniser.features, *((network.width, network.shift) if network else ()))

    def run(self, samples: torch.Tensor) -> None:
        """Compute the features of one utterance: what is timed. Args: samples (S,) float32."""
        if not self.read:
            compute_features(samples, self.features)
            return
        pieces = arriving(samples.numpy(), self.features.sample_rate_hz)
        for _ in chunk_by_chunk(pieces, self.features, self.read, self.advanced):
            pass


def model_name(folder: str | Path) -> str:
    """The model an exported folder belongs to: the folder above `export`."""
    folder = Path(folder).resolve()
    return folder.parent.name if folder.name == "export" else folder.name


def name_folders(folders: Iterable[str | Path]) -> dict[str, Path]:
    """Name exported folders by their models. Returns: {name: path}.   Raises: UserError when two have the same name."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = model_name(folder)
        if name in named:
            raise UserError(f"{named[name]} and {folder} are both called {name!r}; measure them separately")
        named[name] = Path(folder)
    return named


def sample_utterances(utterances: Sequence[Utterance], count: int, seed: int) -> list[Utterance]:
    """At most `count` utterances, drawn at random with a seed, in their original order."""
    if len(utterances) <= count:
        return list(utterances)
    chosen = set(random.Random(seed).sample(range(len(utterances)), count))
    return [utt for index, utt in enumerate(utterances) if index in chosen]


def time_in_turns(
    tasks: Mapping[Any, Callable[[Any], Any]],
    inputs: Mapping[Any, Sequence],
    repeats: int,
    seed: int,
    cpu_clocks: Mapping[Any, Callable[[], float]] | None = None,
) -> dict[Any, Passes]:
    """Time functions over their inputs, in a new random order for each repeat.

    Args:    tasks: {name: function of one input}.   inputs: {name: list of inputs}.   repeats: timed passes of each task,
             after one untimed pass.   cpu_clocks: {name: clock} where it is not the calling thread's.
    Returns: {name: Passes}.
    """
    order, draw = list(tasks), random.Random(seed)
    passes = {name: Passes([], []) for name in tasks}
    for repeat in range(repeats + 1):
        draw.shuffle(order)
        for name in order:
            cpu_s, wall_s = time_pass(tasks[name], inputs[name], (cpu_clocks or {}).get(name, time.thread_time))
            if repeat:
                passes[name].cpu_s.append(cpu_s)
                passes[name].wall_s.append(wall_s)
    return passes


def time_pass(
    run: Callable[[Any], Any], inputs: Iterable, cpu_clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Time a function on each input. Returns: (CPU seconds of each, wall seconds of each)."""
    cpu_s, wall_s = [], []
    for value in inputs:
        cpu, wall = cpu_clock(), time.perf_counter()
        run(value)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(cpu_clock() - cpu)
    return cpu_s, wall_s


def benchmark(
    folders: Mapping[str, Path],
    utterances: Sequence[Utterance],
    repeats: int = 7,
    seed: int = 0,
    reference: str | None = None,
) -> dict[str, Any]:
    """Measure exported folders, on one thread and on all.

    Args:    folders: {name: exported folder}.   utterances: their audio is read before anything is timed.
             repeats: timed passes over all utterances, at least 5.   reference: name of the model that all are compared
             with (default: the first).
    Returns: {"settings", "models"}, ready for JSON; a model's entry holds the fields of `speed_row`, `threads_row`,
             `latency_row`, `load_row`, `measure_memory`, `size_row` and, under "ratios", `ratio_rows`; under "files" the SHA-256
             of its files.
    """
    torch.set_num_threads(1)
    cores, files = len(os.sched_getaffinity(0)), {name: model_hashes(folder) for name, folder in folders.items()}
    loads = time_in_turns(dict.fromkeys(folders, load_recogniser), {n: [f] for n, f in folders.items()}, repeats, seed)
    recognisers = {name: load_recogniser(folder, num_threads=1) for name, folder in folders.items()}
    feats, samples = read_inputs(recognisers.values(), utterances)
    tasks: dict[Any, Callable] = {}
    inputs: dict[Any, list] = {}
    clocks: dict[Any, Callable[[], float]] = {}
    for name, recogniser in recognisers.items():
        threaded = load_recogniser(folders[name], num_threads=cores)
        tasks[name], tasks[name, "all"] = recogniser.run, threaded.run
        inputs[name] = inputs[name, "all"] = feats[recogniser.features]
        clocks[name, "all"] = time.process_time
        extraction = Extraction.of(recogniser)
        tasks[extraction], inputs[extraction] = extraction.run, samples[recogniser.features]
    passes = time_in_turns(tasks, inputs, repeats, seed, clocks)
    config, values = next(iter(samples.items()))
    audio_s = sum(map(len, values)) / config.sample_rate_hz
    models = {}
    for name, recogniser in recognisers.items():
        own, features = passes[name], passes[Extraction.of(recogniser)]
        row: dict[str, Any] = speed_row(own, features, audio_s) | threads_row(passes[name, "all"], audio_s)
        row |= latency_row(own, features) | load_row(loads[name])
        row |= measure_memory(folders[name], feats[recogniser.features]) | size_row(folders[name])
        row["files"] = files[name]
        models[name] = row
    reference = reference or next(iter(folders))
    for name, folder in folders.items():
        bases = {reference} | (set(folders) & {float_parent(folder)})
        models[name]["ratios"] = ratio_rows(name, sorted(bases - {name}), passes, models)
    settings: dict[str, Any] = {"num_threads": 1, "all_threads": cores, "repeats": repeats}
    settings |= {"utterances": len(values)}
    settings |= {"audio_s": round(audio_s, 2), "seed": seed, "reference": reference}
    return {"settings": settings, "models": models}


def read_inputs(
    recognisers: Iterable[Recogniser], utterances: Sequence[Utterance]
) -> tuple[dict[FeatureConfig, list[np.ndarray]], dict[FeatureConfig, list[torch.Tensor]]]:
    """Read what is timed; utterances that fill no frame are left out, as nothing is computed of them.

    Returns: (T, D) features by their settings, (S,) samples by the same settings.   Raises: UserError where none is left.
    """
    configs = dict.fromkeys(recogniser.features for recogniser in recognisers)
    read = {config: [utterance_samples(utt, config.sample_rate_hz) for utt in utterances] for config in configs}
    kept = [
        i for i in range(len(utterances)) if all(len(read[config][i]) >= config.frame_samples for config in configs)
    ]
    if not kept:
        raise UserError(f"none of {counted(len(utterances), 'utterance')} is as long as a frame; nothing can be timed")
    samples = {config: [values[i] for i in kept] for config, values in read.items()}
    return {c: [compute_features(s, c).numpy() for s in values] for c, values in samples.items()}, samples


def speed_row(passes: Passes, features: Passes, audio_s: float) -> dict[str, float]:
    """Real-time factors of one model on one thread: CPU or wall seconds per second of audio, medians of the repeats.

    Returns: {"rtf": CPU time of the network, of a transducer with greedy search, "rtf_spread": its interquartile range,
             "rtf_features": CPU time of the features, "rtf_with_features": the sum, "wall_rtf": wall time of the network}.
    """
    low, rtf, high = (value / audio_s for value in statistics.quantiles(passes.totals(), n=4, method="inclusive"))
    features_rtf = statistics.median(features.totals()) / audio_s
    row = {"rtf": rtf, "rtf_spread": high - low, "rtf_features": features_rtf, "rtf_with_features": rtf + features_rtf}
    row["wall_rtf"] = statistics.median(passes.totals("wall_s")) / audio_s
    return {key: round(value, 7) for key, value in row.items()}


def threads_row(passes: Passes, audio_s: float) -> dict[str, float]:
    """The network on all threads: {"all_threads_wall_rtf", "all_threads_cpu_rtf": their CPU time added up}."""
    wall, cpu = (statistics.median(passes.totals(clock)) / audio_s for clock in ("wall_s", "cpu_s"))
    return {"all_threads_wall_rtf": round(wall, 7), "all_threads_cpu_rtf": round(cpu, 7)}


def latency_row(passes: Passes, features: Passes) -> dict[str, dict[str, float]]:
    """Wall time from samples to log-probabilities, one thread, over all utterances and repeats: {"latency_ms": {...}}."""
    pairs = zip(passes.wall_s, features.wall_s, strict=True)
    sums = [1000 * (a + b) for one, two in pairs for a, b in zip(one, two, strict=True)]
    return {"latency_ms": {f"p{share}": round(float(np.percentile(sums, share)), 3) for share in (50, 90, 99)}}


def load_row(passes: Passes) -> dict[str, float]:
    """Wall time to open the folder: median and interquartile range of the repeats, {"load_s", "load_s_spread"}."""
    low, middle, high = statistics.quantiles(passes.totals("wall_s"), n=4, method="inclusive")
    return {"load_s": round(middle, 4), "load_s_spread": round(high - low, 4)}


def ratio_rows(
    name: str, bases: Iterable[str], passes: Mapping[Any, Passes], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """How a model compares with others: {base: {"times_faster", "low", "high": quartiles, "bytes": share of its bytes}}.

    Repeats are paired, so that a disturbance hits both. CPU time of the network on one thread.
    """
    rows = {}
    for base in bases:
        ratios = [b / a for a, b in zip(passes[name].totals(), passes[base].totals(), strict=True)]
        low, middle, high = (round(value, 3) for value in statistics.quantiles(ratios, n=4, method="inclusive"))
        share = round(models[name]["bytes"] / models[base]["bytes"], 4)
        rows[base] = {"times_faster": middle, "low": low, "high": high, "bytes": share}
    return rows


def float_parent(folder: Path) -> str | None:
    """Name of the float model that an int8 one was made from; None for others, or without a model folder above."""
    above = folder.resolve().parent
    spec = read_spec(above) if (above / "model.json").is_file() else {}
    return (spec.get("parent") or {}).get("name") if spec.get("quantization") else None


def size_row(folder: Path) -> dict[str, int | None]:
    """Bytes of an exported folder, and what the model folder above it says about the model (None without one)."""
    sizes = shipped_bytes(folder)
    row: dict[str, int | None] = {"bytes": sum(sizes.values()), "model_bytes": onnx_bytes(sizes)}
    row |= {"parameters": None, "nonzero_parameters": None, "macs_per_second": round(count_macs(folder))}
    above = folder.resolve().parent
    if (above / "model.json").is_file():
        spec = read_spec(above)
        row |= {key: spec[key] for key in ("parameters", "nonzero_parameters")}
    return row


def describe_host() -> dict[str, Any]:
    """The processor, those of its instruction sets that matter for int8, and versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "versions": {"python": platform.python_version()} | versions,
    }
