"""Runs with several seeds, and folds."""

import statistics

import numpy as np
import pytest

from steps.core.cli import UserError
from steps.scoring.runs import over_folds, over_seeds, spread
from steps.scoring.significance import paired_difference, wer_interval
from steps.summarise import spread_cells


def counts(rng, speakers, rate, prefix=""):
    names = [f"{prefix}{s}" for s in range(speakers) for _ in range(5)]
    words = [10] * len(names)
    ids = [f"{name}-{i}" for i, name in enumerate(names)]
    return {"ids": ids, "speakers": names, "words": words, "errors": rng.binomial(10, rate, len(names)).tolist()}


def test_spread_over_seeds():
    rng = np.random.default_rng(0)
    runs = [{"big": counts(rng, 6, 0.1), "small": counts(rng, 6, 0.3)} for _ in range(3)]
    found = over_seeds(runs, [("small", "big")])
    rates = [100 * sum(run["big"]["errors"]) / 300 for run in runs]
    big = found["models"]["big"]["spread"]
    assert (big.values, big.mean, big.sd) == (rates, statistics.fmean(rates), statistics.stdev(rates))
    assert big.mean - big.low == pytest.approx(4.3027 * big.sd / 3**0.5, rel=1e-4)
    difference = found["differences"][0]["spread"]
    assert difference.mean == pytest.approx(found["models"]["small"]["spread"].mean - big.mean)
    assert found["differences"][0]["relative_percent"] == pytest.approx(100 * difference.mean / big.mean)
    for interval, mean in (
        (found["models"]["big"]["interval"], big.mean),
        (found["differences"][0]["interval"], difference.mean),
    ):
        assert interval.percent == pytest.approx(mean) and interval.groups == 6 and interval.low < mean < interval.high


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
def test_the_same_run_several_times_says_no_more_than_once(rate):
    one = counts(np.random.default_rng(3), 6, rate)
    found = over_seeds([{"m": one, "n": one}] * 4, [("m", "n")])
    once = wer_interval(one["errors"], one["words"], one["speakers"])
    again = found["models"]["m"]["interval"]
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    same, pair = paired_difference(one["errors"], one["errors"], one["words"]), found["differences"][0]
    assert (pair["interval"].low, pair["interval"].high) == pytest.approx((same.low, same.high))
    assert pair["relative_percent"] == (0.0 if any(one["errors"]) else None)
    assert spread([5.0]).sd is None
    assert (spread([5.0] * 3).sd, spread([5.0] * 3).low, spread([5.0] * 3).high) == (0, None, None)
    # one word of 773 less in each: no spread but that of the rounding
    less = spread([100 * a / 773 - 100 * b / 773 for a, b in ((59, 60), (84, 85), (71, 72))])
    assert (less.sd, less.low) == (0, None) and statistics.stdev(less.values) > 0
    assert spread_cells(spread([5.0] * 3), "+") == ["+5.00", "+5.00, +5.00, +5.00", "0.00", "-"]


def test_folds_are_pooled_over_all_speakers():
    rng = np.random.default_rng(1)
    runs = [{"m": counts(rng, 3, 0.2, prefix=f"f{fold}-")} for fold in range(3)]
    interval = over_folds(runs, [])["models"]["m"]["interval"]
    joined = {key: sum((run["m"][key] for run in runs), []) for key in ("errors", "words", "speakers")}
    assert interval == wer_interval(joined["errors"], joined["words"], joined["speakers"])
    assert (interval.groups, interval.over) == (9, "speakers")


def test_what_is_no_set_of_seeds_or_folds_is_refused():
    rng = np.random.default_rng(2)
    with pytest.raises(UserError, match="not scored on the same utterances"):
        over_seeds([{"m": counts(rng, 3, 0.2, "a")}, {"m": counts(rng, 3, 0.2, "b")}], [])
    with pytest.raises(UserError, match="speaker a0 is in the test sets of two folds"):
        over_folds([{"m": counts(rng, 3, 0.2, "a")}, {"m": counts(rng, 3, 0.2, "a")}], [])
    one = counts(rng, 3, 0.2, "a")
    with pytest.raises(UserError, match="fold 2: m and n: not scored on the same utterances"):
        over_folds([{"m": one, "n": one}, {"m": counts(rng, 3, 0.2, "b"), "n": counts(rng, 3, 0.2, "c")}], [("n", "m")])
