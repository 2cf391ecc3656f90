"""A check of an ONNX file before a runtime opens it: a stranger's graph must terminate and read no other file.

Loop, Scan, If and the like contain graphs, which can run for ever, even while a runtime folds constants; so can functions that
call each other. Exported models have none of these, nor weights in other files; their functions (steps/deploy/repeats.py) call no
others and unfold to few nodes. Thus a graph runs each of its nodes once. The file is walked field by field (protobuf's wire
format) and tensors are skipped: no copy, no memory, a few milliseconds.

Models of others may have If, whose branches run at most once each; exported ones of ours have none.

Source: onnx.proto of ONNX 1.23 for the field numbers; protobuf's documentation of its encoding.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from steps.core.cli import UserError

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
    "TensorProto": {13: "!numbers in another file"},
}  # fmt: skip
# attributes of an If, where these are allowed
BRANCHES = MESSAGES["AttributeProto"] | {6: "GraphProto"}
REMEDY = "export the model again"
# with the nodes of functions in place of their calls
MOST_NODES = 100_000
# files of an export that may run chunk by chunk, and their model_type then, by which sherpa-onnx and we know it: of a CTC model,
# and of a transducer's encoder
STREAMING_TYPE, STREAMING_ENCODER_TYPE = "zipformer2", "lstm"
STREAMING_TYPES = {"model.onnx": STREAMING_TYPE, "encoder.onnx": STREAMING_ENCODER_TYPE}


def screen(model: str | Path | bytes, branches: bool = False) -> None:
    """Refuse a graph that no exported model would contain.

    Args:   model: path of an ONNX file, or its content.   branches: whether it may have If.
    Raises: UserError when it is not an ONNX file, or has loops, functions that call functions, or references to other files; OSError.
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


def _entries(data):
    """Pairs of metadata_props (ModelProto 14), cut off where they are too long for any of ours."""
    for number, start, end in fields(data, 0, len(data)):
        if number == 14:
            pair = {key: data[first : min(last, first + 4096)] for key, first, last in fields(data, start, end)}
            yield tuple(bytes(pair.get(key, b"")).decode("utf-8", "replace") for key in (1, 2))


def _walk(data, name, branches):
    """Functions are known by where they begin; None: the graph itself."""
    waiting, functions = [("ModelProto", 0, len(data), None)], dict[int, bytes]()
    # operators of each, by function, with the number of nodes
    operators: dict[int | None, Counter[bytes]] = {}
    try:
        while waiting:
            message, start, end, function = waiting.pop()
            if message == "FunctionProto":
                function, functions[start] = start, _texts(data, start, end, 1)[1]
            if message == "NodeProto":
                found = _texts(data, start, end, 4, 7)
                operators.setdefault(function, Counter())[found[4]] += 1
            # only an operator of ONNX's own
            is_if = branches and message == "NodeProto" and found[4] == b"If" and found[7] in (b"", b"ai.onnx")
            for number, first, last in fields(data, start, end):
                inner = (BRANCHES if message == "Branches" else MESSAGES[message]).get(number, "")
                if inner.startswith("!"):
                    raise UserError(f"{name}: holds {inner[1:]}; exported models do not, so it is not opened")
                if inner:
                    inner = "Branches" if is_if and inner == "AttributeProto" else inner
                    waiting.append((inner, first, last, function))
    except ValueError:
        operators = {}
    if not operators:
        raise UserError(f"{name}: no ONNX graph, or damaged; {REMEDY}")
    if wrong := _wrong_functions(functions, operators):
        raise UserError(f"{name}: holds {wrong}; exported models do not, so it is not opened")


def _wrong_functions(functions, operators):
    """What is wrong with the functions of a graph. Args: functions: names; operators: see `_walk`."""
    sizes = {}
    for place, called in functions.items():
        inside = operators.get(place, Counter())
        sizes[called] = max(sizes.get(called, 0), inside.total())
        if not inside.keys().isdisjoint(functions.values()):
            return "functions that call functions, which could go on for ever"
    nodes = sum(number * sizes.get(called, 1) for called, number in operators.get(None, Counter()).items())
    return f"functions that unfold to {nodes:,} nodes, more than {MOST_NODES:,}" if sizes and nodes > MOST_NODES else ""


def _texts(data, start, end, *wanted):
    """Fields of a message that hold text, b"" where there is none; the last one counts, as for any reader."""
    found = dict.fromkeys(wanted, b"")
    return found | {
        number: bytes(data[first:last]) for number, first, last in fields(data, start, end) if number in wanted
    }


def fields(data: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of one protobuf message, from `start` to `end`: (number, first byte, byte after the last).

    Raises: ValueError where the bytes are not a message.
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
        if last > end or not 0 < number < 1 << 29:
            raise ValueError("beyond the end")
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
