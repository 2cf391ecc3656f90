"""Cut long recordings with a transcript into pieces short enough to train on, in their pauses.

    python3 -m steps.cut_recordings --model exp/mine/teacher --data data/mine/long --max-s 15 --out data/mine/cut

A model that knows a little of the language, such as one trained on the short recordings alone, finds where the words are;
each piece ends in the longest pause within reach. Utterances of at most --max-s stay as they are. With --whole true those that
are cut stay, too: a training set whose few sentences are learnt by heart then has their words, too. Writes a data folder with
segments (no audio), scores.tsv (the mean probability of each piece's tokens: low where the transcript is wrong) and
dropped.tsv. Recordings are aligned as a whole, in memory for frames x characters: about half an hour at most.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from steps.core.cli import UserError, add_common, make_parser, parse_bool, parse_count, parse_finite, run_main, say
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import write_text
from steps.core.tables import counted
from steps.data.features import TooShort, utterance_features
from steps.data.tokenizer import Tokenizer
from steps.deploy.runtimes import frame_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser, load_tokenizer
from steps.search.alignment import CannotAlign, align_units, choose_cuts

# feature frames that the model hears at a time, and how many more on each side
WINDOW, CONTEXT = 3000, 200


def main() -> None:
    args = parse_args()
    utterances, out = read_data_dir(args.data), Path(args.out)
    if out.resolve() == Path(args.data).resolve():
        raise UserError(f"{args.data}: --out is the input folder; choose another")
    recogniser = frame_recogniser(args.model, args.num_threads)
    tokenizer = load_tokenizer(args.model)
    factor = output_factor(recogniser)
    pieces, scores, reported_s = [], [], time.monotonic()
    dropped: list[tuple[str, str]] = []
    left_whole: list[tuple[str, str]] = []
    for number, utt in enumerate(utterances, start=1):
        try:
            found = cut(utt, recogniser, factor, tokenizer, args)
        except CannotAlign as error:
            (left_whole if args.whole else dropped).append((utt.utt_id, str(error)))
            found = []
        if args.whole and (not found or found[0][0] is not utt):
            pieces.append(utt)
            found = found if len(found) > 1 else []
        for piece, score in found:
            reason = reason_to_drop(piece, score, args)
            if reason:
                dropped.append((piece.utt_id, reason))
            else:
                pieces.append(piece)
                scores.append((piece.utt_id, "-" if score is None else f"{score:.3f}"))
        if time.monotonic() - reported_s >= 10:
            reported_s = time.monotonic()
            say(f"utterance {number}/{len(utterances)}, {counted(len(pieces), 'piece')}")
    if not pieces:
        raise UserError(f"{args.data}: nothing is left ({dropped[0][0]}: {dropped[0][1]}; ...)")
    if args.whole and len(pieces) == len(utterances):
        raise UserError(f"{args.data}: no utterance has a pause to be cut in; lower --max-s or --min-s")
    write_data_dir(out, pieces)
    for name, rows in (("scores.tsv", scores), ("dropped.tsv", dropped)):
        write_text(out / name, "".join("\t".join(row) + "\n" for row in rows))
    tell(args, utterances, pieces, scores, dropped)
    if left_whole:
        utt_id, why = left_whole[0]
        say(f"{counted(len(left_whole), 'utterance')} could not be cut and stay whole only ({utt_id}: {why}; ...)")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="exported folder or model folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with audio and transcripts")
    add_common(parser, out="data folder to write")
    for name, default, text in (
        ("max-s", 15.0, "longest piece (default: 15)"),
        ("min-s", None, "shortest piece, if a pause allows (default: 2, at most a fifth of --max-s)"),
        ("pad-s", 0.5, "most silence left around the words (default: 0.5)"),
        ("min-score", 0.0, "drop pieces below this mean probability, 0 to 1 (default: 0, drops none)"),
    ):
        parser.add_argument(f"--{name}", type=parse_finite, default=default, metavar="X", help=text)
    text = "true: keep the utterances that are cut, too (default: false)"
    parser.add_argument("--whole", type=parse_bool, default=False, metavar="BOOL", help=text)
    parser.add_argument("--num-threads", type=parse_count, default=2, metavar="N", help="CPU threads (default: 2)")
    args = parser.parse_args()
    if args.min_s is None:
        args.min_s = min(2.0, args.max_s / 5)
    if not 0 < args.min_s < args.max_s:
        parser.error("--min-s must be above 0 and below --max-s")
    if args.pad_s < 0 or not 0 <= args.min_score <= 1:
        parser.error("--pad-s must be at least 0, --min-score in 0..1")
    return args


def output_factor(recogniser: CtcRecogniser) -> int:
    """Feature frames per output frame."""
    feats = np.zeros((WINDOW, recogniser.features.dim), np.float32)
    return round(WINDOW / len(recogniser.log_probs(feats)))


def log_probs_of(recogniser: CtcRecogniser, factor: int, feats: np.ndarray) -> np.ndarray:
    """Log-probabilities of a recording of any length, heard window by window.

    Args: factor: feature frames per output frame.   feats (T, D) float32.   Returns: (T', V) float32.
    """
    parts = []
    for start in range(0, len(feats), WINDOW):
        lead = min(CONTEXT, start)
        heard = recogniser.log_probs(feats[start - lead : start + WINDOW + CONTEXT])[lead // factor :]
        parts.append(heard if start + WINDOW >= len(feats) else heard[: WINDOW // factor])
    return np.concatenate(parts)


def cut(
    utt: Utterance, recogniser: CtcRecogniser, factor: int, tokenizer: Tokenizer, args: argparse.Namespace
) -> list[tuple[Utterance, float | None]]:
    """Cut one utterance. Returns: list of (Utterance, score or None).   Raises: CannotAlign; UserError."""
    if utt.speed != 1.0:
        raise UserError(f"{utt.utt_id}: a copy at another speed; cut first, then change the speed")
    try:
        feats = utterance_features(utt, recogniser.features).numpy()
    except TooShort:
        raise CannotAlign("less than one frame of sound") from None
    frame_s = recogniser.features.frame_shift_ms / 1000
    seconds = len(feats) * frame_s
    if seconds <= args.max_s:
        return [(utt, None)]
    ids = tokenizer.encode(utt.text)
    if tokenizer.unknown_id in ids:
        raise CannotAlign("characters that the tokenizer lacks")
    log_probs = log_probs_of(recogniser, factor, feats)
    frame_s *= factor
    units = align_units(log_probs, ids, tokenizer.pieces, tokenizer.blank_id)
    cuts = choose_cuts(units, len(log_probs), args.min_s / frame_s, args.max_s / frame_s)
    bounds = [0, *cuts, len(units)]
    found: list[tuple[Utterance, float | None]] = []
    for first, last in pairwise(bounds):
        own = units[first:last]
        left = (units[first - 1].end + own[0].start) / 2 * frame_s if first else 0.0
        right = (own[-1].end + units[last].start) / 2 * frame_s if last < len(units) else seconds
        start = max(left, own[0].start * frame_s - args.pad_s)
        end = min(right, own[-1].end * frame_s + args.pad_s)
        text = tokenizer.decode(ids[own[0].first : own[-1].last])
        score = sum(unit.score for unit in own) / len(own)
        found.append((piece_of(utt, text, start, end), score))
    return found


def piece_of(utt: Utterance, text: str, start_s: float, end_s: float) -> Utterance:
    """The part of an utterance between two times in it, in seconds, with a name as in Kaldi (hundredths of a second)."""
    start_s, end_s = round(start_s, 2), round(end_s, 2)
    name = f"{utt.utt_id}-{round(100 * start_s):07d}-{round(100 * end_s):07d}"
    piece = dataclasses.replace(utt, utt_id=name, text=text, duration_s=round(end_s - start_s, 2))
    return dataclasses.replace(piece, start_s=round(utt.start_s + start_s, 2), end_s=round(utt.start_s + end_s, 2))


def reason_to_drop(piece: Utterance, score: float | None, args: argparse.Namespace) -> str:
    """Why a piece cannot stay, or an empty string."""
    if score is None:
        return ""
    if piece.duration_s is not None and piece.duration_s > args.max_s:
        return "no pause within --max-s"
    return "below --min-score" if score < args.min_score else ""


def tell(
    args: argparse.Namespace,
    utterances: Sequence[Utterance],
    pieces: Sequence[Utterance],
    scores: Sequence[tuple[str, str]],
    dropped: Sequence[tuple[str, str]],
) -> None:
    """Say how many pieces there are, how well they fit and how many were dropped."""
    hours = sum(piece.duration_s or 0 for piece in pieces) / 3600
    say(
        f"{args.out}: {counted(len(pieces), 'piece')}, {hours:.2f} h, from {counted(len(utterances), 'utterance')} of {args.data}"
    )
    known = sorted(float(score) for _, score in scores if score != "-")
    if known:
        low, middle = known[len(known) // 20], known[len(known) // 2]
        say(f"mean probability of their tokens: median {middle:.2f}, lowest twentieth below {low:.2f}")
    if dropped:
        say(f"dropped {len(dropped)}, listed in {args.out}/dropped.tsv")


if __name__ == "__main__":
    sys.exit(run_main(main))
