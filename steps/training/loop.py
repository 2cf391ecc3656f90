"""The training loop: teacher training, distillation and recovery after pruning differ only in the objective and the first weights."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steps.core.checkpoint import load_checkpoint, save_checkpoint
from steps.core.cli import Interrupted, UserError, say
from steps.core.config import check
from steps.data.augment import SpecAugmentConfig
from steps.data.batches import Batch
from steps.data.dataset import SpeechDataset
from steps.data.tokenizer import Tokenizer
from steps.models.asr_model import AsrModel
from steps.models.normalisation import GLOBAL
from steps.training import distributed
from steps.training.averaging import WeightAverage
from steps.training.data import Groups, batches_per_update, epoch_groups, load_groups
from steps.training.interrupt import StopRequest
from steps.training.monitor import Monitor, score_dev
from steps.training.optim import OptimConfig, clip_gradient_, learning_rate, make_optimizer

if TYPE_CHECKING:
    from steps.training.objectives import Objective


@dataclass
class LoopConfig:
    """How long and in what portions to train.

    epochs: passes over the data.  max_batch_frames: padded feature frames (10 ms) per batch.  accumulate: batches per update
    and process.  average_last: epochs whose final weights are averaged into the result.  dev_every: epochs between dev
    evaluations.  patience: stop after this many evaluations without a better dev loss and keep the best weights; 0: off, as it
    must be for models that are compared.  save_every_s: seconds between checkpoints.  loader_workers: processes that read ahead.
    bf16: where matrix products are in bfloat16; true: on CUDA, never on a CPU; amx: also on CPUs with AMX; false: nowhere.
    deterministic: the same training gives the same bits on one CUDA device, too, interrupted or not, on the same kind of card
    with the same versions; slower.
    """

    epochs: int = 60
    max_batch_frames: int = 12000
    accumulate: int = 1
    average_last: int = 5
    dev_every: int = 5
    patience: int = 0
    save_every_s: float = 60.0
    loader_workers: int = 0
    bf16: bool | str = True
    deterministic: bool = False

    def __post_init__(self):
        for name in ("epochs", "max_batch_frames", "accumulate", "average_last", "dev_every"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1")
        check(self.patience >= 0, "patience must be >= 0")
        check(self.save_every_s >= 0, "save_every_s must be >= 0")
        check(self.loader_workers >= 0, "loader_workers must be >= 0")
        check(self.bf16 in (True, False, "amx"), "bf16 must be true, false or amx")

    def bf16_on(self, device_type: str) -> bool:
        """Whether a `cpu` or `cuda` device multiplies in bfloat16.

        Raises: UserError for a CPU without AMX, which would emulate it.
        """
        if device_type == "cpu" and self.bf16 == "amx" and not torch.cpu._is_amx_tile_supported():
            raise UserError("loop.bf16: amx: this processor has no AMX; set bf16: true, which is float32 on a CPU")
        return self.bf16 == "amx" if device_type == "cpu" else bool(self.bf16)


class Trainer:
    """One training run, resumable bit for bit on a CPU, and on CUDA with `deterministic`.

    Args: objective: gives the sums of the loss terms.   tokenizer: for word errors on dev.   augment: None: no SpecAugment.
          out: folder for checkpoints/ and tensorboard/.   seed: for all random numbers.   stop: polled once per update.
          after_update: called with the model after each update, e.g. to keep pruned weights at zero.   after_epoch: the same,
          after each epoch.   convert: makes of the trained model the one to ship, e.g. with codes for weights.
    """

    def __init__(
        self,
        model: AsrModel,
        objective: "Objective",
        train_data: SpeechDataset,
        dev_data: SpeechDataset,
        tokenizer: Tokenizer,
        loop: LoopConfig,
        optim: OptimConfig,
        augment: SpecAugmentConfig | None,
        out: Path | str,
        seed: int,
        device: torch.device,
        stop: StopRequest,
        after_update: Callable[[AsrModel], None] | None = None,
        after_epoch: Callable[[AsrModel], None] | None = None,
        convert: Callable[[AsrModel], AsrModel] | None = None,
    ):
        self.model, self.objective = model.to(device), objective.to(device)
        self.train_data, self.dev_data, self.tokenizer = train_data, dev_data, tokenizer
        self.loop, self.optim, self.augment = loop, optim, augment
        self.checkpoints = Path(out) / "checkpoints"
        self.bf16 = loop.bf16_on(device.type)
        self.seed, self.device, self.stop = seed, device, stop
        self.after_update, self.after_epoch, self.convert = after_update, after_epoch, convert
        self.parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = make_optimizer(self.model, self.objective.parameters(), optim)
        self.average = WeightAverage()
        # updates done; the position in the data: epochs done, and batches of the current one
        self.step = self.epoch = self.batch = 0
        self.best: dict[str, Any] = {"loss": float("inf"), "epoch": -1, "weights": {}}
        self.dev: dict[str, Any] = {}
        self.seconds_before = 0.0
        self.monitor = Monitor(out, loop.epochs)

    def train(self) -> dict[str, Any]:
        """Train to the end, or save and raise Interrupted. Afterwards the model holds the weights to ship. Returns: dev scores."""
        self.resume()
        self.monitor.start(self.step)
        while self.epoch < self.loop.epochs and not self.out_of_patience():
            groups = epoch_groups(self.train_data, self.loop, self.seed, self.epoch, self.batch)
            size = batches_per_update(self.loop)
            # of this epoch; a whole number unless the number of processes changed within it
            updates = self.batch / size + len(groups)
            for batches in self.load(groups):
                self.update(batches, progress=(self.epoch + self.batch / size / updates) / self.loop.epochs)
                self.save_if_due()
            self.end_epoch()
        self.finish()
        return self.dev

    def load(self, groups: Groups) -> Iterator[list[Batch]]:
        """Read the groups of this epoch that are left. Yields: the batches of one update."""
        # what masked features are set to: the mean that will be subtracted
        of_corpus = self.model.normalisation == GLOBAL
        fill = self.model.feature_mean.cpu().numpy() if of_corpus else None
        objective = self.objective
        clean = objective.wants_clean(len(self.train_data))
        augment = self.augment and self.augment.in_epoch(self.epoch, self.loop.epochs)
        rest = self.loop, augment, fill, self.seed, self.epoch, clean
        return load_groups(self.train_data, groups, *rest)

    def update(self, batches: list[Batch], progress: float) -> None:
        """One optimizer step on a group of batches: loss = sum over the group / encoder frames of the group, in all processes."""
        self.model.train()
        rate = learning_rate(progress, self.optim)
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = rate
        # counted before the batches move: reading a number on a GPU waits for it
        frames = sum(batch.weight * int(self.model.output_lengths(batch.lengths).sum()) for batch in batches)
        audio_frames = sum(batch.weight * int(batch.lengths.sum()) for batch in batches)
        batches = [batch.to(self.device) for batch in batches]
        with self.autocast():
            lessons, taught = self.objective.prepare(self.model, batches)
        total_frames, total_taught = distributed.sum_over_processes([frames, taught], self.device)
        share = total_frames / total_taught if total_taught else 1.0
        sums: dict[str, Any] = {}
        for index, (batch, lesson) in enumerate(zip(batches, lessons, strict=True)):
            self.seed_dropout(index)
            with self.autocast():
                terms = self.objective(self.model, batch, lesson, share)
            loss = batch.weight * sum(terms.values()) / total_frames
            loss.backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + batch.weight * value.detach().double()
        distributed.sum_gradients_(self.parameters)
        norm = clip_gradient_(self.parameters, self.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # all numbers at once, after the last kernel is launched
        norm, *values = torch.stack([norm.double(), *sums.values()]).tolist()
        if norm - norm != 0:
            raise UserError(
                f"step {self.step}: the gradient is not finite ({batches[0].utt_ids[0]}, ...); lower optim.peak_lr"
            )
        if self.after_update:
            self.after_update(self.model)
        self.step, self.batch = self.step + 1, self.batch + batches_per_update(self.loop)
        audio_frames, *values = distributed.sum_over_processes([audio_frames, *values], self.device)
        sums = dict(zip(sums, values, strict=True))
        self.monitor.update(self.step, self.epoch, progress, sums, total_frames, rate, norm, audio_frames)

    def seed_dropout(self, index: int) -> None:
        """Dropout depends on (seed, step, micro-batch) alone: nothing to save, and the number of processes does not matter."""
        micro = index * distributed.world_size() + distributed.rank()
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 4096 + micro)

    def autocast(self) -> torch.autocast:
        """bfloat16 where the settings enable it; plain float32 otherwise."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def end_epoch(self) -> None:
        """Average, evaluate on dev, move on to the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        if self.epoch > self.loop.epochs - self.loop.average_last:
            self.average.add(self.model)
        if self.epoch % self.loop.dev_every == 0:
            self.dev = self.evaluate_dev(f"epoch {self.epoch}/{self.loop.epochs}")
            if self.loop.patience and self.dev["loss"] < self.best["loss"]:
                weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                self.best = {"loss": self.dev["loss"], "epoch": self.epoch, "weights": weights}
        if self.after_epoch:
            self.after_epoch(self.model)

    def out_of_patience(self) -> bool:
        """Whether early stopping is on and dev has not improved for long enough."""
        evaluations = (self.epoch - max(self.best["epoch"], 0)) // self.loop.dev_every
        return bool(self.loop.patience) and self.batch == 0 and evaluations >= self.loop.patience

    def evaluate_dev(self, when: str) -> dict[str, Any]:
        """Loss and greedy errors on dev with the weights as they are. Returns: see `score_dev`."""
        self.monitor.report()
        dev = score_dev(self.model, self.dev_data, self.tokenizer, self.loop.max_batch_frames, self.device)
        numbers = ("loss", "wer", "cer")
        dev |= zip(numbers, distributed.from_first_process([dev[name] for name in numbers], self.device), strict=True)
        how = self.model.describe_chunk()
        self.monitor.dev(self.step, f"{when}, {how}" if how else when, dev)
        return dev

    def finish(self) -> None:
        """Put the averaged (or, with early stopping, the best) weights into the model, convert it if asked to, and evaluate on dev
        what will ship."""
        if self.best["weights"]:
            self.model.load_state_dict(self.best["weights"])
            when = f"best epoch {self.best['epoch']}"
        else:
            self.average.copy_to_(self.model)
            when = f"average of the last {self.average.count} epochs"
        if self.after_update:
            self.after_update(self.model)
        if self.convert:
            self.model = self.convert(self.model).to(self.device)
        self.dev = self.evaluate_dev(when)
        self.monitor.close()

    def save_if_due(self) -> None:
        """Save when the interval is over; save and exit when asked to stop. All processes decide alike."""
        asked, due = self.stop.poll(), int(self.monitor.seconds_since_save() > self.loop.save_every_s)
        if distributed.world_size() > 1:
            asked, due = map(int, distributed.max_over_processes([asked, due], self.device))
        if not (asked or due):
            return
        began_s = time.monotonic()
        if distributed.rank() == 0:
            save_checkpoint(self.checkpoints, self.step, self.state_dict())
        distributed.barrier()
        # in every process, because the next save is due when one of them says so
        self.monitor.saved(time.monotonic() - began_s)
        if asked:
            raise Interrupted(asked, f"saved at step {self.step}; the same command continues from there")

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs: tensors and plain values."""
        return {
            "seed": self.seed,
            "position": [self.step, self.epoch, self.batch],
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "dev": self.dev,
            "seconds": self.seconds(),
        }

    def seconds(self) -> float:
        """Wall time of the training so far, earlier runs included."""
        return self.seconds_before + self.monitor.seconds()

    def resume(self) -> None:
        """Continue from the newest complete checkpoint, if there is one."""
        state = load_checkpoint(self.checkpoints)
        if state is None:
            return
        remedy = "remove the folder to start over"
        try:
            if state["seed"] != self.seed:
                raise UserError(f"{self.checkpoints}: made with seed {state['seed']}, not {self.seed}; {remedy}")
            self.step, self.epoch, self.batch = state["position"]
            self.model.load_state_dict(state["model"])
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state["average"], self.device)
            self.best, self.dev, self.seconds_before = state["best"], state["dev"], state["seconds"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.checkpoints}: the checkpoint belongs to another training ({reason}); {remedy}"
            ) from None
        say(f"resumed at step {self.step} (epoch {self.epoch + 1}) from {self.checkpoints}")
