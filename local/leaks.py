"""What must not be shared between train, dev and test: speakers and recordings."""

import hashlib
import os

from steps.core.cli import UserError, say
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
    same, twice = repeated_recordings(sets)
    if same:
        _refuse([f"{a} and {b} are the same recording" for a, b in same], "keep each in one set only")
    for name, count in twice.items():
        say(f"{name}: {count} recordings are there more than once")


def _refuse(leaks, remedy):
    shown = leaks[:SHOWN] + ([f"... and {len(leaks) - SHOWN} more"] if len(leaks) > SHOWN else [])
    raise UserError("\n  ".join([f"the sets are not separate ({len(leaks)} leaks); {remedy}", *shown]))


def _owners(sets, key):
    """Value of `key` -> names of the sets that have it."""
    owners = {}
    for name, utterances in sets.items():
        for value in {key(utt) for utt in utterances}:
            owners.setdefault(value, []).append(name)
    return owners


def repeated_recordings(sets):
    """Find the same sound under several names: files of one size are compared by content.

    Returns: (list of (`set/id`, `set/id`) across sets, dict set -> number of repeats within it).
    """
    sizes, hashes = {}, {}
    for utterances in sets.values():
        for path in {utt.audio for utt in utterances}:
            sizes.setdefault(os.path.getsize(path), set()).add(path)
    for paths in sizes.values():
        for path in paths:
            hashes[path] = path if len(paths) == 1 else _content(path)
    first, across, within = {}, [], {}
    for name, utterances in sets.items():
        for utt in utterances:
            key = (hashes[utt.audio], utt.start_s, utt.end_s)
            owner, utt_id = first.setdefault(key, (name, utt.utt_id))
            if owner != name:
                across.append((f"{owner}/{utt_id}", f"{name}/{utt.utt_id}"))
            elif utt_id != utt.utt_id:
                within[name] = within.get(name, 0) + 1
    return across, within


def _content(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
