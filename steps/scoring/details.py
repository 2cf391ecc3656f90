"""Tables of a report behind the main one: speed and memory, noise, texts of the runtimes; header and rows of each."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from steps.core.tables import small_number
from steps.scoring.results import NoiseComparison, ResultRow, rate_of
from steps.scoring.significance import Interval

# header and rows; no rows where nothing was measured
Cells: TypeAlias = tuple[list[str], list[list[Any]]]

SPEED_NOTE = """\
p50, p90, p99: milliseconds from samples to log-probabilities, one thread, over utterances and repeats. Peak: the process
that ran the model, Python and onnxruntime included. All threads: real-time factor by the clock.
"""
FASTER_NOTE = """\
CPU time of the network alone, without features: that of the other model divided by this one's; median and quartiles of
paired repeats.
"""
SEARCH_NOTE = """\
Times of transducers include greedy search in Python, which decides what their networks hear; those of CTC models no search.
"""
NOISE_NOTE = """\
Pink noise at this signal-to-noise ratio.
"""
NOISE_COST_NOTE = """\
The difference from the parent in this noise minus that without noise, points [95 %]; above 0, compression costs more in
noise.
"""
AGREEMENT_NOTE = """\
Utterances whose text differs between two ways of running the same model.
"""


def interval_text(d: Interval) -> str:
    """`+1.20 [+0.40, +2.00] *`: a star where the interval leaves out zero."""
    return f"{d.percent:+.2f} [{d.low:+.2f}, {d.high:+.2f}]{' *' if d.excludes_zero else '  '}"


def number(value: float | None, scale: float = 1.0, digits: int = 0) -> str:
    """A number divided by `scale`, or a dash for None."""
    return "-" if value is None else f"{value / scale:,.{digits}f}"


def factor(value: float | None) -> str:
    """A real-time factor, or a dash for None."""
    return "-" if value is None else small_number(value, 4)


def noise_cells(rows: Sequence[ResultRow]) -> Cells:
    """Greedy error rates in noise of one test set."""
    levels = list(dict.fromkeys(score.snr_db for row in rows for score in row.noise))
    table = []
    for row in rows:
        if row.noise:
            by_level = {score.snr_db: f"{score.interval.percent:.2f}" for score in row.noise}
            table.append(
                [row.model, f"{row.scores['greedy'].wer_percent:.2f}", *(by_level.get(x, "-") for x in levels)]
            )
    return [f"greedy {rate_of(rows)}", "clean", *(f"{x} dB" for x in levels)], table


def noise_cost_cells(comparisons: Sequence[NoiseComparison]) -> Cells:
    """What noise adds to the difference of each model from its parent."""
    levels = list(dict.fromkeys(item.snr_db for item in comparisons))
    extra = {(item.a, item.b, item.snr_db): interval_text(item.extra) for item in comparisons}
    pairs = dict.fromkeys((item.a, item.b) for item in comparisons)
    table = [[f"{a} - {b}", *(extra.get((a, b, x), "-") for x in levels)] for a, b in pairs]
    return ["model - parent", *(f"{x} dB" for x in levels)], table


def search_note(rows: Sequence[ResultRow]) -> str:
    """What else is timed of transducers; empty where none was timed."""
    return SEARCH_NOTE if any(row.head == "transducer" and row.rtf is not None for row in rows) else ""


def speed_cells(rows: Sequence[ResultRow]) -> Cells:
    """The measurements that the main table has no room for."""
    header = ["model", "p50 ms", "p90 ms", "p99 ms", "load s", "peak MB", "of it model MB", "RTF spread", "all threads"]
    table = []
    for row in rows:
        found = row.benchmark
        if found and "latency_ms" in found:
            memory = [number(found[key], 1e6, 1) for key in ("peak_memory_bytes", "model_memory_bytes")]
            table.append([
                row.model, *(f"{value:.1f}" for value in found["latency_ms"].values()), f"{found['load_s']:.3f}", *memory,
                small_number(found["rtf_spread"], 5), factor(found["all_threads_wall_rtf"]),
            ])  # fmt: skip
    return header, table


def faster_cells(rows: Sequence[ResultRow]) -> Cells:
    """How many times faster models are than others."""
    table = [
        [row.model, base, f"{found['times_faster']:.2f}", f"{found['low']:.2f} - {found['high']:.2f}"]
        for row in rows
        for base, found in ((row.benchmark or {}).get("ratios") or {}).items()
    ]
    return ["model", "faster than", "times", "quartiles"], table


def agreement_cells(rows: Sequence[ResultRow]) -> Cells:
    """How many utterances' texts two runtimes disagree on: a row for each model, a column for each pair and kind."""
    columns = list(dict.fromkeys((a.a, a.b, a.kind) for row in rows for a in row.agreement))
    table = []
    for row in rows:
        if row.agreement:
            shown = {(a.a, a.b, a.kind): f"{len(a.differences)} of {a.utterances}" for a in row.agreement}
            table.append([row.model, *(shown.get(column, "-") for column in columns)])
    return ["model", *(f"{a} - {b}, {kind}" for a, b, kind in columns)], table
