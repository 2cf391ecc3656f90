"""Results as Markdown tables that can also be read in a terminal."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from steps.core.decodings import KINDS
from steps.core.tables import counted
from steps.scoring.characters import beside_words, character_note, differences_beside_words
from steps.scoring.details import (
    AGREEMENT_NOTE,
    FASTER_NOTE,
    NOISE_COST_NOTE,
    NOISE_NOTE,
    SPEED_NOTE,
    Cells,
    agreement_cells,
    factor,
    faster_cells,
    noise_cells,
    noise_cost_cells,
    number,
    search_note,
    speed_cells,
)
from steps.scoring.escape import code_block, markdown, markdown_table
from steps.scoring.ledger import Ledger
from steps.scoring.results import UNITS, Comparison, ResultRow, Results, TestSet, rate_of
from steps.scoring.significance import few_speakers
from steps.scoring.speakers import speaker_cells, speaker_note
from steps.scoring.story import about, story
from steps.scoring.streaming import streaming_cells, streaming_note

HEADER = (
    "model", "params k", "nonzero k", "bits", "size kB", "x smaller", "MMAC/s", "RTF", "RTF+feat",
    *(title for kind in KINDS for title in (f"{kind} WER", "95 %")), "kB with lm", "torch", "sherpa",
)  # fmt: skip

NOTES = """\
- WER: word errors in percent (errors / words), of the exported file run by onnxruntime. Greedy: the model alone.
  Lexicon: only words of the recipe's list can come out, all equally likely. Two tasks: compare within a column.
- 95 %: interval of the WER over {over}.
- torch: greedy WER of the model folder, before export; sherpa: of the exported file by sherpa-onnx. Checks.
- size: bytes of what ships, the files that the export's SHA256SUMS lists without those of a language model (1 kB = 1000
  bytes).
- x smaller: how many times smaller than the float32 export of the same net, of models in codes, where the table has that, too.
- params: parameters of what ships, in thousands; nonzero, for sparse models: those that are not zero. Zeros alone do not
  make the file smaller.
- bits: of a weight in codes, on average over the layers that have them.
- MMAC/s: million multiply-accumulates per second of audio, counted from the graph as onnxruntime ran it. RTF: seconds of
  one CPU thread per second of audio, for the network alone and with the features. A dash, or no such column: not measured.
"""
ONE_OF_NOTE = """\
- one_of: each recording is one label of a closed list: that with the largest CTC probability. A task of its own, too.
"""
BEAM_NOTE = """\
- beam: modified beam search, of transducers, any words.
"""
LM_NOTE = """\
- lm: words or tokens weighed by an n-gram language model, a task of its own, too. kB with lm: size with the graph and the
  words that this column needs, and no other does.
