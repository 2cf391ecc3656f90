"""Several runs of one recipe as one result: the same test set with several seeds, or the folds of a cross-validation."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from steps.core.cli import UserError
from steps.scoring.significance import NO_SPREAD, paired_difference, wer_interval

COUNTS = ("ids", "speakers", "words", "errors")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number over runs with different seeds. low, high: 95 % t interval of the mean. For one run all but the mean is None."""

    values: list[float]
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and interval of the mean over runs. Args: values: one number per run.

    Rates are of whole words, so runs may meet by chance: without a spread between them there is no interval to give.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(list(values), mean, None, None, None)
    sd = statistics.stdev(values)
    if sd < NO_SPREAD:
        return Spread(list(values), mean, 0.0, None, None)
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    return Spread(list(values), mean, sd, mean - half, mean + half)


def over_seeds(
    runs: Sequence[Mapping[str, Mapping[str, Any]]], pairs: Sequence[tuple[str, str]], seed: int = 0
) -> dict[str, Any]:
    """Word error rates of every model over runs that differ in their seed, and differences of pairs.

    Two things make such a number uncertain: training (the spread over the runs) and the speakers of the test set (the
    interval over speakers of the mean over runs, from each utterance's errors added up over the runs).

    Args:    runs: {model: counts by utterance, as in score_KIND.json} for each run.   pairs: (a, b); a minus b.
             seed: seed of the bootstrap.
    Returns: {"models": {name: {"spread": Spread, "interval": Interval}},
             "differences": [{"a", "b", "spread", "interval", "relative_percent"}]}, in percent and points;
             relative_percent: the difference as a share of b's mean; None when b makes no errors.
    Raises:  UserError unless all runs were scored on the same utterances.
    """
    first = next(iter(runs[0].values()))
    for run in runs:
        for name, counts in run.items():
            if counts["ids"] != first["ids"] or counts["words"] != first["words"]:
                raise UserError(f"{name}: the runs were not scored on the same utterances; for folds use --as folds")
    words, speakers = [len(runs) * count for count in first["words"]], first["speakers"]
    errors = {
        name: [sum(counts) for counts in zip(*(run[name]["errors"] for run in runs), strict=True)] for name in runs[0]
    }
    rates = {name: [100 * sum(run[name]["errors"]) / sum(first["words"]) for run in runs] for name in runs[0]}
    models = {
        name: {"spread": spread(rates[name]), "interval": wer_interval(errors[name], words, speakers, runs=len(runs))}
        for name in rates
    }
    differences = []
    for a, b in pairs:
        found = spread([x - y for x, y in zip(rates[a], rates[b], strict=True)])
        base = statistics.fmean(rates[b])
        differences.append({
            "a": a, "b": b, "spread": found,
            "interval": paired_difference(errors[a], errors[b], words, speakers, seed=seed, runs=len(runs)),
            "relative_percent": 100 * found.mean / base if base else None,
        })  # fmt: skip
    return {"models": models, "differences": differences}


def over_folds(
    runs: Sequence[Mapping[str, Mapping[str, Any]]], pairs: Sequence[tuple[str, str]], seed: int = 0
) -> dict[str, Any]:
    """Word error rates over the folds of a cross-validation, pooled by counts, with intervals over all speakers.

    Args:    as for `over_seeds`.
    Returns: {"models": {name: {"interval": Interval}}, "differences": [{"a", "b", "interval"}]}.
    Raises:  UserError when a speaker is tested in two folds, or the models of a fold were not scored on the same utterances.
    """
    for number, run in enumerate(runs, start=1):
        first = next(iter(run.values()))
        for name, counts in run.items():
            if counts["ids"] != first["ids"] or counts["words"] != first["words"]:
                names = f"{next(iter(run))} and {name}"
                raise UserError(
                    f"fold {number}: {names}: not scored on the same utterances; decode and score both again"
                )
    seen: dict[str, int] = {}
    for number, run in enumerate(runs):
        for speaker in next(iter(run.values()))["speakers"]:
            if seen.setdefault(speaker, number) != number:
                raise UserError(f"speaker {speaker} is in the test sets of two folds; folds must not share speakers")
    pooled: dict[str, dict[str, list]]
    pooled = {name: {key: sum((run[name][key] for run in runs), []) for key in COUNTS} for name in runs[0]}
    models = {
        name: {"interval": wer_interval(counts["errors"], counts["words"], counts["speakers"])}
        for name, counts in pooled.items()
    }
    differences = [
        {"a": a, "b": b, "interval": paired_difference(
            pooled[a]["errors"], pooled[b]["errors"], pooled[a]["words"], pooled[a]["speakers"], seed=seed
        )}
        for a, b in pairs
    ]  # fmt: skip
    return {"models": models, "differences": differences}
