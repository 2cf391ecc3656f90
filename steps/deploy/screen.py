"""A check of an ONNX file before a runtime opens it: a stranger's graph must terminate and read no other file.

Loop, Scan, If and the like contain graphs, which can run for ever, even while a runtime folds constants; so can functions that
call each other. Exported models have none of these, nor weights in other files. Of functions only our own pass
(steps/deploy/repeats.py): of one domain, in which nothing is called but operators, so that none can begin another, and small
enough in all of their places together. Thus every node runs once for each place where it stands. The file is walked field by field
(protobuf's wire format) and tensors are skipped: no copy, no memory, a few milliseconds.

Models of others may have If, whose branches run at most once each; exported ones of ours have none.

Source: onnx.proto of ONNX 1.23 for the field numbers; protobuf's documentation of its encoding.
"""

import mmap
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.core.cli import UserError
from steps.core.exports import SUMS

# message -> {number of a field: the message in it, or what is refused}
LOOPS = "!a graph within the graph, which could run for ever"
MESSAGES = {
    "ModelProto": {7: "GraphProto", 20: "!a training", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: LOOPS, 10: "TensorProto", 11: LOOPS,
                       22: "SparseTensorProto", 23: "SparseTensorProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "!numbers in another file; save it as one file"},
}  # fmt: skip
# attributes of an If, where these are allowed
BRANCHES = MESSAGES["AttributeProto"] | {6: "GraphProto"}
REMEDY = "export the model again"
NOT_OURS = "exported models do not, so it is not opened"
STRANGE = f"functions of its own, which could call each other for ever; {NOT_OURS}"
# the domain of our functions, and of what may stand in them
FUNCTIONS, OPERATORS = b"slim_asr", (b"", b"ai.onnx", b"com.microsoft")
# bytes of all functions in all of their places
MOST_UNFOLDED = 10_000_000
# files of an export that may run chunk by chunk, and their model_type then, by which sherpa-onnx and we know it: of a CTC model,
# and of a transducer's encoder
STREAMING_TYPE, STREAMING_ENCODER_TYPE = "zipformer2", "lstm"
STREAMING_TYPES = {"model.onnx": STREAMING_TYPE, "encoder.onnx": STREAMING_ENCODER_TYPE}
# how tokens.txt begins in every folder of ours, and what goes into and comes out of our CTC models of whole utterances
FIRST_TOKENS = b"<blk> 0\n<unk> 1\n"
OWN_VALUES = [b"x", b"x_lens", b"log_probs", b"log_probs_lens"]


def screen(model: str | Path | bytes, branches: bool = False) -> None:
    """Refuse a graph that no exported model would contain.

    Args:   model: path of an ONNX file, or its content.   branches: whether it may have If.
    Raises: UserError when it is not an ONNX file, or has loops, functions that are not ours, or references to other files; OSError.
    """
    if isinstance(model, bytes):
        return _walk(model, "the graph", branches)
    with open(model, "rb") as file:
        if not file.seek(0, 2):
            raise UserError(f"{model}: the file is empty; {REMEDY}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _walk(content, model, branches)


def metadata(model: str | Path) -> dict[str, str]:
    """What an ONNX file says about itself, such as its `model_type`; empty for a file that is none.

    Args: model: path.   Raises: OSError.
    """
    with open(model, "rb") as file:
        if not file.seek(0, 2):
            return {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return dict(_entries(content))
            except ValueError:
                return {}


def streaming_graph(folder: str | Path) -> Path | None:
    """The file of an exported folder that runs chunk by chunk; None: its model hears whole utterances."""
    files = {Path(folder) / name: kind for name, kind in STREAMING_TYPES.items()}
    return next((p for p, kind in files.items() if p.is_file() and metadata(p).get("model_type") == kind), None)


def streams(folder: str | Path) -> bool:
    """Whether an exported folder holds a model that runs chunk by chunk."""
    return streaming_graph(folder) is not None


def is_foreign(folder: str | Path) -> bool:
    """Whether an exported folder is one of others: no SHA256SUMS, and not the files that ours has without it, either, which are
    known by how tokens.txt begins and by the names of what a graph takes and gives. Raises: OSError."""
    folder = Path(folder)
    if (folder / SUMS).is_file():
        return False
    tokens = folder / "tokens.txt"
    if not tokens.is_file() or not (folder / "features.yaml").is_file():
        return True
    with open(tokens, "rb") as file:
        begins = file.read(len(FIRST_TOKENS)) == FIRST_TOKENS
    whole = (folder / "model.onnx").is_file() and _values(folder / "model.onnx") == OWN_VALUES
    return not (begins and (whole or streams(folder) or (folder / "encoder.onnx").is_file()))


def _values(path):
    """Names of what a graph takes and gives, in their order; empty for a file that is none."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = {11: [], 12: []}
            try:
                for number, start, end in fields(content, 0, len(content), {7}):
                    for kind, first, last in fields(content, start, end, found) if number == 7 else ():
                        if kind in found:
                            names = [bytes(content[i:j]) for key, i, j in fields(content, first, last, {1}) if key == 1]
                            found[kind] += names
            except ValueError:
                return []
            return found[11] + found[12]


def _entries(data):
    """Pairs of metadata_props (ModelProto 14), cut off where they are too long for any of ours."""
    for number, start, end in fields(data, 0, len(data), {14}):
        if number == 14:
            pair = {key: data[first : min(last, first + 4096)] for key, first, last in fields(data, start, end, {1, 2})}
            yield tuple(bytes(pair.get(key, b"")).decode("utf-8", "replace") for key in (1, 2))


@dataclass(frozen=True)
class _Named:
    """A function, or a call of one. size: bytes of the message."""

    domain: bytes
    name: bytes
    inputs: int
    outputs: int
    size: int


def _walk(data, name, branches):
    # the last: whether it is part of a function
    waiting, functions, calls, seen = [("ModelProto", 0, len(data), False)], list[_Named](), list[_Named](), 0
    try:
        while waiting:
            message, start, end, inside = waiting.pop()
            is_if = False
            if message == "NodeProto":
                seen += 1
                node = _named(data, start, end, domain=7, name=4, inputs=1, outputs=2)
                is_if = branches and node.name == b"If" and node.domain in (b"", b"ai.onnx")
                if inside and node.domain not in OPERATORS:
                    raise UserError(f"{name}: holds {STRANGE}")
                if node.domain == FUNCTIONS:
                    calls.append(node)
            elif message == "FunctionProto":
                functions.append(_named(data, start, end, domain=10, name=1, inputs=4, outputs=5))
            inner = BRANCHES if message == "Branches" else MESSAGES[message]
            for number, first, last in fields(data, start, end, inner):
                kind = inner.get(number, "")
                if kind.startswith("!"):
                    raise UserError(f"{name}: holds {kind[1:]}; {NOT_OURS}")
                if kind:
                    kind = "Branches" if is_if and kind == "AttributeProto" else kind
                    waiting.append((kind, first, last, inside or message == "FunctionProto"))
    except ValueError:
        seen = 0
    if not seen:
        raise UserError(f"{name}: no ONNX graph, or damaged; {REMEDY}")
    if wrong := _wrong_functions(functions, calls):
        raise UserError(f"{name}: holds {wrong}")


def _named(data, start, end, domain, name, inputs, outputs):
    """A function or node. Args: domain, name, inputs, outputs: numbers of these fields. Texts: the last counts, as for any reader."""
    texts, lengths = {domain: b"", name: b""}, {inputs: 0, outputs: 0}
    for number, first, last in fields(data, start, end, {domain, name, inputs, outputs}):
        if number in texts:
            texts[number] = bytes(data[first:last])
        elif number in lengths:
            # one without a name is none
            lengths[number] += last > first
    return _Named(texts[domain], texts[name], lengths[inputs], lengths[outputs], end - start)


def _wrong_functions(functions, calls):
    """What is wrong with the functions of a graph and their calls; empty: nothing."""
    own = {function.name: function for function in functions}
    # runtimes put domain, name and overload together with colons
    if len(own) < len(functions) or any(f.domain != FUNCTIONS or not f.name or b":" in f.name for f in functions):
        return STRANGE
    if any((f := own.get(call.name)) is None or (f.inputs, f.outputs) != (call.inputs, call.outputs) for call in calls):
        return f"a call of a function that it does not have, or with other inputs; {NOT_OURS}"
    unfolded = sum(own[call.name].size for call in calls)
    return f"functions that unfold to {unfolded:,} bytes; {NOT_OURS}" if unfolded > MOST_UNFOLDED else ""


def fields(data: bytes | mmap.mmap, start: int, end: int, texts: Container[int] = ()) -> Iterator[tuple[int, int, int]]:
    """The fields of one protobuf message, from `start` to `end`: (number, first byte, byte after the last).

    Args:   texts: numbers of fields that hold bytes: texts, or messages.
    Raises: ValueError where the bytes are not a message, or one of `texts` is something else, which other readers pass over.
    """
    while start < end:
        tag, start = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, last = _varint(data, start, end)
        elif kind == 2:
            length, start = _varint(data, start, end)
            last = start + length
        elif kind in (1, 5):
            last = start + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if last > end or not 0 < number < 1 << 29 or (kind != 2 and number in texts):
            raise ValueError("beyond the end, or of another type")
        yield number, start, last
        start = last


def _varint(data, start, end):
    """A number of 7 bits per byte, lowest first. Returns: (number, position after it)."""
    value = 0
    for place in range(start, min(end, start + 10)):
        value |= (data[place] & 127) << 7 * (place - start)
        if data[place] < 128:
            return value, place + 1
    raise ValueError("a number without end")
