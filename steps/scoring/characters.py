"""The rate of characters beside that of words, for languages whose words are long: columns of the tables (`cer` in decode.yaml)."""

from collections.abc import Sequence
from typing import Any

from steps.core.decodings import KINDS
from steps.scoring.results import Comparison, ResultRow

NOTE = """\
- CER: character errors in percent; a character is a letter with its combining marks, and each space between words is one.
"""


def character_note(rows: Sequence[ResultRow]) -> str:
    """What CER counts, where the main table has it; else empty."""
    return NOTE if any(score.cer_interval for row in rows for score in row.scores.values()) else ""


def beside_words(
    header: list[str], table: list[list[Any]], rows: Sequence[ResultRow]
) -> tuple[list[str], list[list[Any]]]:
    """The main table with CER and its interval behind each WER and its interval, where any row has them.

    Args: header, table: a row of the table for each of `rows`.
    """
    header, table = [*header], [[*cells] for cells in table]
    for kind in KINDS:
        scores = [row.scores.get(kind) for row in rows]
        if not any(score is not None and score.cer_interval for score in scores):
            continue
        place = header.index(f"{kind} WER") + 2
        header[place:place] = [f"{kind} CER", "95 %"]
        for cells, score in zip(table, scores, strict=True):
            interval = None if score is None else score.cer_interval
            shown = ["-", "-"]
            if score is not None and interval is not None:
                shown = [f"{score.cer_percent:.2f}", f"{interval.low:.1f} - {interval.high:.1f}"]
            cells[place:place] = shown
    return header, table


def differences_beside_words(
    header: list[str], table: list[list[Any]], comparisons: Sequence[Comparison]
) -> tuple[list[str], list[list[Any]]]:
    """The table of differences with those in CER before its last column, where there are any.

    Args: header, table: a row for each pair of `comparisons`, in their order.
    """
    header, table = [*header], [[*cells] for cells in table]
    pairs = list(dict.fromkeys((item.a, item.b) for item in comparisons))
    for kind in KINDS:
        found = {(item.a, item.b): item.cer_difference for item in comparisons if item.kind == kind}
        if not any(found.values()):
            continue
        header.insert(-1, f"{kind} CER")
        for cells, pair in zip(table, pairs, strict=True):
            d = found.get(pair)
            shown = (
                "-"
                if d is None
                else f"{d.percent:+.2f} [{d.low:+.2f}, {d.high:+.2f}]{' *' if d.excludes_zero else '  '}"
            )
            cells.insert(-1, shown)
    return header, table
