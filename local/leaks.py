"""What must not be shared between train, dev and test: speakers and recordings.

    python3 local/leaks.py --labelled data/mine/train data/mine/dev data/mine/test --unlabelled data/mine/extra

Readers refuse leaks before they write anything. This is for data folders that were written by hand: the recordings of
--unlabelled must not be in another folder, and its speakers only in the first; speakers in others are said, not refused.
"""

import hashlib
import math
import operator
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, run_main, say
from steps.core.datadir import read_data_dir
from steps.core.tables import SHOWN, counted


def refuse_leaks(sets, shared_speakers=False, joins=None):
    """Refuse sets that share a speaker or a recording; say how many recordings a single set holds twice.

    Args:   sets: name -> list of Utterance.   shared_speakers: accept speakers in several sets (and say so).
            joins: set -> the set that it joins in training, whose speakers it may have.
    Raises: UserError listing up to 20 leaks of each kind.
    """
    leaks = []
    for speaker, names in sorted(_owners(sets, lambda utt: utt.speaker).items()):
        if len({(joins or {}).get(name, name) for name in names}) > 1:
            leaks.append(f"speaker {speaker} is in {' and '.join(names)}")
    if leaks and shared_speakers:
        verb = "is" if len(leaks) == 1 else "are"
        say(f"{counted(len(leaks), 'speaker')} {verb} in several sets: scores say nothing about unseen speakers")
        leaks = []
    if leaks:
        _refuse(leaks, "move speakers whole, or allow them with shared_speakers: true in the preparation options")
    same, twice = repeated_recordings(sets, joins)
    if same:
        _refuse([f"{a} and {b} are the same recording" for a, b in same], "keep each in one set only")
    for name, count in twice.items():
        verb = "is" if count == 1 else "are"
        say(f"{name}: {counted(count, 'recording')} {verb} there more than once")


def _refuse(leaks, remedy):
    shown = leaks[:SHOWN] + ([f"... and {len(leaks) - SHOWN} more"] if len(leaks) > SHOWN else [])
    raise UserError("\n  ".join([f"the sets are not separate ({counted(len(leaks), 'leak')}); {remedy}", *shown]))


def _owners(sets, key):
    """Value of `key` -> names of the sets that have it."""
    owners = {}
    for name, utterances in sets.items():
        for value in {key(utt) for utt in utterances}:
            owners.setdefault(value, []).append(name)
    return owners


def repeated_recordings(sets, joins=None):
    """Find the same sound under several names: files of one size are compared by content.

    Across sets, stretches of a file are the same where more than half of one lies in the other; where one set joins the other in
    training, only with the same limits: what is transcribed in pieces may come as a whole, too.

    Args:    joins: as in `refuse_leaks`.
    Returns: (list of (`set/id`, `set/id`) across sets, dict set -> number of repeats within it).
    """
    sizes, hashes = {}, {}
    for utterances in sets.values():
        for path in {utt.audio for utt in utterances}:
            sizes.setdefault(os.path.getsize(path), set()).add(path)
    for paths in sizes.values():
        for path in paths:
            hashes[path] = path if len(paths) == 1 else _content(path)
    recordings, within = {}, {}
    for name, utterances in sets.items():
        seen = set()
        for utt in utterances:
            stretch = (hashes[utt.audio], utt.start_s, _end_of(utt))
            within[name] = within.get(name, 0) + (stretch in seen)
            seen.add(stretch)
            recordings.setdefault(stretch[0], []).append((*stretch[1:], name, utt.utt_id, utt.end_s is None))
    across = [pair for stretches in recordings.values() for pair in _shared(stretches, joins or {})]
    return across, {name: count for name, count in within.items() if count}


def _end_of(utt):
    """End of an utterance in its file, in seconds; that of the file where nothing tells it."""
    if utt.end_s is not None or utt.duration_s is None:
        return math.inf if utt.end_s is None else utt.end_s
    return utt.start_s + utt.duration_s * utt.speed


def _shared(stretches, joins):
    """Pairs of (`set/id`, `set/id`) of stretches (start, end, set, id, whether to the end) of one file, as `repeated_recordings` says."""
    if len({name for _, _, name, *_ in stretches}) == 1:
        return
    going_on = []
    for start_s, end_s, name, utt_id, whole in sorted(stretches, key=operator.itemgetter(0)):
        going_on = [earlier for earlier in going_on if earlier[1] > start_s]
        for first_s, last_s, owner, other, owner_whole in going_on:
            shorter_s, both_s = min(end_s - start_s, last_s - first_s), min(end_s, last_s) - start_s
            # two whole files of one content are alike whatever was measured
            alike = first_s == start_s and (last_s == end_s or (owner_whole and whole))
            apart = joins.get(owner, owner) != joins.get(name, name)
            if owner != name and (alike or (apart and 2 * both_s > shorter_s)):
                yield f"{owner}/{other}", f"{name}/{utt_id}"
        going_on.append((start_s, end_s, name, utt_id, whole))


def _content(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_a_size_with(utterances, others):
    """Those whose sound files are as large as one of `others`: only they can be the same, and only they need to be read."""
    sizes = {os.path.getsize(path) for path in {utt.audio for utt in others}}
    alike = {path for path in {utt.audio for utt in utterances} if os.path.getsize(path) in sizes}
    return [utt for utt in utterances if utt.audio in alike]


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--labelled", nargs="+", required=True, metavar="DIR", help="data folders; training's first")
    parser.add_argument("--unlabelled", nargs="+", required=True, metavar="DIR", help="data folders that join training")
    args = parser.parse_args()
    known = {folder: read_data_dir(folder, need_text=False) for folder in args.labelled}
    more = {folder: read_data_dir(folder, need_text=False) for folder in args.unlabelled}
    labelled, unlabelled = sum(known.values(), []), sum(more.values(), [])
    sets = {name: of_a_size_with(utterances, unlabelled) for name, utterances in known.items()}
    sets |= {name: of_a_size_with(utterances, labelled) for name, utterances in more.items()}
    same, _ = repeated_recordings(sets, dict.fromkeys(more, args.labelled[0]))
    if same:
        _refuse([f"{a} and {b} are the same recording" for a, b in same], "keep each in one set only")
    held_out = {utt.speaker for folder in args.labelled[1:] for utt in known[folder]}
    if shared := sorted({utt.speaker for utt in unlabelled} & held_out):
        verb = "is" if len(shared) == 1 else "are"
        named = ", ".join(shared[:SHOWN]) + (", ..." if len(shared) > SHOWN else "")
        say(
            f"{counted(len(shared), 'speaker')} of {' and '.join(more)} ({named}) {verb} also held out: "
            "scores say nothing about unseen speakers"
        )


if __name__ == "__main__":
    sys.exit(run_main(main))
