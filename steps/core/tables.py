"""Kaldi tables: text files of `id value` lines in C-locale order, and folders of them.

Standard library only: the tools in utils/ stand on this without any installation.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError
from steps.core.large_tables import BLANK, LargeTable, Malformed, Part, byte_order
from steps.core.outdir import atomic_file, sha256_file, write_text
from steps.core.places import PATH_FILES, Places

# The files of a data folder, by what their ids name. Other files are neither read nor carried along.
UTTERANCE_FILES = (
    "utt2spk", "text", "segments", "utt2dur", "utt2speed", "utt2num_frames", "feats.scp", "utt2lang", "utt2confidence"
)  # fmt: skip
RECORDING_FILES = ("wav.scp", "reco2dur")
SPEAKER_FILES = ("spk2utt", "spk2gender")
# What features depend on.
AUDIO_FACTS = ("utt2spk", "wav.scp", "segments", "utt2speed")
# Wrong as soon as the audio, its limits or its speed change.
MADE_FROM_AUDIO = ("feats.scp", "utt2num_frames")
# In a part of a data folder: of how many parts it is one, and of which utterances (steps.transcribe_data).
PART_FILE = "part.json"
# As the end of a segment: the recording's, as for Kaldi's extract-segments.
TO_THE_END = -1
# Problems named one by one before the rest is only counted.
SHOWN = 20
# From this size on a table may stay on disk.
LARGE_BYTES = 32 << 20
# A data folder: file name -> id -> value.
Tables = Mapping[str, Mapping[str, str]]


class Table(dict[str, str]):
    """One file: id -> value (str -> str), with the line number of each id in `lines`.

    strays: folders that its paths lead to instead of here (steps.core.places).
    """

    def __init__(self, path: str | Path, values: Mapping[str, str] | Iterable[tuple[str, str]] = ()):
        super().__init__(values)
        self.path = Path(path)
        self.lines: dict[str, int] = {}
        self.strays: set[str] = set()

    def where(self, key: str) -> str:
        """The place of an id, as `file:line`."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a data folder; without the `utterances` it names, the folder would be rid of it."""

    where: str
    what: str
    utterances: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.where}: {self.what}"


