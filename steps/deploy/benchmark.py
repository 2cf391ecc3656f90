"""Speed of exported models: all in one process, in turns, so that what disturbs one disturbs all."""

import importlib.metadata
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from steps.core.cli import UserError
from steps.core.outdir import SHIPPED, model_hashes
from steps.data.features import change_speed, compute_features, load_audio
from steps.deploy.macs import count_macs
from steps.deploy.memory import measure_memory
from steps.deploy.runtimes import load_recogniser
from steps.models.build import read_spec

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
PACKAGES = ("onnxruntime", "torch", "torchaudio", "numpy")


@dataclass(frozen=True)
class Passes:
    """Seconds, one list per timed pass, one number per input. cpu_s: of the threads that worked.  wall_s: by the clock."""

    cpu_s: list
    wall_s: list

    def totals(self, clock="cpu_s"):
        """Seconds of each whole pass."""
        return [sum(values) for values in getattr(self, clock)]


def model_name(folder):
    """The model an exported folder belongs to: the folder above `export`."""
    folder = Path(folder).resolve()
    return folder.parent.name if folder.name == "export" else folder.name


def name_folders(folders):
    """Names of exported folders. Returns: {name: path}.   Raises: UserError when two have the same name."""
    named = {}
    for folder in folders:
        name = model_name(folder)
        if name in named:
            raise UserError(f"{named[name]} and {folder} are both called {name!r}; measure them separately")
        named[name] = Path(folder)
    return named


def sample_utterances(utterances, count, seed):
    """At most `count` utterances, drawn with a seed, in their order. Returns: list."""
    if len(utterances) <= count:
        return list(utterances)
    chosen = set(random.Random(seed).sample(range(len(utterances)), count))
    return [utt for index, utt in enumerate(utterances) if index in chosen]


def read_samples(utterances, sample_rate_hz):
    """Audio of utterances, as features are computed from it. Returns: list of (S,) float32 tensors."""
    samples = (load_audio(utt.audio, sample_rate_hz, utt.start_s, utt.end_s) for utt in utterances)
    return [change_speed(s, utt.speed) if utt.speed != 1.0 else s for s, utt in zip(samples, utterances, strict=True)]


