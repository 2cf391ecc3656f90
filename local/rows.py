"""Tables as their producers write them, one row a line: CSV, TSV and JSON lines. Rows in = rows out, or the difference is listed."""

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from steps.core.cli import UserError, say
from steps.core.tables import Problem, counted

# Columns that change what a row means: those that a reader does not use are named. In small letters.
MATTERS = {
    "channel", "channels", "channel_id", "channel_selector",
    "offset", "start", "start_s", "start_time", "begin", "end", "end_s", "end_time", "stop",
    "duration", "dur", "duration_s", "length", "speed",
    "split", "set", "subset", "partition", "fold",
    "vote", "votes", "up_votes", "down_votes", "reported", "valid", "is_valid", "validated", "is_validated", "status", "quality",
    "lang", "language", "lang_id", "locale", "variant", "translation",
}  # fmt: skip
# Values of such a column that are shown.
SHOWN = 3
OTHER_SEPARATOR = re.compile(r"[,;|\t]")
QUOTED = re.compile(r'"(?:[^"]|"")*"')


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of a UTF-8 text file; blank lines, DOS line ends and a byte order mark are nothing to us."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the corpus complete?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r")


def read_rows(path: Path, problems: list[Problem], needed: Sequence[str] = ()) -> Iterator[tuple[str, dict]]:
    """Yield (place, dict) of each row of a .csv, .tsv or JSON lines file; a malformed row is a problem.

    A field that ends in a later line than it began is one, too: where a stray quotation mark opens it, the rows between
    would be swallowed.

    Args: needed: columns that a .csv or .tsv file must have.   Raises: UserError for its first line.
    """
    if path.suffix not in (".csv", ".tsv"):
        yield from _read_json_lines(path, problems)
        return
    split, header = (split_tsv if path.suffix == ".tsv" else split_csv), None
    for where, line in read_lines(path):
        try:
            fields = split(line)
        except csv.Error as error:
            remedy = "one row a line, quotation marks doubled inside quotation marks"
            problems.append(Problem(where, f"{error}; expected {remedy}"))
            continue
        if header is None:
            header = fields
            if len(header) == 1 and OTHER_SEPARATOR.search(header[0]):
                separator = "tabs" if path.suffix == ".tsv" else "commas"
                raise UserError(
                    f"{where}: one column, {header[0]!r}; separate those of {path.suffix} files by {separator}"
                )
            if twice := [name for name in header if header.count(name) > 1]:
                raise UserError(f"{where}: two columns are called {twice[0]!r}")
            if missing := [name for name in needed if name not in header]:
                raise UserError(f"{where}: no column {missing[0]}; the columns are: {', '.join(header)}")
        elif len(fields) != len(header):
            problems.append(Problem(where, f"{counted(len(fields), 'field')}, expected {len(header)}"))
        else:
            yield where, dict(zip(header, fields, strict=True))


def _read_json_lines(path, problems):
    for where, line in read_lines(path):
        try:
            row = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(Problem(where, "expected one JSON object a line, no key twice, numbers finite"))


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _refuse(word):
    raise ValueError(f"{word} is not JSON")


def split_csv(line: str) -> list[str]:
    """Fields of one line of CSV (RFC 4180). Raises: csv.Error, also for a quotation that does not end in it."""
    return next(csv.reader([line], strict=True))


def split_tsv(line: str) -> list[str]:
    """Fields of one line of TSV. A tab always ends a field; a quotation mark is text unless all of the field is quoted."""
    return [unescape(field) for field in line.split("\t")]


def unescape(field: str) -> str:
    """What a field of TSV stands for, by the ways of its writers: pandas and the first releases of Common Voice put quotes
    around a field that has some, later releases double them or put a backslash before them.

    Source: CorporaCreator, corpus.py, which has changed its options of pandas.DataFrame.to_csv twice.
    """
    if QUOTED.fullmatch(field):
        return field[1:-1].replace('""', '"')
    if '\\"' in field:
        return re.sub(r'\\([\\"])', r"\1", field)
    if all(len(run) % 2 == 0 for run in re.findall('"+', field)):
        return field.replace('""', '"')
    return field


def tell_unused(path: Path | str, rows: Iterable[dict], used: Collection[str]) -> None:
    """Name the columns of a table that matter, hold something, and are not used.

    Args: rows: list of dicts.   used: names of columns, as they are written.
    """
    found = {}
    for row in rows:
        for name, value in row.items():
            if name.lower() in MATTERS and name not in used and value not in (None, ""):
                values = found.setdefault(name, {})
                if len(values) <= SHOWN:
                    values[str(value)[:30]] = None
    if found:
        parts = []
        for name, values in found.items():
            parts.append(f"{name} ({', '.join([*values][:SHOWN] + ['...'] * (len(values) > SHOWN))})")
        say(f"{path}: not used, though it may matter: {'; '.join(parts)}")