def raise_problems(problems: list[Problem], remedy: str = "") -> None:
    """Raise one UserError that lists the problems (the first 20, then a count); do nothing when there are none."""
    if not problems:
        return
    lines = [str(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more")
    head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found" + (f"; {remedy}" if remedy else "")
    raise UserError("\n  ".join([head, *lines]))


def by_id(item: tuple[str, Any]) -> bytes:
    """Sort key of (id, value) pairs."""
    return byte_order(item[0])


def parse_table(path: str | Path, problems: list[Problem], places: Places | None = None) -> Table:
    """Read one table as far as it goes; what is wrong is appended to `problems`.

    Args:    places: of its folder, for values that are paths.
    Returns: Table; of a repeated id the first line counts, a line that is not UTF-8 or has no id is left out.
    Raises: MissingInput when there is no such file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file") from None
    if data.startswith(b"\xef\xbb\xbf"):
        problems.append(Problem(f"{path}:1", "starts with a byte order mark; save it as plain UTF-8"))
        data = data[3:]
    if not data:
        problems.append(Problem(str(path), "the file is empty"))
        return Table(path)
    if not data.endswith(b"\n"):
        problems.append(Problem(str(path), "the last line does not end; add a line end"))
    rows = data.removesuffix(b"\n").split(b"\n")
    if any(row.endswith(b"\r") for row in rows):
        first = next(number for number, row in enumerate(rows, 1) if row.endswith(b"\r"))
        problems.append(Problem(f"{path}:{first}", "DOS line ends (CR LF); convert the file to Unix line ends"))
    table = Table(path)
    _fill(table, rows, problems)
    if places:
        table.update({key: places.opened(value) for key, value in table.items()})
        table.strays = places.strays
    return table


def _fill(table, rows, problems):
    previous = b""
    unsorted_named = False
    for number, row in enumerate(rows, 1):
        where = f"{table.path}:{number}"
        try:
            line = row.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            problems.append(Problem(where, f"not UTF-8 text (byte {error.start + 1} of the line)"))
            continue
        key, *value = BLANK.split(line.rstrip(" \t"), maxsplit=1)
        if not key:
            problems.append(Problem(where, "the line starts with a blank or is empty; expected `id value`"))
        elif key in table:
            problems.append(Problem(where, f"id {key!r} is there twice (first on line {table.lines[key]})"))
        else:
            if key.encode() < previous and not unsorted_named:
                problems.append(Problem(where, "not in C-locale order from here on; sort with LC_ALL=C"))
                unsorted_named = True
            previous = key.encode()
            table[key] = value[0] if value else ""
            table.lines[key] = number


def read_table(path: str | Path) -> Table:
    """Read a table strictly: UTF-8 without byte order mark, Unix line ends, unique ids in C-locale order.

    Returns: dict id -> value.   Raises: MissingInput; UserError listing everything wrong.
    """
    problems: list[Problem] = []
    table = parse_table(path, problems)
    raise_problems(problems)
    return table


def write_table(path: str | Path, values: Mapping[str, str]) -> None:
    """Write `id value` lines in C-locale order, atomically; a file with the same content is left untouched.

    Paths in wav.scp and feats.scp are written as steps.core.places says.
    """
    if isinstance(values, (LargeTable, Part)):
        return _write_large(Path(path), values)
    return write_text(path, "".join(_lines(path, values)))


def _lines(path, values):
    """The lines of a table's file, in C-locale order."""
    convert = Places(Path(path).parent).written if Path(path).name in PATH_FILES else str
    in_order = values if isinstance(values, (LargeTable, Part)) else dict(sorted(values.items(), key=by_id))
    for key, value in in_order.items():
        yield f"{key} {convert(value)}".rstrip(" ") + "\n"


def _write_large(path, values):
    """Write lines that come in order."""
    new = path.with_name(f".{path.name}.new")
    with atomic_file(new) as file:
        file.writelines(_lines(path, values))
    if path.is_file() and sha256_file(path) == sha256_file(new):
        new.unlink()
    else:
        os.replace(new, path)


def read_folder(
    folder: str | Path, problems: list[Problem], on_disk: bool = False, as_written: bool = False
) -> dict[str, Table | LargeTable]:
    """Read every known file of a data folder that is there.

    Args:    on_disk: leave large, well-formed files on disk (LargeTable): for reading only.
             as_written: leave paths as they stand there (steps.core.places).
    Returns: dict file name -> Table.   Raises: MissingInput when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such data folder")
    tables: dict[str, Table | LargeTable] = {}
    here = Places(folder)
    for name in [*UTTERANCE_FILES, *RECORDING_FILES, *SPEAKER_FILES]:
        places = here if name in PATH_FILES and not as_written else None
        with contextlib.suppress(MissingInput):
            large = on_disk and _large_table(folder / name, places)
            tables[name] = large or parse_table(folder / name, problems, places)
    return tables


def _large_table(path, places=None):
    """The table left on disk, or None for one that is small, missing or not well-formed."""
    if not path.is_file() or path.stat().st_size < LARGE_BYTES:
        return None
    try:
        return LargeTable(path, places and places.opened)
    except Malformed:
        return None


def write_folder(folder: str | Path, tables: Tables) -> None:
    """Write the tables of a data folder, spk2utt made anew from utt2spk.

    Known files that `tables` does not have are removed, except features made from the very same audio.
    """
    folder = Path(folder)
    tables = {**tables, "spk2utt": spk2utt(tables["utt2spk"])}
    if not all(_is_as_before(folder / name, tables.get(name)) for name in AUDIO_FACTS):
        # Before anything else: whoever is stopped leaves none behind.
        for name in set(MADE_FROM_AUDIO) - set(tables):
            (folder / name).unlink(missing_ok=True)
    for name in {*UTTERANCE_FILES, *RECORDING_FILES, *SPEAKER_FILES} - set(tables):
        if name not in MADE_FROM_AUDIO:
            (folder / name).unlink(missing_ok=True)
    for name, values in tables.items():
        write_table(folder / name, values)


def _is_as_before(path, values):
    """Whether a file holds this table already; None: whether there is no file."""
    if values is None or not path.is_file():
        return values is None and not path.is_file()
    with open(path, "rb") as file:
        pairs = itertools.zip_longest((line.encode() for line in _lines(path, values)), file)
        return all(new == old for new, old in pairs)


def spk2utt(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Turn utterance -> speaker into speaker -> `utterance utterance ...`, each list in C-locale order."""
    speakers: dict[str, list[str]] = {}
    in_order = utt2spk if isinstance(utt2spk, (LargeTable, Part)) else dict(sorted(utt2spk.items(), key=by_id))
    for utterance, speaker in in_order.items():
        speakers.setdefault(speaker, []).append(utterance)
    return {speaker: " ".join(utterances) for speaker, utterances in speakers.items()}


def recording_of(tables: Tables, utterance: str) -> str:
    """The key of wav.scp an utterance stands on; empty when segments does not know the utterance."""
    return BLANK.split(tables["segments"].get(utterance, ""))[0] if "segments" in tables else utterance


def segment_limits(value: str) -> tuple[str, float, float | None]:
    """(recording, start, end) of a line of segments, in seconds; end None: -1, which is the end of the recording."""
    recording, start, end = BLANK.split(value)
    return recording, float(start), None if float(end) == TO_THE_END else float(end)


def select(tables: Tables, utterances: Collection[str]) -> dict[str, Mapping[str, str]]:
    """The part of a data folder that belongs to the given utterances (a collection of ids), in every file."""
    utterances = set(utterances)
    recordings = {recording_of(tables, utterance) for utterance in utterances} if "segments" in tables else utterances
    speakers = {speaker for utterance, speaker in tables["utt2spk"].items() if utterance in utterances}
    chosen: dict[str, Mapping[str, str]] = {}
    for name, table in tables.items():
        keep = recordings if name in RECORDING_FILES else speakers if name in SPEAKER_FILES else utterances
        if isinstance(table, LargeTable):
            chosen[name] = Part(table, keep)
        else:
            chosen[name] = {key: table[key] for key in table if key in keep}
    return chosen


def counted(number: int, what: str) -> str:
    """A number and what it counts: `1 speaker`, `2 speakers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def small_number(value: float, decimals: int) -> str:
    """A number with so many decimals, or more where two significant digits take more: `0.0024`, `0.00012`."""
    if value:
        decimals = max(decimals, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def show_counts(tables: Tables) -> str:
    """One phrase for the end of a tool: `948 utterances, 74 speakers`."""
    utt2spk = tables["utt2spk"]
    return f"{counted(len(utt2spk), 'utterance')}, {counted(len(set(utt2spk.values())), 'speaker')}"
