"""How fast a training runs, by model, precision, source of features and loader workers: rows of JSON.

    python3 -m tests.gpu.throughput --corpus /tmp/made-up --plan small_conformer --device cuda --out /tmp/rows.json

Plans: teacher, small_conformer, large_conformer (settings of conf/), on_the_fly (small_conformer, features computed while
it trains), deterministic (small_conformer). The training is the real one (tests/gpu/measured.py); --quick runs two small
updates of each row, to see that everything works.
"""

import argparse
import gc
import os
import sys
import time
from typing import Any

import torch

from steps.compress.footprint import predict
from steps.core.cli import add_common, make_parser, run_main, say
from steps.core.config import load_config
from steps.core.datadir import read_data_dir
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from tests.gpu import card
from tests.gpu.measured import FRAMES_PER_S, ROOT, MeasuredTrainer, settings, train_until_measured, write_rows

FLOPS_PER_MAC = 6  # two for the forward pass, twice as many for the backward pass
WARM_UP, WINDOW = (12, 1.5), (20, 4.0)
QUICK = {"max_batch_frames": 300}


def plan(name: str, cores: int) -> list[tuple[str, dict[str, Any], str]]:
    """Rows to measure. Args: cores: of the machine.  Returns: list of (model, settings of its loop, source)."""
    many = {"loader_workers": max(1, cores // 2)}
    if name == "on_the_fly":
        counts = sorted({max(1, cores // 4), max(1, cores // 2), max(1, cores - 2)})
        return [("small_conformer", {"loader_workers": count}, "on_the_fly") for count in counts]
    if name == "deterministic":
        return [("small_conformer", many | {"deterministic": True}, "ark")]
    rows = [(name, {"bf16": False}, "ark"), (name, {}, "ark"), (name, many, "ark")]
    if name == "small_conformer":
        rows.append((name, many | {"max_batch_frames": 72000}, "ark"))
    return rows


def measure(model: str, loop: dict[str, Any], source: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model for some seconds. Returns: dict, a row of the results."""
    config = settings(model, **loop | (QUICK if args.quick else {})) | {"source": source}
    watched = train_until_measured(args.corpus, config, args.device)
    watch, settled = watched.watch, watched.loop
    audio_s = watch.frames / FRAMES_PER_S
    macs = predict(watched.model.spec).macs_per_second
    on_gpu = watched.device.type == "cuda"
    peak = card.peak_flops(torch.cuda.get_device_name(watched.device)) if on_gpu else None
    flops = FLOPS_PER_MAC * macs * audio_s / watch.seconds
    return {
        "model": model,
        "parameters": sum(p.numel() for p in watched.model.parameters()),
        "precision": "bf16" if watched.bf16 else "fp32",
        "source": source,
        "loader_workers": settled.loader_workers,
        "max_batch_frames": settled.max_batch_frames,
        "deterministic": settled.deterministic,
        "updates": watch.updates,
        "seconds": watch.seconds,
        "audio_s_per_s": audio_s / watch.seconds,
        "ms_per_update": 1000 * watch.seconds / watch.updates,
        "waiting_share": watch.waited_s / watch.seconds,
        "padding_share": 1 - watch.frames / watch.padded,
        "macs_per_audio_s": macs,
        "tflops": flops / 1e12,
        "bf16_peak_share": flops / peak if peak else None,
        "memory_gb": torch.cuda.max_memory_allocated(watched.device) / 1e9 if on_gpu else None,
        "reserved_gb": torch.cuda.max_memory_reserved(watched.device) / 1e9 if on_gpu else None,
    }


def features_per_core(corpus: str, count: int) -> float:
    """Seconds of audio whose features one core computes in a second, reading included."""
    torch.set_num_threads(1)
    config = load_config(FeatureConfig, ROOT / "conf/features.yaml")
    utterances = read_data_dir(f"{corpus}/train")[:count]
    utterance_features(utterances[0], config)
    began_s = time.perf_counter()
    frames = sum(len(utterance_features(utt, config)) for utt in utterances)
    return frames / FRAMES_PER_S / (time.perf_counter() - began_s)


def main():
    parser = make_parser(__doc__)
    add_common(parser, out="JSON file of the rows", device=True)
    parser.add_argument("--corpus", required=True, metavar="DIR", help="folder of tests.gpu.corpus")
    parser.add_argument("--plan", required=True, help="what to measure, see above")
    parser.add_argument("--quick", action="store_true", help="two small updates of each row")
    args = parser.parse_args()
    MeasuredTrainer.lengths_of = ((1, 0.0), (2, 0.0)) if args.quick else (WARM_UP, WINDOW)
    rows = []
    if args.plan == "on_the_fly":
        rows.append({"features_audio_s_per_s_per_core": features_per_core(args.corpus, 4 if args.quick else 60)})
    for model, loop, source in plan(args.plan, os.cpu_count() if not args.quick else 2):
        try:
            rows.append(measure(model, loop, source, args))
        except Exception as error:
            rows.append({"model": model, "loop": loop, "source": source, "error": f"{type(error).__name__}: {error}"})
        say(str(rows[-1]))
        write_rows(args.out, rows)
        MeasuredTrainer.last = None
        gc.collect()
        torch.cuda.empty_cache()
    if any("error" in row for row in rows):
        sys.exit(f"{args.plan}: a row could not be measured")


if __name__ == "__main__":
    sys.exit(run_main(main))
