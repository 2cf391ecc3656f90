"""Make data folders of one language of Mozilla Common Voice: read sentences, MP3 files.

    python3 local/prepare_commonvoice.py --corpus-dir /data/cv-corpus-21.0/tr --out data/commonvoice --options conf/my.yaml

Reads train.tsv, dev.tsv, test.tsv and clips/, in a folder or in the archive as Mozilla gives it out (which asks for
consent: fetch it yourself). Which columns there are differs by release; client_id, path and sentence are needed. Case and
punctuation are those of the sentences unless the preparation options say otherwise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, reader_parser
from local.rows import read_rows, tell_unused
from steps.core.cli import UserError, run_main
from steps.core.datadir import Utterance
from steps.core.tables import Problem

SETS = ("train", "dev", "test")
NEEDED = ("client_id", "path", "sentence")


def find_root(path):
    """The folder that holds train.tsv and clips/."""
    tables = sorted(path.glob("**/train.tsv")) if not (path / "train.tsv").is_file() else [path / "train.tsv"]
    if len(tables) != 1:
        found = ", ".join(str(table.parent) for table in tables) or "none"
        raise UserError(f"{path}: expected one folder with train.tsv, found: {found}; name the language's folder")
    return tables[0].parent


def read_set(root, name, problems):
    """Read one table. Returns: list of Utterance."""
    table, utterances = root / f"{name}.tsv", []
    rows = list(read_rows(table, problems, NEEDED))
    clips = {entry.name for entry in (root / "clips").iterdir()} if (root / "clips").is_dir() else set()
    for where, row in rows:
        client, file_name, sentence = (row[column] for column in NEEDED)
        file_name = file_name if "." in Path(file_name).name else f"{file_name}.mp3"  # early releases leave it out
        if file_name not in clips:
            problems.append(Problem(where, f"no sound file clips/{file_name}"))
            continue
        speaker = clean_id(client)[:16]  # of 128 digits
        utt_id, audio = f"{speaker}-{clean_id(Path(file_name).stem)}", str((root / "clips" / file_name).resolve())
        utterances.append(Utterance(utt_id, speaker, sentence, audio))
    tell_unused(table, (row for _, row in rows), NEEDED)
    return utterances


def main():
    args = reader_parser(__doc__).parse_args()
    root, problems = find_root(fetch(args, {})), []
    finish({name: read_set(root, name, problems) for name in SETS}, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))
