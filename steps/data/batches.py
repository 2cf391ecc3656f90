"""Batches of training examples: planned by length, then read, augmented and padded."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from steps.data.augment import SpecAugmentConfig, augment_wave, spec_augment, utterance_rng, warp_frequency
from steps.data.dataset import CHUNK, SpeechDataset
from steps.data.wave_augment import WaveAugment


@dataclass
class Batch:
    """Padded examples. feats (N, T, D) float32; lengths, token_lengths (N,) int64; tokens (N, U) int64; weight 0: adds nothing;
    clean (N, T, D) float32, feats before augmentation, where the objective asks for them."""

    utt_ids: list[str]
    feats: torch.Tensor
    lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    weight: float = 1.0
    clean: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; a copy from pinned memory to a GPU is not waited for."""
        ahead = torch.device(device).type == "cuda"
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU reads by itself; DataLoader calls this."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change):
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})


def plan_batches(num_frames: np.ndarray | Sequence[int], max_frames: int, seed: int, epoch: int) -> "BatchPlan":
    """Group utterances of like length into batches and shuffle these: a pure function of its arguments.

    Args:    num_frames: feature frames of each utterance.   max_frames: padded frames per batch, at most (a longer utterance
             makes a batch of its own).   seed, epoch: integers >= 0.
    Returns: BatchPlan; every utterance exactly once.
    """
    rng = np.random.default_rng([seed, epoch])
    num_frames = np.asarray(num_frames)
    order = np.argsort(rng.uniform(0.9, 1.1, len(num_frames)) * num_frames, kind="stable").astype(np.int32)
    bounds, count, longest = array("q", [0]), 0, 0
    for start in range(0, len(order), CHUNK):
        for position, frames in enumerate(num_frames[order[start : start + CHUNK]].tolist(), start):
            longest = max(longest, frames)
            if count and longest * (count + 1) > max_frames:
                bounds.append(position)
                count, longest = 0, frames
            count += 1
    bounds.append(len(order))
    return BatchPlan(order, np.frombuffer(bounds, np.int64), rng.permutation(len(bounds) - 1))


class BatchPlan(Sequence[list[int]]):
    """Batches in the order they are to be taken, as lists of indices; three arrays hold them.

    Args: order: all indices, batch by batch.   bounds: where batches begin in it, and its end.   shuffled: numbers of batches.
    """

    def __init__(self, order: np.ndarray, bounds: np.ndarray, shuffled: np.ndarray):
        self.order, self.bounds, self.shuffled = order, bounds, shuffled

    def __len__(self):
        return len(self.shuffled)

    def __getitem__(self, position):
        if isinstance(position, slice):
            return BatchPlan(self.order, self.bounds, self.shuffled[position])
        batch = self.shuffled[position]
        return self.order[self.bounds[batch] : self.bounds[batch + 1]].tolist()


def mean_of_sound(feats: np.ndarray) -> np.ndarray:
    """Mean of the frames that are no digital silence (`is_sound`), which normalisation leaves out, too; of all where none is.

    Args: feats (T, D).   Returns: (D,).
    """
    sound = feats.max(axis=1) > feats.min(axis=1)
    return feats[sound if sound.any() else slice(None)].mean(axis=0)


class BatchLoader:
    """The batches of one epoch, made when asked for, so that a DataLoader's workers can share the work.

    Args: dataset: SpeechDataset.   batches: sequence of (indices, weight).   augment: SpecAugmentConfig; None: fill is not needed.
          fill: (D,) float32, what a masked bin holds; None: its mean in the utterance.   seed, epoch: of the augmentation.
          clean: fill in Batch.clean, too.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        batches: Sequence[tuple[list[int], float]],
        augment: SpecAugmentConfig | None,
        fill: np.ndarray | None,
        seed: int,
        epoch: int,
        clean: bool = False,
    ):
        self.dataset, self.batches, self.augment = dataset, batches, augment
        self.fill, self.seed, self.epoch, self.clean = fill, seed, epoch, clean
        wave = augment and augment.wave
        self.wave = WaveAugment(wave, dataset.feature_config.sample_rate_hz) if wave else None

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch:
        """Read, augment and pad the batch at this position of the plan. Returns: Batch."""
        indices, weight = self.batches[position]
        read = self.clean or self.wave is None
        untouched = [self.dataset.features(index) if read else None for index in indices]
        rows = [torch.tensor(self.augmented(index, feats)) for index, feats in zip(indices, untouched, strict=True)]
        tokens = [torch.tensor(self.dataset.tokens(index), dtype=torch.int64) for index in indices]
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            utt_ids=[self.dataset.utt_id(index) for index in indices],
            feats=pad(rows, batch_first=True),
            lengths=torch.tensor([len(row) for row in rows]),
            tokens=pad(tokens, batch_first=True),
            token_lengths=torch.tensor([len(row) for row in tokens]),
            weight=weight,
            clean=pad([torch.tensor(feats) for feats in untouched], batch_first=True) if self.clean else None,
        )

    def augmented(self, index: int, feats: np.ndarray | None) -> np.ndarray:
        """Features (T, D) of this utterance as the model gets them in this epoch. Args: feats: as they are (not read with wave)."""
        if self.augment is None:
            return feats
        place = (self.seed, self.epoch, self.dataset.utt_id(index))
        if (wave := self.wave) is not None:
            feats = self.dataset.features(index, lambda samples: augment_wave(samples, wave, *place))
        rng = utterance_rng(*place)
        if self.augment.vtlp:
            factor = rng.uniform(1 - self.augment.vtlp, 1 + self.augment.vtlp)
            feats = warp_frequency(feats, factor, self.dataset.feature_config.centres_hz)
        assert feats is not None
        fill = mean_of_sound(feats) if self.fill is None else self.fill
        return spec_augment(feats, self.augment, fill, rng)
