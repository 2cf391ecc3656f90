"""What went wrong, for reading: aligned utterances, the most frequent confusions, a table of speakers."""

import collections
import itertools
import unicodedata
from collections.abc import Mapping, Sequence

import jiwer

from steps.core.tables import counted
from steps.scoring.wer import ErrorCounts, UtteranceErrors, format_wer_line, normalise, pool

_OPS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}


def align(ref: str, hyp: str) -> list[tuple[str, str, str]]:
    """Align two texts word by word.

    Returns: list of (op, reference word, hypothesis word), op one of "", "S", "D", "I"; "" stands for a missing word.
    """
    output = jiwer.process_words(normalise(ref), normalise(hyp))
    said, heard = ref.split(), hyp.split()
    rows: list[tuple[str, str, str]] = []
    for chunk in output.alignments[0]:
        words = said[chunk.ref_start_idx : chunk.ref_end_idx], heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        rows += [(_OPS[chunk.type], *pair) for pair in itertools.zip_longest(*words, fillvalue="")]
    return rows


def format_errors(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    speakers: Mapping[str, str],
    counts: Sequence[UtteranceErrors],
    rate: str = "WER",
) -> str:
    """Text of the errors file: utterances with errors in their order, then the most frequent confusions.

    Args:   refs, hyps: id -> text.   speakers: id -> speaker.   counts: word errors of the utterances, in that order.
    """
    right = sum(count.errors == 0 for count in counts)
    parts = [
        f"{format_wer_line(pool(counts), rate)}\n{right} of {counted(len(counts), 'utterance')} right; the others:\n"
    ]
    confusions: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for count in counts:
        if count.errors == 0:
            continue
        rows = align(refs[count.utt_id], hyps[count.utt_id])
        confusions.update(row for row in rows if row[0])
        parts.append(f"{count.utt_id} (speaker {speakers[count.utt_id]}): {count.errors} errors\n{_format_rows(rows)}")
    if confusions:
        parts.append(_format_confusions(confusions))
    return "\n".join(parts)


def format_alignment(ref: str, hyp: str) -> str:
    """REF, HYP and OP lines of two texts."""
    return _format_rows(align(ref, hyp))


def width(text: str) -> int:
    """Columns that a text takes where all letters are of one width: none for marks above and below, two for wide ones."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in text)


def _format_rows(rows):
    """REF, HYP and OP lines in columns; *** stands for a missing word."""
    cells = [(ref or "***", hyp or "***", op) for op, ref, hyp in rows]
    widths = [max(map(width, column)) for column in cells]
    lines = []
    for index, name in enumerate(("REF", "HYP", "OP ")):
        words = [
            column[index] + " " * (most - width(column[index])) for column, most in zip(cells, widths, strict=True)
        ]
        lines.append(f"{name}: {' '.join(words)}".rstrip() + "\n")
    return "".join(lines)


def _format_confusions(confusions, most=50):
    ordered = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{n:5d}  {op}  {ref or '***'} -> {hyp or '***'}\n" for (op, ref, hyp), n in ordered[:most]]
    rest = len(ordered) - most
    return "count op  reference -> hypothesis\n" + "".join(lines) + (f"and {rest} more kinds\n" if rest > 0 else "")


def format_speakers(counts: Sequence[UtteranceErrors], speakers: Mapping[str, str], rate: str = "WER") -> str:
    """Text of the per-speaker table; the last row is all of them.

    Args:   counts: word errors of the utterances.   speakers: id -> speaker.
    """
    groups: dict[str, list[UtteranceErrors]] = collections.defaultdict(list)
    for count in counts:
        groups[speakers[count.utt_id]].append(count)
    rows: list[tuple[str, ...]]
    rows = [("speaker", "utts", "words", "errors", "ins", "del", "sub", f"%{rate}", "%ACC", "%SER")]
    rows += [_speaker_row(name, pool(groups[name])) for name in sorted(groups, key=str.encode)]
    rows.append(_speaker_row("all", pool(counts)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]) + "\n")
    return "".join(lines)


def _speaker_row(name: str, pooled: ErrorCounts) -> tuple[str, ...]:
    numbers = (pooled.sentences, pooled.reference_length, pooled.errors, pooled.insertions, pooled.deletions)
    rates = (f"{pooled.percent:.2f}", f"{pooled.word_accuracy_percent:.2f}", f"{pooled.sentence_percent:.2f}")
    return (name, *map(str, numbers), str(pooled.substitutions), *rates)
