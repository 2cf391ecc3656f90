"""Collect sizes, speeds and error rates of models into one table, one results file and one page to hand over.

    python3 -m steps.report --exp exp/an4 --models teacher student student_kd --sets test \\
        --benchmark exp/an4/benchmark.json --compare student_kd:student --out exp/an4/report

Writes report.html (self-contained), report.md, RESULTS.md, wer_bytes_SET.svg and .png, for models that stream
wer_chunks_SET.svg and .png, cards/MODEL.md, regressions/MODEL_SET_KIND.txt and, last, results.json (its fields:
steps/scoring/results.py). Every model is compared with its parent when that is reported too, what ships with what it was made of
in the end; --compare adds pairs. Error rates are those of the exported files.
"""

import argparse
import dataclasses
import datetime
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import add_common, make_parser, run_main, say
from steps.core.outdir import write_json, write_text
from steps.core.provenance import command_line, git_commit
from steps.core.tables import counted
from steps.scoring.collect import collect_rows
from steps.scoring.compare import (
    compare,
    compare_in_noise,
    compressed_pairs,
    describe_set,
    ledgers,
    parent_pairs,
    parse_pairs,
)
from steps.scoring.history import read_curves, read_layers, read_settings, read_stages
from steps.scoring.ledger import format_ledger
from steps.scoring.markdown import comparison_table, report_page, result_table, results_page, speaker_lines
from steps.scoring.page import html_page
from steps.scoring.plot import plot_wer_bytes, plot_wer_chunks
from steps.scoring.results import Results, rate_of, shorten
from steps.scoring.sources import read_json
from steps.scoring.speakers import speaker_scores
from steps.scoring.story import describe_training, reference_of, story
from steps.scoring.streaming import collect_streaming
from steps.scoring.summary import model_card
from steps.scoring.versions import read_runtimes, version_notes, versions
from steps.scoring.warnings import find_warnings, read_teachers, transcript_notes


def main() -> None:
    args = parse_args()
    extra = parse_pairs(args.compare, args.models)
    benchmark = read_json(args.benchmark) if args.benchmark else {}
    rows = collect_rows(args.exp, args.models, args.sets, benchmark)
    ships = args.ships or args.models[-1]
    reference = reference_of(ships, rows, read_teachers(args.exp, args.models))
    whole = [(ships, reference)] if reference else []
    pairs = list(dict.fromkeys(parent_pairs(rows) + extra + whole))
    comparisons = compare(args.exp, pairs, args.sets, args.seed)
    parents = parent_pairs(rows)
    found = ledgers(args.exp, parents, args.sets)
    sets = [describe_set(args.exp, name, rows, comparisons, args.seed) for name in args.sets]
    ran = read_runtimes(args.exp, args.models, args.sets, benchmark)
    results = Results(
        recipe=args.recipe or Path(args.exp).resolve().name,
        commit=git_commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=command_line(args.exp),
        seed=args.seed,
        device=describe_host(benchmark),
        versions=versions(ran),
        sets=sets,
        rows=rows,
        comparisons=comparisons,
        noise_comparisons=compare_in_noise(args.exp, compressed_pairs(rows), args.sets, args.seed),
        ledgers=[shorten(ledger) for ledger in found],
        stages=read_stages(args.exp),
        benchmark={key: benchmark[key] for key in ("host", "settings") if key in benchmark},
        warnings=find_warnings(args.exp, rows, comparisons, sets)
        + transcript_notes(args.transcripts)
        + version_notes(ran),
        ships=ships,
        reference=reference,
        training=describe_training(args.train) if args.train else None,
        streaming=collect_streaming(args.exp, args.models, args.sets),
        speakers=[one for name in args.sets for one in speaker_scores(args.exp, args.models, name, ships)],
    )
    out = Path(args.out)
    aligned = {f"{one.model}_{one.set}_{one.kind}.txt": format_ledger(one) for one in found}
    write_only(out / "regressions", aligned)
    layers = {model: read_layers(Path(args.exp) / model / "model.safetensors") for model in args.models}
    history = read_curves(args.exp, args.models), read_settings(args.exp, args.models), layers
    write_text(out / "report.html", html_page(results, args.sets, *history))
    write_report(out, results, args.models, args.sets)
    say("\n".join(story(results, args.sets)))
    for one in results.warnings:
        say(f"{one['level']}: {one['text']}")
    for set_name in args.sets:
        print_set(results, set_name)
    say(f"{counted(len(args.models), 'model')}, {counted(len(args.sets), 'test set')} -> {args.out}/report.html")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--exp", required=True, metavar="DIR", help="experiment folder, with one folder per model")
    parser.add_argument("--models", required=True, nargs="+", metavar="NAME", help="models, in the order of the table")
    parser.add_argument("--sets", required=True, nargs="+", metavar="NAME", help="test sets, one table each")
    text = "model that the sentences on top are about (default: the last of --models)"
    parser.add_argument("--ships", metavar="NAME", help=text)
    parser.add_argument(
        "--train", metavar="DIR", help="data folder of the training set, to tell its hours and speakers"
    )
    parser.add_argument("--benchmark", metavar="JSON", help="what steps.benchmark wrote (default: none, and no speeds)")
    parser.add_argument("--compare", default="", metavar="A:B[,C:D]", help="more differences in WER, A minus B")
    text = "counts of transcripts that a recogniser wrote: transcripts.json of local/filter_transcripts.py; may be given several times"
    parser.add_argument("--transcripts", action="append", default=[], metavar="JSON", help=text)
    parser.add_argument("--recipe", metavar="NAME", help="title (default: name of the --exp folder)")
    add_common(parser, out="folder of the report", seed=True)
    args = parser.parse_args()
    if args.ships and args.ships not in args.models:
        parser.error(f"--ships: {args.ships} is not one of --models {' '.join(args.models)}")
    return args


