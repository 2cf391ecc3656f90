#!/usr/bin/env python3
"""Put several data folders into one; ids must not clash.

    python3 utils/combine_data_dir.py data/all data/an4/train data/mine/train
    python3 utils/combine_data_dir.py data/mine/heard --parts 4

--copies N: the first of several folders N times, so that it weighs more; ids of further copies begin with `copy2-` and so on.
--parts N: the folders are part.1 to part.N in DEST, as steps.transcribe_data writes them; parts without an utterance are skipped,
the lines of dropped.tsv put together.
A single part it writes to DEST itself, and there is nothing left to do.
A file that not all of them have (text, utt2dur, feats.scp, ...) is left out, and that is said. Where some have segments, the
others get some as long as their recordings; then a recording id that an earlier folder has for another file gets a number.
"""

import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import MissingInput, UserError, make_parser, parse_count, run_main, say
from steps.core.copies import copy_prefix
from steps.core.datadir import validate_data_dir
from steps.core.outdir import write_text
from steps.core.tables import (
    BLANK,
    MADE_FROM_AUDIO,
    PART_FILE,
    RECORDING_FILES,
    TO_THE_END,
    Problem,
    Table,
    counted,
    raise_problems,
    show_counts,
    write_folder,
)

SHARED = ("spk2utt", "spk2gender", "wav.scp", "reco2dur")  # the same key may come again with the same value


def combine(folders):
    """Merge the tables of several data folders.

    Args:    folders: list of dict file name -> Table.
    Returns: (tables, names of files left out).   Raises: UserError listing all clashes.
    """
    names = {name for tables in folders for name in tables}
    common = {name for name in names if all(name in tables for tables in folders)}
    merged, problems = {name: {} for name in common}, []
    if "utt2speed" in names - common:
        raise UserError("some of the folders have utt2speed and some have none; change speeds after combining")
    for tables in folders:
        for name in common - {"spk2utt"}:
            for key, value in tables[name].items():
                if key in merged[name] and not (name in SHARED and merged[name][key] == value):
                    problems.append(Problem(tables[name].where(key), f"id {key!r} is in an earlier folder, too"))
                merged[name][key] = value
    raise_problems(problems, "ids must be unique; utt2spk sorted by speaker must stay so")
    return merged, names - common


def with_segments(folders):
    """The same folders, all of them with segments if any has some, and with recording ids that stand for one file each.

    Args, returns: list of dict file name -> Table.
    """
    if not any("segments" in tables for tables in folders):
        return folders
    made, files = [], {}
    for tables in folders:
        whole = {utt: f"{utt} 0 {TO_THE_END}" for utt in tables["utt2spk"]}
        tables = {"segments": Table(tables["utt2spk"].path, whole)} | tables
        ids = _free_names(tables["wav.scp"], files)
        cut = ((utt, *BLANK.split(value, 1)) for utt, value in tables["segments"].items())
        limits = ((utt, f"{ids[key]} {times}") for utt, key, times in cut)
        tables["segments"] = Table(tables["segments"].path, limits)
        for name in set(RECORDING_FILES) & set(tables):
            tables[name] = Table(tables[name].path, ((ids[key], value) for key, value in tables[name].items()))
        made.append(tables)
    return made


def _free_names(recordings, files):
    """Names for the recordings of one more folder: their own, or with the first number that no other file has.

    Args:    recordings: id -> file, of the folder.   files: the same of all folders before; grows.
    Returns: id -> name.
    """
    names = {}
    for key, audio in recordings.items():
        others = (f"{key}-{number}" for number in itertools.count(2))
        names[key] = key
        while files.setdefault(names[key], audio) != audio:
            names[key] = next(others)
    return names


def copied(tables, number):
    """The tables of a further copy: ids of utterances and speakers begin with its number. Features are made again."""
    prefix, copy = copy_prefix(number), {}
    for name in set(tables) - {*MADE_FROM_AUDIO, "spk2utt"}:
        shared = "segments" in tables and name in RECORDING_FILES
        names_speaker = name == "utt2spk"
        copy[name] = {
            key if shared else prefix + key: prefix + value if names_speaker else value
            for key, value in tables[name].items()
        }
    return copy


def parts_of(folder, number):
    """Those of part.1 to part.N in a folder that have utterances.

    Raises: MissingInput for one that was not finished; UserError for one of another number of parts or other utterances.
    """
    parts = [folder / f"part.{part}" for part in range(1, number + 1)] if number > 1 else [folder]
    remedy, first = "run steps.transcribe_data for it again", None
    for part in parts:
        if not (part / "dropped.tsv").is_file():
            raise MissingInput(f"{part}: not a finished part; {remedy}")
        # parts of earlier versions have none
        if number > 1 and (part / PART_FILE).is_file():
            facts = json.loads((part / PART_FILE).read_text(encoding="utf-8"))
            if facts["parts"] != number:
                raise UserError(f"{part}: one of {facts['parts']} parts, not of {number}; {remedy}")
            first = first or facts
            if facts != first:
                raise UserError(f"{part}: made when --data had other utterances than for earlier parts; {remedy}")
    found = [part for part in parts if (part / "utt2spk").is_file()]
    if not found:
        raise UserError(f"{folder}: no part has an utterance in which something was recognised")
    return found


def dropped_in_parts(folder, number):
    """The lines of dropped.tsv of all parts in one text, by id."""
    files = [folder / f"part.{part}" / "dropped.tsv" for part in range(1, number + 1)]
    return "".join(sorted(line for file in files for line in file.read_text("utf-8", "replace").splitlines(True)))


def main():
    parser = make_parser(__doc__)
    parser.add_argument("dest", metavar="DEST", help="folder to write")
    parser.add_argument("sources", nargs="*", metavar="SRC", help="data folders")
    parser.add_argument("--parts", type=parse_count, metavar="N", help="number of parts in DEST")
    parser.add_argument("--copies", type=parse_count, default=1, metavar="N", help="of the first SRC (default: 1)")
    args = parser.parse_args()
    if args.copies > 1 and len(args.sources) < 2:
        parser.error("--copies: gives the first of several folders more weight; name another")
    if bool(args.sources) == bool(args.parts):
        parser.error("give either data folders or --parts")
    args.sources = args.sources or parts_of(Path(args.dest), args.parts)
    if args.parts == 1:
        say(f"{args.dest}: written in one part")
        return
    if Path(args.dest).resolve() in [Path(source).resolve() for source in args.sources]:
        parser.error("DEST is one of the folders to combine")
    folders = [validate_data_dir(path, allow_pipes=True, need_text=False, spk_sort=False) for path in args.sources]
    folders = with_segments(folders)
    folders += [copied(folders[0], number) for number in range(2, args.copies + 1)]
    merged, left_out = combine(folders)
    for name in sorted(left_out):
        say(f"left out {name}: not every folder has it")
    write_folder(args.dest, merged)
    if args.parts:
        write_text(Path(args.dest) / "dropped.tsv", dropped_in_parts(Path(args.dest), args.parts))
    say(f"{args.dest}: {show_counts(merged)}, from {counted(len(folders), 'folder')}")


if __name__ == "__main__":
    sys.exit(run_main(main))
