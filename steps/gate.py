"""Decide whether a model may replace another: exit status 0 and one sentence if so, 1 and one sentence if not.

    python3 -m steps.gate --exp exp/an4 --model student_kd_int8 --baseline student_kd --set test \\
        --max-wer-increase 0.3 --alpha 0.05 --max-bytes 400000 --max-rtf 0.002

The model passes if its word error rate is shown to be at most --max-wer-increase points above the baseline's: the upper
end of the one-sided paired interval (level 1 - alpha, over speakers) must lie within. If the test set is too small to show
that, the model fails; with --unsure pass it fails only when it is shown to be worse than allowed. With few speakers a
warning line comes first: the result holds for their voices only, and the exit status does not change. Bytes are those of
the exported folder, the real-time factor is that of one thread with features, from exp/benchmark.json.

Only numbers of the very files that are there count: decodings and the benchmark name what they ran by its SHA-256, errors are
counted again from the texts, and what is damaged, of another file or of an older version is refused.
"""

import argparse
import sys
from pathlib import Path

from steps.core.cli import UserError, make_parser, parse_count, parse_finite, parse_positive, parse_seed, run_main, say
from steps.core.decodings import KINDS
from steps.core.exports import shipped_bytes
from steps.core.tables import small_number
from steps.scoring.collect import check_inputs, decode_folder
from steps.scoring.compare import read_both
from steps.scoring.significance import RESAMPLES, expanded_tail, few_speakers, paired_difference
from steps.scoring.sources import check_decoded, check_measured, count_again, parent_of, read_json, read_score

# resamples that have to lie beyond the end of an interval; fewer show no end
LEAST_BEYOND = 10


def main() -> None:
    args = parse_args()
    baseline = args.baseline or baseline_of(args.exp, args.model)
    if (Path(args.exp) / args.model).resolve() == (Path(args.exp) / baseline).resolve():
        raise UserError(f"{args.model} is the baseline itself; name another model by --baseline")
    check_inputs(args.exp, [args.model, baseline], [args.set])
    failures: list[str] = []
    facts: list[str] = []
    judge(*judge_wer(args, baseline), failures, facts)
    if args.max_bytes is not None:
        size = sum(shipped_bytes(Path(args.exp) / args.model / "export", graph=args.kind == "lm").values())
        judge(size <= args.max_bytes, f"{size:,} bytes (at most {args.max_bytes:,})", failures, facts)
    if args.max_rtf is not None:
        rtf = read_rtf(args)
        # of transducers and CTC alike: steps.benchmark times no other search
        what = "real-time factor" if args.kind == "greedy" else "real-time factor of greedy decoding"
        judge(rtf <= args.max_rtf, f"{what} {small_number(rtf, 5)} (at most {args.max_rtf:g})", failures, facts)
    if failures:
        raise UserError(f"{args.model} does not pass: {'; '.join(failures)}")
    say(f"{args.model} passes: {'; '.join(facts)}")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--exp", required=True, metavar="DIR", help="experiment folder")
    parser.add_argument("--model", required=True, metavar="NAME", help="model to judge")
    parser.add_argument("--baseline", metavar="NAME", help="model it is compared with (default: its parent)")
    parser.add_argument("--set", default="test", metavar="NAME", help="test set (default: test)")
    parser.add_argument("--kind", choices=KINDS, default="greedy", help="kind of decoding (default: greedy)")
    text = "largest increase of WER allowed; below 0: WER must fall by that much"
    parser.add_argument("--max-wer-increase", required=True, type=parse_finite, metavar="POINTS", help=text)
    parser.add_argument("--alpha", type=parse_alpha, default=0.05, help="risk of passing a worse model (default: 0.05)")
    parser.add_argument("--unsure", choices=("fail", "pass"), default="fail", help="when the set is too small to tell")
    parser.add_argument("--max-bytes", type=parse_count, metavar="N", help="largest size of what ships")
    parser.add_argument(
        "--max-rtf", type=parse_positive, metavar="X", help="largest real-time factor, features included"
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the bootstrap (default: 0)")
    return parser.parse_args()


def parse_alpha(text: str) -> float:
    """Type of --alpha: a number between 0 and 0.5."""
    value = parse_finite(text)
    if not 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 0.5, not {text!r}")
    return value


def judge(good: bool, what: str, failures: list[str], facts: list[str]) -> None:
    """Add a sentence to the failures or to the facts."""
    (facts if good else failures).append(what)


def baseline_of(exp: str | Path, model: str) -> str:
    """Name of the parent in model.json. Raises: MissingInput; UserError when there is none, or another by now."""
    name = parent_of(exp, model)
    if name is None:
        path = Path(exp) / model / "model.json"
        raise UserError(f"{path}: names no parent; name the model to compare {model} with by --baseline")
    return name


def judge_wer(args: argparse.Namespace, baseline: str) -> tuple[bool, str]:
    """Whether the loss in word error rate is allowed, and a sentence about it; warns of few speakers.

    Raises: MissingInput; UserError for scores that are not those of the exported files, and for sets too small to judge by.
    """
    folders = [decode_folder(args.exp, name, args.set) for name in (args.model, baseline)]
    a, b = read_both(folders[0], folders[1], args.kind)
    for name, folder, scored in ((args.model, folders[0], a), (baseline, folders[1], b)):
        check_decoded(folder, Path(args.exp) / name / "export", strict=True)
        count_again(folder, args.kind, scored)
    few = few_speakers(len(set(a["speakers"])))
    if few:
        say(f"warning: {few}")
    counts = (a["errors"], b["errors"], a["words"], a["speakers"])
    found = paired_difference(*counts, seed=args.seed, level=1 - 2 * args.alpha)
    level = f"{100 * (1 - args.alpha):g} %"
    if expanded_tail(args.alpha, found.groups) * RESAMPLES < LEAST_BEYOND or found.groups < 2:
        raise UserError(f"{args.set}: nothing can be shown at {level} with {found.units}; take a larger set")
    rate = read_score(folders[0], args.kind).get("rate", "WER")
    what = f"{rate} {found.percent:+.2f} points against {baseline}"
    if found.high <= args.max_wer_increase:
        return True, f"{what}, at most {found.high:+.2f} at {level} (allowed {args.max_wer_increase:+g})"
    if found.low > args.max_wer_increase:
        return False, f"{what}, at least {found.low:+.2f} at {level}: more than the {args.max_wer_increase:+g} allowed"
    shown = f"{what}, but up to {found.high:+.2f} is possible at {level}"
    return args.unsure == "pass", f"{shown}: {args.set} is too small to show less than {args.max_wer_increase:+g}"


def read_rtf(args: argparse.Namespace) -> float:
    """Real-time factor of the exported file, from benchmark.json.

    Raises: MissingInput; UserError when it was not measured, or the numbers are of another file or no numbers.
    """
    path = Path(args.exp) / "benchmark.json"
    rows = read_json(path).get("models")
    row = rows.get(args.model) if isinstance(rows, dict) else None
    if not isinstance(row, dict):
        raise UserError(f"{path}: {args.model} was not measured; run steps.benchmark with it")
    check_measured(path, row, Path(args.exp) / args.model / "export", strict=True)
    rtf = row.get("rtf_with_features")
    if isinstance(rtf, bool) or not isinstance(rtf, (int, float)) or not 0 < rtf < float("inf"):
        raise UserError(f"{path}: the real-time factor of {args.model} is {rtf!r}; run steps.benchmark again")
    return rtf


if __name__ == "__main__":
    sys.exit(run_main(main))
