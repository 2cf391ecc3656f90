"""Counting recognition errors: words, characters, sentences; per utterance, and pooled by counts.

Words are what lies between white space. A character is a letter with its combining marks, as a reader sees it; as in most
toolkits, the single space between two words counts as one, so that a missed word boundary is an error too. Nothing is
normalised: case and punctuation count.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from steps.core.cli import UserError
from steps.core.tables import counted, read_table
from steps.core.text_units import characters


@dataclasses.dataclass(frozen=True)
class UtteranceErrors:
    """Errors of one utterance; lengths and errors are numbers of units (words or characters)."""

    utt_id: str
    reference_length: int
    insertions: int
    deletions: int
    substitutions: int

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions


@dataclasses.dataclass(frozen=True)
class ErrorCounts:
    """Errors pooled over utterances; `sentence_errors` of `sentences` have at least one."""

    errors: int
    reference_length: int
    insertions: int
    deletions: int
    substitutions: int
    sentence_errors: int
    sentences: int

    @property
    def percent(self) -> float:
        """The error rate."""
        return percent(self.errors, self.reference_length)

    @property
    def word_accuracy_percent(self) -> float:
        """Share of reference words that were recognised; insertions do not lower it, so it is not 100 - WER."""
        return percent(self.reference_length - self.deletions - self.substitutions, self.reference_length)

    @property
    def sentence_percent(self) -> float:
        """Share of sentences with an error."""
        return percent(self.sentence_errors, self.sentences)


# unit that is counted -> name of its error rate
RATES = {"word": "WER", "char": "CER", "phone": "PER"}


def percent(errors: int, total: int) -> float:
    """100 * errors / total; NaN without a reference, since any number would be invented."""
    return 100.0 * errors / total if total else math.nan


def count_utterances(refs: Mapping[str, str], hyps: Mapping[str, str], unit: str = "word") -> list[UtteranceErrors]:
    """Align each hypothesis with its reference (fewest edits) and count errors.

    Args:   refs, hyps: utterance id -> text; either text may be empty.   unit: "word" or "char".
    Returns: one entry per utterance, in the order of `refs`.
    Raises:  UserError listing utterances that only one of the two has.
    """
    check_same_ids(refs, hyps)
    splits: dict[str, Callable[[str], Sequence[str]]]
    splits = {"word": str.split, "char": lambda text: characters(normalise(text))}
    split = splits[unit]
    counts = []
    for utt_id, text in refs.items():
        ref, hyp = split(text), split(hyps[utt_id])
        edits = [] if ref == hyp else [edit.tag for edit in Levenshtein.editops(ref, hyp)]
        deletions, insertions = edits.count("delete"), edits.count("insert")
        substitutions = len(edits) - deletions - insertions
        counts.append(UtteranceErrors(utt_id, len(ref), insertions, deletions, substitutions))
    return counts


def pool(utterances: Sequence[UtteranceErrors]) -> ErrorCounts:
    """Pool counts over utterances."""
    totals = {
        name: sum(getattr(item, name) for item in utterances)
        for name in ("errors", "reference_length", "insertions", "deletions", "substitutions")
    }
    return ErrorCounts(**totals, sentence_errors=sum(item.errors > 0 for item in utterances), sentences=len(utterances))


def count_errors(refs: Mapping[str, str], hyps: Mapping[str, str], unit: str = "word") -> ErrorCounts:
    """Counts pooled over all utterances; arguments and errors as for `count_utterances`."""
    return pool(count_utterances(refs, hyps, unit))


def normalise(text: str) -> str:
    """The text with single spaces between words and none at its ends."""
    return " ".join(text.split())


def check_same_ids(refs: Mapping[str, str], hyps: Mapping[str, str]) -> None:
    """Raise UserError unless references and hypotheses belong to the same utterances."""
    problems = []
    for there, other, what in ((refs, hyps, "without a hypothesis"), (hyps, refs, "without a reference")):
        ids = [utt_id for utt_id in there if utt_id not in other]
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            problems.append(f"{counted(len(ids), 'utterance')} {what}: {' '.join(ids[:10])}{more}")
    if problems:
        raise UserError("; ".join(problems))


def format_accuracy_line(counts: ErrorCounts) -> str:
    """`%ACC 93.10 [ 1519 / 1631 ]`: reference words recognised; insertions are not counted."""
    correct = counts.reference_length - counts.deletions - counts.substitutions
    return f"%ACC {counts.word_accuracy_percent:.2f} [ {correct} / {counts.reference_length} ]"


def read_hypotheses(path: str | Path) -> dict[str, str]:
    """Read `id text` lines, where the text may be missing (nothing was recognised). Returns: id -> text.

    Raises: MissingInput; UserError listing everything wrong.
    """
    return {utt_id: normalise(text) for utt_id, text in read_table(path).items()}


def format_wer_line(counts: ErrorCounts, name: str = "WER") -> str:
    """One line as Kaldi writes it: `%WER 7.54 [ 123 / 1631, 9 ins, 40 del, 74 sub ]`."""
    return (
        f"%{name} {counts.percent:.2f} [ {counts.errors} / {counts.reference_length}, {counts.insertions} ins, "
        f"{counts.deletions} del, {counts.substitutions} sub ]"
    )


def format_ser_line(counts: ErrorCounts) -> str:
    """`%SER 40.00 [ 52 / 130 ]`: sentences with at least one word error."""
    return f"%SER {counts.sentence_percent:.2f} [ {counts.sentence_errors} / {counts.sentences} ]"
