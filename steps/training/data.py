"""The order of the data: one global list of batches per epoch, dealt out to updates and processes."""

from torch.utils.data import DataLoader

from steps.core.cli import UserError
from steps.data.dataset import BatchLoader, plan_batches
from steps.training import distributed


def epoch_groups(dataset, loop, seed, epoch, done=0):
    """Deal the epoch's batches into updates of `processes x accumulate` batches.

    Args:    done: batches of this epoch that earlier updates took, in however many processes.
    Returns: list of groups still to do; a group is a list of (indices, weight). The last one is filled up with batches of weight 0
             when there are several processes, so that all of them take part in every update.
    """
    plan = plan_batches(dataset.num_frames, loop.max_batch_frames, seed, epoch)
    batches = [(indices, 1.0) for indices in plan[done:]]
    while len(batches) % distributed.world_size():
        batches.append((plan[0][:1], 0.0))
    size = batches_per_update(loop)
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def batches_per_update(loop):
    """Batches that all processes together take for one update."""
    return distributed.world_size() * loop.accumulate


def load_groups(dataset, groups, loop, augment, fill, seed, epoch, clean=False):
    """Read this process's share of the groups. Yields: list of Batch, one list per update."""
    own = [group[distributed.rank() :: distributed.world_size()] for group in groups]
    batches = BatchLoader(dataset, [batch for group in own for batch in group], augment, fill, seed, epoch, clean)
    stream = iter(DataLoader(batches, batch_size=None, shuffle=False, num_workers=loop.loader_workers))
    for group in own:
        try:
            batches_of_group = [next(stream) for _ in group]
        except UserError as error:  # a loader process sends its whole traceback along
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("steps.core.cli.UserError: ")) from None
        yield batches_of_group
