"""The regression ledger: what a compressed model gets wrong that its parent got right, and the other way round."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from steps.scoring.errors import format_alignment
from steps.scoring.wer import count_utterances

# words, for the split by length
LENGTHS = ((1, 2), (3, 5), (6, 10), (11, 20), (21, None))
TYPES = ("insertions", "deletions", "substitutions")


@dataclasses.dataclass(frozen=True)
class Change:
    """An utterance whose number of errors changed."""

    utt_id: str
    speaker: str
    words: int
    parent_errors: int
    errors: int
    reference: str
    parent_text: str
    text: str

    @property
    def more(self) -> int:
        """The model's errors minus the parent's."""
        return self.errors - self.parent_errors


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What changed from `parent` to `model` on one test set, in one kind of decoding.

    worse, better: utterances with more and with fewer errors.   other_text: as many errors, but another text.
    by_type: {"insertions": how many more, ...}.   by_speaker, by_length: list of {"name", "utterances", "words",
    "parent_errors", "errors", "worse", "better"}.   changes: the worst first.
    """

    model: str
    parent: str
    set: str
    kind: str
    utterances: int
    worse: int
    better: int
    other_text: int
    by_type: dict[str, int]
    by_speaker: list[dict[str, Any]]
    by_length: list[dict[str, Any]]
    changes: list[Change]


def make_ledger(
    names: Mapping[str, Any],
    refs: Mapping[str, str],
    speakers: Mapping[str, str],
    parent_hyps: Mapping[str, str],
    hyps: Mapping[str, str],
) -> Ledger:
    """Compare two sets of hypotheses.

    Args:    names: {"model", "parent", "set", "kind"}.   refs, parent_hyps, hyps: utterance id -> text.
             speakers: utterance id -> name.
    Raises:  UserError when the utterances differ.
    """
    before, after = count_utterances(refs, parent_hyps), count_utterances(refs, hyps)
    changes = [
        Change(b.utt_id, speakers[b.utt_id], b.reference_length, b.errors, a.errors, refs[b.utt_id],
               parent_hyps[b.utt_id], hyps[b.utt_id])
        for b, a in zip(before, after, strict=True)
        if a.errors != b.errors
    ]  # fmt: skip
    pairs = list(zip(before, after, strict=True))
    differ = sum(parent_hyps[utt_id].split() != hyps[utt_id].split() for utt_id in refs)
    return Ledger(
        **names,
        utterances=len(refs),
        worse=sum(change.more > 0 for change in changes),
        better=sum(change.more < 0 for change in changes),
        other_text=differ - len(changes),
        by_type={name: sum(getattr(a, name) - getattr(b, name) for b, a in pairs) for name in TYPES},
        by_speaker=_split(pairs, lambda count: speakers[count.utt_id]),
        by_length=_split(pairs, lambda count: _length_name(count.reference_length), _length_order),
        changes=sorted(changes, key=lambda change: (-change.more, change.words, change.utt_id)),
    )


def _split(pairs, key, order=None):
    groups = collections.defaultdict(list)
    for pair in pairs:
        groups[key(pair[0])].append(pair)
    return [
        {
            "name": name,
            "utterances": len(found),
            "words": sum(b.reference_length for b, _ in found),
            "parent_errors": sum(b.errors for b, _ in found),
            "errors": sum(a.errors for _, a in found),
            "worse": sum(a.errors > b.errors for b, a in found),
            "better": sum(a.errors < b.errors for b, a in found),
        }
        for name, found in sorted(groups.items(), key=lambda item: order(item[0]) if order else item[0].encode())
    ]


def _length_name(words):
    for low, high in LENGTHS:
        if words >= low and (high is None or words <= high):
            return f"{low} to {high} words" if high else f"{low} words or more"
    return "no words"


def _length_order(name):
    return int(name.split()[0]) if name[0].isdigit() else 0


def format_ledger(ledger: Ledger) -> str:
    """Text of a ledger: the counts, the splits, then every changed utterance aligned, the worst first."""
    lines = [
        f"{ledger.model} against {ledger.parent} on {ledger.set}, {ledger.kind}: of {ledger.utterances} utterances "
        f"{ledger.worse} got worse, {ledger.better} better, {ledger.other_text} changed with as many errors",
        "more errors by type: " + ", ".join(f"{name} {more:+d}" for name, more in ledger.by_type.items()),
        "",
    ]
    for title, rows in (("speaker", ledger.by_speaker), ("length", ledger.by_length)):
        width = max(len(row["name"]) for row in (*rows, {"name": title}))
        lines.append(f"{title:{width}}  utts  words  {ledger.parent} errors -> {ledger.model} errors  worse  better")
        for row in rows:
            errors = f"{row['parent_errors']} -> {row['errors']} ({row['errors'] - row['parent_errors']:+d})"
            counts = f"{row['utterances']:4d}  {row['words']:5d}  {errors}"
            lines.append(f"{row['name']:{width}}  {counts}  {row['worse']}  {row['better']}")
        lines.append("")
    for change in ledger.changes:
        head = f"{change.utt_id} (speaker {change.speaker}): {change.parent_errors} -> {change.errors} errors"
        lines += [f"{head} ({change.more:+d})", format_change(change, ledger.parent, ledger.model)]
    return "\n".join(lines)


def format_change(change: Change, parent: str, model: str) -> str:
    """The parent's and the model's text, each aligned with the reference."""
    parts = [(parent, change.parent_text), (model, change.text)]
    return "".join(f"{name}\n{format_alignment(change.reference, text)}" for name, text in parts)
