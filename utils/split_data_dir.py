#!/usr/bin/env python3
"""Split a data folder into N parts DIR/splitN/1 ... DIR/splitN/N of like size, speakers kept whole.

    python3 utils/split_data_dir.py data/an4/train 4

With --per-utt true (needed when there are fewer speakers than parts) the parts are DIR/splitNutt/J, as Kaldi's.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, parse_bool, run_main, say
from steps.core.datadir import validate_data_dir
from steps.core.tables import byte_order, select, spk2utt, write_folder


def split_groups(groups, num_parts):
    """Cut a list of groups into runs with like numbers of members, each with one group at least.

    Args:    groups: list of lists, at least num_parts of them.
    Returns: list of num_parts lists of members.
    """
    total, parts, taken, position = sum(map(len, groups)), [], 0, 0
    for part in range(1, num_parts + 1):
        members, last = [], len(groups) - (num_parts - part)  # groups the later parts need
        while position < last:
            half = len(groups[position]) / 2
            if members and part < num_parts and taken + half > total * part / num_parts:
                break
            members += groups[position]
            taken += len(groups[position])
            position += 1
        parts.append(members)
    return parts


def main():
    parser = make_parser(__doc__)
    parser.add_argument("folder", metavar="DIR", help="data folder")
    parser.add_argument("num_parts", type=int, metavar="N", help="number of parts")
    parser.add_argument("--per-utt", type=parse_bool, default=False, help="true: split speakers, too (default: false)")
    args = parser.parse_args()
    if args.num_parts < 1:
        parser.error("N must be at least 1")
    tables = validate_data_dir(args.folder, allow_pipes=True, need_text=False, spk_sort=False, on_disk=True)
    if args.per_utt:
        groups = [[utt] for utt in sorted(tables["utt2spk"], key=byte_order)]
    else:
        by_speaker = spk2utt(tables["utt2spk"])
        groups = [by_speaker[speaker].split() for speaker in sorted(by_speaker, key=byte_order)]
    if len(groups) < args.num_parts:
        what = "utterances" if args.per_utt else "speakers; try --per-utt true"
        raise UserError(f"{args.folder}: {args.num_parts} parts were asked for, but there are {len(groups)} {what}")
    top = Path(args.folder) / f"split{args.num_parts}{'utt' if args.per_utt else ''}"
    parts = split_groups(groups, args.num_parts)
    for number, utterances in enumerate(parts, 1):
        write_folder(top / str(number), select(tables, utterances))
    say(f"{top}: {args.num_parts} parts of {min(map(len, parts))} to {max(map(len, parts))} utterances")


if __name__ == "__main__":
    sys.exit(run_main(main))
