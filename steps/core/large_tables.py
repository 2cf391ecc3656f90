"""Kaldi tables too large for memory: read as a stream or line by line from disk. Standard library only."""

import os
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import lt
from pathlib import Path

BLANK = re.compile(r"[ \t]+")


def byte_order(key: str) -> bytes:
    """Sort key of the C locale: the UTF-8 bytes of the text."""
    return key.encode(errors="surrogatepass")


class Malformed(Exception):
    """A table that cannot be read as a stream; reading it whole tells what is wrong."""


def plain_blocks(path: str | Path, block_bytes: int = 4 << 20) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Read a table in portions: UTF-8, Unix line ends, unique ids in C-locale order, none at all in memory for long.

    Yields: (position of the first byte, list of lines as bytes, list of ids as bytes).   Raises: Malformed.
    """
    previous, position = b"", 0
    with open(path, "rb") as file:
        while block := file.read(block_bytes):
            block += file.readline()
            rows = block[:-1].split(b"\n")
            ids = [row.partition(b" ")[0] for row in rows]
            if b"\t" in block:
                ids = [key.partition(b"\t")[0] for key in ids]
            try:
                block.decode()
            except UnicodeDecodeError:
                raise Malformed from None
            ordered = previous < ids[0] and all(map(lt, ids, ids[1:]))
            if not block.endswith(b"\n") or b"\r" in block or not ordered or block.startswith(b"\xef\xbb\xbf"):
                raise Malformed
            yield position, rows, ids
            previous, position = ids[-1], position + len(block)


class LargeTable(Mapping[str, str]):
    """One large file: id -> value, read from disk when asked for; quick where ids are asked for in order.

    Args:   convert: function of the values as they stand there, or None.   Raises: Malformed when the file is not plain.
    """

    def __init__(self, path: str | Path, convert: Callable[[str], str] | None = None):
        self.path, self._next, self._convert = Path(path), 0, convert
        self._starts = array("Q", [0])
        for position, rows, _ in plain_blocks(path):
            for row in rows:
                position += len(row) + 1
                self._starts.append(position)
        # kept for as long as the table is, so no `with` (SIM115)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def __len__(self):
        return len(self._starts) - 1

    # a Mapping promises views of items and values; one pass over the file is all that is wanted of a large table
    def items(self) -> Iterator[tuple[str, str]]:  # type: ignore[override]
        """All (id, value) in order, read in one go."""
        for _, rows, _ in plain_blocks(self.path):
            for row in rows:
                yield self._split(row)

    def _split(self, row):
        key, value = split_line(row)
        return key, self._convert(value) if self._convert else value

    def __iter__(self):
        for _, _, ids in plain_blocks(self.path):
            for key in ids:
                yield key.decode()

    def values(self) -> Iterator[str]:  # type: ignore[override]
        """All values in order."""
        return (value for _, value in self.items())

    def _row(self, number):
        start, end = self._starts[number], self._starts[number + 1]
        return self._split(os.pread(self._file.fileno(), end - start - 1, start))

    def _find(self, key):
        """(row number, value) of an id. Raises: KeyError."""
        if self._next < len(self):
            found, value = self._row(self._next)
            if found == key:
                return self._next, value
        low, high, wanted = 0, len(self), byte_order(key)
        while low < high:
            middle = (low + high) // 2
            if byte_order(self._row(middle)[0]) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._row(low)[0] != key:
            raise KeyError(key)
        return low, self._row(low)[1]

    def __getitem__(self, key):
        number, value = self._find(key)
        self._next = number + 1
        return value

    def __contains__(self, key):
        try:
            self[key]
        except KeyError:
            return False
        return True

    def where(self, key: str) -> str:
        """The place of an id, as `file:line`."""
        return f"{self.path}:{self._find(key)[0] + 1}"


class Part(Mapping[str, str]):
    """The lines of a LargeTable whose ids are in a set."""

    def __init__(self, table: LargeTable, keep: Collection[str]):
        self.table, self.keep = table, keep

    def __len__(self):
        return sum(1 for _ in self)

    def __iter__(self):
        return (key for key in self.table if key in self.keep)

    # passes and not views, as above
    def items(self) -> Iterator[tuple[str, str]]:  # type: ignore[override]
        """All (id, value) in order, read in one go."""
        return ((key, value) for key, value in self.table.items() if key in self.keep)

    def values(self) -> Iterator[str]:  # type: ignore[override]
        """All values in order."""
        return (value for _, value in self.items())

    def __getitem__(self, key):
        if key not in self.keep:
            raise KeyError(key)
        return self.table[key]


def split_line(row: bytes) -> tuple[str, str]:
    """(id, value) of a line, as text."""
    key, *value = BLANK.split(row.decode().rstrip(" \t"), maxsplit=1)
    return key, value[0] if value else ""
