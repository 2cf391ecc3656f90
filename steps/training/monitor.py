"""What a training reports: progress lines, TensorBoard, and its score on dev."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from steps.core.cli import say
from steps.data.batches import BatchLoader
from steps.data.dataset import SpeechDataset
from steps.data.tokenizer import Tokenizer
from steps.models.asr_model import AsrModel
from steps.scoring.wer import count_errors
from steps.training import distributed

LOG_EVERY_S, LOG_EVERY = 10.0, 0.1


def time_left(seconds: float) -> str:
    """Remaining time in words, such as `12 min left`. Args: seconds >= 0."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit} left" if seconds < 9.95 * size else f"{seconds / size:.0f} {unit} left"
    return f"{seconds:.0f} s left"


def _keep_quiet(args, others=threading.excepthook):
    """TensorBoard's writing thread: what it fails with is raised by the next write, and reported there."""
    if type(args.thread).__name__ != "_AsyncWriterThread" or not isinstance(args.exc_value, OSError):
        others(args)


class Monitor:
    """Progress lines and points of TensorBoard's curves, from process 0 only.

    Every ten seconds, and every tenth of a training: the doctor judges the course of short ones, too.
    """

    def __init__(self, out: Path | str, epochs: int):
        self.folder, self.epochs = Path(out) / "tensorboard", epochs
        self.writer: SummaryWriter | None = None
        self.save_s = 0.0
        self.saved_s = self.began_s = time.monotonic()
        # time of the first update of this run, and the share of the training done then
        self.began_at: tuple[float, float] | None = None
        self.done = 0.0
        self._fresh()

    def _fresh(self):
        self.sums, self.frames, self.audio_frames, self.updates = {}, 0.0, 0, 0
        self.since_s, self.since_done = time.monotonic(), self.done

    def start(self, step: int) -> None:
        """Open TensorBoard; events after `step`, from an interrupted run, are hidden."""
        if distributed.rank() == 0:
            threading.excepthook = _keep_quiet
            with self.writing():
                self.writer = SummaryWriter(self.folder, purge_step=step)
        self.saved_s = self.began_s = time.monotonic()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Name the folder in what goes wrong with the disk: TensorBoard does not."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.folder)) from None

    def update(
        self,
        step: int,
        epoch: int,
        done: float,
        sums: Mapping[str, float],
        frames: float,
        rate: float,
        norm: float,
        audio_frames: float,
    ) -> None:
        """Take in one update of all processes.

        Args: done: share of the whole training, 0..1.   sums: sum of each loss term.   frames: encoder frames.
              rate: learning rate.   norm: gradient norm.   audio_frames: feature frames.
        """
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.frames += frames
        self.audio_frames += audio_frames
        self.updates += 1
        self.step, self.epoch, self.done, self.rate, self.norm = step, epoch, done, rate, norm
        if self.began_at is None:
            self.began_at, self.since_done = (time.monotonic(), done), done
        if time.monotonic() - self.since_s >= LOG_EVERY_S or done - self.since_done >= LOG_EVERY:
            self.report()

    def report(self) -> None:
        """Show the updates since the last report, if there were any."""
        if self.writer is None or self.began_at is None or not self.updates:
            return
        elapsed_s = time.monotonic() - self.since_s
        terms = {name: value / max(self.frames, 1.0) for name, value in self.sums.items()}
        shown = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
        speed = self.audio_frames / 100 / elapsed_s
        began_s, before = self.began_at
        left = (time.monotonic() - began_s) * (1 - self.done) / (self.done - before) if self.done > before else None
        say(
            f"step {self.step} epoch {self.epoch + 1}/{self.epochs} loss {sum(terms.values()):.4f} {shown} lr {self.rate:.2e} "
            f"grad {self.norm:.3f} {elapsed_s / self.updates:.3f} s/step {speed:.0f} s of audio/s"
            + ("" if left is None else f", {time_left(left)}")
        )
        scalars = {f"train/{name}": value for name, value in terms.items()}
        scalars |= {"train/loss": sum(terms.values()), "train/lr": self.rate, "train/grad_norm": self.norm}
        with self.writing():
            for name, value in (scalars | {"train/audio_s_per_s": speed}).items():
                self.writer.add_scalar(name, value, self.step)
        self._fresh()

    def dev(self, step: int, when: str, dev: Mapping[str, Any]) -> None:
        """Show an evaluation on dev."""
        if self.writer is None:
            return
        say(f"dev {when}: loss {dev['loss']:.4f} WER {dev['wer']:.2f} % CER {dev['cer']:.2f} %  {dev['example']}")
        with self.writing():
            for name in ("loss", "wer", "cer"):
                self.writer.add_scalar(f"dev/{name}", dev[name], step)
            self.writer.add_text("dev/example", dev["example"], step)
            self.writer.flush()

    def seconds(self) -> float:
        """Seconds since this run of the program began to train."""
        return time.monotonic() - self.began_s

    def seconds_since_save(self) -> float:
        """Seconds since the last checkpoint or the start."""
        return time.monotonic() - self.saved_s

    def saved(self, took_s: float) -> None:
        """Note that a checkpoint was written, and how long training stood still for it."""
        self.saved_s = time.monotonic()
        self.save_s += took_s

    def close(self) -> None:
        """Say what checkpoints cost, close TensorBoard."""
        if self.writer is not None:
            say(f"checkpoints took {self.save_s:.2f} s of {self.seconds():.1f} s of training")
            with self.writing():
                self.writer.flush()
                self.writer.close()


