"""Decoding graphs: CTC, lexicon and n-gram model in one automaton, built at once.

What others call HLG or TLG and get by composing and determinising. Built directly, the words are a prefix tree behind every
context of the n-gram model, the best word below a node is paid for on the way to it, and every word comes out where its last
token is first emitted. So nothing has to be determinised, size and work are those of the model, and sherpa-onnx, which takes
words from arcs with a new token only, finds them all. Source: Mohri, Pereira, Riley 2002, section 4; Miao et al. 2015 (EESEN).
"""

import math
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import ne

import numpy as np

from steps.lm.fst import ARC, Fst
from steps.lm.ngram import BEGIN, END, UNKNOWN, Gram, NGram

MOST_ARCS = 20_000_000
EPSILON = 0
# ways to begin a word from which on those without one token share arcs with the others
MANY = 64
LN10 = math.log(10)


@dataclass(frozen=True)
class Weights:
    """How a graph weighs words.

    lm_scale: factor of the log-probabilities of the n-gram model.   word_score: nats added for each word; below 0 gives fewer.
    boosts: nats added for certain words (hotwords).
    """

    lm_scale: float = 1.0
    word_score: float = 0.0
    boosts: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Node:
    """A node of a prefix tree. ends: last token, next context, word and cost of the words that end behind it.

    best: lowest cost of the words below.   state: entered by the token; the next one: blanks since. -1 at the root.
    """

    children: dict[int, "_Node"]
    ends: list[tuple[int, Gram, str, float]]
    best: float = math.inf
    state: int = -1


def build_graph(
    model: NGram,
    spellings: Mapping[str, Collection[Sequence[int]]],
    weights: Weights,
    blank_id: int = 0,
    space_id: int | None = None,
) -> tuple[Fst, list[str]]:
    """Build the graph of an n-gram model.

    Args:    spellings: token ids of each word, one way or several, without spaces at their ends, never the blank; words of the
             model that have none cannot be recognised.
             space_id: a token that stands between words, and may stand before and behind them; None: words follow each other.
    Returns: the graph, token ids plus one on its inputs, words on its outputs; the words, number 0 being none.
    Raises:  ValueError when no word is left or the graph grows too large.
    """
    words = sorted(word for word in spellings if (word,) in model.probs[0] and word not in (BEGIN, END, UNKNOWN))
    if not words:
        raise ValueError("no word of the language model can be spelled")
    numbers = {word: number for number, word in enumerate(words, start=1)}
    return _Builder(model, spellings, weights, numbers, blank_id, space_id).build(), ["<eps>", *words]


def build_token_graph(
    model: NGram, tokens: Sequence[str], weights: Weights, blank_id: int = 0, space_id: int | None = None
) -> Fst:
    """Build the graph of an n-gram model of tokens, in which any sequence of those that it knows can come out.

    Args:    tokens: text of each id.   weights: word_score counts for each token.   space_id: a token that stands between
             words; there it is one like any other, and before and behind all it costs nothing, like silence.
    Returns: the graph, token ids plus one on its inputs and outputs.
    Raises:  ValueError when the model knows none of the tokens or the graph grows too large.
    """
    ids = {token: number for number, token in enumerate(tokens) if number != blank_id}
    known = {token: i for token, i in ids.items() if (token,) in model.probs[0] and token not in (BEGIN, END, UNKNOWN)}
    if not known:
        raise ValueError("no token is in the language model")
    spellings = {token: [(i,)] for token, i in known.items()}
    numbers = {token: i + 1 for token, i in known.items()}
    return _Builder(model, spellings, weights, numbers, blank_id, None, space_id).build()


