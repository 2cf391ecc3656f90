"""Which files of a corpus without sets are held out: speakers that the user names, files that its lists name, or some speakers."""

from pathlib import Path

from local.corpus import split_by_speaker
from local.rows import read_lines
from steps.core.cli import UserError
from steps.core.tables import counted

LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}  # as in Speech Commands


def speakers_of(utterances):
    return {utt.speaker for utt in utterances}


def read_list(path, found):
    """Names of the files in a list. Raises: UserError for lines that name no file, with the first of them."""
    names, bad = set(), []
    for where, line in read_lines(path):
        inner = Path(line.strip())
        name = inner.as_posix() if inner.as_posix() in found else inner.with_suffix("").as_posix()
        names.add(name)
        if name not in found:
            bad.append(f"{where}: {line.strip()!r}")
    if bad:
        name, utt = next(iter(found.items()))
        form = f"lines look like {name}{Path(utt.audio).suffix}"
        raise UserError(f"{bad[0]} is none of the files read ({counted(len(bad), 'such line')} in the list); {form}")
    return names


def names_by_speakers(option, speakers, found):
    """Names of all files of some speakers. Raises: UserError for one that is not there."""
    known = speakers_of(found.values())
    for speaker in speakers:
        if speaker not in known:
            raise UserError(f"{option}: no speaker {speaker}; there are {', '.join(sorted(known))}")
    return {name for name, utt in found.items() if utt.speaker in speakers}


def held_out(root, found, speakers):
    """What the user says of dev and test. Args: speakers: set -> list.  Returns: set -> names of files.

    Raises: UserError, also for a file in both sets.
    """
    chosen = {}
    for name, path in LISTS.items():
        if speakers[name]:
            chosen[name] = names_by_speakers(f"--{name}-speakers", speakers[name], found)
        elif (root / path).is_file():
            chosen[name] = read_list(root / path, found)
    if both := chosen.get("dev", set()) & chosen.get("test", set()):
        raise UserError(f"{root}: {min(both)} is to be in dev and in test; keep each file in one set")
    return chosen


def split(root, found, speakers):
    """Sets by the user's speakers, else by the corpus' own lists; what neither tells is split off the rest by speakers."""
    chosen = held_out(root, found, speakers)
    rest = [utt for name, utt in found.items() if not any(name in names for names in chosen.values())]
    shares = {f"{name}_share": None for name in chosen}
    sets = split_by_speaker(rest, **shares) if len(chosen) < len(LISTS) else {"train": rest}
    for name, names in chosen.items():
        sets[name] = [found[item] for item in sorted(names)]
    return {name: sets[name] for name in ("train", "dev", "test")}


def parse_speakers(words):
    """Speakers separated by commas or blanks. Returns: list."""
    return [speaker for word in words for speaker in word.split(",") if speaker]
