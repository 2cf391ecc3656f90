#!/usr/bin/env python3
"""Make a data folder with copies of every utterance at other speeds.

    python3 utils/perturb_data_dir_speed.py --speeds "0.9 1.0 1.1" data/an4/train data/an4/train_sp

Ids of the copies start with `sp0.9-`; at 1.0 they stay as they are. No audio is written: the file utt2speed tells
feature extraction what to do. utt2dur is scaled; features made already are left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, run_main, say
from steps.core.datadir import show_number, validate_data_dir
from steps.core.tables import MADE_FROM_AUDIO, RECORDING_FILES, show_counts, write_folder


def perturb(tables, speeds):
    """Copy the tables once for each speed (text such as "0.9"). Returns: dict file name -> dict."""
    merged = {name: {} for name in tables if name not in (*MADE_FROM_AUDIO, "spk2utt")}
    merged["utt2speed"] = {}
    with_segments = "segments" in tables
    for speed in speeds:
        prefix = "" if float(speed) == 1.0 else f"sp{speed}-"
        for name in set(merged) - {"utt2speed"}:
            shared = with_segments and name in RECORDING_FILES
            for key, value in tables[name].items():
                merged[name][key if shared else prefix + key] = changed(name, value, prefix, float(speed))
        merged["utt2speed"] |= {prefix + utt: speed for utt in tables["utt2spk"]}
    return merged


def changed(name, value, prefix, speed):
    """What a value of one file becomes in the copy."""
    if name == "utt2spk":
        return prefix + value
    if name == "utt2dur" and prefix:
        return show_number(float(value) / speed)
    return value


def main():
    parser = make_parser(__doc__)
    parser.add_argument("source", metavar="SRC", help="data folder")
    parser.add_argument("dest", metavar="DEST", help="folder to write")
    parser.add_argument("--speeds", default="0.9 1.0 1.1", help='factors, 0.5 to 2 (default: "0.9 1.0 1.1")')
    args = parser.parse_args()
    if Path(args.source).resolve() == Path(args.dest).resolve():
        parser.error("SRC and DEST are the same folder")
    try:
        speeds = {show_number(float(speed)): None for speed in args.speeds.split()}
        if not speeds or not all(0.5 <= float(speed) <= 2 for speed in speeds):
            raise ValueError
    except ValueError:
        parser.error(f"--speeds: expected numbers from 0.5 to 2, not {args.speeds!r}")
    tables = validate_data_dir(args.source, need_text=False, spk_sort=False)
    if "utt2speed" in tables:
        raise UserError(f"{args.source}/utt2speed: the folder holds copies at other speeds already")
    merged = perturb(tables, list(speeds))
    if set(speeds) == {"1"}:
        del merged["utt2speed"]
    write_folder(args.dest, merged)
    say(f"{args.dest}: {show_counts(merged)}, at speeds {' '.join(speeds)}")


if __name__ == "__main__":
    sys.exit(run_main(main))
