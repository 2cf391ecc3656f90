"""The one results schema: what results.json holds, field by field.

Error rates of a row are of the exported file run by onnxruntime; those of the model folder (torch) and of sherpa-onnx
stand beside them as checks. Lists of rows, comparisons, ... hold one entry per model (or pair) and test set. None (null)
stands for a number that was not measured. Percentages lie between 0 and 100; `interval` is always of 95 %.
"""

import dataclasses

from steps.scoring.ledger import Ledger
from steps.scoring.matched_pairs import MatchedPairs
from steps.scoring.significance import Interval

FORMAT = 2
KINDS = ("greedy", "lexicon")
RUNTIMES = {"onnxruntime": "_onnx", "torch": "", "sherpa-onnx": "_sherpa"}  # suffixes of their decoding folders


@dataclasses.dataclass(frozen=True)
class Score:
    """Error rates of one set of hypotheses, with counts; `interval` is that of the word error rate.

    classification: as steps.scoring.classes makes it, when the recipe's transcripts are commands; else None.
    """

    errors: int
    words: int
    insertions: int
    deletions: int
    substitutions: int
    wer_percent: float
    word_accuracy_percent: float  # reference words recognised; insertions do not lower it
    cer_percent: float
    ser_percent: float
    interval: Interval
    rate: str = "WER"  # CER or PER where characters or phones are counted: all of the above but cer_percent is of these
    classification: dict | None = None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Texts of one model by two runtimes. differences: [{"id", "a", "b"}], the utterances whose text differs."""

    a: str
    b: str
    kind: str
    utterances: int
    differences: list


@dataclasses.dataclass(frozen=True)
class NoiseScore:
    """Greedy word errors of the exported file with noise added to the test set, `snr_db` under the speech."""

    snr_db: int
    errors: int
    words: int
    interval: Interval


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model on one test set."""

    model: str
    set: str
    parent: str | None
    parameters: int
    nonzero_parameters: int
    sparsity: float | None  # share of weights set to zero by unstructured pruning; saves no bytes by itself
    quantization_bits: int | None
    bytes_shipped: int  # of the files that the export's SHA256SUMS lists
    bytes_onnx: int
    macs_per_second: float | None  # multiply-accumulates per second of audio, counted from the graph as it ran
    rtf: float | None  # seconds of one thread per second of audio, the network alone
    rtf_with_features: float | None
    benchmark: dict | None  # everything steps.benchmark measured of this model
    scores: dict  # {"greedy": Score[, "lexicon": Score]} of the exported file by onnxruntime
    torch_scores: dict  # the same of the model folder
    sherpa_scores: dict  # {"greedy": Score} of the exported file by sherpa-onnx, or {}
    agreement: list  # of Agreement
    noise: list  # of NoiseScore
    commit: str | None
    command: str | None
    seed: int | None
    device: str | None
    dev_wer_percent: float | None = None  # greedy on dev, of the model folder by torch, when its training ended; None
    dev_cer_percent: float | None = None  # where nothing was trained (quantized models)
    train_seconds: float | None = None  # by the clock, over all stops; pruned in rounds: the last; None: not trained
    sherpa_tokens: bool = False  # sherpa-onnx would misread the model's tokens.txt, so it is given a file of its own
    lexicon_differs: int | None = None  # utterances whose lexicon text by onnxruntime is another than the greedy one


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference in word error rate, `a` minus `b`, of exported files on one set, with its paired interval.

    detectable: the smallest true difference, in points, that such a comparison finds with 80 % probability.
    """

    a: str
    b: str
    set: str
    kind: str
    difference: Interval
    matched_pairs: MatchedPairs
    detectable: float | None


@dataclasses.dataclass(frozen=True)
class NoiseComparison:
    """Difference in greedy word error rate, `a` minus `b`, in noise.   extra: the same minus the difference without noise."""

    a: str
    b: str
    set: str
    snr_db: int
    difference: Interval
    extra: Interval


@dataclasses.dataclass(frozen=True)
class TestSet:
    """What a test set can show. coverage_percent: share of `simulated` made-up sets of this design (speakers, words, spread
    as the greedy errors of `model` have it) whose interval holds the truth; None, and 0 sets, for few speakers, whose spread
    cannot be simulated.   smallest_detectable: of all comparisons.
    """

    name: str
    utterances: int
    speakers: int
    words: int
    model: str
    coverage_percent: float | None
    simulated: int
    smallest_detectable: float | None


@dataclasses.dataclass(frozen=True)
class Results:
    """What results.json holds."""

    recipe: str
    commit: str | None
    date: str
    command: str
    seed: int
    device: str | None
    versions: dict
    sets: list  # of TestSet
    rows: list  # of ResultRow
    comparisons: list  # of Comparison: every model with its parent, and the pairs asked for
    noise_comparisons: list  # of NoiseComparison
    ledgers: list  # of Ledger: every model with its parent; at most LEDGER_CHANGES changes each
    stages: list  # {"stage", "name", "seconds", "finished"} of every task of the run
    benchmark: dict  # host and settings of steps.benchmark
    format: int = FORMAT


LEDGER_CHANGES = 20


def shorten(ledger: Ledger):
    """The ledger with its worst changes only; the whole one is a file of its own."""
    return dataclasses.replace(ledger, changes=ledger.changes[:LEDGER_CHANGES])
