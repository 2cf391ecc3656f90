"""Several finished runs of one recipe as one table: with several seeds, or the folds of a cross-validation.

    python3 -m steps.summarise --runs exp/an4_seed0 exp/an4_seed1 exp/an4_seed2 --as seeds --set test --out exp/an4_seeds
    python3 -m steps.summarise --runs exp/fold1 exp/fold2 exp/fold3 --as folds --set test --out exp/folds

seeds: the same test set; mean, standard deviation and t interval over runs, which is what training alone makes of it.
folds: test sets that share no speaker (utils/fold_data_dir.py makes them); counts are pooled, intervals are over all
speakers. Models are those that every run has, differences those from their parents. Writes summary.md and summary.json.
"""

import dataclasses
import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.outdir import write_json, write_text
from steps.core.provenance import command_line
from steps.scoring.collect import decode_folder, read_json, read_score
from steps.scoring.report import KINDS
from steps.scoring.runs import over_folds, over_seeds
from steps.scoring.tables import interval_text, markdown_table


def main():
    args = parse_args()
    models = common_models(args.runs, args.set, args.kind)
    parents = {name: parent_of(args.runs[0], name) for name in models}
    pairs = [(name, parent) for name, parent in parents.items() if parent in models]
    runs = [
        {name: read_score(decode_folder(run, name, args.set), args.kind)["utterances"] for name in models}
        for run in args.runs
    ]
    seeds = args.how == "seeds"
    found = over_seeds(runs, pairs) if seeds else over_folds(runs, pairs, args.seed)
    tables = seed_tables(found) if seeds else fold_tables(found)
    facts = {"runs": args.runs, "as": args.how, "set": args.set, "kind": args.kind, "command": command_line()}
    plain = {name: dataclasses.asdict(value) for name, value in found["models"].items()}
    key = "spread" if seeds else "interval"
    differences = [item | {key: dataclasses.asdict(item[key])} for item in found["differences"]]
    write_text(Path(args.out) / "summary.md", f"# {args.set}, {args.kind}, {len(runs)} {args.how}\n\n{tables}")
    write_json(Path(args.out) / "summary.json", facts | {"models": plain, "differences": differences})
    say(f"{tables}\n{len(models)} models, {len(runs)} {args.how} -> {args.out}/summary.md")


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--runs", required=True, nargs="+", metavar="DIR", help="experiment folders, two or more")
    parser.add_argument("--as", required=True, choices=("seeds", "folds"), dest="how", help="what the runs differ in")
    parser.add_argument("--set", required=True, metavar="NAME", help="test set")
    parser.add_argument("--kind", choices=KINDS, default="greedy", help="kind of decoding (default: greedy)")
    add_common(parser, out="folder to write", seed=True)
    args = parser.parse_args()
    if len(set(args.runs)) < 2 or len(set(args.runs)) != len(args.runs):
        parser.error("--runs takes two folders or more, each once")
    return args


def common_models(runs, set_name, kind):
    """Models that every run has scores of, in the order of the first run's report or of their names."""
    found = []
    for run in runs:
        files = Path(run).glob(f"*/{decode_folder('', '', set_name).name}/score_{kind}.json")
        found.append({path.parent.parent.name for path in files})
    models = set.intersection(*found)
    if not models:
        raise UserError(f"no model has {kind} scores on {set_name} in all of {', '.join(runs)}")
    return sorted(models)


def parent_of(run, model):
    return (read_json(Path(run) / model / "model.json").get("parent") or {}).get("name")


def seed_tables(found):
    """Both tables over seeds, as Markdown."""
    rows = [[name, *spread_cells(value, "")] for name, value in found["models"].items()]
    more = [[f"{item['a']} - {item['b']}", *spread_cells(item["spread"], "+")] for item in found["differences"]]
    head = ["mean", "sd", "95 % of the mean", "runs"]
    tables = markdown_table(["WER", *head], rows)
    return tables + "\n" + markdown_table(["difference, points", *head], more) if more else tables


def spread_cells(value, sign):
    runs = ", ".join(f"{x:{sign}.2f}" for x in value.values)
    return [f"{value.mean:{sign}.2f}", f"{value.sd:.2f}", f"{value.low:{sign}.2f} - {value.high:{sign}.2f}", runs]


def fold_tables(found):
    """Both tables over folds, as Markdown."""
    rows = [[name, f"{v.percent:.2f}", f"{v.low:.1f} - {v.high:.1f}", v.groups] for name, v in found["models"].items()]
    tables = markdown_table(["WER", "pooled", "95 %", "speakers"], rows)
    more = [[f"{item['a']} - {item['b']}", interval_text(item["interval"])] for item in found["differences"]]
    return tables + "\n" + markdown_table(["difference, points", "pooled [95 %]"], more) if more else tables


if __name__ == "__main__":
    sys.exit(run_main(main))