"""
COMPARISON_NOTE = """\
Below 0: the first has fewer errors. *: the paired bootstrap interval leaves out 0. p: matched pairs test of NIST's
sc_stats, which takes segments as independent, not speakers. Can show: the smallest difference such a comparison finds
with 80 % probability (greedy).
"""
DEV_NOTE = """\
By torch, before export, when training ended; words between blanks. Dev serves to choose settings, so it is no test.
"""
LEDGER_NOTE = """\
Utterances with more errors than the parent's, with fewer, with another text but as many; more errors by type. Which ones,
aligned: regressions/ beside this report.
"""
ORIGIN_NOTE = """\
Minutes: of training by the clock, stops left out; where pruning went in rounds, of the last one.
"""


def times_smaller(row: ResultRow, rows: Sequence[ResultRow]) -> str:
    """A model in codes against the float export of the same net, its parent; a dash where there is none among the rows."""
    parent = next((other for other in rows if (other.model, other.set) == (row.parent, row.set)), None)
    if row.quantization_bits is None or parent is None or parent.quantization_bits is not None:
        return "-"
    if parent.parameters != row.parameters or not row.bytes_shipped:
        return "-"
    return f"{parent.bytes_shipped / row.bytes_shipped:.1f}"


def result_cells(rows: Sequence[ResultRow]) -> Cells:
    """Header and rows of the main table of one test set. Columns without any number are left out."""
    table = []
    for row in rows:
        cells = [row.model, number(row.parameters, 1e3, 1)]
        cells += [number(row.nonzero_parameters, 1e3, 1) if row.sparsity else "-"]
        cells.append("-" if row.quantization_bits is None else f"{row.quantization_bits:g}")
        cells.append(number(row.bytes_shipped, 1e3, 1))
        cells.append(times_smaller(row, rows))
        cells += [number(row.macs_per_second, 1e6, 1), factor(row.rtf), factor(row.rtf_with_features)]
        for kind in KINDS:
            score = row.scores.get(kind)
            cells.append("-" if score is None else f"{score.wer_percent:.2f} ({score.errors}/{score.words})")
            cells.append("-" if score is None else f"{score.interval.low:.1f} - {score.interval.high:.1f}")
        cells.append(number(row.bytes_with_lm, 1e3, 1))
        checks = (row.torch_scores.get("greedy"), row.sherpa_scores.get("greedy"))
        table.append([*cells, *("-" if score is None else f"{score.wer_percent:.2f}" for score in checks)])
    used = [i for i in range(len(HEADER)) if any(cells[i] != "-" for cells in table)]
    header = [title.replace("WER", rate_of(rows)) for title in HEADER]
    return beside_words([header[i] for i in used], [[cells[i] for i in used] for cells in table], rows)


def result_table(rows: Sequence[ResultRow]) -> str:
    """The main table as Markdown."""
    return markdown_table(*result_cells(rows))


def result_notes(rows: Sequence[ResultRow]) -> str:
    """How to read the main table."""
    groups = dict.fromkeys(s.interval.units for row in rows for s in row.scores.values())
    notes, rate = NOTES.format(over=", ".join(groups)) + character_note(rows), rate_of(rows)
    notes += f"- {search}" if (search := search_note(rows)) else ""
    notes += LM_NOTE if any("lm" in row.scores for row in rows) else ""
    notes += ONE_OF_NOTE if any("one_of" in row.scores for row in rows) else ""
    notes += BEAM_NOTE if any("beam" in row.scores for row in rows) else ""
    if rate == "WER":
        return notes
    return notes.replace(
        "WER: word errors in percent (errors / words)", f"WER: errors in percent (errors / {UNITS[rate]})"
    ).replace("WER", rate)


def comparison_cells(comparisons: Sequence[Comparison], rate: str = "WER") -> Cells:
    """Header and rows of the differences of one test set; a star where the interval leaves out zero."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for item in comparisons:
        d, p = item.difference, p_text(item.matched_pairs.p)
        shown = f"{d.percent:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {p}{' *' if d.excludes_zero else '  '}"
        cells.setdefault((item.a, item.b), {})[item.kind] = shown
    kinds = [kind for kind in KINDS if any(kind in found for found in cells.values())]
    power = {(c.a, c.b): number(c.detectable, 1, 2) for c in comparisons if c.kind == kinds[0]}
    header = [f"difference in {rate}, points [95 %]", *kinds, "can show"]
    table = [[f"{a} - {b}", *(found.get(k, "-") for k in kinds), power[a, b]] for (a, b), found in cells.items()]
    return differences_beside_words(header, table, comparisons)


