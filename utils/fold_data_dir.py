#!/usr/bin/env python3
"""Split a data folder for cross-validation: fold N's speakers are the test set, the next fold's dev, the others train.

    python3 utils/fold_data_dir.py --folds 5 --fold 1 --source data/an4/train --out data/fold1

Speakers are dealt to the folds by their amount of speech, so that folds are of like size; the same source and --folds
always give the same folds. Writes train/, dev/ and test/ below --out, and copies of words.txt, labels.txt and sound.json that lie
beside --source: usable as `prepare=` of a recipe for each fold.
Results of all folds together: python3 -m steps.summarise --as folds.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, parse_count, run_main, say
from steps.core.datadir import SOUND_FILE, validate_data_dir
from steps.core.outdir import write_text
from steps.core.tables import byte_order, counted, select, show_counts, spk2utt, write_folder


def deal(sizes, folds):
    """Deal speakers to folds, the largest first, each to the fold that has least so far.

    Args:    sizes: speaker -> amount of speech.   folds: how many.   Returns: list of sets of speakers.
    """
    dealt, totals = [set() for _ in range(folds)], [0.0] * folds
    for speaker in sorted(sizes, key=lambda name: (-sizes[name], byte_order(name))):
        least = totals.index(min(totals))
        dealt[least].add(speaker)
        totals[least] += sizes[speaker]
    return dealt


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--source", required=True, metavar="DIR", help="data folder")
    parser.add_argument("--folds", required=True, type=parse_count, metavar="N", help="how many folds, 3 or more")
    parser.add_argument("--fold", required=True, type=parse_count, metavar="N", help="which one to write, from 1")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train/, dev/ and test/")
    args = parser.parse_args()
    if args.folds < 3 or args.fold > args.folds:
        parser.error("--folds must be 3 or more, --fold from 1 to --folds")
    folders = [Path(args.out) / name for name in ("train", "dev", "test")]
    if own := [folder for folder in folders if folder.resolve() == Path(args.source).resolve()]:
        raise UserError(f"{own[0]} is the source; name another --out")
    tables = validate_data_dir(args.source, allow_pipes=True, need_text=False, spk_sort=False)
    speakers = {speaker: utts.split() for speaker, utts in spk2utt(tables["utt2spk"]).items()}
    if len(speakers) < args.folds:
        raise UserError(
            f"{args.source}: {counted(len(speakers), 'speaker')} cannot make {args.folds} folds that share none"
        )
    lengths = tables.get("utt2dur") or dict.fromkeys(tables["utt2spk"], 1)
    sizes = {speaker: sum(float(lengths[utt]) for utt in utts) for speaker, utts in speakers.items()}
    folds = deal(sizes, args.folds)
    test, dev = folds[args.fold - 1], folds[args.fold % args.folds]
    for folder, chosen in zip(folders, (set(speakers) - test - dev, dev, test), strict=True):
        part = select(tables, [utt for speaker in chosen for utt in speakers[speaker]])
        write_folder(folder, part)
        say(f"{folder}: {show_counts(part)}, of {show_counts(tables)}")
    for name in ("words.txt", "labels.txt", SOUND_FILE):
        given = Path(args.source).resolve().parent / name
        if given.is_file():
            write_text(Path(args.out) / name, given.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(run_main(main))
