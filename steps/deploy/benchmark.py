"""Speed of exported models: all in one process and on one thread, in turns, so that what disturbs one disturbs all."""

import importlib.metadata
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from steps.compress.footprint import predict
from steps.core.cli import UserError
from steps.core.outdir import SHIPPED
from steps.data.features import change_speed, compute_features, load_audio
from steps.deploy.runtimes import load_recogniser
from steps.models.build import read_spec

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
PACKAGES = ("onnxruntime", "torch", "torchaudio", "numpy")


@dataclass(frozen=True)
class Passes:
    """Seconds that each pass over all utterances took. cpu_s: of the calling thread.  wall_s: by the clock."""

    cpu_s: list
    wall_s: list


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


def time_in_turns(tasks, inputs, repeats, seed):
    """Time functions over the same inputs, in an order that is drawn anew for each repeat.

    Args:    tasks: {name: function of one input}.   inputs: {name: list of inputs}.   repeats: timed passes of each;
             one more goes before them untimed.
    Returns: {name: Passes}.
    """
    order, draw = list(tasks), random.Random(seed)
    passes = {name: Passes([], []) for name in tasks}
    for repeat in range(repeats + 1):
        draw.shuffle(order)
        for name in order:
            run = tasks[name]
            cpu_s, wall_s = time.thread_time(), time.perf_counter()
            for value in inputs[name]:
                run(value)
            cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
            if repeat:
                passes[name].cpu_s.append(cpu_s)
                passes[name].wall_s.append(wall_s)
    return passes


def benchmark(folders, utterances, repeats=7, seed=0):
    """Measure exported folders on one thread.

    Args:    folders: {name: exported folder}.   utterances: list of Utterance; audio is read before anything is timed.
             repeats: timed passes over all utterances, at least 5.
    Returns: {"settings", "models"}, ready for JSON. Real-time factors (rtf) are seconds per second of audio: `rtf` CPU
             time of the network, `rtf_spread` its interquartile range over repeats, `rtf_features` of the features
             alone, `rtf_with_features` the sum, `wall_rtf` the network by the clock. `load_s`: opening it, once.
    """
    torch.set_num_threads(1)
    recognisers, load_s = {}, {}
    for name, folder in folders.items():
        start_s = time.perf_counter()
        recognisers[name] = load_recogniser(folder, num_threads=1)
        load_s[name] = time.perf_counter() - start_s
    configs = {recogniser.features for recogniser in recognisers.values()}
    samples = {config: read_samples(utterances, config.sample_rate_hz) for config in configs}
    feats = {config: [compute_features(s, config).numpy() for s in values] for config, values in samples.items()}
    tasks = {name: recogniser.log_probs for name, recogniser in recognisers.items()}
    inputs = {name: feats[recogniser.features] for name, recogniser in recognisers.items()}
    for config in configs:
        tasks[config], inputs[config] = (lambda s, config=config: compute_features(s, config)), samples[config]
    passes = time_in_turns(tasks, inputs, repeats, seed)
    config = next(iter(configs))
    audio_s = sum(len(s) for s in samples[config]) / config.sample_rate_hz
    models = {}
    for name, recogniser in recognisers.items():
        features_rtf = statistics.median(passes[recogniser.features].cpu_s) / audio_s
        speeds = speed_row(passes[name], audio_s, features_rtf)
        models[name] = speeds | {"load_s": round(load_s[name], 4)} | size_row(folders[name])
    settings = {"num_threads": 1, "repeats": repeats, "utterances": len(utterances), "audio_s": round(audio_s, 2)}
    return {"settings": settings | {"seed": seed}, "models": models}


def speed_row(passes, audio_s, features_rtf):
    """Real-time factors of one model; see `benchmark`."""
    low, rtf, high = (value / audio_s for value in statistics.quantiles(passes.cpu_s, n=4, method="inclusive"))
    row = {"rtf": rtf, "rtf_spread": high - low, "rtf_features": features_rtf, "rtf_with_features": rtf + features_rtf}
    row["wall_rtf"] = statistics.median(passes.wall_s) / audio_s
    return {key: round(value, 7) for key, value in row.items()}


def size_row(folder):
    """Bytes of an exported folder, and what the model folder above it says of the model (None without one)."""
    sizes = {name: (folder / name).stat().st_size for name in SHIPPED}
    row = {"bytes": sum(sizes.values()), "model_bytes": sizes["model.onnx"]}
    row |= {"parameters": None, "macs_per_second": None}
    above = folder.resolve().parent
    if (above / "model.json").is_file():
        spec = read_spec(above)
        row |= {"parameters": spec["parameters"], "macs_per_second": round(predict(spec).macs_per_second)}
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
