#!/usr/bin/env python3
"""Take part of a data folder; every file in it is cut down alike.

    python3 utils/subset_data_dir.py --first 100 data/an4/train data/an4/train_100

Choose by exactly one of --first, --shortest (N utterances), --per-spk (N of each speaker), --utt-list, --spk-list
(files with one id a line; more on a line is ignored).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, run_main, say
from steps.core.datadir import validate_data_dir
from steps.core.tables import byte_order, select, show_counts, spk2utt, write_folder

WAYS = ("first", "shortest", "per_spk", "utt_list", "spk_list")


def choose(tables, way, value):
    """List the chosen utterances. Args: way: one of WAYS.   value: a number, or the path of a list of ids."""
    utterances = sorted(tables["utt2spk"], key=byte_order)
    if way == "first":
        return at_least(utterances, value)[:value]
    if way == "shortest":
        lengths = tables.get("utt2num_frames") or tables.get("utt2dur")
        if not lengths:
            raise UserError("--shortest needs utt2dur or utt2num_frames in the data folder")
        return sorted(at_least(utterances, value), key=lambda utt: float(lengths[utt]))[:value]
    speakers = {speaker: utts.split() for speaker, utts in spk2utt(tables["utt2spk"]).items()}
    if way == "per_spk":
        return [utt for utts in speakers.values() for utt in utts[:value]]
    wanted = read_ids(value)
    known = set(utterances) if way == "utt_list" else set(speakers)
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"{value}: {len(unknown)} of {len(wanted)} ids are not in the data folder, e.g. {unknown[0]!r}")
    return wanted if way == "utt_list" else [utt for speaker in wanted for utt in speakers[speaker]]


def at_least(utterances, count):
    """The utterances, if there are as many as asked for."""
    if len(utterances) < count:
        raise UserError(f"{count} utterances were asked for, but there are {len(utterances)}")
    return utterances


def read_ids(path):
    """The first word of each line of a text file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    ids = [line.split()[0] for line in text.split("\n") if line.split()]
    if not ids:
        raise UserError(f"{path}: the list is empty")
    return ids


def main():
    parser = make_parser(__doc__)
    parser.add_argument("source", metavar="SRC", help="data folder")
    parser.add_argument("dest", metavar="DEST", help="folder to write")
    for way in WAYS:
        number = not way.endswith("_list")
        option = "--" + way.replace("_", "-")
        parser.add_argument(option, type=int if number else str, metavar="N" if number else "FILE")
    args = parser.parse_args()
    given = [way for way in WAYS if getattr(args, way) is not None]
    if len(given) != 1:
        parser.error("choose by exactly one of --first, --shortest, --per-spk, --utt-list, --spk-list")
    value = getattr(args, given[0])
    if isinstance(value, int) and value < 1:
        parser.error(f"--{given[0].replace('_', '-')} must be at least 1")
    if Path(args.source).resolve() == Path(args.dest).resolve():
        parser.error("SRC and DEST are the same folder")
    if any(Path(args.dest).glob("*")) and not (Path(args.dest) / "utt2spk").is_file():
        raise UserError(f"{args.dest}: exists, and is not a data folder; name another one")
    tables = validate_data_dir(args.source, allow_pipes=True, need_text=False, spk_sort=False, on_disk=True)
    chosen = select(tables, choose(tables, given[0], value))
    write_folder(args.dest, chosen)
    say(f"{args.dest}: {show_counts(chosen)}, of {show_counts(tables)}")


if __name__ == "__main__":
    sys.exit(run_main(main))
