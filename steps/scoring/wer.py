"""Counting recognition errors: words, characters, sentences; per utterance, pooled by counts.

Words are what lies between white space. Characters count the single space between two words as one character, as most
toolkits do, so that a missed word boundary is an error too. Nothing is normalised: case and punctuation count.
"""

import dataclasses
import math
import unicodedata

from rapidfuzz.distance import Levenshtein

from steps.core.cli import UserError
from steps.core.tables import read_table


@dataclasses.dataclass(frozen=True)
class UtteranceErrors:
    """Errors of one utterance; lengths and errors are numbers of units (words or characters)."""

    utt_id: str
    reference_length: int
    insertions: int
    deletions: int
    substitutions: int

    @property
    def errors(self):
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
    def percent(self):
        return percent(self.errors, self.reference_length)

    @property
    def word_accuracy_percent(self):
        """Share of reference words that were recognised; insertions do not lower it, so it is not 100 - WER."""
        return percent(self.reference_length - self.deletions - self.substitutions, self.reference_length)

    @property
    def sentence_percent(self):
        return percent(self.sentence_errors, self.sentences)


RATES = {"word": "WER", "char": "CER", "phone": "PER"}  # unit that is counted -> name of its error rate
JOINERS = "\u200c\u200d"  # belong to the letter before them, as combining marks do


def in_units(text, unit="word", fold=None):
    """The text with a blank between the units that are counted.

    Args: unit: word, phone (the same) or char: each character with its combining marks, blanks not counted.
          fold: word -> the word it counts as.
    """
    words = [(fold or {}).get(word, word) for word in text.split()]
    if unit != "char":
        return " ".join(words)
    units = []
    for char in "".join(words):
        if units and (unicodedata.category(char)[0] == "M" or char in JOINERS or units[-1][-1] == JOINERS[1]):
            units[-1] += char
        else:
            units.append(char)
    return " ".join(units)


def percent(errors, total):
    """100 * errors / total; NaN without a reference, since any rate would be made up."""
    return 100.0 * errors / total if total else math.nan


def count_utterances(refs, hyps, unit="word"):
    """Align each hypothesis with its reference (least number of edits) and count.

    Args:   refs, hyps: utterance id -> text; either text may be empty.   unit: "word" or "char".
    Returns: list of UtteranceErrors in the order of `refs`.
    Raises:  UserError listing utterances that are in one of the two only.
    """
    check_same_ids(refs, hyps)
    split = {"word": str.split, "char": normalise}[unit]
    counts = []
    for utt_id, ref in refs.items():
        ref, hyp = split(ref), split(hyps[utt_id])
        edits = [] if ref == hyp else [edit.tag for edit in Levenshtein.editops(ref, hyp)]
        deletions, insertions = edits.count("delete"), edits.count("insert")
        substitutions = len(edits) - deletions - insertions
        counts.append(UtteranceErrors(utt_id, len(ref), insertions, deletions, substitutions))
    return counts


def pool(utterances):
    """Pool counts over utterances. Returns: ErrorCounts."""
    totals = {
        name: sum(getattr(item, name) for item in utterances)
        for name in ("errors", "reference_length", "insertions", "deletions", "substitutions")
    }
    return ErrorCounts(**totals, sentence_errors=sum(item.errors > 0 for item in utterances), sentences=len(utterances))


def count_errors(refs, hyps, unit="word"):
    """Counts pooled over all utterances; arguments and errors as in `count_utterances`. Returns: ErrorCounts."""
    return pool(count_utterances(refs, hyps, unit))


def normalise(text):
    """Single spaces between words, none at the ends."""
    return " ".join(text.split())


def check_same_ids(refs, hyps):
    """Raise UserError unless references and hypotheses are of the same utterances."""
    problems = []
    for there, other, what in ((refs, hyps, "without a hypothesis"), (hyps, refs, "without a reference")):
        ids = [utt_id for utt_id in there if utt_id not in other]
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            problems.append(f"{len(ids)} utterances {what}: {' '.join(ids[:10])}{more}")
    if problems:
        raise UserError("; ".join(problems))


def format_accuracy_line(counts):
    """`%ACC 93.10 [ 1519 / 1631 ]`: reference words recognised; insertions are not counted."""
    correct = counts.reference_length - counts.deletions - counts.substitutions
    return f"%ACC {counts.word_accuracy_percent:.2f} [ {correct} / {counts.reference_length} ]"


def read_hypotheses(path):
    """Read `id text` lines, where the text may be missing (nothing was recognised). Returns: dict id -> text.

    Raises: MissingInput; UserError listing everything wrong.
    """
    return {utt_id: normalise(text) for utt_id, text in read_table(path).items()}


def format_wer_line(counts, name="WER"):
    """One line as Kaldi writes it: `%WER 7.54 [ 123 / 1631, 9 ins, 40 del, 74 sub ]`."""
    return (
        f"%{name} {counts.percent:.2f} [ {counts.errors} / {counts.reference_length}, {counts.insertions} ins, "
        f"{counts.deletions} del, {counts.substitutions} sub ]"
    )


def format_ser_line(counts):
    """`%SER 40.00 [ 52 / 130 ]`: sentences with at least one word error."""
    return f"%SER {counts.sentence_percent:.2f} [ {counts.sentence_errors} / {counts.sentences} ]"
