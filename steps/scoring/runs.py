"""Several runs of one recipe as one result: the same test set with several seeds, or the folds of a cross-validation."""

import dataclasses
import math
import statistics

from scipy.special import stdtrit

from steps.core.cli import UserError
from steps.scoring.significance import Interval, paired_difference, wer_interval

COUNTS = ("ids", "speakers", "words", "errors")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number over runs with different seeds. sd: between runs.   low, high: 95 % t interval of the mean; None for one run."""

    values: list
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def spread(values):
    """Mean, standard deviation and interval of the mean over runs. Args: values: one number per run."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(list(values), mean, None, None, None)
    sd = statistics.stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    return Spread(list(values), mean, sd, mean - half, mean + half)


def over_seeds(runs, pairs):
    """Word error rates of every model over runs that differ in their seed, and of differences from parents.

    Args:    runs: list of {model: counts by utterance, as score_KIND.json has them}.   pairs: list of (model, parent).
    Returns: {"models": {name: Spread}, "differences": [{"a", "b", "spread"}]}, in percent and points.
    Raises:  UserError unless all runs were scored on the same utterances.
    """
    first = next(iter(runs[0].values()))
    for run in runs:
        for name, counts in run.items():
            if counts["ids"] != first["ids"] or counts["words"] != first["words"]:
                raise UserError(f"{name}: the runs were not scored on the same utterances; for folds use --as folds")
    rates = {name: [100 * sum(run[name]["errors"]) / sum(run[name]["words"]) for run in runs] for name in runs[0]}
    differences = [
        {"a": a, "b": b, "spread": spread([x - y for x, y in zip(rates[a], rates[b], strict=True)])} for a, b in pairs
    ]
    return {"models": {name: spread(values) for name, values in rates.items()}, "differences": differences}


def over_folds(runs, pairs, seed=0):
    """Word error rates over the folds of a cross-validation, pooled by counts, with intervals over all speakers.

    Args:    as in `over_seeds`.   seed: of the bootstrap.
    Returns: {"models": {name: Interval}, "differences": [{"a", "b", "interval"}]}.
    Raises:  UserError when a speaker is tested in two folds.
    """
    seen = {}
    for number, run in enumerate(runs):
        for speaker in next(iter(run.values()))["speakers"]:
            if seen.setdefault(speaker, number) != number:
                raise UserError(f"speaker {speaker} is in the test sets of two folds; folds must not share speakers")
    pooled = {name: {key: sum((run[name][key] for run in runs), []) for key in COUNTS} for name in runs[0]}
    models: dict[str, Interval] = {
        name: wer_interval(counts["errors"], counts["words"], counts["speakers"]) for name, counts in pooled.items()
    }
    differences = [
        {"a": a, "b": b, "interval": paired_difference(
            pooled[a]["errors"], pooled[b]["errors"], pooled[a]["words"], pooled[a]["speakers"], seed=seed
        )}
        for a, b in pairs
    ]  # fmt: skip
    return {"models": models, "differences": differences}