def describe_host(benchmark: Mapping[str, Any]) -> str | None:
    """The processor the speeds were measured on, or None."""
    host = benchmark.get("host")
    if not isinstance(host, dict):
        return host
    return host.get("cpu") or platform.machine()


def write_report(out: Path, results: Results, models: Sequence[str], sets: Sequence[str]) -> None:
    """Write the other files of the report; results.json comes last."""
    plots: dict[str, dict[str, str]] = {}
    for name in sets:
        rows = [row for row in results.rows if row.set == name]
        plots[name] = {f"{rate_of(rows)} against bytes": f"wer_bytes_{name}.svg"}
        svg = out / f"wer_bytes_{name}.svg"
        plot_wer_bytes(rows, f"{results.recipe}, {name}", svg, svg.with_suffix(".png"))
        live = [row for row in results.streaming if row.set == name]
        if any(row.chunk_ms for row in live):
            plots[name][f"{rate_of(rows)} against the length of the chunks"] = f"wer_chunks_{name}.svg"
            svg = out / f"wer_chunks_{name}.svg"
            plot_wer_chunks(live, f"{results.recipe}, {name}", svg, svg.with_suffix(".png"))
    write_only(out / "cards", {f"{model}.md": model_card(results, model) for model in models})
    write_text(out / "report.md", report_page(results, sets, plots))
    write_text(out / "RESULTS.md", results_page(results, sets))
    write_json(out / "results.json", dataclasses.asdict(results))


def write_only(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into a folder, and remove those of models that an earlier report had. Args: texts: by file name."""
    for path in [*folder.glob("*.md"), *folder.glob("*.txt")]:
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        write_text(folder / name, text)


def print_set(results: Results, set_name: str) -> None:
    """Print the tables of one test set."""
    say(f"\n{results.recipe}, {set_name}:\n" + result_table([row for row in results.rows if row.set == set_name]))
    for line in speaker_lines(results, set_name):
        say(f"{line}\n")
    comparisons = [item for item in results.comparisons if item.set == set_name]
    if comparisons:
        say(comparison_table(comparisons, rate_of(results.rows)))


if __name__ == "__main__":
    sys.exit(run_main(main))
