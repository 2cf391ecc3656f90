"""Parts of a graph that come several times, such as the blocks of an encoder, written once: as functions of the ONNX file.

A runtime puts the nodes of a function in place of each call when it opens the file, so nothing is computed otherwise. Only nodes
that depend on the graph's inputs go into functions: onnxruntime before 1.17 computes constants first and opens functions later,
and unpacked codes that were no constants by then would be computed anew for every sound. Functions call no others, which is what
steps/deploy/screen.py asks for.

Source: ONNX IR specification, "Functions".
"""

import bisect
import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

from steps.deploy.macs import KNOWN
from steps.deploy.screen import FUNCTIONS

DOMAIN = FUNCTIONS.decode()
# bytes that a function must save, and nodes that it must have
WORTH, FEWEST_NODES = 400, 4
# bytes, about: of a name in a list of names, and of the rest of a call and of a function
NAME_BYTES, CALL_BYTES, FUNCTION_BYTES = 4, 22, 60


@dataclass(frozen=True)
class Repeat:
    """A sequence of nodes that comes several times.

    starts: number of its first node, in each place.   length: nodes.   inputs: what it reads from outside, of each the name in every
    place.   outputs: what others read of it, as (node from the first one on, output of that).   saved: bytes, about.
    """

    starts: tuple[int, ...]
    length: int
    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[int, int], ...]
    saved: int


def share_repeats_(graph: ModelProto, opset: int) -> None:
    """Put what comes several times into functions, the one that saves most first; a graph with graphs within is left as it is.

    Args: opset: of ONNX's own operators.
    """
    body = graph.graph
    if any(attribute.HasField("g") or attribute.graphs for node in body.node for attribute in node.attribute):
        return
    nodes = earliest_first(body.node)
    outputs = {value.name for value in body.output}
    inputs = {value.name for value in body.input}
    while repeat := best_repeat(Order(nodes, inputs, outputs)):
        name = f"part{len(graph.functions)}"
        graph.functions.append(function_of(nodes, repeat, name, opset))
        nodes = with_calls(nodes, repeat, name)
    del body.node[:]
    body.node.extend(nodes)


