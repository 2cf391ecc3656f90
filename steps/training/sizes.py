"""Settings chosen for a corpus: its facts, the table of conf/sizes.yaml, a time budget, and the settings files that follow."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from steps.core.cli import UserError
from steps.core.config import check, from_dict, merge
from steps.data.batches import plan_batches

ROLES = ("teacher", "student", "taught", "recover")
# An epoch has at least so many updates, where the corpus has as many utterances.
LEAST_UPDATES = 20
# Evaluations on dev, checkpoints, the losses of teaching: on top of the updates as they were timed.
OVERHEAD = 1.15


@dataclass
class Amount:
    """How an amount of speech is trained; the head of conf/sizes.yaml explains the keys."""

    measured: str | None
    up_to_minutes: float | None
    size: str
    unit: dict
    updates: dict
    max_batch_frames: int
    warmup: float
    masks: dict
    vtlp: float
    end_spaces: bool
    masks_from: float | None = None
    few_words: dict | None = None

    def __post_init__(self):
        if self.few_words is not None:
            known = ["below", "measured", "size", "updates", "vtlp"]
            check(sorted(self.few_words) == known, f"few_words must have {', '.join(known)}")
            self.few()
        check(sorted(self.updates) == ["recover", "student", "teacher"], "updates must be of teacher, student, recover")
        good = all(type(number) is int and number > 0 for number in self.updates.values())
        check(good and self.max_batch_frames > 0, "updates and max_batch_frames must be whole numbers above 0")
        known = ["freq_masks", "freq_share", "time_masks", "time_width"]
        good = sorted(self.masks) == ["student", "teacher"] and all(sorted(one) == known for one in self.masks.values())
        check(good, f"masks must be of teacher and student, and have {', '.join(known)}")

    def few(self) -> "Amount":
        """The same for a corpus of few words."""
        other = {key: value for key, value in (self.few_words or {}).items() if key != "below"}
        return dataclasses.replace(self, few_words=None, **other)

    def of(self, words: int) -> "Amount":
        """The same for so many different words."""
        return self.few() if self.few_words and words < self.few_words["below"] else self


@dataclass
class Size:
    """Settings of the two nets that do not depend on the amount of speech. least_updates: of the teacher; below, a smaller size."""

    least_updates: int
    teacher: dict
    student: dict

    def __post_init__(self):
        check(self.least_updates > 0, "least_updates must be above 0")


@dataclass
class Table:
    """The table: amounts from small to large, sizes from small to large."""

    amounts: dict
    sizes: dict
    vtlp_below_speakers: int = 0

    def __post_init__(self):
        self.amounts = {name: from_dict(Amount, value, f"amounts: {name}") for name, value in self.amounts.items()}
        self.sizes = {name: from_dict(Size, value, f"sizes: {name}") for name, value in self.sizes.items()}
        check(bool(self.amounts) and bool(self.sizes), "amounts and sizes must not be empty")
        limits = [amount.up_to_minutes or math.inf for amount in self.amounts.values()]
        check(
            limits == sorted(limits) and limits[-1] == math.inf, "amounts must go from small to large, the last to null"
        )
        for name, amount in self.amounts.items():
            for one in (amount, amount.few()):
                known = ", ".join(self.sizes)
                check(one.size in self.sizes, f"amounts: {name}: no size {one.size}; there are {known}")


@dataclass(frozen=True)
class Facts:
    """What is known of a corpus.

    hours, speakers, words (different ones): of the training set, without copies at other speeds.   frames: of each utterance that
    is trained on, copies included.   mel_bins: None for features without a frequency axis.
    """

    hours: float
    speakers: int
    words: int
    frames: list[int]
    mel_bins: int | None
    device: str


@dataclass(frozen=True)
class Line:
    """A model of the chain that is trained. role: of ROLES.   base: settings of its recipe, which a cut is taken from."""

    role: str
    model: str
    base: dict


# Seconds that an update takes: {"teacher", "student": training, "teaching": the teacher's part of a taught update}
Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """What was chosen. measured: what the table says of this amount.   share: of the table's updates.   epochs, updates, seconds: by
    model.   kept: whether the budget is kept."""

    amount: str
    measured: str | None
    size: str
    share: float
    files: dict[str, dict]
    epochs: dict[str, int]
    updates: dict[str, int]
    seconds: dict[str, float]
    kept: bool


def choose(
    table: Table,
    facts: Facts,
    lines: Sequence[Line],
    budget_s: float | None,
    time_updates: Callable[[dict[str, dict]], Seconds],
) -> Choice:
    """Choose size and updates, as many as the budget allows.

    Args: budget_s: for all trainings one after the other; None: no limit.
          time_updates: settings files of a size -> seconds of an update; called for each size that is looked at.
    """
    minutes = 60 * facts.hours
    fits = (name for name, one in table.amounts.items() if one.up_to_minutes is None or minutes <= one.up_to_minutes)
    name = next(fits)
    amount, order = table.amounts[name].of(facts.words), list(table.sizes)
    found = []
    for size in order[order.index(amount.size) :: -1]:
        seconds = time_updates(settings(table, amount, size, facts, lines, {line.model: 1 for line in lines}))
        wanted_s = sum(_seconds(line, amount.updates[_net(line)], seconds) for line in lines)
        share = 1.0 if budget_s is None else min(1.0, budget_s / wanted_s)
        least = min(1.0, table.sizes[size].least_updates / amount.updates["teacher"])
        few, share = share < least, max(share, least)
        per_epoch = updates_per_epoch(facts.frames, batch_frames(amount, facts.frames))
        time_of = partial(_all_seconds, lines, per_epoch, seconds)
        epochs = whole_epochs(amount, per_epoch, lines, share, time_of, None if share == 1 else budget_s)
        files = settings(table, amount, size, facts, lines, epochs)
        updates, took = {model: count * per_epoch for model, count in epochs.items()}, time_of(epochs)
        kept = budget_s is None or sum(took.values()) <= budget_s
        found.append(Choice(name, amount.measured, size, share, files, epochs, updates, took, kept))
        if kept and not few:
            break
    return found[-1]


def _all_seconds(
    lines: Sequence[Line], per_epoch: int, seconds: Seconds, epochs: Mapping[str, int]
) -> dict[str, float]:
    """Time of each training. Args: epochs: by model."""
    return {line.model: _seconds(line, epochs[line.model] * per_epoch, seconds) for line in lines}


def _seconds(line: Line, updates: float, seconds: Seconds) -> float:
    """Time of one training of so many updates."""
    one = seconds["teacher" if line.role == "teacher" else "student"]
    return OVERHEAD * updates * (one + (seconds["teaching"] if line.role in ("taught", "recover") else 0.0))


def _net(line: Line) -> str:
    """Whose updates and settings a training has."""
    return "student" if line.role == "taught" else line.role


def batch_frames(amount: Amount, frames: Sequence[int]) -> int:
    """Padded frames of a batch: fewer where an epoch would have fewer than LEAST_UPDATES updates, but one utterance at least."""
    usual = sorted(frames)[len(frames) // 2]
    return max(usual, min(amount.max_batch_frames, sum(frames) // LEAST_UPDATES))


def updates_per_epoch(frames: Sequence[int], max_batch_frames: int) -> int:
    """Batches of the first epoch, one an update; later epochs differ by a few."""
    return len(plan_batches(frames, max_batch_frames, 0, 0))


def whole_epochs(
    amount: Amount,
    per_epoch: int,
    lines: Sequence[Line],
    share: float,
    time_of: Callable[[Mapping[str, int]], Mapping[str, float]],
    budget_s: float | None,
) -> dict[str, int]:
    """Epochs of each training for a share of the table's updates.

    Args:    per_epoch: updates.   time_of: epochs -> seconds, both by model.
             budget_s: seconds for all. Epochs are then rounded down, and one more goes to those that lost most, as long as it
             fits. None: rounded to the nearest.
    Returns: {model: epochs}; models of one settings file have as many.
    """
    wanted = {line.model: share * amount.updates[_net(line)] / per_epoch for line in lines}
    if budget_s is None:
        return {model: max(1, round(number)) for model, number in wanted.items()}
    epochs = {model: max(1, math.floor(number + 1e-9)) for model, number in wanted.items()}
    together: dict[str, list[str]] = {}
    for line in lines:
        together.setdefault(line.model if line.role == "recover" else _net(line), []).append(line.model)
    for models in sorted(together.values(), key=lambda models: epochs[models[0]] / wanted[models[0]]):
        more = epochs | {model: epochs[model] + 1 for model in models}
        if epochs[models[0]] < wanted[models[0]] and sum(time_of(more).values()) <= budget_s:
            epochs = more
    return epochs


def settings(
    table: Table, amount: Amount, size: str, facts: Facts, lines: Sequence[Line], epochs: Mapping[str, int]
) -> dict[str, dict]:
    """The settings files of a size. Args: epochs: by model.  Returns: {file name: settings}."""
    batch = batch_frames(amount, facts.frames)
    files: dict[str, dict] = {"tokenizer.yaml": dict(amount.unit)}
    for line in lines:
        role, count = _net(line), epochs[line.model]
        loop = {
            "epochs": count,
            "max_batch_frames": batch,
            "average_last": min(5, max(1, count // 3)),
            "dev_every": count,
        }
        if facts.device == "cuda":
            loop["loader_workers"] = 4
        common = {"loop": loop, "augment": _augment(table, amount, facts, role), "end_spaces": amount.end_spaces}
        if role == "recover":
            files[f"recover_{line.model}.yaml"] = merge(line.base, common)
        else:
            net = getattr(table.sizes[size], role)
            files[f"{role}.yaml"] = merge(merge(net, common), {"optim": {"warmup": amount.warmup}})
    return files


def _augment(table: Table, amount: Amount, facts: Facts, role: str) -> dict[str, Any]:
    masks = amount.masks["teacher" if role == "teacher" else "student"]
    found = {name: masks[name] for name in ("freq_masks", "time_masks", "time_width")}
    if role != "recover" and amount.masks_from:
        found["masks_from"] = amount.masks_from
    if facts.mel_bins is None:
        return found | {"freq_masks": 0}
    found["freq_width"] = max(1, round(masks["freq_share"] * facts.mel_bins))
    if facts.speakers < table.vtlp_below_speakers:
        found["vtlp"] = amount.vtlp
    return found


def parse_budget(text: str) -> float:
    """`90s`, `30m`, `2h` -> seconds. Raises: UserError."""
    number, unit = text[:-1], text[-1:]
    if unit not in ("s", "m", "h") or not number.isascii() or not number.isdigit() or not 0 < int(number) < 10**6:
        raise UserError(f"a time budget is a whole number of seconds, minutes or hours, such as 30m, not {text!r}")
    return int(number) * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit]
