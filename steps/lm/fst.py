"""Graphs as files in OpenFst's binary format (vector, standard arcs), which kaldi-decoder and sherpa-onnx read.

Their readers trust a file: a label beyond the tokens reads memory that is not theirs, a loop of arcs without a frame never
ends. So a file from outside is checked here before one of them opens it.
"""

import struct
from dataclasses import dataclass

import numpy as np

ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("next", "<i4")])
MAGIC = 2125659606
# version and flags: no symbol tables
VERSION, FLAGS = 2, 0
# properties: expanded, mutable; nothing else is claimed
PROPERTIES = 0x3
HEAD = struct.pack("<i", MAGIC) + b"".join(struct.pack("<i", len(s)) + s for s in (b"vector", b"standard"))
NUMBERS = struct.Struct("<iiQqqq")
STATE = struct.Struct("<fq")
# arcs without a frame that may follow each other: contexts that get shorter
DEEPEST = 32


@dataclass(frozen=True)
class Fst:
    """A weighted transducer; label 0 is none.

    start: a state.   finals: (S,) float32, cost of ending in a state, infinite where that is not possible.
    counts: (S,) int64, arcs of each state.   arcs: (A,) of ARC, state by state.
    """

    start: int
    finals: np.ndarray
    counts: np.ndarray
    arcs: np.ndarray


def write_fst(fst: Fst) -> bytes:
    """Content of the file."""
    numbers = NUMBERS.pack(VERSION, FLAGS, PROPERTIES, fst.start, len(fst.finals), len(fst.arcs))
    parts, begin, arcs = [HEAD, numbers], 0, fst.arcs.tobytes()
    for final, count in zip(fst.finals.tolist(), fst.counts.tolist(), strict=True):
        end = begin + count * ARC.itemsize
        parts += [STATE.pack(final, count), arcs[begin:end]]
        begin = end
    return b"".join(parts)


def read_fst(content: bytes) -> Fst:
    """Read the content of a file. Raises: ValueError when it is not whole or not of this format."""
    if not content.startswith(HEAD) or len(content) < len(HEAD) + NUMBERS.size:
        raise ValueError("no OpenFst file of type vector with standard arcs")
    version, flags, _, start, num_states, num_arcs = NUMBERS.unpack_from(content, len(HEAD))
    if version != VERSION or flags != FLAGS:
        raise ValueError("another version of the format, or with tables of symbols inside")
    at, expected = len(HEAD) + NUMBERS.size, num_states * STATE.size + num_arcs * ARC.itemsize
    if not 0 <= start < num_states or num_arcs < 0 or len(content) - at != expected:
        raise ValueError("its size is not that of its states and arcs")
    finals, counts, pieces = np.empty(num_states, np.float32), np.empty(num_states, np.int64), []
    for state in range(num_states):
        if at + STATE.size > len(content):
            raise ValueError("its states hold more arcs than it says")
        finals[state], counts[state] = STATE.unpack_from(content, at)
        size = int(counts[state]) * ARC.itemsize
        at += STATE.size + size
        if size < 0 or at > len(content):
            raise ValueError("its states hold more arcs than it says")
        pieces.append(content[at - size : at])
    arcs = np.frombuffer(b"".join(pieces), ARC)
    if len(arcs) != num_arcs:
        raise ValueError("its states hold fewer arcs than it says")
    return Fst(start, finals, counts, arcs)


def check_fst(fst: Fst, num_tokens: int, num_words: int) -> None:
    """Check that a graph fits a model. Args: num_words: none included.   Raises: ValueError."""
    arcs, weights = fst.arcs, np.concatenate([fst.arcs["weight"], fst.finals])
    for name, limit in (("ilabel", num_tokens + 1), ("olabel", num_words), ("next", len(fst.finals))):
        if len(arcs) and not (arcs[name].min() >= 0 and arcs[name].max() < limit):
            raise ValueError(f"an arc's {name} is not among 0 to {limit - 1}")
    if np.isnan(weights).any() or (weights == -np.inf).any():
        raise ValueError("a weight that is none")
    sources = np.repeat(np.arange(len(fst.finals)), fst.counts)
    silent = arcs["ilabel"] == 0
    sources, targets = sources[silent], arcs["next"][silent]
    for _ in range(DEEPEST):
        # an arc that no other leads to is in no loop
        later = np.isin(sources, targets)
        sources, targets = sources[later], targets[later]
    if len(sources):
        raise ValueError("arcs without a frame that follow each other without end")
