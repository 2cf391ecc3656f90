"""Make data folders of manifests: JSON lines (as NeMo has them), CSV or TSV (as Hugging Face's audiofolder has it).

    python3 local/prepare_manifest.py --corpus-dir /data/mine --out data/mine

In --corpus-dir lie train, dev and test, each NAME.jsonl, NAME.json, NAME.csv, NAME.tsv, or NAME_manifest.* or
NAME/metadata.*; or a single manifest.* or metadata.*, which is split by speakers. Fields, the first name found counts:
audio_filepath, audio, path, file_name or wav; text, sentence, transcription or transcript; speaker, speaker_id, spk or
client_id; and perhaps offset and duration (seconds). Without speakers every file counts as one of its own: then nobody
can tell whether a voice is in two sets.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, reader_parser, split_by_speaker
from local.rows import read_rows
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance
from steps.core.tables import Problem

FIELDS = {
    "audio": ("audio_filepath", "audio", "path", "file_name", "wav"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
}
KINDS = ("jsonl", "json", "csv", "tsv")


def find_manifest(root, names):
    """The first manifest that is there, or None."""
    stems = [stem for name in names for stem in (name, f"{name}_manifest", f"{name}/metadata")]
    paths = [root / f"{stem}.{kind}" for stem in stems for kind in KINDS]
    return next((path for path in paths if path.is_file()), None)


def make_utterance(row, folder, where):
    """One utterance of a row. Raises: UserError."""
    values = {}
    for name, known in FIELDS.items():
        values[name] = next((row[field] for field in known if row.get(field) not in (None, "")), "")
        if not isinstance(values[name], (str, int)) or (not values[name] and name != "speaker"):
            raise UserError(f"{where}: no {name}; expected a field {', '.join(known)}")
    audio = (folder / str(values["audio"])).resolve()
    if not audio.is_file():
        raise UserError(f"{where}: no such sound file: {audio}")
    try:
        offset_s, length_s = float(row.get("offset") or 0), float(row.get("duration") or 0)
        if not (0 <= offset_s < 1e9 and 0 <= length_s < 1e9):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{where}: offset and duration must be seconds, 0 or more") from None
    part = f"_{round(offset_s * 1000):09d}" if "offset" in row else ""
    name = clean_id("_".join(Path(str(values["audio"])).with_suffix("").parts[-3:]))
    speaker = clean_id(str(values["speaker"])) if values["speaker"] != "" else f"{name}{part}"
    limits = (
        {"start_s": offset_s, "end_s": offset_s + length_s} if "offset" in row and length_s else {"start_s": offset_s}
    )
    return Utterance(f"{speaker}-{name}{part}", speaker, " ".join(str(values["text"]).split()), str(audio), **limits)


def read_manifest(path, problems):
    """Read all rows. Returns: list of Utterance."""
    utterances, speakers = [], 0
    for where, row in read_rows(path, problems):
        speakers += any(row.get(field) for field in FIELDS["speaker"])
        try:
            utterances.append(make_utterance(row, path.parent, where))
        except UserError as error:
            problems.append(Problem(where, str(error).removeprefix(f"{where}: ")))
    if utterances and not speakers:
        say(f"{path}: no speakers; every file counts as a speaker of its own")
    return utterances


def main():
    args = reader_parser(__doc__).parse_args()
    root, problems = fetch(args, {}), []
    names = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
    found = {name: find_manifest(root, of_set) for name, of_set in names.items()}
    single = find_manifest(root, ("manifest", "metadata"))
    if all(found.values()):
        sets = {name: read_manifest(path, problems) for name, path in found.items()}
    elif single:
        utterances = read_manifest(single, problems)
        sets = split_by_speaker(utterances) if not problems else {"train": utterances}
    else:
        missing = [name for name, path in found.items() if path is None]
        raise UserError(f"{root}: no {missing[0]}.jsonl, .json, .csv or .tsv here, and no single manifest to split")
    finish(sets, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))
