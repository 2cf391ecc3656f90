"""Make data folders of the Malayalam Speech Corpus: sentences read by volunteers in their browsers, Opus in WebM.

    python3 local/prepare_msc.py --corpus-dir /data/msc --out data/msc --options recipes/msc/conf/prepare.yaml

Reads speech.tsv, sentences.tsv and audio/, the layout of the project's own repository. Recordings that listeners voted for
are taken (--min-votes). The corpus has no sets, and most sentences are read by several people: dev and test get speakers and
sentences of their own (local/own_sentences.py), and recordings that would mix the sets are left out and counted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, options_of, reader_parser
from local.durations import look_into_all
from local.own_sentences import families, split
from local.rows import read_rows
from local.text import normalise
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance
from steps.core.tables import Problem, counted

NEEDED = ("id", "sentence", "user", "fileName", "vote")
# What the vote of a recording that nobody has judged says.
NO_VOTE = "default"
# The published copy has 5 files in 2480 that do not decode.
MOST_UNREADABLE = 0.01


def votes(text):
    """Votes for a recording minus votes against it. Raises: ValueError."""
    return 0 if text == NO_VOTE else int(text)


def read_recordings(root, least, problems):
    """The recordings with enough votes. Returns: list of (sentence id, Utterance)."""
    names = {entry.name for entry in (root / "audio").iterdir()} if (root / "audio").is_dir() else set()
    sentences = {
        row["id"]: row["sentence"] for _, row in read_rows(root / "sentences.tsv", problems, ("id", "sentence"))
    }
    found, few = [], 0
    for where, row in read_rows(root / "speech.tsv", problems, NEEDED):
        name = row["fileName"].removeprefix("audio/")
        try:
            enough = votes(row["vote"]) >= least
        except ValueError:
            problems.append(Problem(where, f"vote is {row['vote']!r}, expected a whole number or {NO_VOTE}"))
            continue
        few += not enough
        if enough and name not in names:
            problems.append(Problem(where, f"no sound file audio/{name}"))
        elif enough and row["sentence"] not in sentences:
            problems.append(Problem(where, f"no sentence {row['sentence']} in sentences.tsv"))
        elif enough:
            text, audio = " ".join(sentences[row["sentence"]].split()), str((root / "audio" / name).resolve())
            speaker = clean_id(row["user"])
            found.append((row["sentence"], Utterance(f"{speaker}-{clean_id(row['id'])}", speaker, text, audio)))
    say(f"{counted(few, 'recording')} with fewer than {counted(least, 'vote')} left out")
    return found


def leave_out_unreadable(found, problems):
    """Without the recordings whose sound file cannot be read: a few are left out and named, many are problems."""
    infos = look_into_all(utt.audio for _, utt in found)
    bad = [(utt.audio, infos[utt.audio]) for _, utt in found if isinstance(infos[utt.audio], str)]
    if len(bad) > MOST_UNREADABLE * len(found):
        problems += [Problem(path, what) for path, what in bad]
        return found
    for path, what in bad:
        say(f"left out: {path}: {what}")
    unreadable = {path for path, _ in bad}
    return [(key, utt) for key, utt in found if utt.audio not in unreadable]


def main():
    parser = reader_parser(__doc__)
    text = "votes for a recording minus votes against it, at least; none given counts as 0 (default: 1)"
    parser.add_argument("--min-votes", type=int, default=1, metavar="N", help=text)
    args = parser.parse_args()
    root, problems = fetch(args, {}), []
    if not (root / "speech.tsv").is_file():
        raise UserError(
            f"{root}: no speech.tsv here; --corpus-dir names the folder that has it, sentences.tsv and audio/"
        )
    found = leave_out_unreadable(read_recordings(root, args.min_votes, problems), problems)
    config = options_of(args).text
    same = families({key: normalise(utt.text, config) for key, utt in found})
    sets = split([(same[key], utt) for key, utt in found])
    mixed = len(found) - sum(map(len, sets.values()))
    say(f"{counted(mixed, 'recording')} left out: of a sentence of one set, by a speaker of another")
    for name, chosen in sets.items():
        say(f"{name}: {counted(len({key for key, _ in chosen}), 'sentence')}")
    finish({name: [utt for _, utt in chosen] for name, chosen in sets.items()}, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))
