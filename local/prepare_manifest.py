"""Make data folders of manifests: JSON lines (as NeMo has them), CSV or TSV (as Hugging Face's audiofolder has it).

    python3 local/prepare_manifest.py --corpus-dir /data/mine --out data/mine

In --corpus-dir lie train, dev and test, each NAME.jsonl, NAME.json, NAME.csv, NAME.tsv, or NAME_manifest.* or
NAME/metadata.*; or a single manifest.* or metadata.*, which is split by speakers. Fields, the first name found counts:
audio_filepath, audio, path, file_name or wav; text, sentence, transcription or transcript; speaker, speaker_id, spk or
client_id; and perhaps offset and duration (seconds; of a file that is longer the beginning, if there is no offset).
Without speakers every file counts as one of its own: then nobody can tell whether a voice is in two sets. A single
manifest may have a column split, which says what set a row is in. With --unlabelled extra the set extra needs no text: its rows
are those of extra.jsonl (or the like), or those whose split is extra.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, reader_parser, split_by_speaker
from local.durations import fit_to_files
from local.rows import read_rows, tell_unused
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance
from steps.core.tables import Problem

FIELDS = {
    "audio": ("audio_filepath", "audio", "path", "file_name", "wav"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
}
TIMES = ("offset", "duration")
# The sets, and what else they are called.
SETS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
# Folders of a path that name an utterance, where fewer would not tell it from others.
MOST_FOLDERS = 100
KINDS = ("jsonl", "json", "csv", "tsv")


def find_manifest(root, names):
    """The first manifest that is there, or None."""
    stems = [stem for name in names for stem in (name, f"{name}_manifest", f"{name}/metadata")]
    paths = [root / f"{stem}.{kind}" for stem in stems for kind in KINDS]
    return next((path for path in paths if path.is_file()), None)


def seconds_of(row: dict, name: str) -> float | None:
    """A number of seconds of a row; None where there is none. Raises: ValueError."""
    if row.get(name) in (None, ""):
        return None
    value = float(row[name])
    if isinstance(row[name], bool) or not 0 <= value < 1e9:
        raise ValueError(value)
    return value


def make_utterance(row, folder, where, folders=2, need_text=True):
    """One utterance of a row, its end where `duration` puts it.

    Args: folders: of its path, the last ones, that name it.   need_text: False: the row may lack a text.
    Raises: UserError.
    """
    values, needed = {}, ("audio", "text") if need_text else ("audio",)
    for name, known in FIELDS.items():
        values[name] = next((row[field] for field in known if row.get(field) not in (None, "")), "")
        known_kind = isinstance(values[name], (str, int)) and not isinstance(values[name], bool)
        if not known_kind or (not values[name] and name in needed):
            if there := [field for field in known if field in row]:
                raise UserError(f"{where}: {there[0]} is {row[there[0]]!r}; expected a text, or the row left out")
            raise UserError(f"{where}: no {name}; expected a field {', '.join(known)}; there are: {', '.join(row)}")
    audio = folder / str(values["audio"])
    # unlike Path.is_file, this takes any name
    if not os.path.isfile(audio):
        raise UserError(f"{where}: no such sound file: {audio}")
    try:
        offset_s, length_s = (seconds_of(row, name) for name in TIMES)
    except (TypeError, ValueError):
        raise UserError(f"{where}: offset and duration must be seconds, 0 or more") from None
    part = "" if offset_s is None else f"_{round(offset_s * 1000):09d}"
    name = clean_id("_".join(Path(str(values["audio"])).with_suffix("").parts[-folders - 1 :]))
    speaker = clean_id(str(values["speaker"])) if values["speaker"] != "" else f"{name}{part}"
    start_s = offset_s or 0.0
    end_s = start_s + length_s if length_s else None
    # its white space stays: some of it stands inside numbers (local/text.py)
    return Utterance(
        f"{speaker}-{name}{part}", speaker, str(values["text"]), str(audio.resolve()), start_s=start_s, end_s=end_s
    )


def read_manifest(path, problems, set_name=None, unlabelled=()):
    """Read all rows.

    Args:    set_name: the set whose manifest this is; None: one manifest for all.   unlabelled: sets that need no texts.
    Returns: list of Utterance; what the column split says of each (None without such a column).
    """
    rows, utterances, places = list(read_rows(path, problems)), [], []
    for where, row in rows:
        try:
            split = set_of(row.get("split"), unlabelled)
            if set_name and row.get("split") and split != set_name:
                raise UserError(f"{where}: split is {row['split']!r}, in the manifest of {set_name}")
            need_text = (set_name or split) not in unlabelled
            utterances.append(make_utterance(row, path.parent, where, need_text=need_text))
            places.append((where, row))
        except UserError as error:
            problems.append(Problem(where, str(error).removeprefix(f"{where}: ")))
    if utterances and not any(row.get(field) for _, row in rows for field in FIELDS["speaker"]):
        say(f"{path}: no speakers; every file counts as a speaker of its own")
    utterances = name_apart(utterances, places, path.parent, problems)
    tell_unused(path, (row for _, row in rows), (*sum(FIELDS.values(), ()), *TIMES, "split"))
    utterances = fit_to_files(path, utterances, places, problems)
    return utterances, [row.get("split") for _, row in places]


def name_apart(
    utterances: list[Utterance], places: list[tuple[str, dict]], folder: Path, problems: list[Problem]
) -> list[Utterance]:
    """Name utterances by their whole paths where the ends of these are alike; rows that are the same even so are problems.

    Returns: list of Utterance.
    """
    counts = Counter(utt.utt_id for utt in utterances)
    named = [
        # whether there has to be a text was looked at before
        make_utterance(row, folder, where, MOST_FOLDERS, need_text=False) if counts[utt.utt_id] > 1 else utt
        for utt, (where, row) in zip(utterances, places, strict=True)
    ]
    first: dict[str, tuple[str, str]] = {}
    for utt, (where, _) in zip(named, places, strict=True):
        earlier, audio = first.setdefault(utt.utt_id, (where, utt.audio))
        if earlier != where and audio == utt.audio:
            problems.append(Problem(where, f"the recording of {earlier} once more; leave one of them out"))
        elif earlier != where:
            problems.append(Problem(where, f"its id, {utt.utt_id}, is that of {earlier}, too; rename one of the files"))
    return named


def set_of(split: object, unlabelled: Sequence[str]) -> str | None:
    """The set that a value of the column `split` names, in any case; None where it is no set."""
    named = SETS | {name: (name.lower(),) for name in unlabelled}
    return next((name for name, known in named.items() if str(split).lower() in known), None)


def split_as_named(
    utterances: list[Utterance], splits: list, path: Path, unlabelled: Sequence[str]
) -> dict[str, list[Utterance]]:
    """Sets by the column `split` of a single manifest. Raises: UserError for a value that is no set."""
    sets = {name: [] for name in (*SETS, *unlabelled)}
    for utt, split in zip(utterances, splits, strict=True):
        name = set_of(split, unlabelled)
        if name is None:
            known = ", ".join([*sum(SETS.values(), ()), *unlabelled])
            raise UserError(f"{path}: split is {split!r}; expected {known}, or no such column")
        sets[name].append(utt)
    return sets


def main():
    args = reader_parser(__doc__, unlabelled=True).parse_args()
    root, problems = fetch(args, {}), []
    found = {name: find_manifest(root, known) for name, known in SETS.items()}
    single = find_manifest(root, ("manifest", "metadata"))
    if all(found.values()):
        read = {name: read_manifest(path, problems, name) for name, path in found.items()}
        sets = {name: utterances for name, (utterances, _) in read.items()}
    elif single:
        utterances, splits = read_manifest(single, problems, unlabelled=args.unlabelled)
        if any(splits):
            sets = split_as_named(utterances, splits, single, args.unlabelled)
        else:
            sets = split_by_speaker(utterances) if not problems else {"train": utterances}
    else:
        missing = [name for name, path in found.items() if path is None]
        raise UserError(f"{root}: no {missing[0]}.jsonl, .json, .csv or .tsv here, and no single manifest to split")
    for name in args.unlabelled:
        sets.setdefault(name, [])
        if path := find_manifest(root, (name,)):
            sets[name] += read_manifest(path, problems, name, args.unlabelled)[0]
        elif not sets[name]:
            problems.append(
                Problem(str(root), f"no {name}.jsonl, .json, .csv or .tsv, and no row whose split is {name}")
            )
    finish(sets, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))
