"""Results as Markdown tables that can also be read in a terminal."""

HEADER = (
    "model", "params k", "nonzero k", "size kB", "MMAC/s", "RTF", "RTF+feat",
    "greedy WER", "95 %", "lexicon WER", "95 %", "torch",
)  # fmt: skip

NOTES = """\
- WER: word errors in percent (errors / words), of the exported file run by onnxruntime. Greedy: the model alone.
  Lexicon: only words of the recipe's list can come out, all equally likely. Two tasks: compare within a column.
- 95 %: bootstrap interval of the WER, {drawn}.
- torch: greedy WER of the model folder, before export; a diagnostic.
- size: bytes of what ships, model.onnx + tokens.txt + features.yaml (1 kB = 1000 bytes).
- params: parameters of the model, in thousands; nonzero, for sparse models: those that are not zero. Zeros alone do not
  make the file smaller.
- MMAC/s: million multiply-accumulates per second of audio. RTF: seconds of one CPU thread per second of audio, for the
  network alone and with the features. A dash, or no such column: not measured.
"""


def markdown_table(header, rows, text_columns=(0,)):
    """A Markdown table with padded columns: those numbered in `text_columns` to the left, the others to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    signs = ["<" if i in text_columns else ">" for i in range(len(header))]
    lines = [
        "| " + " | ".join(f"{cell:{sign}{w}}" for cell, sign, w in zip(row, signs, widths, strict=True)) + " |\n"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + ("-" if sign == "<" else ":") for sign, w in zip(signs, widths, strict=True))
    return lines[0] + rule + "|\n" + "".join(lines[1:])


def number(value, scale=1.0, digits=0):
    """A number divided by `scale`, or a dash for None."""
    return "-" if value is None else f"{value / scale:,.{digits}f}"


def result_table(rows):
    """The main table; rows of one test set. Columns without any number are left out."""
    table = []
    for row in rows:
        cells = [row.model, number(row.parameters, 1e3, 1)]
        cells += [number(row.nonzero_parameters, 1e3, 1) if row.sparsity else "-", number(row.bytes_shipped, 1e3, 1)]
        cells += [number(row.macs_per_second, 1e6, 1), number(row.rtf, 1, 4), number(row.rtf_with_features, 1, 4)]
        for kind in ("greedy", "lexicon"):
            score = row.scores.get(kind)
            cells.append("-" if score is None else f"{score.wer_percent:.2f} ({score.errors}/{score.words})")
            cells.append("-" if score is None else f"{score.interval.low:.1f} - {score.interval.high:.1f}")
        torch = row.torch_scores.get("greedy")
        table.append([*cells, "-" if torch is None else f"{torch.wer_percent:.2f}"])
    used = [i for i in range(len(HEADER)) if any(cells[i] != "-" for cells in table)]
    header = [title.replace("WER", rate_of(rows)) for title in HEADER]
    return markdown_table([header[i] for i in used], [[cells[i] for i in used] for cells in table])


def rate_of(rows):
    """Name of the error rate of these rows: WER, CER or PER."""
    return next((score.rate for row in rows for score in row.scores.values()), "WER")


def comparison_table(comparisons, rate="WER"):
    """Differences of one test set: one row per pair, a star where the interval leaves out zero."""
    cells = {}
    for item in comparisons:
        d = item.difference
        star = " *" if d.excludes_zero else "  "
        cells.setdefault((item.a, item.b), {})[item.kind] = f"{d.percent:+.2f} [{d.low:+.2f}, {d.high:+.2f}]{star}"
    kinds = [kind for kind in ("greedy", "lexicon") if any(kind in found for found in cells.values())]
    rows = [[f"{a} - {b}", *(found.get(kind, "-") for kind in kinds)] for (a, b), found in cells.items()]
    return markdown_table([f"difference in {rate}, points [95 %]", *kinds], rows)


def agreement_lines(rows):
    """How many texts the exported file and the model folder disagree on."""
    lines = []
    for row in rows:
        if row.torch_differs:
            counts = ", ".join(f"{kind} {count}" for kind, count in row.torch_differs.items())
            lines.append(f"- {row.model}: {counts}\n")
    return "Utterances whose text differs between torch and onnxruntime:\n\n" + "".join(lines) if lines else ""


def origin_table(rows):
    """Where each model comes from."""
    table = []
    for row in rows:
        cells = (row.model, row.parent, row.seed, row.device, row.commit, row.command)
        table.append(["-" if cell is None else cell for cell in cells])
    return markdown_table(["model", "parent", "seed", "device", "commit", "command"], table, text_columns=range(6))


def set_section(results, set_name, plot=None):
    """Everything about one test set, as Markdown. Args: plot: file name of the picture, or None."""
    rows = [row for row in results.rows if row.set == set_name]
    comparisons = [item for item in results.comparisons if item.set == set_name]
    drawn = ", ".join(dict.fromkeys(
        f"drawn over {s.interval.groups} {s.interval.drawn}" for row in rows for s in row.scores.values()
    ))  # fmt: skip
    parts = [f"## {set_name}\n", result_table(rows)]
    if comparisons:
        parts.append(comparison_table(comparisons, rate_of(rows)))
        parts.append("Below 0: the first has fewer errors. *: the interval leaves out 0.\n")
    notes = NOTES.format(drawn=drawn)
    if rate_of(rows) != "WER":
        notes = notes.replace("WER: word errors", "WER: errors").replace("WER", rate_of(rows))
    parts.append(notes)
    agreement = agreement_lines(rows)
    if agreement:
        parts.append(agreement)
    if plot:
        parts.append(f"![WER against bytes on {set_name}]({plot})\n")
    return "\n".join(parts)


def report_page(results, sets, plots):
    """Content of report.md. Args: plots: {set: file name}."""
    head = f"# {results.recipe}\n\n{results.date}, commit {results.commit or 'unknown'}\n\n`{results.command}`\n"
    return "\n".join([head, *(set_section(results, name, plots.get(name)) for name in sets)])


def results_page(results, sets):
    """Content of RESULTS.md: the tables, and where every row comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    head = f"# Results of {results.recipe}\n"
    origins = [row for row in results.rows if row.set == sets[0]]
    tail = f"## Where the rows come from\n\n{origin_table(origins)}"
    made = (
        f"Tables: {results.date}, commit {results.commit or 'unknown'}, bootstrap seed {results.seed}, "
        f"timed on {results.device or 'nothing'}, {versions}.\n\n    {results.command}\n"
    )
    return "\n".join([head, *(set_section(results, name) for name in sets), tail, made])
