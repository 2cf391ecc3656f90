"""Several finished runs of one recipe as one table: with several seeds, or the folds of a cross-validation.

    python3 -m steps.summarise --runs exp/an4_seed0 exp/an4_seed1 exp/an4_seed2 --as seeds --set test --out exp/an4_seeds
    python3 -m steps.summarise --runs exp/fold1 exp/fold2 exp/fold3 --as folds --set test --out exp/folds

seeds: one test set; mean and standard deviation over runs with the t interval of the mean, which shows the chance in
training alone, and the interval of that mean over the speakers of the test set. folds: test sets that share no speaker
(utils/fold_data_dir.py makes them); counts are pooled, intervals are over all speakers. The models are those that every
run has; the differences are from their parents and those of --compare. Decodings of other exports than a run has now are refused, and
one run in the place of two seeds. Writes summary.md and summary.json.
"""

import argparse
import dataclasses
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError, add_common, make_parser, run_main, say
from steps.core.decodings import KINDS
from steps.core.outdir import write_json, write_text
from steps.core.provenance import command_line
from steps.scoring.collect import decode_folder
from steps.scoring.compare import parse_pairs, read_both
from steps.scoring.details import interval_text
from steps.scoring.escape import markdown, markdown_table
from steps.scoring.runs import Spread, over_folds, over_seeds
from steps.scoring.significance import few_speakers
from steps.scoring.sources import check_decoded, check_settings, parent_of, read_json, read_score


def main() -> None:
    args = parse_args()
    seeds = args.how == "seeds"
    page, kinds = [f"# {markdown(args.set)}, {len(args.runs)} {args.how}\n"], {}
    common = {kind: models for kind in KINDS if (models := common_models(args.runs, args.set, kind))}
    everyone = list(dict.fromkeys(itertools.chain(*common.values())))
    args.pairs = parse_pairs(args.compare, everyone)
    check_runs(args, everyone)
    scored = {kind: read_scores(args, kind, models) for kind, models in common.items()}
    characters = {kind: found for kind in common if (found := summarise_characters(args, common[kind], scored[kind]))}
    for kind, found in characters.items():
        tables = seed_tables(found) if seeds else fold_tables(found)
        page.append(f"## {kind}, characters\n\n{tables.replace('WER', 'CER', 1)}")
    for kind, scores in scored.items():
        models = common[kind]
        found = over_runs(args, models, [{name: one["utterances"] for name, one in run.items()} for run in scores])
        # after what says that folds were taken for seeds
        check_alike(args, kind, models)
        kinds[kind] = plain(found)
        rate = scores[0][models[0]].get("rate", "WER")
        tables = seed_tables(found, rate) if seeds else fold_tables(found, rate)
        page.append(f"## {kind}\n\n{tables}")
    if not kinds:
        raise UserError(f"no model has scores on {args.set} in all of {', '.join(args.runs)}")
    over = next(iter(next(iter(kinds.values()))["models"].values()))["interval"]["over"]
    few = few_speakers(len({name for run in next(iter(scored.values())) for name in speakers_of(run)}))
    text = "\n".join([*page, NOTES[args.how].format(over=over), *([f"{few}\n"] if few else [])])
    write_text(Path(args.out) / "summary.md", text)
    facts = {"runs": args.runs, "as": args.how, "set": args.set, "command": command_line()}
    write_json(Path(args.out) / "summary.json", facts | {"kinds": kinds, "characters": plain(characters)})
    say(f"{text}\n{len(args.runs)} {args.how} -> {args.out}/summary.md")