def earliest_first(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes in the order of how many products lie before them, copied: what does not depend on a block, such as masks and the
    angles of positions, comes before it, though the first block was the first to ask for it."""
    depth: dict[str, int] = {}
    places = []
    for node in nodes:
        places.append(max((depth.get(name, 0) for name in node.input), default=0))
        depth |= dict.fromkeys(filter(None, node.output), places[-1] + (node.op_type in KNOWN))
    return [_copy(nodes[number]) for number in sorted(range(len(nodes)), key=places.__getitem__)]


class Order:
    """What is asked of the nodes of a graph, in order, when repeats are looked for. Args: inputs, outputs: names of the graph's."""

    def __init__(self, nodes: list[NodeProto], inputs: set[str], outputs: set[str]) -> None:
        self.nodes, self.kinds = nodes, [kind_of(node) for node in nodes]
        made = {
            name: (number, place) for number, node in enumerate(nodes) for place, name in enumerate(node.output) if name
        }
        # for each input of each node: the node and output that it comes from
        self.sources = [[made.get(name, (-1, 0)) for name in node.input] for node in nodes]
        # the nodes that read a value; the graph itself counts as one behind all
        self.readers: dict[str, list[int]] = {name: [len(nodes)] for name in outputs}
        live = set(inputs)
        self.alike: dict[Any, list[int]] = {}
        for number, node in enumerate(nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(number)
            if not live.isdisjoint(node.input):
                live.update(filter(None, node.output))
                if node.domain != DOMAIN:
                    self.alike.setdefault(self.kinds[number], []).append(number)
        self.usable = {number for numbers in self.alike.values() for number in numbers}
        # bytes of all nodes before each
        self.bytes_before = [0, *itertools.accumulate(node.ByteSize() + 2 for node in nodes)]
        # by the distance of two nodes: up to where the graph is the same from earlier ones on
        self.ends: dict[int, int] = {}

    def matching(self, first: int, second: int, most: int) -> int:
        """For how many nodes, `most` at most, the graph from two nodes on is the same but for names from outside.

        Asked of one `first` after the other: what matches from earlier nodes on does so from later ones on.
        """
        known = max(0, min(most, self.ends.get(second - first, 0) - first))
        length = self._matching(first, second, known, most)
        self.ends[second - first] = first + length
        return length

    def _matching(self, first: int, second: int, known: int, most: int) -> int:
        for length in range(known, most):
            one, other = first + length, second + length
            if other >= len(self.nodes) or self.kinds[one] != self.kinds[other] or not {one, other} <= self.usable:
                return length
            for (a, place), (b, place_b) in zip(self.sources[one], self.sources[other], strict=True):
                if (a >= first) != (b >= second) or (a >= first and (a - first, place) != (b - second, place_b)):
                    return length
        return most

    def repeat(self, starts: list[int], length: int) -> Repeat:
        """The sequence that begins in all these places."""
        first, inputs, outputs = starts[0], dict[tuple[str, ...], None](), []
        for number in range(length):
            node = self.nodes[first + number]
            for place, (source, _) in enumerate(self.sources[first + number]):
                if node.input[place] and source < first:
                    inputs[tuple(self.nodes[start + number].input[place] for start in starts)] = None
            for place in range(len(node.output)):
                if any(self._is_read_outside(start, length, number, place) for start in starts):
                    outputs.append((number, place))
        names = NAME_BYTES * (len(inputs) + len(outputs))
        saved = self.most_saved(starts, length) - (len(starts) + 1) * names
        return Repeat(tuple(starts), length, tuple(inputs), tuple(outputs), saved)

    def most_saved(self, starts: list[int], length: int) -> int:
        """Bytes that a function saves, about, if it has no inputs and outputs."""
        size = self.bytes_before[starts[0] + length] - self.bytes_before[starts[0]]
        return (len(starts) - 1) * size - len(starts) * CALL_BYTES - FUNCTION_BYTES

    def _is_read_outside(self, start, length, number, place):
        readers = self.readers.get(self.nodes[start + number].output[place], [])
        return any(not start <= reader < start + length for reader in readers)


def kind_of(node: NodeProto) -> Any:
    """What two nodes must have in common to be the same but for names."""
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.domain, node.op_type, *attributes, tuple(map(bool, node.input)), tuple(map(bool, node.output))


def best_repeat(order: Order) -> Repeat | None:
    """The repeat that saves most, if any is worth a function."""
    best: Repeat | None = None
    for first in sorted(order.usable):
        numbers = order.alike[order.kinds[first]]
        # no longer than from one time to the next where these touch
        most, lengths = len(order.nodes), dict[int, int]()
        for other in numbers[bisect.bisect_right(numbers, first) :]:
            length = order.matching(first, other, min(most, other - first))
            if length >= FEWEST_NODES:
                lengths[other] = length
            if length == other - first:
                most = min(most, length)
        for length in sorted({min(length, most) for length in lengths.values()}):
            starts = [first]
            for other, longest in lengths.items():
                if longest >= length and other >= starts[-1] + length:
                    starts.append(other)
            least = best.saved + 1 if best else WORTH
            if order.most_saved(starts, length) >= least and (repeat := order.repeat(starts, length)).saved >= least:
                best = repeat
    return best


def function_of(nodes: list[NodeProto], repeat: Repeat, name: str, opset: int) -> onnx.FunctionProto:
    """The function that a repeat becomes. Args: name: of the function; opset: see `share_repeats_`."""
    first, fresh = repeat.starts[0], short_names()
    outside = {names: next(fresh) for names in repeat.inputs}
    inside: dict[str, str] = {}
    copies = []
    for number in range(repeat.length):
        node = _copy(nodes[first + number])
        for place, own in enumerate(node.input):
            if own:
                everywhere = tuple(nodes[start + number].input[place] for start in repeat.starts)
                node.input[place] = inside.get(own) or outside[everywhere]
        for place, own in enumerate(node.output):
            if own:
                node.output[place] = inside[own] = next(fresh)
        copies.append(node)
    outputs = [copies[number].output[place] for number, place in repeat.outputs]
    domains = sorted({node.domain for node in copies} | {""})
    opsets = [helper.make_opsetid(domain, 1 if domain else opset) for domain in domains]
    return helper.make_function(DOMAIN, name, list(outside.values()), outputs, copies, opsets)


def with_calls(nodes: list[NodeProto], repeat: Repeat, name: str) -> list[NodeProto]:
    """The nodes, with a call of the function in every place where the repeat was."""
    left, number, places = [], 0, {start: place for place, start in enumerate(repeat.starts)}
    while number < len(nodes):
        if (place := places.get(number)) is None:
            left.append(nodes[number])
            number += 1
            continue
        outputs = [nodes[number + of].output[output] for of, output in repeat.outputs]
        left.append(helper.make_node(name, [names[place] for names in repeat.inputs], outputs, domain=DOMAIN))
        number += repeat.length
    return left


def nodes_of(graph: ModelProto) -> list[NodeProto]:
    """All nodes that compute something, those of functions once. Calls of functions are left out."""
    own = {(function.domain, function.name) for function in graph.functions}
    every = itertools.chain(graph.graph.node, *(function.node for function in graph.functions))
    return [node for node in every if (node.domain, node.op_type) not in own]


def short_names() -> Iterator[str]:
    """Names of one letter, then of two characters, and so on."""
    letters = string.ascii_letters
    for length in itertools.count():
        for first, *rest in itertools.product(letters, *[letters + string.digits] * length):
            yield "".join((first, *rest))


def _copy(node):
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
