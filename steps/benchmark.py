"""Measure size, speed and memory of exported models, in turns in one process.

    python3 -m steps.benchmark --models exp/an4/teacher/export exp/an4/student/export --data data/an4/test \\
        --out exp/an4/benchmark.json

One thread and all of them; CPU time and wall time, after one untimed pass; medians of the repeats and their
interquartile range; latency of every utterance; ratios against --reference and against the float parent of an int8
model. Multiply-accumulates are counted from the graph as onnxruntime ran it, memory is that of a separate process.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import nearest
from steps.core.datadir import read_data_dir
from steps.core.exports import is_exported
from steps.core.outdir import write_json
from steps.core.provenance import without_work_folder
from steps.core.tables import counted, small_number
from steps.deploy.benchmark import benchmark, describe_host, name_folders, sample_utterances


def main() -> None:
    args = parse_args()
    folders = name_folders(args.models)
    wrong = [str(folder) for folder in folders.values() if not is_exported(folder)]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not an exported folder; name the export/ in it")
    utterances = sample_utterances(read_data_dir(args.data, need_text=False), args.max_utterances, args.seed)
    say(
        f"{counted(len(folders), 'model')}, {counted(len(utterances), 'utterance')} of {args.data}, {args.repeats} repeats"
    )
    if args.reference and args.reference not in folders:
        raise UserError(f"--reference: {args.reference!r} is not among the models{nearest(args.reference, folders)}")
    result = benchmark(folders, utterances, args.repeats, args.seed, args.reference)
    result["settings"]["data"] = without_work_folder(args.data, args.data)
    write_json(args.out, {"host": describe_host()} | result)
    print_table(result["models"])
    say(f"{result['settings']['audio_s']} s of audio -> {args.out}")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--models", required=True, nargs="+", metavar="DIR", help="exported folders")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder to take utterances from")
    parser.add_argument("--max-utterances", type=int, default=20, metavar="N", help="sample size (default: 20)")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="timed passes, 5 or more (default: 7)")
    parser.add_argument("--reference", metavar="NAME", help="model to compare all with (default: the first)")
    add_common(parser, out="JSON file to write", seed=True)
    args = parser.parse_args()
    if args.repeats < 5 or args.max_utterances < 1:
        parser.error("--repeats must be 5 or more, --max-utterances 1 or more")
    return args


def print_table(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each model."""
    width = max(map(len, models))
    say(f"{'model':{width}}      bytes  RTF       spread    with features  p99 ms  load s  peak MB")
    for name, row in models.items():
        rtfs = (small_number(row[key], 5) for key in ("rtf", "rtf_spread", "rtf_with_features"))
        speeds = "  ".join(f"{rtf:8}" for rtf in rtfs) + "     "
        rest = f"{row['latency_ms']['p99']:8.2f}  {row['load_s']:6.3f}  {row['peak_memory_bytes'] / 1e6:7.1f}"
        say(f"{name:{width}} {row['bytes']:10,}  {speeds} {rest}")


if __name__ == "__main__":
    sys.exit(run_main(main))