# what utils/stage.py calls a finished folder in whose place another is made
MOVED_ASIDE = re.compile(r"\.old-\d+$")
# over: speakers, or utterances where there are too few speakers
NOTES = {
    "seeds": "Over seeds: t interval of the mean, what chance in training makes of it. Over {over}: interval of the mean over"
    " the\n{over} of this test set, paired for differences. *: it leaves out 0. Below 0: the first has fewer errors.\n",
    "folds": "Intervals are over the {over} of all folds, paired for differences. *: it leaves out 0.\n",
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--runs", required=True, nargs="+", metavar="DIR", help="experiment folders, two or more")
    parser.add_argument("--as", required=True, choices=("seeds", "folds"), dest="how", help="how the runs differ")
    parser.add_argument("--set", required=True, metavar="NAME", help="test set")
    parser.add_argument("--compare", default="", metavar="A:B[,C:D]", help="more differences in WER, A minus B")
    add_common(parser, out="folder to write", seed=True)
    args = parser.parse_args()
    if len(set(args.runs)) < 2 or len(set(args.runs)) != len(args.runs):
        parser.error("--runs takes two folders or more, each once")
    return args


def read_scores(args: argparse.Namespace, kind: str, models: Sequence[str]) -> list[dict[str, Any]]:
    """Scores of every run by model. Raises: MissingInput; UserError when they do not all count the same units."""
    scores = [{name: read_score(decode_folder(run, name, args.set), kind) for name in models} for run in args.runs]
    found = {
        one.get("rate", "WER"): decode_folder(run, name, args.set)
        for run, row in zip(args.runs, scores, strict=True)
        for name, one in row.items()
    }
    if len(found) > 1:
        what = ", ".join(f"{rate} in {folder}" for rate, folder in sorted(found.items()))
        raise UserError(f"{kind}: {what}; decode and score all runs with one `unit`")
    return scores


def speakers_of(run: Mapping[str, Any]) -> list[str]:
    """Speakers of the utterances of a run, which are those of any of its models. Args: run: scores by model."""
    return next(iter(run.values()))["utterances"]["speakers"]


def check_runs(args: argparse.Namespace, models: Sequence[str]) -> None:
    """Raise UserError for decodings of other files than a run has now, and for one run in the place of two seeds."""
    known: dict[tuple[tuple[str, str], ...], str] = {}
    for run in args.runs:
        for name in models:
            export = Path(run) / name / "export"
            if export.is_dir():
                check_decoded(decode_folder(run, name, args.set), export)
        specs = {name: read_json(Path(run) / name / "model.json") for name in models}
        weights = tuple((name, str(spec["weights_sha256"])) for name, spec in specs.items() if "weights_sha256" in spec)
        if args.how == "seeds" and weights and known.setdefault(weights, run) != run:
            raise UserError(f"{known[weights]} and {run}: the same weights in every model; one run is not two seeds")


def check_alike(args: argparse.Namespace, kind: str, models: Sequence[str]) -> None:
    """Raise UserError unless the models of all seeds, or of each fold, were decoded and scored alike."""
    runs = [[decode_folder(run, name, args.set) for name in models] for run in args.runs]
    check_settings(sum(runs, []), kind, lists=False)
    for folders in [sum(runs, [])] if args.how == "seeds" else runs:
        check_settings(folders, kind)
        for other in folders[1:]:
            read_both(folders[0], other, kind)


def summarise_characters(
    args: argparse.Namespace, models: Sequence[str], scores: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The same in characters, or None where not all runs want them beside words (`cer` in decode.yaml)."""
    if not all(score.get("cer_interval_95") for run in scores for score in run.values()):
        return None
    counts = [{name: score["utterances"] for name, score in run.items()} for run in scores]
    runs = [
        {name: one | {"words": one["chars"], "errors": one["char_errors"]} for name, one in run.items()}
        for run in counts
    ]
    return over_runs(args, models, runs)


def over_runs(args: argparse.Namespace, models: Sequence[str], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What `over_seeds` or `over_folds` finds, with the models' differences from their parents and those of --compare."""
    parents = [(name, common_parent(args.runs, name)) for name in models]
    pairs = [(name, parent) for name, parent in parents if parent and parent in models]
    pairs += [(a, b) for a, b in args.pairs if a in models and b in models]
    return (over_seeds if args.how == "seeds" else over_folds)(runs, list(dict.fromkeys(pairs)), args.seed)


def common_models(runs: Sequence[str], set_name: str, kind: str) -> list[str]:
    """Models scored in every run, in the order of the first run's report, or else of their names."""
    if missing := [run for run in runs if not Path(run).is_dir()]:
        raise MissingInput(f"--runs: {missing[0]}: no such folder")
    found = []
    for run in runs:
        files = Path(run).glob(f"*/{decode_folder('', '', set_name).name}/score_{kind}.json")
        names = (path.parent.parent.name for path in files)
        found.append({name for name in names if not MOVED_ASIDE.search(name)})
    report = Path(runs[0]) / "report/results.json"
    rows = read_json(report).get("rows") if report.is_file() else []
    # only the order is at stake: that of a file of another version is not looked for
    order = [row.get("model") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    last = len(order)
    return sorted(set.intersection(*found), key=lambda name: (order.index(name) if name in order else last, name))


def common_parent(runs: Sequence[str], model: str) -> str | None:
    """Name of a model's parent, if it has one. Raises: MissingInput; UserError when the runs differ in it."""
    found = [parent_of(run, model) for run in runs]
    for run, name in zip(runs, found, strict=True):
        if name != found[0]:
            made = f"made of {found[0]} in {runs[0]}, of {name} in {run}"
            raise UserError(f"{model}: {made}; give runs of one chain")
    return found[0]


def plain(value: Any) -> Any:
    """The same without data classes, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def seed_tables(found: Mapping[str, Any], rate: str = "WER") -> str:
    """Both tables over seeds, as Markdown. Args: rate: WER, CER or PER."""
    over = next(iter(found["models"].values()))["interval"].over
    rows = [
        [name, *spread_cells(value["spread"], ""), f"{value['interval'].low:.1f} - {value['interval'].high:.1f}"]
        for name, value in found["models"].items()
    ]
    head = ["mean", "runs", "sd", "95 % over seeds"]
    tables = markdown_table([rate, *head, f"95 % over {over}"], rows)
    more = []
    for item in found["differences"]:
        share = "-" if item["relative_percent"] is None else f"{item['relative_percent']:+.1f}"
        cells = [*spread_cells(item["spread"], "+"), interval_text(item["interval"]).strip(), share]
        more.append([f"{item['a']} - {item['b']}", *cells])
    if not more:
        return tables
    return f"{tables}\n{markdown_table(['difference, points', *head, f'over {over} [95 %]', '% of it'], more)}"


def spread_cells(value: Spread, sign: str) -> list[str]:
    """Mean, runs, standard deviation and interval. Args: sign: `+` for differences."""
    runs = ", ".join(f"{x:{sign}.2f}" for x in value.values)
    interval = "-" if value.low is None else f"{value.low:{sign}.2f} - {value.high:{sign}.2f}"
    return [f"{value.mean:{sign}.2f}", runs, f"{value.sd:.2f}", interval]


def fold_tables(found: Mapping[str, Any], rate: str = "WER") -> str:
    """Both tables over folds, as Markdown. Args: rate: WER, CER or PER."""
    values = {name: value["interval"] for name, value in found["models"].items()}
    rows = [[name, f"{v.percent:.2f}", f"{v.low:.1f} - {v.high:.1f}", v.units] for name, v in values.items()]
    tables = markdown_table([rate, "pooled", "95 %", "over"], rows)
    more = [[f"{item['a']} - {item['b']}", interval_text(item["interval"])] for item in found["differences"]]
    return tables + "\n" + markdown_table(["difference, points", "pooled [95 %]"], more) if more else tables


if __name__ == "__main__":
    sys.exit(run_main(main))
