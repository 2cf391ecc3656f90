"""Where the utterances of a data folder lie: line offsets, lengths and id digests, memory-mapped for large folders.

What stays in memory does not grow with the corpus: texts, places and ids are read from the folder's own files when asked
for. The index of a folder with more than some 200,000 utterances is kept in its subfolder `.index` and made anew when a file has
changed; the index of a smaller one is made in memory each time.
"""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from operator import le
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.core.cli import UserError, say
from steps.core.datadir import Utterance, read_data_dir
from steps.core.large_tables import Malformed, plain_blocks, split_line
from steps.core.outdir import atomic_file, write_json
from steps.core.places import PATH_FILES, Places
from steps.core.tables import segment_limits

if TYPE_CHECKING:
    from steps.data.tokenizer import Tokenizer

# Of utt2spk: some 200,000 utterances.
LARGE_BYTES = 8 << 20
FORMAT = 1
ROWS = 5_000
BLOCK_BYTES = 4 << 20
TABLES = ("text", "utt2spk", "segments", "wav.scp", "utt2dur", "utt2speed", "utt2num_frames", "feats.scp")
# Kept as arrays.
NUMBERS = {"utt2num_frames": np.int32, "utt2dur": np.float64, "utt2speed": np.float64}


def scan_table(path: str | Path, convert: type | None = None) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Read a table once.

    Args:    convert: type of the values, or None to leave them on disk.
    Returns: (uint64 array of line starts and the end of the file, digest of the ids, array of values or None).
    Raises:  Malformed when it is empty, not UTF-8, not sorted, not unique, or a line has no value of that kind.
    """
    starts, digest = array("Q", [0]), hashlib.blake2b(digest_size=16)
    values: list[np.ndarray] = []
    for position, rows, ids in plain_blocks(path, BLOCK_BYTES):
        # A line with nothing behind its id.
        if any(map(le, map(len, map(bytes.rstrip, rows)), map(len, ids))):
            raise Malformed
        if convert:
            try:
                values.append(np.array([row.split(None, 1)[1] for row in rows]).astype(convert))
            except ValueError:
                raise Malformed from None
        digest.update(b"\n".join(ids) + b"\n")
        ends = np.cumsum(np.fromiter(map(len, rows), np.uint64, len(rows)) + np.uint64(1)) + np.uint64(position)
        starts.frombytes(ends.astype(np.uint64).tobytes())
    if len(starts) < 2:
        raise Malformed
    return np.frombuffer(starts, np.uint64), digest.hexdigest(), np.concatenate(values) if values else None


class Index:
    """Utterances of a data folder by number, in C-locale order of their ids.

    Attributes: folder, count, digest (of all ids), stamps (size and time of the tables), arrays (name -> array:
                `<table>.starts`, and the values of NUMBERS), is_large.
    """

    def __init__(self, folder: str | Path, arrays: dict[str, np.ndarray], stamps: dict[str, list[int]], digest: str):
        self.folder, self.arrays, self.stamps, self.digest = Path(folder), arrays, stamps, digest
        self.count, self.is_large = len(arrays["utt2spk.starts"]) - 1, stamps["utt2spk"][0] >= LARGE_BYTES
        self._files: dict[str, int] = {}
        self._places = Places(folder)

    def __contains__(self, table):
        return f"{table}.starts" in self.arrays or table in self.arrays

    def __getstate__(self):
        return {**self.__dict__, "_files": {}}

    def row(self, table: str, number: int) -> tuple[str, str]:
        """Line of a table. Returns: (id, value)."""
        if table not in self._files:
            self._files[table] = os.open(self.folder / table, os.O_RDONLY)
        starts = self.arrays[f"{table}.starts"]
        start, end = int(starts[number]), int(starts[number + 1])
        return split_line(os.pread(self._files[table], end - start - 1, start))

    def find(self, table: str, key: str) -> str:
        """Value that a table has for an id, by bisection."""
        low, high, wanted = 0, len(self.arrays[f"{table}.starts"]) - 1, key.encode()
        while low < high:
            middle = (low + high) // 2
            if self.row(table, middle)[0].encode() < wanted:
                low = middle + 1
            else:
                high = middle
        found, value = self.row(table, low)
        if found != key:
            raise UserError(f"{self.folder / table}: has no {key}; utils/validate_data_dir.py tells more")
        return value

    def value(self, table: str, number: int, utt_id: str) -> str:
        """Value that a table with one line per utterance has for utterance `number`; a path as it is to be opened."""
        found, value = self.row(table, number)
        if found != utt_id:
            raise UserError(f"{self.folder / table}: changed while it was in use; start again")
        return self._places.opened(value) if table in PATH_FILES else value

    def text(self, number: int) -> str:
        """Transcript, words separated by single spaces."""
        return " ".join(self.row("text", number)[1].split())

    def all_texts(self) -> Iterator[list[str]]:
        """All transcripts in order. Yields: lists of up to ROWS texts."""
        with open(self.folder / "text", encoding="utf-8", newline="\n") as file:
            while lines := list(islice(file, ROWS)):
                yield [" ".join(line.split()[1:]) for line in lines]

    def keep(self, arrays: dict[str, np.ndarray]) -> bool:
        """Write arrays for the next time, by rename. Returns: False where the folder cannot be written."""
        try:
            for name, values in arrays.items():
                with atomic_file(self.folder / ".index" / f"{name}.npy", "wb") as file:
                    np.save(file, values, allow_pickle=False)
        except OSError as error:
            say(f"{self.folder}/.index cannot be written ({error.strerror}); it is made anew each time")
            return False
        return True

    def utterance(self, number: int) -> Utterance:
        """The whole Utterance."""
        utt_id, speaker = self.row("utt2spk", number)
        limits: dict[str, Any] = {}
        if "segments" in self:
            recording, start_s, end_s = segment_limits(self.value("segments", number, utt_id))
            limits = {"start_s": start_s, "end_s": end_s}
            audio = self._places.opened(self.find("wav.scp", recording))
        else:
            audio = self.value("wav.scp", number, utt_id)
        return Utterance(
            utt_id=utt_id,
            speaker=speaker,
            text=" ".join(self.value("text", number, utt_id).split()),
            audio=audio,
            duration_s=float(self.arrays["utt2dur"][number]) if "utt2dur" in self else None,
            speed=float(self.arrays["utt2speed"][number]) if "utt2speed" in self else 1.0,
            **limits,
        )


def open_index(folder: str | Path, check_audio: bool = False) -> Index:
    """The index of a data folder, made first where there is none that fits.

    Args:   check_audio: look whether every sound file is there (of a small folder).   Raises: MissingInput, UserError.
    """
    folder = Path(folder)
    stamps = _stamps(folder)
    small = stamps.get("utt2spk", [0])[0] < LARGE_BYTES
    if small:
        read_data_dir(folder, check_audio=check_audio)
    elif index := _kept_index(folder, stamps):
        return index
    try:
        arrays, digest = _scan_folder(folder, stamps)
    except Malformed:
        # Tells what is wrong.
        read_data_dir(folder, check_audio=False)
        raise UserError(f"{folder}: cannot be indexed; utils/fix_data_dir.py mends what can be mended") from None
    index = Index(folder, arrays, stamps, digest)
    if not small:
        say(f"{folder}: {index.count:,} utterances; making an index in {folder}/.index")
        if index.keep(arrays):
            facts = {"format": FORMAT, "stamps": stamps, "arrays": sorted(arrays), "digest": digest}
            write_json(folder / ".index/index.json", facts)
            return _kept_index(folder, stamps) or index
    return index


def _stamps(folder):
    """Size and time of each table that is there."""
    found = {}
    for name in TABLES:
        if (folder / name).is_file():
            status = (folder / name).stat()
            found[name] = [status.st_size, status.st_mtime_ns]
    return found


def _kept_index(folder, stamps):
    """The index on disk if it was made of these very files, else None."""
    try:
        facts = json.loads((folder / ".index/index.json").read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or facts["stamps"] != stamps:
            return None
        arrays = {name: _load(folder, name) for name in facts["arrays"]}
        return Index(folder, arrays, stamps, facts["digest"])
    except (OSError, ValueError, KeyError):
        return None


def _load(folder, name):
    return np.load(Path(folder) / ".index" / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _scan_folder(folder, stamps):
    """Scan all tables. Returns: arrays, digest of the ids.   Raises: Malformed, also when the tables have other ids."""
    if not {"text", "utt2spk", "wav.scp"} <= set(stamps):
        raise Malformed
    arrays, digests = {}, {}
    for name in stamps:
        starts, digests[name], values = scan_table(folder / name, NUMBERS.get(name))
        arrays |= {name: values} if values is not None else {f"{name}.starts": starts}
    own = set(stamps) - ({"wav.scp"} if "segments" in stamps else set())
    if len({digests[name] for name in own}) > 1 or any((arrays[name] <= 0).any() for name in NUMBERS if name in own):
        raise Malformed
    return arrays, digests["utt2spk"]


def count_tokens(index: Index, tokenizer: "Tokenizer") -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Tokens of each transcript, how many of them repeat the one before, and the characters that the tokenizer lacks.

    Returns: two (count,) int32 arrays; Counter of characters. Kept beside a large index.
    """
    key = hashlib.sha256(repr([tokenizer.tokens_text(), tokenizer.fingerprint, index.stamps["text"]]).encode())
    name = f"tokens-{key.hexdigest()[:16]}"
    if index.is_large:
        try:
            unknown = json.loads((index.folder / ".index" / f"{name}.json").read_text(encoding="utf-8"))
            return *_load(index.folder, name), Counter(unknown)
        except (OSError, ValueError):
            pass
    counts, unknown = [], Counter[str]()
    for texts in index.all_texts():
        lengths, flat = tokenizer.encode_all(texts)
        ends = np.cumsum(lengths)
        repeats = np.flatnonzero(flat[1:] == flat[:-1]) + 1
        rows = np.searchsorted(ends, repeats, "right")
        # Not where a text begins.
        repeated = np.bincount(rows[repeats > (ends - lengths)[rows]], minlength=len(texts))
        counts.append(np.stack([lengths, repeated]).astype(np.int32))
        lacking = np.unique(np.searchsorted(ends, np.flatnonzero(flat == tokenizer.unknown_id), "right"))
        unknown += tokenizer.unknown_characters(texts[i] for i in lacking)
    table = np.concatenate(counts, axis=1)
    if index.is_large and index.keep({name: table}):
        write_json(index.folder / ".index" / f"{name}.json", dict(unknown))
    return *table, unknown
