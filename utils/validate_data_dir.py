#!/usr/bin/env python3
"""Check data folders and list everything that is wrong with them.

    python3 utils/validate_data_dir.py --audio true data/an4/train data/an4/test

What Kaldi's utils/validate_data_dir.sh demands, and more. Nothing is changed; utils/fix_data_dir.py mends. Utterance ids that do
not begin with their speaker are only noted, unless --spk-sort is given: Kaldi's tools accept them with --no-spk-sort.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, parse_bool, run_main, say
from steps.core.datacheck import NO_SPK_SORT, speakers_in_order
from steps.core.datadir import validate_data_dir
from steps.core.tables import show_counts


def main():
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="data folders")
    for name, default, what in (
        ("audio", False, "read the header of every sound file (needs soundfile)"),
        ("text", True, "demand transcripts"),
        ("spk-sort", None, "demand that utterance ids start with the speaker id, as Kaldi does by default"),
        ("allow-pipes", False, "accept commands in wav.scp, which the programs here do not run"),
    ):
        text = f"{what} (true or false; default: {'a note' if default is None else str(default).lower()})"
        parser.add_argument(f"--{name}", type=parse_bool, default=default, metavar="BOOL", help=text)
    args = parser.parse_args()
    errors = []
    for folder in args.folders:
        try:
            demand = bool(args.spk_sort)
            tables = validate_data_dir(folder, args.allow_pipes, args.audio, args.text, demand, on_disk=True)
        except UserError as error:
            errors.append(error)
            continue
        hours = sum(map(float, tables.get("utt2dur", {}).values())) / 3600
        say(f"{folder}: {show_counts(tables)}{f', {hours:.2f} h' if hours else ''}: no problems")
        if args.spk_sort is None and not speakers_in_order(tables["utt2spk"]):
            say(f"{folder}: {NO_SPK_SORT}")
    if errors:
        raise type(errors[0])("\n".join(map(str, errors)))


if __name__ == "__main__":
    sys.exit(run_main(main))
