"""Trains a tiny model and writes its loss at every update; started by test_distributed.py, in one or more processes."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from steps.core.cli import make_parser, run_main
from steps.core.config import load_config
from steps.core.outdir import write_json
from steps.data.augment import SpecAugmentConfig
from steps.data.cmvn import read_cmvn
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.training import distributed
from steps.training.loop import LoopConfig, Trainer
from steps.training.monitor import Monitor
from steps.training.objectives import TranscriptObjective
from steps.training.optim import OptimConfig

SIZES = {"d_model": 16, "head_dim": 8, "kernel_size": 3, "subsampling_channels": [4, 4], "num_blocks": 1}
SIZES["block"] = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}


class Recorder(Monitor):
    """Loss per encoder frame of all processes, at each update; which utterances were taken."""

    def __init__(self, *words):
        super().__init__(*words)
        self.losses, self.seen = [], []

    def update(self, step, epoch, done, sums, frames, *rest):
        self.losses.append(sum(sums.values()) / frames)
        super().update(step, epoch, done, sums, frames, *rest)


def main():
    parser = make_parser(__doc__)
    for name in ("--train", "--dev", "--tokenizer", "--features", "--out"):
        parser.add_argument(name)
    for name in ("--accumulate", "--stop-at", "--epochs"):
        parser.add_argument(name, type=int, default=1)
    args = parser.parse_args()
    device = distributed.start("cpu", 1)
    tokenizer, features = Tokenizer.load(args.tokenizer), load_config(FeatureConfig, args.features)
    train, dev = (SpeechDataset(folder, tokenizer, features) for folder in (args.train, args.dev))
    torch.manual_seed(0)
    model = build_model(new_spec("conformer", SIZES, features.dim, tokenizer.vocab_size, "test"))
    cmvn = read_cmvn(Path(args.train) / "cmvn.json", features.dim)
    model.set_cmvn_(cmvn["mean"], cmvn["std"])
    # Five batches an epoch: neither two processes nor two batches an update come out even.
    loop = LoopConfig(
        epochs=args.epochs, max_batch_frames=700, accumulate=args.accumulate, average_last=1, save_every_s=1e9
    )
    augment, optim = SpecAugmentConfig(freq_width=4, time_width=4), OptimConfig(peak_lr=3e-3)
    stop = SimpleNamespace(poll=lambda: 75 if trainer.step == args.stop_at else 0)
    trainer = Trainer(
        model, TranscriptObjective(CtcConfig(), model), train, dev, tokenizer, loop, optim, augment, args.out, 0, device, stop
    )  # fmt: skip
    trainer.monitor = Recorder(args.out, loop.epochs)
    load_batches = trainer.load

    def load(groups):
        for batches in load_batches(groups):
            trainer.monitor.seen += [utt for batch in batches if batch.weight for utt in batch.utt_ids]
            yield batches

    trainer.load = load
    try:
        trainer.train()
    finally:
        part = {"losses": trainer.monitor.losses, "seen": trainer.monitor.seen}
        part["weights"] = [float(p.detach().double().sum()) for p in model.parameters()]
        number = len(list(Path(args.out).glob(f"curve.{distributed.rank()}.*")))
        write_json(Path(args.out) / f"curve.{distributed.rank()}.{number}", part)


if __name__ == "__main__":
    sys.exit(run_main(main))