def p_text(p: float) -> str:
    """`p 0.042`."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def comparison_table(comparisons: Sequence[Comparison], rate: str = "WER") -> str:
    """The differences as Markdown."""
    return markdown_table(*comparison_cells(comparisons, rate))


def classification_cells(rows: Sequence[ResultRow]) -> Cells:
    """Header and rows of the figures of classification; (.., []) for recipes without."""
    keys = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
    found = [(row, kind, score.classification) for row in rows for kind, score in row.scores.items()]
    table = [[row.model, kind, *(f"{c[key]:.2f}" for key in keys)] for row, kind, c in found if c]
    return ["model", "kind", *(key.replace("_", " ") for key in keys)], table


def accuracy_cells(rows: Sequence[ResultRow]) -> Cells:
    """Header and rows of the other rates."""
    table = [
        [row.model, kind, f"{s.word_accuracy_percent:.2f}", f"{s.cer_percent:.2f}", f"{s.ser_percent:.2f}"]
        for row in rows
        for kind, s in row.scores.items()
    ]
    rate = rate_of(rows)
    characters = "CER with blanks" if rate == "CER" else "CER"
    return ["model", "kind", f"{UNITS[rate]} right %", characters, "sentences wrong %"], table


def dev_cells(rows: Sequence[ResultRow]) -> Cells:
    """Header and rows of the rates on dev, for the models that were trained."""
    table = [[row.model, number(row.dev_wer_percent, 1, 2), number(row.dev_cer_percent, 1, 2)] for row in rows]
    return ["model", "WER", "CER"], [cells for cells in table if cells[1:] != ["-", "-"]]


def ledger_cells(ledgers: Sequence[Ledger]) -> Cells:
    """Header and rows of the regression ledgers of one test set."""
    table = []
    for one in ledgers:
        types = [f"{more:+d}" for more in one.by_type.values()]
        table.append(
            [f"{one.model} - {one.parent}", one.kind, str(one.worse), str(one.better), str(one.other_text), *types]
        )
    return ["model - parent", "kind", "worse", "better", "other text", "ins", "del", "sub"], table


def speaker_lines(results: Results, set_name: str) -> list[str]:
    """What to know of the intervals of a test set of few speakers. Returns: list of one sentence, or empty."""
    found = [few_speakers(info.speakers) for info in results.sets if info.name == set_name]
    return [line for line in found if line]


def set_lines(results: Results, set_name: str) -> list[str]:
    """What a test set can show, in sentences. Returns: list of str."""
    rows = [row for row in results.rows if row.set == set_name]
    lines = [line for info in results.sets if info.name == set_name for line in size_lines(info, rate_of(rows))]
    if misread := [row.model for row in rows if row.sherpa_tokens]:
        what = "for byte-level BPE, by its letters, and would drop some; it is given tokens_sherpa.txt"
        lines.append(f"sherpa-onnx takes the tokens.txt of {', '.join(misread)} {what}.")
    if rows and all(row.lexicon_differs == 0 for row in rows):
        lines.append("Greedy and lexicon texts are equal: every utterance, every model.")
    return lines


def size_lines(info: TestSet, rate: str = "WER") -> list[str]:
    """How large a test set is, and what it can show for that. Args: rate: see `rate_of`."""
    utterances, speakers = counted(info.utterances, "utterance"), counted(info.speakers, "speaker")
    lines = [f"{utterances} of {speakers}, {counted(info.words, UNITS[rate].removesuffix('s'))}."]
    if info.coverage_percent is not None:
        lines[0] += (
            f" In {info.simulated} simulated sets of this design (rate and spread as of {info.model}) the interval of "
            f"the {rate} held the truth in {info.coverage_percent:.1f} %."
        )
    if info.smallest_detectable is not None:
        lines.append(
            f"A difference below {info.smallest_detectable:.2f} points would be found in fewer than four of five such sets."
        )
    return lines


def origin_cells(rows: Sequence[ResultRow]) -> Cells:
    """Header and rows: where each model comes from."""
    table = []
    for row in rows:
        cells = (row.model, row.parent, row.seed, row.device, number(row.train_seconds, 60, 1), row.commit, row.command)
        table.append(["-" if cell is None else cell for cell in cells])
    return ["model", "parent", "seed", "device", "minutes", "commit", "command"], table


def set_tables(results: Results, set_name: str) -> list[tuple[str, str, Cells]]:
    """All tables of one test set but the first two. Returns: list of (title, note, (header, rows)), none empty."""
    rows = [row for row in results.rows if row.set == set_name]
    noise = [item for item in results.noise_comparisons if item.set == set_name]
    live = [row for row in results.streaming if row.set == set_name]
    tables = [
        ("While it is spoken", streaming_note(live), streaming_cells(live)),
        ("Speakers", speaker_note(results, set_name), speaker_cells(results, set_name)),
        ("In noise", NOISE_NOTE, noise_cells(rows)),
        ("What compression costs in noise", NOISE_COST_NOTE, noise_cost_cells(noise)),
        ("Classification", "", classification_cells(rows)),
        ("Other rates", "", accuracy_cells(rows)),
        ("Dev, greedy", DEV_NOTE, dev_cells(rows)),
        ("Speed and memory", SPEED_NOTE + search_note(rows), speed_cells(rows)),
        ("CPU time against other models", FASTER_NOTE + search_note(rows), faster_cells(rows)),
        ("Texts of the runtimes", AGREEMENT_NOTE, agreement_cells(rows)),
        ("Regressions", LEDGER_NOTE, ledger_cells([item for item in results.ledgers if item.set == set_name])),
    ]
    return [(title, note, cells) for title, note, cells in tables if cells[1]]


def set_section(results: Results, set_name: str, plots: Mapping[str, str] | None = None) -> str:
    """Everything about one test set, as Markdown. Args: plots: file names of pictures by what they show."""
    rows = [row for row in results.rows if row.set == set_name]
    comparisons = [item for item in results.comparisons if item.set == set_name]
    parts = [f"## {markdown(set_name)}\n", result_table(rows)]
    parts += [f"{markdown(line)}\n" for line in speaker_lines(results, set_name)]
    if comparisons:
        parts += [comparison_table(comparisons, rate_of(rows)), COMPARISON_NOTE]
    parts += [f"{markdown(line)}\n" for line in set_lines(results, set_name)]
    parts.append(result_notes(rows))
    for title, note, (header, table) in set_tables(results, set_name):
        texts = (0, *(i for i, name in enumerate(header) if name in ("kind", "faster than")))
        parts += [f"### {title}\n", markdown_table(header, table, texts), *([note] if note else [])]
    for what, file in (plots or {}).items():
        parts.append(f"![{what} on {markdown(set_name)}]({quote(file)})\n")
    return "\n".join(parts)


def first_lines(results: Results, sets: Sequence[str]) -> str:
    """The result in three sentences, then what to know before the numbers; a quoted paragraph each."""
    told = [("Result", " ".join(story(results, sets)))] if results.ships else []
    told += [(one["level"].capitalize(), one["text"]) for one in results.warnings]
    return "".join(f"> **{what}**: {markdown(text)}\n\n" for what, text in told)


def about_lines(results: Results) -> str:
    """What the models learnt from, are meant for, and what was not measured, as a list."""
    return "".join(f"- {title}: {markdown(text)}\n" for title, text in about(results))


def report_page(results: Results, sets: Sequence[str], plots: Mapping[str, Mapping[str, str]]) -> str:
    """Content of report.md. Args: plots: {set: {what it shows: file name}}."""
    made = markdown(f"{results.date}, commit {results.commit or 'unknown'}")
    head = f"# {markdown(results.recipe)}\n\n{first_lines(results, sets)}{made}\n\n{code_block(results.command)}"
    return "\n".join([head, about_lines(results), *(set_section(results, name, plots.get(name)) for name in sets)])


def results_page(results: Results, sets: Sequence[str]) -> str:
    """Content of RESULTS.md: the tables, and where every row comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    head = (
        f"# Results of {markdown(results.recipe)}\n\n{first_lines(results, sets)}{about_lines(results)}".rstrip("\n")
        + "\n"
    )
    origins = [row for row in results.rows if row.set == sets[0]]
    tail = f"## Where the rows come from\n\n{markdown_table(*origin_cells(origins), text_columns=(0, 1, 3, 5, 6))}\n{ORIGIN_NOTE}"
    made = markdown(
        f"Tables: {results.date}, commit {results.commit or 'unknown'}, bootstrap seed {results.seed}, "
        f"timed on {results.device or 'nothing'}, {versions}."
    )
    parts = (set_section(results, name) for name in sets)
    return "\n".join([head, *parts, tail, f"{made}\n\n{code_block(results.command)}"])