def time_in_turns(tasks, inputs, repeats, seed, cpu_clocks=None):
    """Time functions over the same inputs, in an order that is drawn anew for each repeat.

    Args:    tasks: {name: function of one input}.   inputs: {name: list of inputs}.   repeats: timed passes of each;
             one more goes before them untimed.   cpu_clocks: {name: clock}, where it is not that of the calling thread.
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


def time_pass(run, inputs, cpu_clock):
    """Time a function on each input. Returns: (CPU seconds of each, wall seconds of each)."""
    cpu_s, wall_s = [], []
    for value in inputs:
        cpu, wall = cpu_clock(), time.perf_counter()
        run(value)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(cpu_clock() - cpu)
    return cpu_s, wall_s


def benchmark(folders, utterances, repeats=7, seed=0, reference=None):
    """Measure exported folders, on one thread and on all.

    Args:    folders: {name: exported folder}.   utterances: list of Utterance; audio is read before anything is timed.
             repeats: timed passes over all utterances, at least 5.   reference: name of the model that all are compared
             with (default: the first).
    Returns: {"settings", "models"}, ready for JSON; what a model's entry holds: `speed_row`, `latency_row`, `load_row`,
             `measure_memory`, `size_row`, `ratio_rows`, and the SHA-256 of its files.
    """
    torch.set_num_threads(1)
    cores, files = len(os.sched_getaffinity(0)), {name: model_hashes(folder) for name, folder in folders.items()}
    loads = time_in_turns(dict.fromkeys(folders, load_recogniser), {n: [f] for n, f in folders.items()}, repeats, seed)
    recognisers = {name: load_recogniser(folder, num_threads=1) for name, folder in folders.items()}
    feats, samples = read_inputs(recognisers.values(), utterances)
    tasks, inputs, clocks = {}, {}, {}
    for name, recogniser in recognisers.items():
        threaded = load_recogniser(folders[name], num_threads=cores)
        tasks[name], tasks[name, "all"] = recogniser.log_probs, threaded.log_probs
        inputs[name] = inputs[name, "all"] = feats[recogniser.features]
        clocks[name, "all"] = time.process_time
    for config, values in samples.items():
        tasks[config], inputs[config] = (lambda s, config=config: compute_features(s, config)), values
    passes = time_in_turns(tasks, inputs, repeats, seed, clocks)
    config, values = next(iter(samples.items()))
    audio_s = sum(map(len, values)) / config.sample_rate_hz
    models = {}
    for name, recogniser in recognisers.items():
        own, features = passes[name], passes[recogniser.features]
        row = speed_row(own, features, audio_s) | threads_row(passes[name, "all"], audio_s)
        row |= latency_row(own, features) | load_row(loads[name])
        row |= measure_memory(folders[name], feats[recogniser.features]) | size_row(folders[name])
        row["files"] = files[name]
        models[name] = row
    reference = reference or next(iter(folders))
    for name, folder in folders.items():
        bases = {reference} | ({float_parent(folder)} & set(folders))
        models[name]["ratios"] = ratio_rows(name, sorted(bases - {name}), passes, models)
    settings = {"num_threads": 1, "all_threads": cores, "repeats": repeats, "utterances": len(utterances)}
    settings |= {"audio_s": round(audio_s, 2), "seed": seed, "reference": reference}
    return {"settings": settings, "models": models}


def read_inputs(recognisers, utterances):
    """What is timed. Returns: ({FeatureConfig: list of (T, D) arrays}, {FeatureConfig: list of (S,) tensors})."""
    configs = dict.fromkeys(recogniser.features for recogniser in recognisers)
    samples = {config: read_samples(utterances, config.sample_rate_hz) for config in configs}
    return {c: [compute_features(s, c).numpy() for s in values] for c, values in samples.items()}, samples


def speed_row(passes, features, audio_s):
    """Real-time factors of one model on one thread: CPU or wall seconds per second of audio, medians of the repeats.

    Returns: {"rtf": CPU time of the network, "rtf_spread": its interquartile range, "rtf_features": of the features alone,
             "rtf_with_features": the sum, "wall_rtf": the network by the clock}.
    """
    low, rtf, high = (value / audio_s for value in statistics.quantiles(passes.totals(), n=4, method="inclusive"))
    features_rtf = statistics.median(features.totals()) / audio_s
    row = {"rtf": rtf, "rtf_spread": high - low, "rtf_features": features_rtf, "rtf_with_features": rtf + features_rtf}
    row["wall_rtf"] = statistics.median(passes.totals("wall_s")) / audio_s
    return {key: round(value, 7) for key, value in row.items()}


def threads_row(passes, audio_s):
    """The network on all threads: {"all_threads_wall_rtf", "all_threads_cpu_rtf": CPU time of all of them}."""
    wall, cpu = (statistics.median(passes.totals(clock)) / audio_s for clock in ("wall_s", "cpu_s"))
    return {"all_threads_wall_rtf": round(wall, 7), "all_threads_cpu_rtf": round(cpu, 7)}


def latency_row(passes, features):
    """Wall time from samples to log-probabilities, one thread, over all utterances and repeats: {"latency_ms": {...}}."""
    pairs = zip(passes.wall_s, features.wall_s, strict=True)
    sums = [1000 * (a + b) for one, two in pairs for a, b in zip(one, two, strict=True)]
    return {"latency_ms": {f"p{share}": round(float(np.percentile(sums, share)), 3) for share in (50, 90, 99)}}


def load_row(passes):
    """Wall time to open the folder: median and interquartile range of the repeats, {"load_s", "load_s_spread"}."""
    low, middle, high = statistics.quantiles(passes.totals("wall_s"), n=4, method="inclusive")
    return {"load_s": round(middle, 4), "load_s_spread": round(high - low, 4)}


def ratio_rows(name, bases, passes, models):
    """How a model compares with others: {base: {"times_faster", "low", "high": quartiles, "bytes": share of its bytes}}.

    Repeats are paired: what disturbs one disturbs the other. CPU time of the network on one thread.
    """
    rows = {}
    for base in bases:
        ratios = [b / a for a, b in zip(passes[name].totals(), passes[base].totals(), strict=True)]
        low, middle, high = (round(value, 3) for value in statistics.quantiles(ratios, n=4, method="inclusive"))
        share = round(models[name]["bytes"] / models[base]["bytes"], 4)
        rows[base] = {"times_faster": middle, "low": low, "high": high, "bytes": share}
    return rows


def float_parent(folder):
    """Name of the float model that an int8 one was made of; None for others, or without a model folder above."""
    above = folder.resolve().parent
    spec = read_spec(above) if (above / "model.json").is_file() else {}
    return (spec.get("parent") or {}).get("name") if spec.get("quantization") else None


def size_row(folder):
    """Bytes of an exported folder, and what the model folder above it says of the model (None without one)."""
    sizes = {name: (folder / name).stat().st_size for name in SHIPPED}
    row = {"bytes": sum(sizes.values()), "model_bytes": sizes["model.onnx"]}
    row |= {"parameters": None, "nonzero_parameters": None, "macs_per_second": round(count_macs(folder))}
    above = folder.resolve().parent
    if (above / "model.json").is_file():
        spec = read_spec(above)
        row |= {key: spec[key] for key in ("parameters", "nonzero_parameters")}
    return row


def describe_host():
    """Processor, its instructions that matter for int8, and versions. Returns: dict."""
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
