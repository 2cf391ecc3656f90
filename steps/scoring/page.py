"""report.html: everything on one self-contained page, for a telephone and a desk, light and dark, without a network."""

import functools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from steps.core.tables import counted
from steps.scoring import plot
from steps.scoring.elements import figure, folded, html_table, note, page_head, paragraph, preformatted
from steps.scoring.ledger import Ledger, format_change
from steps.scoring.markdown import (
    COMPARISON_NOTE,
    ORIGIN_NOTE,
    comparison_cells,
    origin_cells,
    result_cells,
    result_notes,
    set_lines,
    set_tables,
)
from steps.scoring.results import ResultRow, Results, rate_of
from steps.scoring.story import about, story
from steps.scoring.summary import summary_sentences

CURVES = (
    ("train/loss", "Training loss", "nats per encoder frame"),
    ("dev/loss", "Loss on dev", "nats per encoder frame"),
    ("dev/wer", "Word error rate on dev, greedy", "%"),
    ("train/lr", "Learning rate", ""),
    ("train/grad_norm", "Gradient norm", ""),
)
# of a warning -> class of its paragraph
LEVELS = {"warning": "warning", "note": "hint"}
# regressions shown for each model
WORST = 5
# a curve of fewer points says nothing
FEWEST_POINTS = 3
# tables that are closed at first
FOLDED = ("Other rates", "Speed and memory", "CPU time against other models", "Texts of the runtimes", "Regressions")


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
    parts = [page_head(title), f"<h1>{escape(title)}</h1>"]
    if results.ships:
        parts.append(f'<div class="story">{"".join(map(paragraph, story(results, sets)))}</div>')
    parts += [paragraph(one["text"], LEVELS.get(one["level"], "hint")) for one in results.warnings]
    parts.append(f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>' for a, b in about(results))}</dl>")
    timed = f", timed on {results.device}" if results.device else ", not timed"
    parts.append(note(f"{results.date}, commit {results.commit or 'unknown'}{timed}"))
    for number, name in enumerate(sets):
        parts += set_part(results, name, f"s{number}")
    parts += curves_part(curves) + stages_part(results.stages)
    parts += layers_part(layers) + settings_part(results, sets[0], settings)
    return "\n".join([*parts, "</body></html>\n"])


def set_part(results: Results, name: str, prefix: str) -> list[str]:
    """Tables, plots and regressions of one test set."""
    rows = [row for row in results.rows if row.set == name]
    comparisons = [item for item in results.comparisons if item.set == name]
    parts = [f"<h2>{escape(name)}</h2>", paragraph(" ".join(summary_sentences(results, name)), "summary")]
    parts += [html_table(*result_cells(rows)), folded("What the columns mean", note(result_notes(rows)))]
    parts += [paragraph(line) for line in set_lines(results, name)]
    axes = {"bytes": plot.BYTES, "rtf": plot.SPEED}
    for key, axis in axes.items():
        if any(axis.value(row, "greedy") is not None for row in rows):
            title = f"{rate_of(rows)} against {'bytes' if key == 'bytes' else 'real-time factor'}, {name}"
            parts.append(figure(functools.partial(plot.wer_figure, rows, axis, title), f"{prefix}{key}", title))
    live = [row for row in results.streaming if row.set == name]
    if any(row.chunk_ms for row in live):
        title = f"{rate_of(rows)} against the length of the chunks, {name}"
        parts.append(figure(functools.partial(plot.chunks_figure, live, title), f"{prefix}chunks", title))
    if comparisons:
        parts += [html_table(*comparison_cells(comparisons, rate_of(rows))), note(COMPARISON_NOTE)]
    for title, words, cells in set_tables(results, name):
        table = html_table(*cells) + note(words)
        parts.append(folded(title, table) if title in FOLDED else f"<h3>{escape(title)}</h3>{table}")
    return parts + differences_part(rows) + regressions_part([item for item in results.ledgers if item.set == name])


def differences_part(rows: Sequence[ResultRow]) -> list[str]:
    """Every utterance whose text differs between two runtimes, folded away."""
    parts = []
    for row in rows:
        for a in row.agreement:
            if a.differences:
                lines = "\n".join(f"{d['id']}\n  {a.a}: {said(d['a'])}\n  {a.b}: {said(d['b'])}" for d in a.differences)
                head = f"{row.model}, {a.kind}: {len(a.differences)} texts differ between {a.a} and {a.b}"
                parts.append(folded(head, preformatted(lines)))
    return parts


def said(text: str | None) -> str:
    """A text, or that there is none."""
    return text or ("(not decoded)" if text is None else "(nothing)")


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
        parts.append(folded(head, preformatted(text)))
    return parts if len(parts) > 1 else []


def curves_part(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> list[str]:
    """Training curves, one picture for each quantity that was measured often enough to have a course."""
    parts = ["<h2>Training</h2>"]
    for number, (tag, title, label) in enumerate(CURVES):
        courses = {model: points for model, points in curves.get(tag, {}).items() if len(points) >= FEWEST_POINTS}
        if courses:
            draw = functools.partial(plot.curves_figure, courses, title, label)
            parts.append(figure(draw, f"c{number}", title))
    return parts if len(parts) > 1 else []


def stages_part(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """How long the tasks took, those of less than a hundredth of it all together."""
    total = sum(s["seconds"] or 0 for s in stages) / 60
    every = {f"{s['stage']} {s['name']}": (s["seconds"] or 0) / 60 for s in stages}
    timed = {name: minutes for name, minutes in every.items() if minutes > total / 100}
    if not timed:
        return []
    if few := [minutes for name, minutes in every.items() if name not in timed]:
        timed[counted(len(few), "shorter task")] = sum(few)
    title = "Minutes of each task"
    picture = figure(lambda: plot.bars_figure(timed, title, "minutes"), "t", title)
    return ["<h2>Time</h2>", picture, note(f"{total:.1f} minutes in all; some ran side by side.")]


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
            parts.append(folded(head, table))
    return parts if len(parts) > 1 else []


def settings_part(results: Results, set_name: str, settings: Mapping[str, str]) -> list[str]:
    """Where the rows come from, settings of every model, versions."""
    rows = [row for row in results.rows if row.set == set_name]
    header, cells = origin_cells(rows)
    # commands are long: each stands with its model's settings
    parts = ["<h2>Settings and versions</h2>", html_table(header[:-1], [row[:-1] for row in cells], css="left")]
    parts.append(note(ORIGIN_NOTE))
    for row in rows:
        texts = [text for text in (row.command, settings.get(row.model)) if text]
        if texts:
            parts.append(folded(row.model, "".join(preformatted(text, wrap=True) for text in texts)))
    host = results.benchmark.get("host") or {}
    versions = [f"{name} {version}" for name, version in {**host.get("versions", {}), **results.versions}.items()]
    parts.append(paragraph("Versions: " + ", ".join(versions)))
    if host:
        flags = " ".join(host.get("flags", [])) or "none of those looked for"
        timed = ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in results.benchmark.get("settings", {}).items()
        )
        parts.append(paragraph(f"Timed on {host.get('cpu')}, instruction sets {flags}; {timed}."))
    return [*parts, preformatted(results.command, wrap=True)]
