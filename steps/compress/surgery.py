"""Physical removal: a model made smaller by index, so that what was pruned is neither stored nor computed."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from steps.compress.sparsity import measured_sparsity
from steps.core.cli import UserError
from steps.models.asr_model import AsrModel
from steps.models.build import build_model
from steps.models.codes import check_float

# written by save_model, stale after surgery
WRITTEN_ON_SAVE = ("parameters", "nonzero_parameters", "weights_sha256")


def shrunk_spec(model: AsrModel, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Description of the model that `shrink` would make. Args: as in `shrink`."""
    groups = {group.name: group for group in model.axis_groups()}
    spec = editable_spec(model)
    for name, indices in kept.items():
        if name not in groups:
            raise ValueError(f"no axis group {name!r}")
        _check_indices(groups[name], indices)
        *path, last = groups[name].config_path
        place = spec[groups[name].section]
        for key in path:
            place = place[key]
        place[last] = len(indices)
    return spec


def _check_indices(group, indices):
    rising = all(left < right for left, right in zip(indices[:-1], indices[1:], strict=True))
    if not indices or not rising or indices[0] < 0 or indices[-1] >= group.size:
        raise ValueError(f"{group.name}: kept indices must be ascending within 0..{group.size - 1}, at least one")


def editable_spec(model: AsrModel) -> dict[str, Any]:
    """A copy of the model's description that may be changed, without the facts that hold for a saved file only.

    Raises: UserError when quantized.
    """
    check_float(model.spec, "the model", "prune or factorise")
    return deepcopy({key: value for key, value in model.spec.items() if key not in WRITTEN_ON_SAVE})


def rebuild(model: AsrModel, spec: dict[str, Any], state: Mapping[str, torch.Tensor]) -> AsrModel:
    """Build `spec`, load `state` strictly, carry over device, mode and measured sparsity."""
    small = build_model(spec)
    small.load_state_dict(state)
    small.to(model.feature_mean.device).train(model.training)
    if spec["sparsity"] is not None:
        spec["sparsity"] = measured_sparsity(small)
    return small


def shrink(model: AsrModel, kept: Mapping[str, Sequence[int]]) -> AsrModel:
    """Keep only the given parts of some axis groups.

    Args:    model: not quantized; left unchanged.
             kept: {group name: sorted indices that stay}; groups not named stay whole.
    Returns: a new model whose weights are slices of the old ones, with an updated `spec`. It computes what the old one does
             with the removed parts zeroed, except after a LayerNorm over the removed channels (conv_norm: layer).
    Raises:  UserError when quantized; ValueError for unknown groups or bad indices.
    """
    spec = shrunk_spec(model, kept)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for group in model.axis_groups():
        if group.name not in kept:
            continue
        for member in group.members:
            tensor = state[member.parameter]
            rows = member.rows(kept[group.name], group.size).to(tensor.device)
            state[member.parameter] = tensor.index_select(member.axis, rows)
    return rebuild(model, spec, state)


def drop_blocks(model: AsrModel, indices: Iterable[int]) -> AsrModel:
    """Remove whole encoder blocks. Args: indices: of the blocks to remove.   Returns: a new model with an updated `spec`.

    Raises: UserError when quantized or when no block would be left; ValueError for an index out of range.
    """
    spec = editable_spec(model)
    total = len(spec["model"]["blocks"])
    gone = set(indices)
    if not gone <= set(range(total)):
        raise ValueError(f"block indices must be within 0..{total - 1}: {sorted(gone)}")
    stay = [index for index in range(total) if index not in gone]
    if not stay:
        raise UserError(f"the model has {total} blocks; at least one must stay")
    spec["model"]["blocks"] = [spec["model"]["blocks"][index] for index in stay]
    new_name = {f"blocks.{old}.": f"blocks.{new}." for new, old in enumerate(stay)}
    spec["low_rank"] = _renamed(spec["low_rank"], new_name)
    return rebuild(model, spec, _renamed(model.state_dict(), new_name))


def _renamed(table, new_name):
    """Rename keys that start with `blocks.<n>.`, dropping blocks that have no new name."""
    renamed = {}
    for key, value in table.items():
        if not key.startswith("blocks."):
            renamed[key] = value
            continue
        _, index, rest = key.split(".", 2)
        if f"blocks.{index}." in new_name:
            renamed[new_name[f"blocks.{index}."] + rest] = value
    return renamed
