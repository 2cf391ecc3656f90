"""The picture: word error rate against bytes, the same file for the same numbers."""

import io

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

from steps.core.outdir import atomic_file

SERIES = (("greedy", "o", "#1f5fa8"), ("lexicon", "s", "#c2571a"))
SETTINGS = {"svg.hashsalt": "slim-asr", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0}
LINE = {"arrowstyle": "-", "lw": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 3}
# Label positions tried in turn: offset in points, horizontal alignment.
PLACES = [(side * 7, 4 + up, "left" if side > 0 else "right") for up in range(0, 97, 12) for side in (1, -1)]
PLACES += [(x, -y, align) for x, y, align in PLACES]


def plot_wer_bytes(rows, title, svg_path, png_path):
    """Draw WER with 95 % intervals against shipped bytes (log axis) for the rows of one test set, as SVG and PNG.

    Args: rows: list of ResultRow.   title: text above.
    """
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        boxed = _draw_points(axes, rows)
        _dress(axes, rows, title)
        canvas.draw()
        _place_labels(axes, canvas.get_renderer(), boxed)
        for path, metadata in ((svg_path, {"Date": None}), (png_path, {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=str(path).rsplit(".", 1)[1], metadata=metadata)
            with atomic_file(path, "wb") as file:
                file.write(buffer.getvalue())


def _draw_points(axes, rows):
    """Draw all points. Returns: list of (model, x, y) of the points to be labelled."""
    labelled = []
    for index, (kind, marker, color) in enumerate(SERIES):
        aside = ScaledTranslation(3 * index / 72, 0, axes.figure.dpi_scale_trans)  # else bars of one model coincide
        found = [(row, row.scores[kind]) for row in rows if kind in row.scores]
        if not found:
            continue
        x = [row.bytes_shipped / 1e6 for row, _ in found]
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
        if kind == "greedy":
            labelled = [(row.model, row.bytes_shipped / 1e6, score.wer_percent) for row, score in found]
    return labelled


def _dress(axes, rows, title):
    sizes = [row.bytes_shipped / 1e6 for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    highest = max(score.interval.high for row in rows for score in row.scores.values())
    axes.set_ylim(0.0, max(1.0, 1.08 * highest))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, lw=0.5)
    axes.set_xlabel("megabytes that ship (model.onnx, tokens.txt, features.yaml)")
    axes.set_ylabel("word error rate, %")
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
        if abs(dy) > 12:  # far from its point: a thin line says which one
            axes.annotate("", (x, y), (dx, dy), textcoords="offset points", arrowprops=LINE)
