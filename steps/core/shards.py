"""The parts that an array of jobs works on: runs of utterances of like total length."""

import argparse
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.core.cli import parse_count
from steps.core.tables import Problem, byte_order, parse_table

if TYPE_CHECKING:
    from steps.core.datadir import Utterance


def add_shard_options(parser: argparse.ArgumentParser, both: bool = True) -> None:
    """Add --num-shards and, for the program that works on one part, --shard."""
    if both:
        parser.add_argument("--shard", type=parse_count, default=1, metavar="J", help="part to do, 1 to N (default: 1)")
    parser.add_argument("--num-shards", type=parse_count, default=1, metavar="N", help="number of parts (default: 1)")


def own_part(
    parser: argparse.ArgumentParser, args: argparse.Namespace, utterances: list["Utterance"]
) -> list["Utterance"]:
    """The utterances of part --shard of --num-shards, in order; there may be none."""
    if args.shard > args.num_shards:
        parser.error(f"--shard must be 1 to {args.num_shards}, not {args.shard}")
    first, last = plan_shards([utt.duration_s for utt in utterances], args.num_shards)[args.shard - 1]
    return utterances[first:last]


def plan_shards(seconds: Sequence[float | None], num_shards: int) -> list[tuple[int, int]]:
    """Cut a list of utterances into runs of like total length; a run may be empty.

    Args:    seconds: length of each utterance, or None where unknown (then all count the same).
    Returns: num_shards (first, last + 1) pairs that cover the list in order.
    """
    if any(length is None for length in seconds):
        seconds = [1.0] * len(seconds)
    middles = np.cumsum(seconds) - np.asarray(seconds) / 2
    edges = np.sum(seconds) * np.arange(1, num_shards) / num_shards
    cuts = [0, *np.searchsorted(middles, edges).tolist(), len(seconds)]
    return list(pairwise(cuts))


def merge_tables(
    paths: Iterable[Path], shown: str | Path, utt_ids: Collection[str], problems: list[Problem]
) -> dict[str, str]:
    """Merge the tables of all parts; an empty file is a part without utterances.

    Args:    shown: name of the whole, for messages.   utt_ids: the ids that must be there.
             problems: what is wrong is appended; ids that are missing, too many or there twice.
    Returns: dict id -> value.   Raises: MissingInput when a part is not there.
    """
    merged: dict[str, str] = {}
    for path in paths:
        if path.is_file() and path.stat().st_size == 0:
            continue
        table = parse_table(path, problems)
        twice = sorted(table.keys() & merged, key=byte_order)
        problems += [Problem(table.where(key), f"id {key!r} is in an earlier part, too") for key in twice]
        merged.update(table)
    problems += [Problem(str(shown), f"id {key!r} is missing") for key in utt_ids if key not in merged]
    extra = sorted(set(merged) - set(utt_ids), key=byte_order)
    problems += [Problem(str(shown), f"id {key!r} is not in the data folder") for key in extra]
    return merged
