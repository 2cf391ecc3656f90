"""Structured pruning to a budget: which parts of which axes stay so that the whole graph fits the budget."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch

from steps.compress import importance
from steps.compress.footprint import predict
from steps.compress.surgery import drop_blocks, editable_spec, shrink, shrunk_spec
from steps.core.cli import UserError
from steps.core.config import check
from steps.models.asr_model import AsrModel
from steps.models.axes import AxisGroup

KINDS = ("heads", "ff", "conv", "cells", "units", "subsampling")
# resolution of the local search
RATIO_STEPS = 1 << 16


@dataclass
class StructuredConfig:
    """What to remove.

    target: `macs` (multiply-accumulates per second of audio) or `parameters`, of the whole graph.
    keep: share of the target that stays, 0..1.
    scope: `local` (the same share of every axis) or `global` (parts compete across axes).
    importance: `magnitude` or `taylor`.   kinds: axis kinds that may shrink.
    min_fraction: least share of an axis that stays, after all rounds.   drop_blocks: number of whole blocks removed first.
    drop_order: `spread`: those that stay lie evenly between first and last; null: the least important go, one by one.
    batches: training batches used for taylor and the importance of blocks.
    """

    target: str = "macs"
    keep: float = 0.5
    scope: str = "global"
    importance: str = "taylor"
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    min_fraction: float = 0.1
    drop_blocks: int = 0
    drop_order: str | None = None
    batches: int = 20

    def __post_init__(self):
        check(self.target in ("macs", "parameters"), "target must be macs or parameters")
        check(0 < self.keep <= 1, "keep must be in (0, 1]")
        check(self.scope in ("local", "global"), "scope must be local or global")
        check(self.importance in ("magnitude", "taylor"), "importance must be magnitude or taylor")
        check(self.kinds and set(self.kinds) <= set(KINDS), f"kinds must be some of {', '.join(KINDS)}")
        check(0 < self.min_fraction <= 1, "min_fraction must be in (0, 1]")
        check(self.drop_blocks >= 0, "drop_blocks must be 0 or more")
        check(self.drop_order in (None, "spread"), "drop_order must be spread, or left out")
        check(self.drop_blocks or not self.drop_order, "drop_order needs drop_blocks above 0")
        check(self.batches >= 1, "batches must be at least 1")

    @property
    def needs_batches(self) -> bool:
        """Whether scores need data."""
        return self.importance == "taylor" or (self.drop_blocks > 0 and not self.drop_order)


def cost(spec: dict[str, Any], target: str) -> float:
    """Predicted cost of a model. Args: target: macs (per second of audio) or parameters."""
    footprint = predict(spec, macs=target == "macs")
    return footprint.macs_per_second if target == "macs" else footprint.parameters


def allowed_size(size: int, count: int, multiple: int, least: float) -> int:
    """Largest size allowed for `count` parts of an axis: the whole axis or a multiple, and never below `least`."""
    lowest = min(size, multiple * ceil(max(least, 1) / multiple))
    return size if count >= size else max(lowest, count // multiple * multiple)


def local_sizes(groups: Sequence[AxisGroup], ratio: float, least: Mapping[str, float]) -> dict[str, int]:
    """Sizes when about `ratio` of every axis stays. Axes round at different ratios, so that one changes at a time.

    Args:    ratio: 0 (the least sizes) .. 2 (everything, whatever the rounding).   least: size of each group.
    Returns: {group name: size}.
    """
    sizes = {}
    for order, group in enumerate(groups):
        phase = group.multiple * (order + 0.5) / len(groups)
        sizes[group.name] = allowed_size(group.size, int(ratio * group.size + phase), group.multiple, least[group.name])
    return sizes


def global_sizes(
    groups: Sequence[AxisGroup], scores: Mapping[str, torch.Tensor], threshold: float, least: Mapping[str, float]
) -> dict[str, int]:
    """Sizes when the parts that score at least `threshold` stay. Returns: {group name: size}."""
    return {
        group.name: allowed_size(
            group.size, int((scores[group.name] >= threshold).sum()), group.multiple, least[group.name]
        )
        for group in groups
    }


def plan_kept(
    model: AsrModel, scores: Mapping[str, torch.Tensor], config: StructuredConfig,
    parent_cost: float | None = None, whole: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:  # fmt: skip
    """Choose the parts that stay: the largest model within the budget that scope, multiples and least sizes allow.

    Args:    scores: {group name: (size,) tensor}; the highest stay.
             parent_cost: what `keep` is a share of; None: the cost of `model` as it is.
             whole: size of each group that `min_fraction` is a share of; None: as it is.
    Returns: {group name: sorted indices that stay}, for `shrink`.
    Raises:  UserError when even the least sizes cost more than the budget.
    """
    parent_cost = cost(model.spec, config.target) if parent_cost is None else parent_cost
    groups = [group for group in model.axis_groups() if group.kind in config.kinds]
    if not groups:
        raise UserError(f"kinds: a {model.kind} model has no axis of kind {' or '.join(config.kinds)}")
    sizes = {group.name: group.size for group in groups} if whole is None else whole
    least = {group.name: config.min_fraction * sizes[group.name] for group in groups}
    candidates = _sizes_by_candidate(model, groups, scores, config, least)
    best = _largest_within(model, scores, candidates, config.keep * parent_cost, config.target)
    if best is None:
        lowest = cost(shrunk_spec(model, _strongest(scores, candidates(0))), config.target)
        share = ceil(1000 * lowest / parent_cost) / 1000
        raise UserError(
            f"keep: {config.keep:.4g} of the {config.target} cannot be reached, {share} is the least; "
            "raise keep, lower min_fraction, name more kinds or drop blocks"
        )
    return best


def _sizes_by_candidate(model, groups, scores, config, least):
    """Function from a candidate's number to its sizes, which never decrease; the last of its `.count` is the whole model."""
    if config.scope == "local":

        def sizes(number):
            return local_sizes(groups, 2 * number / RATIO_STEPS, least)

        sizes.count = RATIO_STEPS + 1
        return sizes
    whole = cost(model.spec, config.target)
    comparable = {g.name: _comparable(model, g, scores[g.name].double().cpu(), config, whole) for g in groups}
    # thresholds; the highest keeps least
    values = torch.cat(list(comparable.values())).unique().flip(0)

    def sizes(number):
        threshold = values[number - 1] if number else torch.inf
        return global_sizes(groups, comparable, threshold, least)

    sizes.count = len(values) + 1
    return sizes


