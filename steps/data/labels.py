"""What teachers say about the utterances of a data folder, stored: `steps.label_data` writes it, trainings read it.

A folder holds labels.json, which describes it and lists its files with size and SHA-256, and for teacher i and part j a file
labels.<i>.<j>.bin. All numbers are little-endian:

    header       48 bytes: `SLIMLAB1`, uint32 utterances, uint32 bytes of the description, uint64 where the index begins,
                 uint32 crc32 of index and description, 16 bytes 0, uint32 crc32 of these 44 bytes
    codebooks    only with hidden_codes M: for each stored layer M x 256 x width float16; uint32 crc32 of all
    records      one for each utterance
    index        28 bytes for each utterance, by rising digest: uint64 digest of its id, uint64 where its record begins, uint32
                 bytes, uint32 frames, uint32 crc32 of the record
    description  JSON: who the teacher is, its units, what was kept, which part this is
    record       uint32 entries E, runs B; E units, E values, B runs (see SparsePosteriors: values float16, runs uint16; units
                 uint8, uint16 or uint32 as the vocabulary needs, the highest bit set where a row begins); then for each
                 stored layer frames x width float16, or with hidden_codes frames x M uint8

A file is looked at no further than its header says, and read only where an utterance is asked for. Nothing in it is run.
"""

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from steps.core.cli import MissingInput, UserError
from steps.core.config import from_dict, to_dict
from steps.core.limits import read_limited
from steps.data.label_description import Description
from steps.data.sparse_posteriors import SparsePosteriors
from steps.data.state_codes import CHECK_FRAMES, ENTRIES, SAMPLE_FRAMES, Codebooks, decode, fit

FILE = "labels.json"
MAGIC = b"SLIMLAB1"
HEADER = struct.Struct("<8sIIQI16s")
INDEX = np.dtype([("key", "<u8"), ("at", "<u8"), ("size", "<u4"), ("frames", "<u4"), ("crc", "<u4")])
SIZES = struct.Struct("<II")
# of labels.json and of a description
LARGEST_BYTES = 16 << 20
# of one utterance
MOST_FRAMES = 1 << 20
REMEDY = "run steps.label_data again"


def part_name(teacher: int, part: int) -> str:
    """Name of the file of one teacher (from 1) and part (from 1)."""
    return f"labels.{teacher}.{part}.bin"


def keys_of(utt_ids: Iterable[str]) -> np.ndarray:
    """Digests of utterance ids, (N,) uint64."""
    return np.array(
        [int.from_bytes(hashlib.blake2b(i.encode(), digest_size=8).digest(), "little") for i in utt_ids], np.uint64
    )


class LabelWriter:
    """Writes the records of a part into an open file (steps.core.outdir.atomic_file, "wb"); `close` writes the rest.

    With hidden_codes, the first utterances wait in memory until frames suffice to fit codebooks and to check them.
    Attributes: is_fitted: whether what comes now need not wait.   lost: of each stored layer, the share of the variance that codes do
    not tell.   is_checked: whether that is of other frames than those fitted to; there may be too few.
    """

    def __init__(self, file: IO[bytes], description: Description):
        self.file, self.description = file, description
        self.utt_ids: list[str] = []
        self.rows: list[tuple[int, int, int, int]] = []
        self.codebooks: list[Codebooks] = []
        self.lost: list[float] = []
        self.is_fitted, self.is_checked = description.settings.hidden_codes is None, False
        self._waiting: list[tuple[str, SparsePosteriors, list[np.ndarray]]] = []
        file.write(bytes(HEADER.size + 4))

    def add(self, utt_id: str, posteriors: SparsePosteriors, hidden: list[np.ndarray]) -> None:
        """Append an utterance. Args: hidden: (T, width) for each stored layer."""
        if self.is_fitted:
            self._write(utt_id, posteriors, hidden)
            return
        self._waiting.append((utt_id, posteriors, hidden))
        if sum(len(states[0]) for *_, states in self._waiting) >= SAMPLE_FRAMES + CHECK_FRAMES:
            self.is_checked = True
            self._fit()

    def _fit(self):
        for layer in range(len(self.description.places)):
            states = np.concatenate([hidden[layer] for *_, hidden in self._waiting])
            # none of these utterances has a frame: nothing is written in this code
            states = states if len(states) else np.zeros((1, states.shape[1]), np.float32)
            self.codebooks.append(fit(states[:SAMPLE_FRAMES], self.description.settings.hidden_codes or 0))
            others = states[SAMPLE_FRAMES:] if self.is_checked else states[:SAMPLE_FRAMES]
            self.lost.append(self.codebooks[-1].lost(others))
        content = b"".join(books.vectors.astype("<f2").tobytes() for books in self.codebooks)
        self.file.write(content + struct.pack("<I", zlib.crc32(content)))
        for waiting in self._waiting:
            self._write(*waiting)
        self._waiting, self.is_fitted = [], True

    def _write(self, utt_id, posteriors, hidden):
        own = posteriors
        units = own.units.astype(unit_type(own.vocabulary))
        units[np.cumsum(own.counts) - own.counts] |= first_bit(units.dtype)
        arrays = [units, own.values.astype("<f2"), own.runs.astype("<u2")]
        if self.codebooks:
            arrays += [books.encode(layer) for books, layer in zip(self.codebooks, hidden, strict=True)]
        else:
            arrays += [layer.astype("<f2") for layer in hidden]
        sizes = SIZES.pack(len(units), len(own.runs))
        record = sizes + b"".join(array.tobytes() for array in arrays)
        self.rows.append((self.file.tell(), len(record), int(own.lengths().sum()), zlib.crc32(record)))
        self.utt_ids.append(utt_id)
        self.file.write(record)

    def close(self) -> None:
        """Write index, description and header. Raises: UserError for an id that is there twice."""
        if self._waiting:
            self._fit()
        index = np.zeros(len(self.rows), INDEX)
        index["key"] = keys_of(self.utt_ids)
        for name, values in zip(("at", "size", "frames", "crc"), zip(*self.rows, strict=True), strict=False):
            index[name] = values
        index = np.sort(index, order="key")
        if (index["key"][1:] == index["key"][:-1]).any():
            raise UserError("two utterances have one id, or ids with one digest; rename one of them")
        description = json.dumps(to_dict(self.description), ensure_ascii=False).encode()
        at = self.file.tell()
        self.file.write(index.tobytes() + description)
        crc = zlib.crc32(index.tobytes() + description)
        head = HEADER.pack(MAGIC, len(index), len(description), at, crc, bytes(16))
        self.file.seek(0)
        self.file.write(head + struct.pack("<I", zlib.crc32(head)))


