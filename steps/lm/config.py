"""Settings of language models (conf/lm.yaml)."""

import dataclasses

from steps.core.config import check

UNITS = ("word", "token")
MOST_ORDER, MOST_PAIRS = 6, 200
# of scales and scores
LARGEST = 100.0


@dataclasses.dataclass
class NgramConfig:
    """Settings of steps.train_lm.

    unit: word; or token, of a tokenizer, so that any word can come.   order: units of the longest n-grams, 1 to 6.
    min_counts: n-grams seen less often are left out, from bigrams on: one number, or one for each order, none lower than the
    one before.   prune: n-grams whose loss raises the perplexity by less than this share are left out; 0 keeps all.
    """

    unit: str = "word"
    order: int = 3
    min_counts: int | list = 1
    prune: float = 0.0

    def __post_init__(self) -> None:
        check(self.unit in UNITS, f"unit must be {' or '.join(UNITS)}, not {self.unit!r}")
        check(1 <= self.order <= MOST_ORDER, f"order must be 1 to {MOST_ORDER}, not {self.order}")
        check(0 <= self.prune < 1, f"prune must be a share from 0 on and below 1, not {self.prune}")
        least = self.least()
        good = len(least) == self.order and all(type(n) is int and n >= 1 for n in least) and least[0] == 1
        check(good, f"min_counts must be a whole number from 1 on, or {self.order} of them, of which words have 1")
        check(least == sorted(least), "min_counts: a longer n-gram needs at least the count of a shorter one")

    def least(self) -> list[int]:
        """One number for each order; words are all kept."""
        given = self.min_counts if isinstance(self.min_counts, list) else [1] + [self.min_counts] * (self.order - 1)
        return list(given)


@dataclasses.dataclass
class GraphConfig:
    """Settings of steps.make_graph; each value of one is tried with each of the other on dev.

    lm_scale: factors of the log-probabilities of the n-gram model, from 0 on.   word_score: nats added for each word or token.
    hotwords: {word: nats added for it}.   most_dev: utterances of dev that are decoded for it, evenly taken.
    """

    lm_scale: list[float] = dataclasses.field(default_factory=lambda: [0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
    word_score: list[float] = dataclasses.field(default_factory=lambda: [0.0, 1.0, 2.0, 3.0])
    hotwords: dict = dataclasses.field(default_factory=dict)
    most_dev: int = 1000

    def __post_init__(self) -> None:
        for name, values in (("lm_scale", self.lm_scale), ("word_score", self.word_score)):
            check(bool(values) and all(map(_is_number, values)), f"{name} must be a list of numbers up to {LARGEST:g}")
        check(min(self.lm_scale) >= 0, "lm_scale must be 0 or more")
        check(len(self.lm_scale) * len(self.word_score) <= MOST_PAIRS, f"over {MOST_PAIRS} pairs to try on dev")
        good = all(isinstance(word, str) and _is_number(boost) for word, boost in self.hotwords.items())
        check(good, "hotwords: expected `word: nats` pairs")
        check(self.most_dev >= 1, "most_dev must be 1 or more")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


@dataclasses.dataclass
class LmConfig:
    """Both sections of the file."""

    ngram: NgramConfig = dataclasses.field(default_factory=NgramConfig)
    graph: GraphConfig = dataclasses.field(default_factory=GraphConfig)

    def __post_init__(self) -> None:
        check(self.ngram.unit == "word" or not self.graph.hotwords, "hotwords need ngram: {unit: word}")
