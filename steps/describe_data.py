"""Describe a data folder: hours, speakers, words, durations, levels, clipping and noise, as text and as a page.

    python3 -m steps.describe_data --data data/an4/test --words-of data/an4/train --out exp/an4/stats_test

Writes stats.txt, stats.json and stats.html (one file, no network needed). With --words-of, which names the training set,
the rate of words missing from it is reported. A set without transcripts is described by its sound alone. Every sound file
is read once; --sample N reads only that many utterances.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import UserError, add_common, make_parser, parse_count, run_main, say
from steps.core.datadir import Utterance, read_data_dir
from steps.core.outdir import write_json, write_text
from steps.core.tables import counted
from steps.data.statistics import format_page, format_text, measure_audio, summarise


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    add_common(parser, out="folder to write")
    parser.add_argument("--words-of", metavar="DIR", help="training set, to count words that are not in it")
    parser.add_argument("--sample", type=parse_count, metavar="N", help="utterances whose audio is read (default: all)")
    args = parser.parse_args()
    utterances = read_data_dir(args.data, need_text=False)
    known = None
    if args.words_of:
        if not any(utt.text for utt in utterances):
            raise UserError(f"{args.data}: no transcripts, so there are no words to compare; leave --words-of out")
        known = {word for utt in read_data_dir(args.words_of, check_audio=False) for word in utt.text.split()}
    count = min(args.sample or len(utterances), len(utterances))
    audio, bad = measure_all([utterances[i * len(utterances) // count] for i in range(count)])
    stats = summarise(str(args.data), utterances, audio, known, bad)
    write_json(Path(args.out) / "stats.json", stats)
    write_text(Path(args.out) / "stats.html", format_page(stats))
    write_text(Path(args.out) / "stats.txt", format_text(stats))
    say(format_text(stats) + f"{args.out}/stats.html")


def measure_all(utterances: Sequence[Utterance]) -> tuple[list[dict[str, Any]], list[str]]:
    """Read every sound file, reporting progress every ten seconds. Returns: measures; lines about bad files."""
    audio, bad, reported_s = [], [], time.monotonic()
    for utt in utterances:
        try:
            audio.append(measure_audio(utt))
        except UserError as error:
            bad.append(f"{utt.utt_id}: {error}")
        if time.monotonic() - reported_s >= 10:
            say(f"{len(audio) + len(bad)} of {counted(len(utterances), 'utterance')}")
            reported_s = time.monotonic()
    return audio, bad


if __name__ == "__main__":
    sys.exit(run_main(main))
