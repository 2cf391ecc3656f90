"""The order of the data: one global list of batches per epoch, dealt out to updates and processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader

from steps.core.cli import MissingInput, UserError
from steps.data.augment import SpecAugmentConfig
from steps.data.batches import Batch, BatchLoader, BatchPlan, plan_batches
from steps.data.dataset import SpeechDataset
from steps.training import distributed

if TYPE_CHECKING:
    from steps.training.loop import LoopConfig


def epoch_groups(dataset: SpeechDataset, loop: "LoopConfig", seed: int, epoch: int, done: int = 0) -> "Groups":
    """Deal the epoch's batches into updates of `processes x accumulate` batches.

    Args:    done: batches of this epoch that earlier updates used, in however many processes.
    Returns: the groups that are left.
    """
    plan = plan_batches(dataset.num_frames, loop.max_batch_frames, seed, epoch)
    return Groups(plan, done, batches_per_update(loop), distributed.world_size())


def batches_per_update(loop: "LoopConfig") -> int:
    """Batches that all processes together take for one update."""
    return distributed.world_size() * loop.accumulate


class Groups(Sequence):
    """The updates that are left; a group is a list of (indices, weight). With several processes the last one is filled up with
    batches of weight 0, so that all of them take part in every update.

    Args: plan: of the epoch.   done: batches to skip.   size: batches per group.   processes: how many there are.
    """

    def __init__(self, plan: BatchPlan, done: int, size: int, processes: int):
        self.plan, self.done, self.size, self.processes = plan, done, size, processes
        left = max(0, len(plan) - done)
        self.total = left + -left % processes

    def __len__(self):
        return -(-self.total // self.size)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        start = number % len(self) * self.size
        return [self.batch(place) for place in range(start, min(start + self.size, self.total))]

    def batch(self, place: int) -> tuple[list[int], float]:
        """(indices, weight) at this place among all batches that are left."""
        place += self.done
        return (self.plan[place], 1.0) if place < len(self.plan) else (self.plan[0][:1], 0.0)


class Share(Sequence):
    """The batches of one process, in order, and how many of them make an update. Args: rank: of the process."""

    def __init__(self, groups: Groups, rank: int):
        self.groups, self.rank, self.accumulate = groups, rank, groups.size // groups.processes

    def __len__(self):
        return self.groups.total // self.groups.processes

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.groups.batch(number * self.groups.processes + self.rank)


def load_groups(
    dataset: SpeechDataset,
    groups: Groups,
    loop: "LoopConfig",
    augment: SpecAugmentConfig | None,
    fill: np.ndarray | None,
    seed: int,
    epoch: int,
    clean: bool = False,
) -> Iterator[list[Batch]]:
    """Read this process's share of the groups. Yields: the batches of one update."""
    own = Share(groups, distributed.rank())
    batches = BatchLoader(dataset, own, augment, fill, seed, epoch, clean)
    # Pinned for a GPU: by the time batches are read, the model has long been on it.
    pinned = torch.cuda.is_initialized()
    stream = iter(
        DataLoader(Told(batches), batch_size=None, shuffle=False, num_workers=loop.loader_workers, pin_memory=pinned)
    )
    for start in range(0, len(own), own.accumulate):
        batches_of_group = [next(stream) for _ in range(start, min(start + own.accumulate, len(own)))]
        for batch in batches_of_group:
            if isinstance(batch, Refusal):
                raise batch.error()
        yield batches_of_group


@dataclass(frozen=True)
class Refusal:
    """A UserError that came up in a loader process, in whose place torch would raise one of its own. status: see UserError."""

    message: str
    status: int

    def error(self) -> UserError:
        """What to raise in its place."""
        return (MissingInput if self.status == MissingInput.status else UserError)(self.message)


class Told(Sequence):
    """The batches of a loader, with a Refusal in the place of one that cannot be read."""

    def __init__(self, batches: BatchLoader):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        try:
            return self.batches[number]
        except UserError as error:
            return Refusal(str(error), error.status)
