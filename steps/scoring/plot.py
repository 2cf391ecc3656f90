"""The pictures: word error rate against bytes and speed, training curves, stages; the same file for the same numbers."""

import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

from steps.core.decodings import KINDS
from steps.core.outdir import atomic_file
from steps.scoring.results import ResultRow, StreamingRow, rate_of

MARKS = {
    "greedy": ("o", "#3b7dc4"),
    "lexicon": ("s", "#d0652a"),
    "lm": ("v", "#b8860b"),
    "one_of": ("^", "#2f9465"),
    "beam": ("D", "#8a5cc2"),
}
COLORS = ("#3b7dc4", "#d0652a", "#2f9465", "#9a5fb8", "#b8860b", "#c2477a", "#4a9aa8", "#7a7a7a")
# stands for the colour of the page's text
INK = "#010203"
INK_SETTINGS = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
)
SETTINGS = {
    "text.parse_math": False,
    "svg.hashsalt": "slim-asr",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
}
LINE = {"arrowstyle": "-", "lw": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 3}
# Label positions tried in turn: offset in points, horizontal alignment.
PLACES = [(side * 7, 4 + up, "left" if side > 0 else "right") for up in range(0, 97, 12) for side in (1, -1)]
PLACES += [(x, -y, align) for x, y, align in PLACES]


@dataclass(frozen=True)
class Axis:
    """What lies along x. value: function of a row and a kind of decoding, None when not measured.   label: text of the axis."""

    value: Callable[[ResultRow, str], float | None]
    label: str


def _megabytes(row: ResultRow, kind: str) -> float | None:
    """All that this kind of decoding needs."""
    size = row.bytes_with_lm if kind == "lm" else row.bytes_shipped
    return None if size is None else size / 1e6


def _time(row: ResultRow, kind: str) -> float | None:
    """Of greedy search alone, because no other is timed."""
    return row.rtf_with_features if kind == "greedy" else None


BYTES = Axis(_megabytes, "megabytes that ship")
SPEED = Axis(_time, "real-time factor, one thread, features included")


def plot_wer_bytes(rows: Sequence[ResultRow], title: str, svg_path: str | Path, png_path: str | Path) -> None:
    """Draw WER with 95 % intervals against shipped bytes (log axis) for the rows of one test set, as SVG and PNG.

    Args: title: text above.
    """
    _save(lambda: wer_figure(rows, BYTES, title), svg_path, png_path)


def plot_wer_chunks(rows: Sequence[StreamingRow], title: str, svg_path: str | Path, png_path: str | Path) -> None:
    """Draw WER against the length of the chunks for the rows of one test set, as SVG and PNG. Args: title: text above."""
    _save(lambda: chunks_figure(rows, title), svg_path, png_path)