def _comparable(model, group, scores, config, whole):
    """Scores that compare across groups: loss per unit of cost (taylor), or relative to the mean (magnitude)."""
    if config.importance == "magnitude":
        return scores / scores.mean().clamp(min=torch.finfo(scores.dtype).tiny)
    fewer = allowed_size(group.size, group.size - 1, group.multiple, 1)
    if fewer == group.size:
        return scores
    saved = whole - cost(shrunk_spec(model, {group.name: list(range(fewer))}), config.target)
    return scores * (group.size - fewer) / saved


def _strongest(scores, sizes):
    """The best-scoring indices of each group, ties to the lower index. Returns: {group name: sorted list}."""
    order = {name: scores[name].argsort(descending=True, stable=True)[:size] for name, size in sizes.items()}
    return {name: sorted(best.tolist()) for name, best in order.items()}


def _largest_within(model, scores, candidates, budget, target):
    """Bisect for the largest candidate that costs at most `budget`. Returns: kept indices, or None."""
    known = {}

    def too_expensive(number):
        sizes = candidates(number)
        key = tuple(sizes.values())
        if key not in known:
            known[key] = cost(shrunk_spec(model, _strongest(scores, sizes)), target)
        return known[key] > budget

    first_over = bisect_left(range(candidates.count), True, key=too_expensive)
    return _strongest(scores, candidates(first_over - 1)) if first_over else None


def prune_structured(
    model: AsrModel,
    config: StructuredConfig,
    batches: Sequence[Any] = (),
    loss_fn: importance.LossFunction | None = None,
    whole: Mapping[str, int] | None = None,
) -> tuple[AsrModel, dict[str, Any]]:
    """Drop blocks, score parts, plan to the budget and shrink: the whole of one structured pruning.

    Args:    model: not quantized; left unchanged.
             batches, loss_fn: as in `importance.taylor`; needed when `config.needs_batches`.
             whole: as in `plan_kept`.
    Returns: the small model, and a record that is valid JSON: {"dropped_blocks": [...],
             "sizes": {group: [before, after]}, "parameters": [before, after], "macs_per_second": [before, after]}.
    Raises:  UserError when quantized or the budget cannot be reached.
    """
    editable_spec(model)
    if config.needs_batches and not (batches and loss_fn):
        raise ValueError("these settings need batches and a loss")
    before = predict(model.spec)
    if config.drop_order:
        dropped = blocks_between(len(model.blocks), config.drop_blocks)
        smaller = drop_blocks(model, dropped)
    else:
        smaller, dropped = _without_weakest_blocks(model, config.drop_blocks, batches, loss_fn)
    if config.importance == "taylor" and loss_fn:
        scores = importance.taylor(smaller, batches, loss_fn)
    else:
        scores = importance.magnitude(smaller)
    parent_cost = before.macs_per_second if config.target == "macs" else before.parameters
    kept = plan_kept(smaller, scores, config, parent_cost, whole)
    small = shrink(smaller, kept)
    after = predict(small.spec)
    return small, {
        "dropped_blocks": dropped,
        "sizes": {name: [len(scores[name]), len(indices)] for name, indices in kept.items()},
        "parameters": [before.parameters, after.parameters],
        "macs_per_second": [before.macs_per_second, after.macs_per_second],
    }


def blocks_between(total: int, count: int) -> list[int]:
    """Blocks to drop so that those that stay lie evenly, first and last among them.

    Args:   total: blocks there are.   count: to drop.   Returns: rising indices.   Raises: UserError when none would stay.
    Source: Shen et al. 2020 (arXiv:2004.03844) drop alternate layers; Gandhi et al. 2023 (arXiv:2311.00430), section 3.1.
    """
    stays = total - count
    if stays < 1:
        raise UserError(f"drop_blocks: {count} of {total} blocks; at least one must stay")
    kept = {round(place * (total - 1) / max(1, stays - 1)) for place in range(stays)}
    return [index for index in range(total) if index not in kept]


def _without_weakest_blocks(model, count, batches, loss_fn):
    """Drop blocks one by one, scoring again after each. Returns: model, the dropped blocks' original indices."""
    left = list(range(len(model.blocks)))
    if count >= len(left):
        raise UserError(f"drop_blocks: {count} of {len(left)} blocks; at least one must stay")
    dropped = []
    for _ in range(count):
        losses = importance.block_importance(model, batches, loss_fn)
        weakest = losses.index(min(losses))
        model = drop_blocks(model, [weakest])
        dropped.append(left.pop(weakest))
    return model, dropped