@torch.no_grad()
def recognise_set(
    model: AsrModel, dataset: SpeechDataset, tokenizer: Tokenizer, max_frames: int, device: torch.device
) -> tuple[float, dict[str, str], dict[str, str]]:
    """Loss, and what is said and recognised, greedily; also of utterances that are too short for their transcript, which have no loss.

    Returns: nats per encoder frame; transcripts and texts by utterance id.
    """
    model.eval()
    loss, frames = 0.0, 0
    refs: dict[str, str] = {}
    hyps: dict[str, str] = {}
    for part in filter(None, (dataset, dataset.left_out)):
        refs |= {part.utt_id(index): part.text(index) for index in range(len(part))}
        room = model.output_lengths(torch.tensor(part.num_frames.tolist())).tolist()
        loader = _by_length(part, [index for index in range(len(part)) if room[index] > 0], max_frames)
        for position in range(len(loader)):
            batch = loader[position].to(device)
            outputs, lengths = model(batch.feats, batch.lengths)
            if part is dataset:
                loss += model.head.loss_sum(model, outputs, lengths, batch).item()
                frames += int(lengths.sum())
            paths = model.head.best_tokens(model, outputs, lengths)
            hyps |= {utt_id: tokenizer.decode(path) for utt_id, path in zip(batch.utt_ids, paths, strict=True)}
    # of sound that is too short for a frame nothing is heard
    return loss / max(frames, 1), refs, {utt_id: hyps.get(utt_id, "") for utt_id in refs}


def _by_length(dataset: SpeechDataset, indices: list[int], max_frames: int) -> BatchLoader:
    """Some of a data set, each batch of equally long utterances. Args: max_frames: of a batch, padding included."""
    frame_counts = dataset.num_frames.tolist()
    batches: list[list[int]] = []
    width = 0
    for index in sorted(indices, key=lambda index: (frame_counts[index], index)):
        width = max(width, frame_counts[index])
        if not batches or width * (len(batches[-1]) + 1) > max_frames:
            batches.append([])
            width = frame_counts[index]
        batches[-1].append(index)
    return BatchLoader(dataset, [(indices, 1.0) for indices in batches], None, None, 0, 0)


def error_rates(refs: dict[str, str], hyps: dict[str, str]) -> dict[str, float]:
    """Percent of words and characters. Returns: {"wer", "cer"}."""
    counts = {rate: count_errors(refs, hyps, unit) for rate, unit in (("wer", "word"), ("cer", "char"))}
    return {rate: 100.0 * count.errors / max(count.reference_length, 1) for rate, count in counts.items()}


def score_dev(
    model: AsrModel, dataset: SpeechDataset, tokenizer: Tokenizer, max_frames: int, device: torch.device
) -> dict[str, Any]:
    """Loss and greedy error rates on a data set.

    Returns: {"loss": nats per encoder frame, "wer", "cer": percent of words and characters, "example": reference and
             hypothesis of one utterance}.
    """
    loss, refs, hyps = recognise_set(model, dataset, tokenizer, max_frames, device)
    first = min(refs)
    return {"loss": loss, **error_rates(refs, hyps), "example": f"ref: {refs[first]} | hyp: {hyps[first]}"}
