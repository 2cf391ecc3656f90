"""The order of the data: one global list of batches per epoch, dealt out to updates and processes."""

from torch.utils.data import DataLoader

from steps.core.cli import UserError
from steps.data.dataset import BatchLoader, plan_batches
from steps.training import distributed


def epoch_groups(dataset, loop, seed, epoch):
    """Deal the epoch's batches into updates of `processes x accumulate` batches.

    Returns: list of groups; a group is a list of (indices, weight). The last one is filled up with batches of weight 0 when
             there are several processes, so that all of them take part in every update.
    """
    batches = [(indices, 1.0) for indices in plan_batches(dataset.num_frames, loop.max_batch_frames, seed, epoch)]
    while len(batches) % distributed.world_size():
        batches.append((batches[0][0][:1], 0.0))
    size = distributed.world_size() * loop.accumulate
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def load_groups(dataset, groups, first, loop, augment, fill, seed, epoch, clean=False):
    """Read this process's share of the groups from number `first` on. Yields: list of Batch, one list per update."""
    own = [group[distributed.rank() :: distributed.world_size()] for group in groups[first:]]
    batches = BatchLoader(dataset, [batch for group in own for batch in group], augment, fill, seed, epoch, clean)
    stream = iter(DataLoader(batches, batch_size=None, shuffle=False, num_workers=loop.loader_workers))
    for group in own:
        try:
            batches_of_group = [next(stream) for _ in group]
        except UserError as error:  # a loader process sends its whole traceback along
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("steps.core.cli.UserError: ")) from None
        yield batches_of_group
