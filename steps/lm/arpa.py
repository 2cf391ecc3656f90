"""Reads and writes n-gram models as ARPA files. What is read comes from outside: every line is checked, work is bounded."""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from steps.core.cli import MissingInput, UserError
from steps.core.outdir import atomic_file
from steps.core.tables import counted
from steps.lm.ngram import BEGIN, END, NEVER, NGram

MOST_ORDER = 6
MOST_NGRAMS = 20_000_000
# bytes of a line; lines of remarks before the counts
LONGEST_LINE = 20_000
MOST_REMARKS = 10_000
# log10 of a back-off weight: beyond it there is no sense in one
LARGEST_BACKOFF = 99.0
# how a file begins that is not plain text -> what it is, and what to do
PACKED = {
    b"\x1f\x8b": "compressed by gzip; unpack it with gunzip and name the file that comes out",
    b"BZh": "compressed by bzip2; unpack it with bunzip2 and name the file that comes out",
    b"\xfd7zXZ\0": "compressed by xz; unpack it with unxz and name the file that comes out",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it with unzstd and name the file that comes out",
    b"mmap lm ": "a binary file of KenLM; name the ARPA file that it was built from",
}
COUNT = re.compile(rb"ngram\s+(\d{1,2})\s*=\s*(\d{1,12})")
SECTION = re.compile(rb"\\(\d{1,2})-grams:")


class _Lines:
    """The lines of a file, stripped, without empty ones. number: of the line that came last, for messages."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path, self.file, self.number = path, file, 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self.file.readline(LONGEST_LINE):
            self.number += 1
            if len(line) == LONGEST_LINE:
                raise self.error(f"longer than {LONGEST_LINE} bytes")
            if content := line.strip():
                yield content

    def error(self, what: str) -> UserError:
        return UserError(f"{self.path}:{self.number}: {what}; this is no whole ARPA file")


def read_arpa(path: str | Path) -> NGram:
    """Read an ARPA file. Probabilities of 10 ** -99 and less count as none.

    Raises: MissingInput; UserError naming the line that does not fit: counts that are not those of the header, numbers that
    are none, words that are no 1-grams, n-grams twice or with a beginning that is not there, an end that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"{path}: no such language model; steps.train_lm makes one")
    refuse_packed(path)
    with open(path, "rb") as file:
        reader = _Lines(path, file)
        lines = iter(reader)
        counts = _read_counts(reader, lines)
        model = NGram([{} for _ in counts], {})
        for length, count in enumerate(counts, start=1):
            for line in itertools.islice(lines, count):
                _read_ngram(reader, line, length, model)
            expected = b"\\end\\" if length == len(counts) else b"\\%d-grams:" % (length + 1)
            if len(model.probs[length - 1]) != count or next(lines, None) != expected:
                raise reader.error(f"expected {count} {length}-grams, then {expected.decode()}")
    if (END,) not in model.probs[0]:
        raise UserError(f"{path}: {END} is not among the 1-grams; sentences would never end")
    return model


def refuse_packed(path: str | Path) -> None:
    """Refuse what is no text yet: a compressed file, a model in KenLM's binary form. Raises: UserError with the remedy."""
    with open(path, "rb") as file:
        head = file.read(max(map(len, PACKED)))
    for magic, remedy in PACKED.items():
        if head.startswith(magic):
            raise UserError(f"{path}: {remedy}")


def _read_counts(reader: _Lines, lines: Iterator[bytes]) -> list[int]:
    """The header, up to the line of the first section. Returns: number of n-grams of each order."""
    for number, line in enumerate(lines):
        if line == b"\\data\\":
            break
        if number > MOST_REMARKS:
            raise reader.error(f"{MOST_REMARKS} lines and no \\data\\")
    counts: list[int] = []
    for line in lines:
        if line == b"\\1-grams:" and counts:
            break
        found = COUNT.fullmatch(line)
        if not found or int(found[1]) != len(counts) + 1 or len(counts) == MOST_ORDER:
            raise reader.error(f"expected `ngram {len(counts) + 1}=N` (orders 1 to {MOST_ORDER})")
        counts.append(int(found[2]))
        if sum(counts) > MOST_NGRAMS:
            raise reader.error(f"over {MOST_NGRAMS:,} n-grams; prune the model")
    if not counts or not counts[0]:
        raise reader.error("no \\data\\ section with n-grams")
    return counts


def _read_ngram(reader: _Lines, line: bytes, length: int, model: NGram) -> None:
    """Add the n-gram of a line to the model."""
    try:
        fields = [field.decode() for field in line.split()]
        prob, gram = float(fields[0]), tuple(fields[1 : length + 1])
        backoff = float(fields[length + 1]) if len(fields) == length + 2 else 0.0
    except (UnicodeDecodeError, ValueError, IndexError):
        raise reader.error(f"expected a number, {counted(length, 'word')} and a back-off weight") from None
    if len(gram) != length or len(fields) > length + 2 or any(len(word.split()) != 1 for word in gram):
        raise reader.error(f"expected {counted(length, 'word')}")
    if not -math.inf < prob <= 0 or not -LARGEST_BACKOFF <= max(backoff, NEVER) <= LARGEST_BACKOFF:
        raise reader.error("a log10 probability above 0, or a weight that is none")
    if gram in model.probs[length - 1]:
        raise reader.error("an n-gram that was there before")
    if length > 1 and (gram[:-1] not in model.probs[length - 2] or (gram[-1],) not in model.probs[0]):
        raise reader.error("an n-gram whose beginning or last word was not there")
    if END in gram[:-1] or BEGIN in gram[1:]:
        raise reader.error(f"{BEGIN} or {END} in the middle")
    model.probs[length - 1][gram] = max(prob, NEVER)
    if backoff and length < len(model.probs):
        model.backoffs[gram] = max(backoff, NEVER)


def write_arpa(path: str | Path, model: NGram) -> None:
    """Write an ARPA file: the same bytes for the same model."""
    with atomic_file(path) as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {length}={len(grams)}\n" for length, grams in enumerate(model.probs, start=1))
        for length, grams in enumerate(model.probs, start=1):
            file.write(f"\n\\{length}-grams:\n")
            for gram, prob in sorted(grams.items()):
                weight = model.backoffs.get(gram)
                end = "" if weight is None else f"\t{weight:.6f}"
                file.write(f"{min(prob, 0.0):.6f}\t{' '.join(gram)}{end}\n")
        file.write("\n\\end\\\n")