class LabelPart:
    """One file of labels, opened. Attributes: description, index (INDEX array by rising key). Raises: MissingInput, UserError."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingInput(f"{path}: no such file; {REMEDY}") from None
        size = os.fstat(self._handle).st_size
        head = os.pread(self._handle, HEADER.size + 4, 0)
        if len(head) < HEADER.size + 4 or head[: len(MAGIC)] != MAGIC:
            raise self._damaged("not a file of labels")
        _, count, described, at, crc, _ = HEADER.unpack(head[:-4])
        if zlib.crc32(head[:-4]) != struct.unpack("<I", head[-4:])[0]:
            raise self._damaged("its header is damaged")
        end = at + count * INDEX.itemsize
        if described > LARGEST_BYTES or at < len(head) or end + described != size:
            raise self._damaged("it does not end where its header says")
        rest = os.pread(self._handle, size - at, at)
        if zlib.crc32(rest) != crc:
            raise self._damaged("its index is damaged")
        self.index = np.frombuffer(rest, INDEX, count)
        # places first: a sum with a size could be beyond 64 bits
        if count and (self.index["at"].max() > at or (self.index["at"] + self.index["size"]).max() > at):
            raise self._damaged("its index leads beyond its records")
        try:
            self.description = from_dict(Description, json.loads(rest[end - at :]), str(path))
        except (ValueError, RecursionError):
            raise self._damaged("its description is no JSON") from None
        self._codebooks = self._read_codebooks(len(head), int(self.index["at"].min()) if count else len(head))

    def _read_codebooks(self, start, end):
        """Vectors of each stored layer, (M, 256, width) float16, read between two places of the file; without codes none."""
        own = self.description
        if not own.settings.hidden_codes or not len(self.index):
            return []
        shape = (len(own.places), own.settings.hidden_codes, ENTRIES, own.width)
        if end - start != 2 * math.prod(shape) + 4:
            raise self._damaged("its codebooks are not as long as it says")
        content = os.pread(self._handle, end - start, start)
        vectors = np.frombuffer(content[:-4], "<f2").reshape(shape)
        if zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0] or not np.isfinite(vectors).all():
            raise self._damaged("its codebooks are damaged")
        return list(vectors)

    def __del__(self):
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def read(self, row: int) -> tuple[SparsePosteriors, list[np.ndarray]]:
        """What was said about one utterance. Args: row: of the index.  Returns: posteriors; (T, width) per layer, float16, float32
        from codes."""
        entry, own = self.index[row], self.description
        frames, record = int(entry["frames"]), os.pread(self._handle, int(entry["size"]), int(entry["at"]))
        if len(record) != entry["size"] or len(record) < SIZES.size or zlib.crc32(record) != entry["crc"]:
            raise self._damaged("a record is damaged")
        entries, runs = SIZES.unpack_from(record)
        small, half = unit_type(len(own.vocabulary)), np.dtype("<f2")
        kinds = [(small, entries), (half, entries), (np.dtype("<u2"), runs)]
        codes = own.settings.hidden_codes
        kinds += [(np.dtype("u1"), frames * codes) if codes else (half, frames * own.width)] * len(own.places)
        if frames > MOST_FRAMES or SIZES.size + sum(kind.itemsize * count for kind, count in kinds) != len(record):
            raise self._damaged("a record is not as long as it says")
        arrays, at = [], SIZES.size
        for kind, count in kinds:
            arrays.append(np.frombuffer(record, kind, count, at))
            at += kind.itemsize * count
        begins = np.flatnonzero(arrays[0] & first_bit(small))
        if bool(begins.size) != bool(frames) or begins[:1].any():
            raise self._damaged("a record holds no rows")
        counts, units = np.diff(np.r_[begins, entries]), arrays[0] & ~first_bit(small)
        posteriors = SparsePosteriors(len(own.vocabulary), counts, units, *arrays[1:3])
        if what := posteriors.problem(frames):
            raise self._damaged(f"a record holds {what}")
        if codes:
            taken = [array.reshape(frames, codes) for array in arrays[3:]]
            return posteriors, [
                decode(books, own_codes) for books, own_codes in zip(self._codebooks, taken, strict=True)
            ]
        hidden = [array.reshape(frames, own.width) for array in arrays[3:]]
        if not all(np.isfinite(layer).all() for layer in hidden):
            raise self._damaged("a record holds states that are not finite")
        return posteriors, hidden

    def _damaged(self, what):
        return UserError(f"{self.path}: {what}; {REMEDY}")


def unit_type(vocabulary: int) -> np.dtype:
    """The smallest type that counts to V and has a bit left."""
    return np.dtype("<u1" if vocabulary < 1 << 7 else "<u2" if vocabulary < 1 << 15 else "<u4")


def first_bit(kind: np.dtype) -> np.integer:
    """The highest bit of an unsigned type, as a number of that type."""
    return kind.type(1 << 8 * kind.itemsize - 1)


def is_stored(folder: str | Path) -> bool:
    """Whether a folder holds labels."""
    return (Path(folder) / FILE).is_file()


def read_facts(folder: str | Path) -> dict:
    """The content of labels.json. Raises: MissingInput, UserError."""
    path = Path(folder) / FILE
    try:
        facts = json.loads(read_limited(path, LARGEST_BYTES, "list of labels"))
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file; {REMEDY}, or steps.combine_labels after its last part") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); {REMEDY}") from None
    sound = isinstance(facts, dict) and facts.get("format") == 1 and isinstance(facts.get("files"), dict)
    counts = [facts.get(name) for name in ("teachers", "parts")] if sound else [0]
    if not sound or not all(isinstance(count, int) and 1 <= count <= 100_000 for count in counts):
        raise UserError(f"{path}: not a list of labels of format 1; {REMEDY}")
    return facts


class Labels:
    """The labels of one teacher, all parts. Args: folder; number: of the teacher, from 1; parts: how many there are.

    Attributes: description (of the first part).   Raises: MissingInput; UserError for parts that do not belong together.
    """

    def __init__(self, folder: str | Path, number: int, parts: int):
        self.folder = Path(folder)
        self.parts = [LabelPart(self.folder / part_name(number, part)) for part in range(1, parts + 1)]
        self.description = self.parts[0].description
        for part, opened in enumerate(self.parts, start=1):
            if made_with(opened.description) != made_with(self.description) or opened.description.part != part:
                raise UserError(f"{opened.path}: made with other settings than {self.parts[0].path.name}; {REMEDY}")
        keys = np.concatenate([part.index["key"] for part in self.parts])
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise UserError(f"{folder}: an utterance is in two parts; {REMEDY}")
        self._starts = np.cumsum([0, *(len(part.index) for part in self.parts)])
        self._frames = np.concatenate([part.index["frames"] for part in self.parts])

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, utt_ids: Iterable[str]) -> np.ndarray:
        """Numbers of utterances, (N,) int64; -1 for one that is not there."""
        keys = keys_of(utt_ids)
        if not len(self):
            return np.full(len(keys), -1)
        at = np.searchsorted(self._keys, keys).clip(0, len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._order[at], -1)

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        """Frames of utterances. Args: numbers: from `find`."""
        return self._frames[numbers].astype(np.int64)

    def read(self, number: int) -> tuple[SparsePosteriors, list[np.ndarray]]:
        """See LabelPart. Args: number: from `find`."""
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.parts[part].read(int(number - self._starts[part]))


def made_with(description: Description) -> dict:
    """What all parts of one teacher have in common."""
    return {key: value for key, value in to_dict(description).items() if key not in ("part", "inputs")}
