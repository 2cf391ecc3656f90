"""What limits the speed of a training: where an update's time goes, how busy the GPU is, who makes the CPU wait for it.

    python3 -m tests.gpu.limits --corpus /tmp/made-up --device cuda --out /tmp/limits.json

Trains small_conformer as tests/gpu/throughput.py does and measures, one after the other: how long the loop spends on each
part of an update; kernels and time on the GPU, from torch's profiler; the lines at which the CPU waits for the GPU.
"""

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from steps.core.cli import add_common, make_parser, run_main, say
from steps.training.loop import Trainer
from tests.gpu.measured import ROOT, Enough, MeasuredTrainer, settings, train_until_measured, write_rows
from tests.gpu.throughput import QUICK

MODEL = "small_conformer"
SHOWN = 15


class TakenApart(MeasuredTrainer):
    """The Trainer, which says what it does with the time. warm_up, timed, profiled: numbers of updates. found: the result."""

    warm_up, timed, profiled = 20, 20, 4
    found = None

    def load(self, groups):
        """As ever, but after the warm-up the updates are taken apart. Raises: Enough."""
        stream = Trainer.load(self, groups)
        for count, batches in enumerate(stream):
            yield batches
            if count + 1 == self.warm_up:
                self.take_apart(stream)
                raise Enough

    def update(self, batches, progress):
        """As ever."""
        Trainer.update(self, batches, progress)

    def take_apart(self, stream):
        """Measure everything; what fails is noted and costs the rest nothing."""
        parts = [self.time_parts]
        if self.device.type == "cuda":
            parts += [self.profile_kernels, self.find_waits]
        TakenApart.found = {"model": MODEL, "loader_workers": self.loop.loader_workers}
        for part in parts:
            try:
                self.found.update(part(stream))
            except Exception as error:
                self.found.setdefault("errors", []).append(f"{part.__name__}: {type(error).__name__}: {error}")

    def time_parts(self, stream):
        """Milliseconds of the CPU in each part of an update. Where it waits for the GPU, that is waiting."""
        marks, backward = [], torch.Tensor.backward

        def note(name):
            marks.append((name, time.perf_counter()))

        def timed_backward(*args, **options):
            backward(*args, **options)
            note("backward")

        last = getattr(self.optimizer, "optimizers", [self.optimizer])[-1]
        hooks = [
            self.objective.register_forward_pre_hook(lambda *_: note("batch to the device")),
            self.objective.register_forward_hook(lambda *_: note("forward and loss")),
            last.register_step_post_hook(lambda *_: note("clipping and optimizer")),
        ]
        self.watch.wait()
        note("begin")
        with mock.patch.object(torch.Tensor, "backward", timed_backward):
            for _ in range(self.timed):
                batches = next(stream)
                note("next batch from the loader")
                self.update(batches, progress=0.5)
                note("numbers and monitor")
        self.watch.wait()
        note("rest")
        for hook in hooks:
            hook.remove()
        spent = Counter()
        for (_, before_s), (name, now_s) in zip(marks, marks[1:], strict=False):
            spent[name] += 1000 * (now_s - before_s) / self.timed
        return {"ms_per_update": spent.total(), "cpu_ms": dict(spent)}

    def profile_kernels(self, stream):
        """Kernels, their time and calls of the driver, per update."""
        batches = [next(stream) for _ in range(self.profiled)]
        self.watch.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for group in batches:
                self.update(group, progress=0.5)
            self.watch.wait()
        return kernel_facts(profiler.events(), self.profiled)

    def find_waits(self, stream):
        """Lines at which the CPU waits for the GPU, and how often in an update."""
        batches = next(stream)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.update(batches, progress=0.5)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found = Counter(place(warning) for warning in caught if "synchronizing" in str(warning.message))
        return {"waits_per_update": dict(found)}


def place(warning: warnings.WarningMessage) -> str:
    """`file:line` that a warning was raised at, the file relative to the repository or to site-packages."""
    path = Path(warning.filename)
    parts = path.parts
    short = Path(*parts[parts.index("site-packages") + 1 :]) if "site-packages" in parts else path
    return f"{short.relative_to(ROOT) if short.is_relative_to(ROOT) else short}:{warning.lineno}"


def kernel_facts(events: Iterable, updates: int) -> dict[str, Any]:
    """What the profiler saw on the GPU. Args: events: of torch's profiler.   updates: that it watched.  Returns: dict."""
    spans, kernels, calls = [], {}, {}
    for event in events:
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        # Annotations span what they annotate, pauses included.
        if getattr(event, "is_user_annotation", False) or not (on_gpu or event.name.startswith("cu")):
            continue
        start_us, end_us = event.time_range.start, event.time_range.end
        table, name = (kernels, event.name[:90]) if on_gpu else (calls, event.name)
        count, spent_us = table.get(name, (0, 0.0))
        table[name] = (count + 1, spent_us + end_us - start_us)
        if on_gpu:
            spans.append((start_us, end_us))
    busy_us = covered(spans)
    whole_us = max(end for _, end in spans) - min(start for start, _ in spans)
    tables = {}
    for key, table in (("kernels", kernels), ("driver_calls", calls)):
        longest = sorted(table.items(), key=lambda item: -item[1][1])[:SHOWN]
        tables[key] = {name: [count / updates, spent / 1000 / updates] for name, (count, spent) in longest}
    return {
        "gpu_busy_ms": busy_us / 1000 / updates,
        "gpu_busy_share_profiled": busy_us / whole_us,
        "launched_per_update": len(spans) / updates,
        **tables,
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals. Args: spans: list of (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def main():
    parser = make_parser(__doc__)
    add_common(parser, out="JSON file of the result", device=True)
    parser.add_argument("--corpus", required=True, metavar="DIR", help="folder of tests.gpu.corpus")
    parser.add_argument("--quick", action="store_true", help="a few small updates")
    args = parser.parse_args()
    loop = {"loader_workers": max(1, os.cpu_count() // 2)}
    if args.quick:
        TakenApart.warm_up, TakenApart.timed, TakenApart.profiled = 1, 2, 1
        loop = QUICK | {"loader_workers": 1}
    train_until_measured(args.corpus, settings(MODEL, **loop), args.device, TakenApart)
    write_rows(args.out, [TakenApart.found])
    say(str(TakenApart.found))
    if TakenApart.found.get("errors"):
        sys.exit("\n".join(TakenApart.found["errors"]))


if __name__ == "__main__":
    sys.exit(run_main(main))
