"""Make data folders of one language of Mozilla Common Voice: read sentences, MP3 files.

    python3 local/prepare_commonvoice.py --corpus-dir /data/cv-corpus-21.0/tr --out data/commonvoice --options conf/my.yaml

Reads train.tsv, dev.tsv, test.tsv and clips/, in a folder or in the archive as Mozilla gives it out (which asks for
consent: fetch it yourself). Which columns there are differs by release; client_id, path and sentence are needed. Case and
punctuation are those of the sentences unless the preparation options say otherwise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, read_lines, reader_parser
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
    """Read one table. A quotation mark is text here: these tables know no quoting."""
    lines = list(read_lines(root / f"{name}.tsv"))
    header = lines[0][1].split("\t") if lines else []
    if missing := [column for column in NEEDED if column not in header]:
        raise UserError(f"{root / name}.tsv:1: no column {missing[0]}; the columns are: {', '.join(header)}")
    columns, utterances = [header.index(column) for column in NEEDED], []
    clips = {entry.name for entry in (root / "clips").iterdir()} if (root / "clips").is_dir() else set()
    for where, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) <= max(columns):
            problems.append(Problem(where, f"{len(fields)} columns, expected {len(header)}"))
            continue
        client, file_name, sentence = (fields[column] for column in columns)
        file_name = file_name if "." in Path(file_name).name else f"{file_name}.mp3"  # early releases leave it out
        if file_name not in clips:
            problems.append(Problem(where, f"no sound file clips/{file_name}"))
            continue
        sentence = " ".join(sentence.split())
        if len(sentence) > 1 and sentence[0] == sentence[-1] == '"':
            sentence = sentence[1:-1].replace('""', '"')
        speaker = clean_id(client)[:16]  # of 128 digits
        audio = str((root / "clips" / file_name).resolve())
        utterances.append(Utterance(f"{speaker}-{clean_id(Path(file_name).stem)}", speaker, sentence, audio))
    return utterances


def main():
    args = reader_parser(__doc__).parse_args()
    root, problems = find_root(fetch(args, {})), []
    finish({name: read_set(root, name, problems) for name in SETS}, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))