class _Builder:
    """States come to be when an arc first leads to them. Their keys:

    after, context, token: a word has just ended with the token; None: and blanks since then.
    between, context: spaces since then.
    ended, context: spaces at the end.
    choose, context, token: a word of this context comes next, or those of a shorter one; its first token is not `token`.
    some, context, group: a word of this context whose first token is in a group of them comes next.
    """

    def __init__(
        self,
        model: NGram,
        spellings: Mapping[str, Collection[Sequence[int]]],
        weights: Weights,
        numbers: Mapping[str, int],
        blank_id: int,
        space_id: int | None,
        outer_space: int | None = None,
    ):
        self.model, self.spellings, self.weights = model, spellings, weights
        self.blank, self.space, self.outer = blank_id, space_id, outer_space
        self.numbers = numbers
        self.contexts = {()} | set(model.contexts()) | {gram for gram, weight in model.backoffs.items() if weight}
        # (word, log10 of its probability) by context
        self.known: dict[Gram, list[tuple[str, float]]] = {}
        for grams in model.probs:
            for gram, log10 in grams.items():
                if gram[-1] in self.numbers:
                    self.known.setdefault(gram[:-1], []).append((gram[-1], log10))
        self.first_tokens = {ids[0] for word in numbers for ids in spellings[word]}
        self.trees: dict[Gram, _Node] = {}
        self.states: dict[tuple, int] = {}
        self.todo: list[tuple] = []
        self.size = 0
        self.sources, self.arcs, self.costs = array("i"), array("i"), array("f")
        self.finals: dict[int, float] = {}

    def build(self) -> Fst:
        start = self.context((BEGIN,))
        around = self.space if self.outer is None else self.outer
        self.state("after", start, None) if around is None else self.state("between", start)
        while self.todo:
            kind, *key = self.todo.pop()
            getattr(self, f"_{kind}")(self.states[kind, *key], *key)
            if len(self.sources) > MOST_ARCS:
                raise ValueError(f"a graph of over {MOST_ARCS:,} arcs; prune the language model")
        arcs = np.zeros(len(self.sources), ARC)
        labels = np.frombuffer(self.arcs, np.int32).reshape(-1, 3)
        order = np.argsort(np.frombuffer(self.sources, np.int32), kind="stable")
        arcs["ilabel"], arcs["olabel"], arcs["next"] = labels[order].T
        arcs["weight"] = np.frombuffer(self.costs, np.float32)[order]
        counts = np.bincount(np.frombuffer(self.sources, np.int32), minlength=self.size)
        finals = np.full(self.size, np.inf, np.float32)
        finals[list(self.finals)] = list(self.finals.values())
        return Fst(0, finals, counts.astype(np.int64), arcs)

    def context(self, words: Gram) -> Gram:
        """The longest end of some words that the model has as a context."""
        while words not in self.contexts:
            words = words[1:]
        return words

    def new_states(self, count: int) -> int:
        self.size += count
        return self.size - count

    def state(self, *key: str | Gram | int | None) -> int:
        """The state of a key, made when it is new."""
        if key not in self.states:
            self.states[key] = self.new_states(1)
            self.todo.append(key)
        return self.states[key]

    def arc(self, source: int, token: int | None, target: int, cost: float = 0.0, word: int = 0) -> None:
        """Add an arc. Args: token: None for an arc that takes no frame."""
        self.sources.append(source)
        self.arcs.extend((EPSILON if token is None else token + 1, word, target))
        self.costs.append(cost)

    def end_cost(self, context: Gram) -> float:
        return -LN10 * self.weights.lm_scale * self.model.log10_prob(END, context)

    def _after(self, source, context, token):
        self.finals[source] = self.end_cost(context)
        if token is not None:
            self.arc(source, token, source)
        self.arc(source, self.blank, self.state("after", context, None))
        if self.space is None:
            self.arc(source, None, self.chooser(context, token))
        else:
            self.arc(source, self.space, self.state("between", context))
        if self.outer not in (None, token):
            self.arc(source, self.outer, self.state("ended", context))

    def _between(self, source, context):
        self._ended(source, context)
        self.arc(source, None, self.chooser(context, None))

    def _ended(self, source, context):
        self.finals[source] = self.end_cost(context)
        self.arc(source, self.blank, source)
        self.arc(source, self.space if self.outer is None else self.outer, source)

    def chooser(self, context: Gram, token: int | None) -> int:
        """The state of choosing a word whose first token is not that of the last frame."""
        return self.state("choose", context, token if token in self.first_tokens else None)

    def _choose(self, source, context, token):
        root = self.tree(context)
        groups = group_count(root)
        if token is None or groups == 1:
            self.arcs_below(source, root, lambda first: first != token)
        else:
            # thousands of tokens, each without itself: else their arcs were the square of that
            self.arcs_below(source, root, lambda first: first != token and first % groups == token % groups)
            for group in range(groups):
                if group != token % groups:
                    self.arc(source, None, self.state("some", context, group))
        if context:
            shorter = self.context(context[1:])
            cost = -LN10 * self.weights.lm_scale * self.model.backoffs.get(context, 0.0)
            self.arc(source, None, self.state("choose", shorter, token), cost)

    def _some(self, source, context, group):
        root = self.tree(context)
        self.arcs_below(source, root, lambda first: first % group_count(root) == group)

    def arcs_below(self, source: int, node: _Node, takes: Callable[[int], bool]) -> None:
        """Arcs to the children of a node and to the ends of words. Args: takes: whether one with this token is wanted."""
        paid = 0.0 if node.state < 0 else node.best
        for first, child in node.children.items():
            if takes(first):
                self.arc(source, first, child.state, child.best - paid)
        for last, context, word, cost in node.ends:
            if takes(last):
                self.arc(source, last, self.state("after", context, last), cost - paid, self.numbers[word])

    def tree(self, context: Gram) -> _Node:
        """The prefix tree of the words of a context, with all arcs within."""
        if context in self.trees:
            return self.trees[context]
        root = self.trees[context] = _Node({}, [])
        nodes = {}
        for word, log10 in self.known.get(context, ()):
            cost = -LN10 * self.weights.lm_scale * log10 - self.weights.word_score - self.weights.boosts.get(word, 0.0)
            target = self.context((*context, word)[-self.model.order :])
            for ids in self.spellings[word]:
                node = root
                for token in ids[:-1]:
                    if token not in node.children:
                        node.children[token] = _Node({}, [], state=self.new_states(2))
                        nodes[node.children[token].state] = token, node.children[token]
                    node = node.children[token]
                    node.best = min(node.best, cost)
                node.ends.append((ids[-1], target, word, cost))
        for state, (token, node) in nodes.items():
            self.arc(state, token, state)
            self.arc(state, self.blank, state + 1)
            self.arc(state + 1, self.blank, state + 1)
            self.arcs_below(state, node, partial(ne, token))
            self.arcs_below(state + 1, node, lambda _: True)
        return root


def group_count(root: _Node) -> int:
    """Into how many groups the first tokens of a tree are put, by their remainder."""
    ways = len(root.children) + len(root.ends)
    return math.isqrt(ways) if ways > MANY else 1
