"""Collect sizes, speeds and error rates of models into one table, one results file and one picture.

    python3 -m steps.report --exp exp/an4 --models teacher student student_kd --sets test \\
        --benchmark exp/an4/benchmark.json --compare student_kd:student --out exp/an4/report

Writes results.json, report.md, RESULTS.md and wer_bytes_SET.svg and .png. Every model is compared with its parent when
that is reported too; --compare adds pairs. Error rates are of the exported files.
"""

import dataclasses
import datetime
import importlib.metadata
import platform
import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import nearest
from steps.core.outdir import write_json, write_text
from steps.core.provenance import command_line, git_commit
from steps.scoring.plot import plot_wer_bytes
from steps.scoring.report import Results, collect_rows, compare, parent_pairs, read_json
from steps.scoring.tables import comparison_table, report_page, result_table, results_page

PACKAGES = ("torch", "onnxruntime", "numpy", "RapidFuzz")


def main():
    args = parse_args()
    extra = parse_pairs(args.compare, args.models)
    benchmark = read_json(args.benchmark) if args.benchmark else {}
    rows = collect_rows(args.exp, args.models, args.sets, benchmark)
    pairs = list(dict.fromkeys(parent_pairs(rows) + extra))
    results = Results(
        recipe=args.recipe or Path(args.exp).resolve().name,
        commit=git_commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=command_line(),
        seed=args.seed,
        device=describe_host(benchmark),
        versions=versions(),
        rows=rows,
        comparisons=compare(args.exp, pairs, args.sets, args.seed),
    )
    write_report(Path(args.out), results, args.sets)
    for set_name in args.sets:
        print_set(results, set_name)
    say(f"{len(args.models)} models, {len(args.sets)} test sets -> {args.out}/report.md")


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--exp", required=True, metavar="DIR", help="experiment folder, one folder per model in it")
    parser.add_argument("--models", required=True, nargs="+", metavar="NAME", help="models, in the order of the table")
    parser.add_argument("--sets", required=True, nargs="+", metavar="NAME", help="test sets, one table each")
    parser.add_argument("--benchmark", metavar="JSON", help="what steps.benchmark wrote; without: speed columns empty")
    parser.add_argument("--compare", default="", metavar="A:B[,C:D]", help="more differences in WER, A minus B")
    parser.add_argument("--recipe", metavar="NAME", help="title (default: name of the --exp folder)")
    add_common(parser, out="folder of the report", seed=True)
    return parser.parse_args()


def parse_pairs(text, models):
    """Pairs of `A:B,C:D`. Raises: UserError for a pair that is none or names no reported model."""
    pairs = []
    for part in filter(None, text.split(",")):
        names = tuple(part.split(":"))
        if len(names) != 2:
            raise UserError(f"--compare: {part!r} is not of the form A:B")
        for name in names:
            if name not in models:
                raise UserError(f"--compare: {name!r} is not among --models{nearest(name, models)}")
        pairs.append(names)
    return pairs


def describe_host(benchmark):
    """The processor the speeds were measured on, or None."""
    host = benchmark.get("host")
    if not isinstance(host, dict):
        return host
    return host.get("cpu") or platform.machine()


def versions():
    """Versions of Python and of the packages that make the numbers; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_report(out, results, sets):
    """Write all files of the report; results.json comes last."""
    plots = {}
    for name in sets:
        plots[name] = f"wer_bytes_{name}.svg"
        rows = [row for row in results.rows if row.set == name]
        svg = out / plots[name]
        plot_wer_bytes(rows, f"{results.recipe}, {name}", svg, svg.with_suffix(".png"))
    write_text(out / "report.md", report_page(results, sets, plots))
    write_text(out / "RESULTS.md", results_page(results, sets))
    write_json(out / "results.json", dataclasses.asdict(results))


def print_set(results, set_name):
    """Print the tables of one test set."""
    say(f"\n{results.recipe}, {set_name}:\n" + result_table([row for row in results.rows if row.set == set_name]))
    comparisons = [item for item in results.comparisons if item.set == set_name]
    if comparisons:
        say(comparison_table(comparisons))


if __name__ == "__main__":
    sys.exit(run_main(main))
