"""The one results schema: what results.json contains, field by field.

A row's error rates are those of the exported file run by onnxruntime; those of the model folder (torch) and of
sherpa-onnx stand beside them as checks. Lists of rows, comparisons, ... have one entry per model (or pair) and test set.
None (null) stands for a number that was not measured. Percentages lie between 0 and 100; `interval` is always the 95 %
interval.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from steps.scoring.ledger import Ledger
from steps.scoring.matched_pairs import MatchedPairs
from steps.scoring.significance import Interval

FORMAT = 2
# what the error rates count
UNITS = {"WER": "words", "CER": "characters", "PER": "phones"}
# suffixes of their decoding folders
RUNTIMES = {"onnxruntime": "_onnx", "torch": "", "sherpa-onnx": "_sherpa"}


@dataclasses.dataclass(frozen=True)
class Score:
    """Error rates of one set of hypotheses, with counts; `interval` is that of the word error rate.

    classification: what steps.scoring.classes makes, when the recipe's transcripts are commands; else None.
    """

    errors: int
    words: int
    insertions: int
    deletions: int
    substitutions: int
    wer_percent: float
    # reference words recognised; insertions do not lower it
    word_accuracy_percent: float
    cer_percent: float
    ser_percent: float
    interval: Interval
    # CER or PER where characters or phones are counted: then all of the above except cer_percent count these
    rate: str = "WER"
    classification: dict[str, Any] | None = None
    # of cer_percent, where the recipe wants the rate of characters beside that of words
    cer_interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Texts of one model by two runtimes. differences: [{"id", "a", "b"}], the utterances whose texts differ."""

    a: str
    b: str
    kind: str
    utterances: int
    differences: list[dict[str, str | None]]


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
    # share of weights set to zero by unstructured pruning; saves no bytes by itself
    sparsity: float | None
    # of a weight in codes, on average; None: there are none
    quantization_bits: float | None
    # size of the files that the export's SHA256SUMS lists, without those of a language model
    bytes_shipped: int
    bytes_onnx: int
    # multiply-accumulates per second of audio, counted from the graph as it ran
    macs_per_second: float | None
    # seconds of one thread per second of audio, the network alone; of a transducer with greedy search
    rtf: float | None
    rtf_with_features: float | None
    # everything steps.benchmark measured of this model
    benchmark: dict[str, Any] | None
    # by kind of decoding: the exported file by onnxruntime, the model folder by torch, the exported file by sherpa-onnx
    scores: dict[str, Score]
    torch_scores: dict[str, Score]
    sherpa_scores: dict[str, Score]
    agreement: list[Agreement]
    noise: list[NoiseScore]
    commit: str | None
    command: str | None
    seed: int | None
    device: str | None
    # greedy on dev, the model folder by torch at the end of its training; None where nothing was trained (quantized models)
    dev_wer_percent: float | None = None
    dev_cer_percent: float | None = None
    # wall time without interruptions; of a model pruned in rounds, the last one; None: not trained
    train_seconds: float | None = None
    # whether sherpa-onnx would misread the model's tokens.txt and is given its own file instead
    sherpa_tokens: bool = False
    # utterances whose lexicon text by onnxruntime differs from the greedy one
    lexicon_differs: int | None = None
    # size of all that decoding with the export's language model needs; None where it has none
    bytes_with_lm: int | None = None
    # program that made the model
    step: str | None = None
    # `ctc` or `transducer`; None: of an older version, a CTC model
    head: str | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference in word error rate, `a` minus `b`, of exported files on one set, with its paired interval.

    detectable: the smallest true difference, in points, that such a comparison finds with 80 % probability.
    cer_difference: the same in the rate of characters, where the recipe wants it beside that of words.
    """

    a: str
    b: str
    set: str
    kind: str
    difference: Interval
    matched_pairs: MatchedPairs
    detectable: float | None
    cer_difference: Interval | None = None


@dataclasses.dataclass(frozen=True)
class NoiseComparison:
    """Difference in greedy word error rate, `a` minus `b`, in noise. extra: how much it exceeds the difference without noise."""

    a: str
    b: str
    set: str
    snr_db: int
    difference: Interval
    extra: Interval


@dataclasses.dataclass(frozen=True)
class StreamingRow:
    """One model on one test set in chunks of one length: its export for that length, by onnxruntime.

    chunk_ms: 0: whole utterances, with the same weights.   score: greedy.   more_errors_percent: than on whole utterances.
    measured: what steps.decode --streaming measured (its fields: steps/scoring/README.md); None for whole utterances.
    delays: what steps.time_words measured; None where nothing was timed.
    """

    model: str
    set: str
    chunk_ms: int
    score: Score
    more_errors_percent: float | None
    measured: dict[str, Any] | None
    delays: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class TestSet:
    """What a test set can show.

    coverage_percent: share of `simulated` simulated sets of this design (its speakers and words, the spread of `model`'s
    greedy errors) whose interval contains the truth; None, and 0 sets, for few speakers, whose spread cannot be simulated.
    smallest_detectable: the smallest `detectable` of all comparisons; None where one of them has none.
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
class SpeakerScore:
    """One speaker of a test set. errors: {model: {kind: word errors}} of the exported files.   words: of the references."""

    set: str
    speaker: str
    utterances: int
    words: int
    errors: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The speech that the models learnt from, copies at other speeds left out.

    hours: None where lengths are not known.   treated: what preparation did to the sound of all sets that no model takes along,
    {setting of conf/prepare.yaml: value}.
    """

    name: str
    utterances: int
    speakers: int
    hours: float | None
    treated: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Results:
    """What results.json contains.

    ships: the model that the sentences on top are about.   reference: the one it is compared with there: what it was made
    of and taught by in the end (see `story.reference_of`); None: nothing that was reported.   speakers: those with the most
    errors of `ships`, the worst first, at most MOST_SPEAKERS of each set.
    """

    recipe: str
    commit: str | None
    date: str
    command: str
    seed: int
    device: str | None
    # of runtimes those that decoded, of the rest those of the report, see steps/scoring/versions.py
    versions: dict[str, str]
    sets: list[TestSet]
    rows: list[ResultRow]
    # every model with its parent, and the pairs asked for
    comparisons: list[Comparison]
    noise_comparisons: list[NoiseComparison]
    # every model with its parent; at most LEDGER_CHANGES changes each
    ledgers: list[Ledger]
    # {"stage", "name", "seconds", "finished"} of every task of the run
    stages: list[dict[str, Any]]
    # host and settings of steps.benchmark
    benchmark: dict[str, Any]
    # [{"level": "warning" or "note", "text"}]: what to know before the numbers, see steps/scoring/warnings.py
    warnings: list[dict[str, str]] = dataclasses.field(default_factory=list)
    ships: str = ""
    reference: str | None = None
    training: TrainingSet | None = None
    speakers: list[SpeakerScore] = dataclasses.field(default_factory=list)
    # models that stream, where the recipe names them: by model, then by the length of the chunks, whole utterances first
    streaming: list[StreamingRow] = dataclasses.field(default_factory=list)
    format: int = FORMAT


# a training from transcripts; with a parent it goes on from the weights of that, nothing gets smaller
TRAINED = "train_teacher"
LEDGER_CHANGES = 20
MOST_SPEAKERS = 30


def rate_of(rows: Iterable[ResultRow]) -> str:
    """Name of the error rate of these rows: WER, CER or PER."""
    return next((score.rate for row in rows for score in row.scores.values()), "WER")


def shorten(ledger: Ledger) -> Ledger:
    """The ledger with its worst changes only; the whole ledger is a separate file."""
    return dataclasses.replace(ledger, changes=ledger.changes[:LEDGER_CHANGES])
