"""Score hypotheses against the transcripts of a data folder: word, character and sentence error rates.

    python3 -m steps.score --decode exp/an4/student/decode_test --data data/an4/test

For each of greedy.txt, lexicon.txt, lm.txt, one_of.txt and beam.txt that exists, writes beside it wer_KIND (the rates),
errors_KIND.txt (alignments), per_spk_KIND (by speaker) and score_KIND.json (all counts, also by utterance). What counts as a word
is what `unit` and `fold` of the decoding settings say: with unit char, each character; with `cer` the rate of characters has an
interval, too. With --classes true each transcript is also a class: classes_KIND has accuracy, precision, recall, F1 and the
confusions.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError, make_parser, parse_bool, run_main, say
from steps.core.datadir import Utterance, read_data_dir
from steps.core.decodings import KINDS
from steps.core.outdir import sha256_file, write_json, write_text
from steps.core.text_units import in_units
from steps.scoring.classes import classification, format_classes
from steps.scoring.errors import format_errors, format_speakers
from steps.scoring.significance import Interval, few_speakers, wer_interval
from steps.scoring.sources import read_units, wants_characters
from steps.scoring.wer import (
    RATES,
    ErrorCounts,
    UtteranceErrors,
    count_utterances,
    format_accuracy_line,
    format_ser_line,
    format_wer_line,
    normalise,
    pool,
    read_hypotheses,
)

# what it looks for
HYPOTHESES = ", ".join(f"{kind}.txt" for kind in KINDS)


def main() -> None:
    args = parse_args()
    folder = Path(args.decode)
    kinds = [kind for kind in KINDS if (folder / f"{kind}.txt").is_file()]
    if not kinds:
        raise MissingInput(f"{folder}: none of {HYPOTHESES} is here; run steps.decode first")
    utterances = read_data_dir(args.data, check_audio=False)
    for kind in KINDS:
        if kind in kinds:
            score(folder, kind, utterances, Path(args.data).name, args.classes)
        else:
            remove_old(folder, kind)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    text = f"folder with {HYPOTHESES}"
    parser.add_argument("--decode", required=True, metavar="DIR", help=text)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with the transcripts")
    text = "true: transcripts are commands; also score them as classes (default: false)"
    parser.add_argument("--classes", type=parse_bool, default=False, metavar="BOOL", help=text)
    return parser.parse_args()


def score(folder: Path, kind: str, utterances: Sequence[Utterance], set_name: str, classes: bool = False) -> None:
    """Score one hypothesis file and write its results, score_KIND.json last."""
    path = folder / f"{kind}.txt"
    hyps = read_hypotheses(path)
    unit, fold = read_units(folder)
    refs = {utt.utt_id: in_units(utt.text, "word", fold) for utt in utterances}
    hyps = {utt_id: in_units(text, "word", fold) for utt_id, text in hyps.items()}
    speakers = {utt.utt_id: utt.speaker for utt in utterances}
    try:
        chars = count_utterances(refs, hyps, "char")
        written = {in_units(text, unit): text for text in refs.values()}
        refs, hyps = ({utt_id: in_units(text, unit) for utt_id, text in texts.items()} for texts in (refs, hyps))
        words = count_utterances(refs, hyps, "word")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not pool(words).reference_length:
        raise UserError(f"{path}: the transcripts have no words to score against")
    interval = wer_interval(
        [c.errors for c in words], [c.reference_length for c in words], [speakers[c.utt_id] for c in words]
    )
    lines = rate_lines(pool(words), pool(chars), interval, RATES[unit])
    of_chars = None
    if wants_characters(folder):
        counts = [c.errors for c in chars], [c.reference_length for c in chars], [speakers[c.utt_id] for c in chars]
        of_chars = wer_interval(*counts)
        lines.append(interval_line(of_chars, "CER"))
    lines += filter(None, [few_speakers(len({speakers[c.utt_id] for c in words}))])
    write_text(folder / f"wer_{kind}", "".join(f"{line}\n" for line in lines))
    write_text(folder / f"errors_{kind}.txt", format_errors(refs, hyps, speakers, words, RATES[unit]))
    write_text(folder / f"per_spk_{kind}", format_speakers(words, speakers, RATES[unit]))
    # classes are told apart by their units and named as they are written
    named = ({utt_id: written.get(text, text) for utt_id, text in texts.items()} for texts in (refs, hyps))
    found = classification(*named) if classes else None
    if found:
        write_text(folder / f"classes_{kind}", format_classes(found))
    else:
        (folder / f"classes_{kind}").unlink(missing_ok=True)
    write_json(
        folder / f"score_{kind}.json",
        {
            "kind": kind,
            "rate": RATES[unit],
            "fold": fold,
            "set": set_name,
            "hypotheses_sha256": sha256_file(path),
            "words": dataclasses.asdict(pool(words)),
            "chars": dataclasses.asdict(pool(chars)),
            "wer_interval_95": dataclasses.asdict(interval),
            "cer_interval_95": dataclasses.asdict(of_chars) if of_chars else None,
            "classification": found,
            "utterances": by_utterance(words, chars, speakers, refs),
        },
    )
    say(f"{kind}: {', '.join(lines[: 2 if of_chars else 1])}")


def rate_lines(words: ErrorCounts, chars: ErrorCounts, interval: Interval, rate: str = "WER") -> list[str]:
    """The lines of wer_KIND; `words` are the units of the rate."""
    return [
        format_wer_line(words, rate),
        format_wer_line(chars, "CER" if rate != "CER" else "CER with blanks"),
        format_ser_line(words),
        format_accuracy_line(words),
        interval_line(interval, rate),
    ]


def interval_line(interval: Interval, rate: str) -> str:
    """`95 % interval of WER: 4.10 to 8.90 (over speakers)`."""
    return f"95 % interval of {rate}: {interval.low:.2f} to {interval.high:.2f} (over {interval.units})"


def by_utterance(
    words: Sequence[UtteranceErrors],
    chars: Sequence[UtteranceErrors],
    speakers: Mapping[str, str],
    refs: Mapping[str, str],
) -> dict[str, list[Any]]:
    """Counts as columns of equal length, in the order of the data folder."""
    return {
        "ids": [c.utt_id for c in words],
        "speakers": [speakers[c.utt_id] for c in words],
        "references": [normalise(refs[c.utt_id]) for c in words],
        "words": [c.reference_length for c in words],
        "errors": [c.errors for c in words],
        "insertions": [c.insertions for c in words],
        "deletions": [c.deletions for c in words],
        "substitutions": [c.substitutions for c in words],
        "chars": [c.reference_length for c in chars],
        "char_errors": [c.errors for c in chars],
    }


def remove_old(folder: Path, kind: str) -> None:
    """Remove scores whose hypotheses are no longer there."""
    for name in (f"wer_{kind}", f"errors_{kind}.txt", f"per_spk_{kind}", f"classes_{kind}", f"score_{kind}.json"):
        (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
