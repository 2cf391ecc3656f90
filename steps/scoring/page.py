"""report.html: everything on one self-contained page, for a telephone and a desk, light and dark, without a network.

Every text from data is escaped; nothing on the page is executed.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from steps.scoring import plot
from steps.scoring.ledger import Ledger, format_change
from steps.scoring.markdown import (
    COMPARISON_NOTE,
    ORIGIN_NOTE,
    comparison_cells,
    origin_cells,
    rate_of,
    result_cells,
    result_notes,
    set_lines,
    set_tables,
)
from steps.scoring.results import ResultRow, Results
from steps.scoring.summary import summary_sentences

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fdfdfc; --soft: #f1f1ee; --line: #d5d5cf; --mark: #3b7dc4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e0; --paper: #16181b; --soft: #212428; --line: #3a3e44; --mark: #7fb2e8 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
h3 { margin-top: 1.6rem; font-size: 1.05rem }
.summary { font-size: 1.1rem; background: var(--soft); padding: .8rem 1rem; border-left: 4px solid var(--mark) }
.warning { padding: .6rem 1rem; background: var(--soft); border-left: 4px solid #c0392b } .warning::before {
  content: "Warning: "; font-weight: bold; color: #c0392b }
.wide { overflow-x: auto; overflow-wrap: normal }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th { background: var(--soft) } th:first-child, td:first-child { text-align: left }
.left td, .left th { text-align: left }
figure { margin: 1rem 0 } svg { width: 100%; height: auto; max-width: 52rem; display: block }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .8rem; line-height: 1.35; overflow-wrap: normal }
.note { font-size: .85rem; opacity: .85 } details { margin: .5rem 0 } summary { cursor: pointer }
"""
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
"""
CURVES = (
    ("train/loss", "Training loss", "nats per encoder frame"),
    ("dev/loss", "Loss on dev", "nats per encoder frame"),
    ("dev/wer", "Word error rate on dev, greedy", "%"),
    ("train/lr", "Learning rate", ""),
    ("train/grad_norm", "Gradient norm", ""),
)
# regressions shown for each model
WORST = 5


def html_page(
    results: Results,
    sets: Sequence[str],
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    settings: Mapping[str, str],
    layers: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Content of report.html.

    Args:    sets: names of the test sets.   curves: as `history.read_curves` returns them.
             settings: {model: text of its conf.yaml}.   layers: {model: as `history.read_layers` returns them}.
    """
    title = f"{results.recipe}: results"
    parts = [HEAD.format(title=escape(title), style=STYLE), f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="{one["level"]}">{escape(one["text"])}</p>' for one in results.warnings]
    made = f"{results.date}, commit {results.commit or 'unknown'}, timed on {results.device or 'nothing'}"
    parts.append(f'<p class="note">{escape(made)}</p>')
    parts += [f'<p class="summary">{escape(" ".join(summary_sentences(results, name)))}</p>' for name in sets]
    for number, name in enumerate(sets):
        parts += set_part(results, name, f"s{number}")
    parts += curves_part(curves) + stages_part(results.stages)
    parts += layers_part(layers) + settings_part(results, sets[0], settings)
    return "\n".join([*parts, "</body></html>\n"])


def set_part(results: Results, name: str, prefix: str) -> list[str]:
    """Tables, plots and regressions of one test set."""
    rows = [row for row in results.rows if row.set == name]
    comparisons = [item for item in results.comparisons if item.set == name]
    parts = [f"<h2>{escape(name)}</h2>", html_table(*result_cells(rows))]
    parts += [paragraph(line) for line in set_lines(results, name)]
    axes = {"bytes": plot.BYTES, "rtf": plot.SPEED}
    for key, axis in axes.items():
        if any(axis.value(row) is not None for row in rows):
            title = f"{rate_of(rows)} against {'bytes' if key == 'bytes' else 'real-time factor'}, {name}"
            parts.append(figure(functools.partial(plot.wer_figure, rows, axis, title), f"{prefix}{key}", title))
    if comparisons:
        parts += [html_table(*comparison_cells(comparisons, rate_of(rows))), note(COMPARISON_NOTE)]
    parts += [f"<details><summary>What the columns mean</summary>{note(result_notes(rows))}</details>"]
    for title, words, cells in set_tables(results, name):
        parts += [f"<h3>{escape(title)}</h3>", html_table(*cells), note(words)]
    return parts + differences_part(rows) + regressions_part([item for item in results.ledgers if item.set == name])


def differences_part(rows: Sequence[ResultRow]) -> list[str]:
    """Every utterance whose text differs between two runtimes, folded away."""
    parts = []
    for row in rows:
        for a in row.agreement:
            if a.differences:
                lines = "\n".join(f"{d['id']}\n  {a.a}: {d['a']}\n  {a.b}: {d['b']}" for d in a.differences)
                head = f"{row.model}, {a.kind}: {len(a.differences)} texts differ between {a.a} and {a.b}"
                parts.append(f"<details><summary>{escape(head)}</summary><pre>{escape(lines)}</pre></details>")
    return parts


def regressions_part(ledgers: Sequence[Ledger]) -> list[str]:
    """The worst regressions of each model, aligned."""
    parts = ["<h3>Worst regressions</h3>"] if ledgers else []
    for one in ledgers:
        worse = [change for change in one.changes if change.more > 0][:WORST]
        if one.kind != "greedy" or not worse:
            continue
        text = "\n".join(
            f"{c.utt_id} (speaker {c.speaker}): {c.parent_errors} -> {c.errors} errors\n"
            f"{format_change(c, one.parent, one.model)}"
            for c in worse
        )
        head = f"{one.model} against {one.parent}: {one.worse} worse, {one.better} better of {one.utterances}"
        parts.append(f"<details><summary>{escape(head)}</summary><pre>{escape(text)}</pre></details>")
    return parts


def curves_part(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> list[str]:
    """Training curves, one picture for each quantity."""
    parts = ["<h2>Training</h2>"] if curves else []
    for number, (tag, title, label) in enumerate(CURVES):
        if tag in curves:
            draw = functools.partial(plot.curves_figure, curves[tag], title, label)
            parts.append(figure(draw, f"c{number}", title))
    return parts


def stages_part(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """How long every task took."""
    timed = {f"{s['stage']} {s['name']}": s["seconds"] / 60 for s in stages if s["seconds"] and s["seconds"] >= 1}
    if not timed:
        return []
    total = sum(s["seconds"] or 0 for s in stages) / 60
    title = f"Minutes of each task ({total:.1f} in all; some ran side by side)"
    return ["<h2>Time</h2>", figure(lambda: plot.bars_figure(timed, title, "minutes"), "t", title)]


def layers_part(layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Sizes and bits of every tensor, folded away."""
    parts = ["<h2>Layers</h2>"]
    for model, tensors in layers.items():
        cells = [
            [
                x["name"],
                " x ".join(map(str, x["shape"])) or "1",
                f"{x['parameters']:,}",
                str(x["bits"]),
                f"{x['bytes']:,}",
            ]
            for x in tensors
        ]
        size, bits = sum(x["bytes"] for x in tensors), sorted({x["bits"] for x in tensors})
        head = f"{model}: {len(tensors)} tensors, {size:,} bytes, {' and '.join(map(str, bits))} bits"
        table = html_table(["tensor", "shape", "numbers", "bits", "bytes"], cells)
        if tensors:
            parts.append(f"<details><summary>{escape(head)}</summary>{table}</details>")
    return parts if len(parts) > 1 else []


def settings_part(results: Results, set_name: str, settings: Mapping[str, str]) -> list[str]:
    """Where the rows come from, settings of every model, versions."""
    rows = [row for row in results.rows if row.set == set_name]
    parts = ["<h2>Settings and versions</h2>", html_table(*origin_cells(rows), css="left"), note(ORIGIN_NOTE)]
    for model, text in settings.items():
        parts.append(f"<details><summary>{escape(model)}</summary><pre>{escape(text)}</pre></details>")
    host = results.benchmark.get("host") or {}
    versions = [f"{name} {version}" for name, version in {**host.get("versions", {}), **results.versions}.items()]
    parts.append(paragraph("Versions: " + ", ".join(versions)))
    if host:
        flags = " ".join(host.get("flags", [])) or "none of those looked for"
        parts.append(
            paragraph(f"Timed on {host.get('cpu')}, instruction sets {flags}; {results.benchmark['settings']}")
        )
    return [*parts, f"<pre>{escape(results.command)}</pre>"]


def html_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], css: str = "") -> str:
    """A table that scrolls sideways on a narrow screen."""
    lines = ["".join(f"<th>{escape(str(cell))}</th>" for cell in header)]
    lines += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table class="{css}">{body}</table></div>'


def figure(draw: Callable[[], Figure], prefix: str, alt: str) -> str:
    """A picture as inline SVG."""
    return f"<figure>{plot.inline_svg(draw, prefix, alt)}</figure>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Markdown notes as small print."""
    return f'<p class="note">{escape(text.strip()).replace(chr(10) + "- ", "<br>- ")}</p>' if text else ""
