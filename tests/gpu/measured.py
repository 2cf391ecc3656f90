"""A training as users run it, `python3 -m steps.train_teacher`, with a stopwatch in its loop; it ends once it is measured."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from steps import train_teacher
from steps.training import setup
from steps.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]
FRAMES_PER_S = 100


class Enough(Exception):
    """The training has been measured."""


class Stopwatch:
    """Counts updates and what they hold, once the first ones are over.

    Args: device: torch.device.   warm_up, window: (least updates, least seconds) before measuring, and measured.
    Attributes: seconds, updates, frames, padded (feature frames without and with padding), waited_s (for the loader).
    """

    def __init__(self, device, warm_up, window):
        self.device, self.warm_up, self.window = device, warm_up, window
        self.measuring, self.seconds = False, 0.0
        self.start()

    def start(self):
        """Begin to count."""
        self.wait()
        self.updates, self.frames, self.padded, self.waited_s = 0, 0, 0, 0.0
        self.began_s = time.perf_counter()

    def wait(self):
        """Let the device finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def add(self, batches):
        """Count one update. Raises: Enough when the window is over."""
        self.updates += 1
        self.frames += sum(int(batch.lengths.sum()) for batch in batches)
        self.padded += sum(batch.feats.shape[0] * batch.feats.shape[1] for batch in batches)
        least, least_s = self.window if self.measuring else self.warm_up
        if self.updates < least or time.perf_counter() - self.began_s < least_s:
            return
        self.wait()
        self.seconds = time.perf_counter() - self.began_s
        if self.measuring:
            raise Enough
        self.measuring = True
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.start()


class MeasuredTrainer(Trainer):
    """The Trainer with a stopwatch. `lengths_of` is a Stopwatch's warm_up and window; set before the program is called."""

    lengths_of = ((12, 1.5), (20, 5.0))
    last = None

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.watch = Stopwatch(self.device, *self.lengths_of)
        MeasuredTrainer.last = self

    def load(self, groups):
        """As ever; how long the loop waits for the next batches is counted."""
        stream = super().load(groups)
        while True:
            began_s = time.perf_counter()
            batches = next(stream, None)
            self.watch.waited_s += time.perf_counter() - began_s
            if batches is None:
                return
            yield batches

    def update(self, batches, progress):
        """As ever, and count."""
        super().update(batches, progress)
        self.watch.add(batches)


def train_until_measured(
    corpus: str | Path, config: dict[str, Any], device: str, trainer: type[MeasuredTrainer] = MeasuredTrainer
) -> MeasuredTrainer:
    """Run steps.train_teacher on a made-up corpus until its stopwatch has enough.

    Args:    corpus: folder of tests.gpu.corpus.   config: settings, a mapping.   trainer: MeasuredTrainer or a kind of it.
    Returns: the trainer.
    """
    corpus = Path(corpus)
    with tempfile.TemporaryDirectory(prefix="measured-") as folder:
        path = Path(folder) / "conf.yaml"
        path.write_text(yaml.safe_dump(config))
        words = ["--data", corpus / "train", "--dev", corpus / "dev", "--tokenizer", corpus / "tokenizer"]
        words += ["--features", ROOT / "conf/features.yaml", "--config", path, "--out", Path(folder) / "model"]
        command = ["train_teacher", *map(str, words), "--device", device, "--num-threads", "1"]
        with mock.patch.object(setup, "Trainer", trainer), mock.patch.object(sys, "argv", command):
            try:
                train_teacher.main()
            except Enough:
                trainer.last.monitor.close()
                return trainer.last
    raise AssertionError("the training ended before it was measured; make the corpus larger")


def settings(name: str, **loop: Any) -> dict[str, Any]:
    """The settings of conf/<name>.yaml, with other ones of its loop."""
    found = yaml.safe_load((ROOT / f"conf/{name}.yaml").read_text(encoding="utf-8"))
    return found | {"loop": found["loop"] | loop}


def write_rows(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON, by rename, so that a part remains when this is cut off."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(rows, indent=1))
    os.replace(path.with_suffix(".tmp"), path)