def _save(draw, svg_path, png_path):
    """The same bytes for the same numbers."""
    with rc_context(SETTINGS):
        figure = draw()
        for path, metadata in ((svg_path, {"Date": None}), (png_path, {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=str(path).rsplit(".", 1)[1], metadata=metadata)
            with atomic_file(path, "wb") as file:
                file.write(buffer.getvalue())


def wer_figure(rows: Sequence[ResultRow], axis: Axis, title: str) -> Figure:
    """WER with intervals against `axis`; a thin line joins the models that no other beats in both."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    boxed = _draw_points(axes, rows, axis)
    _dress(axes, rows, axis, title)
    canvas.draw()
    _place_labels(axes, canvas.get_renderer(), boxed)
    return figure


def chunks_figure(rows: Sequence[StreamingRow], title: str) -> Figure:
    """WER with intervals against the length of the chunks, a line for each model; dashed, the same weights on whole utterances."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lengths = sorted({row.chunk_ms for row in rows if row.chunk_ms})
    for index, model in enumerate(dict.fromkeys(row.model for row in rows)):
        own, color = [row for row in rows if row.model == model], COLORS[index % len(COLORS)]
        # else the bars of models would coincide
        aside = axes.transData + ScaledTranslation(3 * index / 72, 0, figure.dpi_scale_trans)
        chunked = [row for row in own if row.chunk_ms]
        x, y = [lengths.index(row.chunk_ms) for row in chunked], [row.score.wer_percent for row in chunked]
        below = [max(0.0, row.score.wer_percent - row.score.interval.low) for row in chunked]
        above = [max(0.0, row.score.interval.high - row.score.wer_percent) for row in chunked]
        style = {"fmt": "o-", "color": color, "ms": 5, "lw": 0.8, "elinewidth": 0.8, "capsize": 2, "label": model}
        axes.errorbar(x, y, yerr=[below, above], transform=aside, **style)
        for row in own:
            if not row.chunk_ms:
                axes.axhline(row.score.wer_percent, color=color, lw=0.8, ls="--")
    axes.set_xticks(range(len(lengths)), [f"{length}" for length in lengths])
    axes.set_xlim(-0.5, max(len(lengths), 1) - 0.5)
    axes.set_ylim(0.0, max(1.0, 1.08 * max(row.score.interval.high for row in rows)))
    axes.grid(alpha=0.3, lw=0.5)
    axes.set_xlabel("length of the chunks, ms; dashed: whole utterances")
    axes.set_ylabel(f"{rows[0].score.rate}, %")
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=7)
    return figure


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, label: str) -> Figure:
    """Lines over training steps. Args: curves: {name: [(step, value)]}."""
    figure = Figure(figsize=(6.4, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        style = ("-", "--", ":")[index // len(COLORS) % 3]
        axes.plot(*zip(*points, strict=True), style, color=COLORS[index % len(COLORS)], lw=1.1, label=name)
    axes.grid(alpha=0.3, lw=0.5)
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=7)
    return figure


def bars_figure(values: Mapping[str, float], title: str, label: str) -> Figure:
    """Horizontal bars, the first on top. Args: values: {name: number}."""
    figure = Figure(figsize=(6.4, 0.9 + 0.22 * len(values)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color=COLORS[0])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3, lw=0.5, axis="x")
    axes.set_xlabel(label)
    axes.set_title(title)
    return figure


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats or equals in both numbers. Args: points: (x, y).  Returns: list, x ascending."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def inline_svg(draw: Callable[[], Figure], prefix: str, alt: str) -> str:
    """An <svg> element for a page in light or dark: text and frame take the colour of the page.

    Args: draw: makes the picture.   prefix: put before all ids in it, a different one for each picture.
          alt: what it shows, in words.
    """
    with rc_context(SETTINGS | INK_SETTINGS):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r' height="[^"]*pt"', "", text, count=1), count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" ', 1)


def _draw_points(axes, rows, axis):
    """Draw all points. Returns: list of (model, x, y) of the points to be labelled."""
    labelled = []
    for index, kind in enumerate(KINDS):
        marker, color = MARKS[kind]
        # else the bars of one model would coincide
        aside = ScaledTranslation(3 * index / 72, 0, axes.figure.dpi_scale_trans)
        found = [(row, row.scores[kind]) for row in rows if kind in row.scores and axis.value(row, kind) is not None]
        if not found:
            continue
        x = [axis.value(row, kind) for row, _ in found]
        y = [score.wer_percent for _, score in found]
        below = [max(0.0, score.wer_percent - score.interval.low) for _, score in found]
        above = [max(0.0, score.interval.high - score.wer_percent) for _, score in found]
        axes.errorbar(
            x,
            y,
            yerr=[below, above],
            fmt=marker,
            color=color,
            ms=5,
            lw=0,
            transform=axes.transData + aside,
            elinewidth=0.8,
            capsize=2,
            label=kind,
        )
        front = pareto_front(list(zip(x, y, strict=True)))
        axes.plot(*zip(*front, strict=True), color=color, lw=0.8, alpha=0.6, transform=axes.transData + aside)
        if kind == "greedy":
            labelled = [(row.model, axis.value(row, kind), score.wer_percent) for row, score in found]
    return labelled


def _dress(axes, rows, axis, title):
    values = (axis.value(row, kind) for row in rows for kind in row.scores)
    sizes = [value for value in values if value is not None]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    highest = max(score.interval.high for row in rows for score in row.scores.values())
    axes.set_ylim(0.0, max(1.0, 1.08 * highest))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, lw=0.5)
    axes.set_xlabel(axis.label)
    axes.set_ylabel(f"{rate_of(rows)}, %")
    axes.set_title(title)
    axes.legend(frameon=False)


def _place_labels(axes, renderer, points):
    """Label each point at the first place where the text covers no point and no other label."""
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in (axes.transData.transform(p[1:]) for p in points)]
    frame = axes.get_window_extent(renderer)
    for name, x, y in sorted(points, key=lambda point: (point[2], point[1], point[0])):
        for dx, dy, align in PLACES:
            label = axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=align, fontsize=7.5)
            box = label.get_window_extent(renderer).padded(1)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            label = axes.annotate(name, (x, y), PLACES[0][:2], textcoords="offset points", fontsize=7.5)
            box = label.get_window_extent(renderer)
        taken.append(box)
        # far from its point: a thin line shows which one
        if abs(dy) > 12:
            axes.annotate("", (x, y), (dx, dy), textcoords="offset points", arrowprops=LINE)
