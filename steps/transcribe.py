"""Print what is said in audio files: one `file<TAB>text` line each.

    python3 -m steps.transcribe exp/an4/student/export one.wav two.flac

The folder is an exported folder or a model folder. Any sample rate; the formats: local/README.md. Of files with several
channels --channel says which one is meant. With --words only words of that list come out; with --labels each file is one label of
that list, the most probable one; with --graph words of a language model, weighed by it (an export with HLG.fst names itself). A
file that is not audio, or not whole, is reported, the others are done, and the exit status is 1. What is longer than half a
minute is cut in its pauses, so that an hour needs little more memory than a sentence.

    python3 -m steps.transcribe exp/an4_streaming/student/export --microphone
    python3 -m steps.transcribe exp/an4_streaming/student/export --follow recording.wav

A model that streams also hears a microphone (requirements-microphone.txt) until Ctrl-C, or a WAV file that is still being written
until it has not grown for --idle-s seconds, or Ctrl-C. The text grows on the terminal while it comes, greedily: what is shown is
never taken back. The line of the result is as for any file.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import TextIO

from steps.core.cli import UserError, make_parser, parse_count, parse_finite, parse_positive, run_main, tell
from steps.core.datadir import Utterance
from steps.core.growing_wav import follow_wav
from steps.core.sound import NotAsked
from steps.core.tables import counted
from steps.deploy.live import listen, microphone, until_interrupt
from steps.deploy.realtime import streaming
from steps.deploy.recognition import hear, recognise_pieces
from steps.deploy.runtimes import Recogniser, load_recogniser

# how long a file that is followed may stay as it is
IDLE_S = 2.0


def main(results: TextIO | None = None) -> None:
    """Transcribe; `results` is the text stream of the result lines (default: standard output)."""
    args = parse_args()
    if args.follow or args.microphone:
        transcribe_live(args, results or sys.stdout)
        return
    with load_recogniser(args.model, device="cpu", num_threads=args.num_threads) as recogniser:
        used: object = True
        if args.words:
            used = recogniser.use_words(args.words, args.model, args.word_score or 0.0)
        elif args.labels:
            used = recogniser.use_labels(args.labels, args.model)
        elif args.graph:
            used = recogniser.use_graph(args.graph)
        if used is None:
            kind, option = ("word list", "--words") if args.words else ("list of labels", "--labels")
            what = f"cannot be limited to a {kind}" if not args.graph else "cannot be weighed by a language model"
            raise UserError(f"{args.model}: {what}; leave out {'--graph' if args.graph else option}")
        failed = transcribe(recogniser, args.audio, results or sys.stdout, args.channel, args.damaged == "accept")
    if failed:
        raise UserError(f"{failed} of {counted(len(args.audio), 'file')} could not be transcribed")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("model", metavar="DIR", help="exported folder or model folder")
    parser.add_argument("audio", nargs="*", metavar="FILE", help="audio files")
    parser.add_argument("--follow", metavar="FILE", help="a WAV file that is still being written")
    parser.add_argument("--microphone", action="store_true", help="what is said now, until Ctrl-C")
    text = f"--follow: the file has ended when it has not grown for so long (default: {IDLE_S:g})"
    parser.add_argument("--idle-s", type=parse_positive, metavar="X", help=text)
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument("--words", metavar="FILE", help="word list, one per line: only these words come out")
    lists.add_argument("--labels", metavar="FILE", help="labels, one per line: each file is one of them")
    lists.add_argument("--graph", metavar="DIR", help="folder with HLG.fst: decode with its language model")
    parser.add_argument("--word-score", type=parse_finite, metavar="X", help="nats added for each such word")
    text = "channel of files with several: 1, 2 or mix, their mean"
    parser.add_argument("--channel", type=parse_channel, metavar="N", help=text)
    text = "accept: take what can be decoded of files that are cut short (default: refuse)"
    parser.add_argument("--damaged", choices=("refuse", "accept"), help=text)
    parser.add_argument("--num-threads", type=parse_count, default=2, metavar="N", help="CPU threads (default: 2)")
    # files may come behind options, too
    args = parser.parse_intermixed_args()
    if sum(map(bool, (args.audio, args.follow, args.microphone))) != 1:
        parser.error("name audio files, or --follow FILE, or --microphone")
    if not args.audio and (args.words or args.labels or args.graph):
        parser.error("--words, --labels and --graph take words back while sound comes; leave them out")
    unused = [
        ("--idle-s", args.idle_s, args.follow, "--follow"),
        ("--word-score", args.word_score, args.words, "--words"),
    ]
    unused += [
        ("--channel", args.channel, not args.microphone, "files"),
        ("--damaged", args.damaged, args.audio, "whole files"),
    ]
    for option, value, is_used, what in unused:
        if value is not None and not is_used:
            parser.error(f"{option} is for {what}; leave it out")
    return args


def parse_channel(text: str) -> int | str:
    """Type of --channel: `mix` or a number."""
    return text if text == "mix" else parse_count(text)


def transcribe_live(args: argparse.Namespace, results: TextIO) -> None:
    """Write the result line of a file that grows, or of a microphone. Raises: MissingInput, UserError."""
    terminal = sys.stderr if sys.stderr.isatty() else None
    with load_recogniser(args.model, device="cpu", num_threads=args.num_threads) as opened, until_interrupt() as came:
        recogniser = streaming(opened, args.model)
        # here, because it loads torch
        from steps.data.online_resample import resampled

        rate_hz = recogniser.features.sample_rate_hz
        if args.follow:
            convert = functools.partial(resampled, to_hz=rate_hz, name=args.follow)
            sound = follow_wav(args.follow, convert, args.channel, args.idle_s or IDLE_S, came)
        else:
            sound = microphone(rate_hz, came, resampled)
        try:
            text = listen(recogniser, sound, terminal)
        except NotAsked as error:
            raise UserError(error.by_option) from None
    print(f"{args.follow or 'microphone'}\t{text}", file=results, flush=True)


def transcribe(
    recogniser: Recogniser,
    paths: Sequence[str],
    results: TextIO,
    channel: int | str | None = None,
    damaged: bool = False,
) -> int:
    """Write one result line per file; problems go to standard error.

    Args: channel, damaged: see steps.core.sound.read_sound.   Returns: number of files that failed.
    """
    failed = 0
    for path in paths:
        try:
            if any(char in path for char in "\t\r\n"):
                raise UserError(
                    f"{path!r}: a tab or line end in its name, which would break its result line; rename it"
                )
            utterance = Utterance(path, speaker="", text="", audio=path)
            texts, length_s = recognise_pieces(recogniser, hear(recogniser, utterance, channel, damaged), path)
            if not length_s:
                raise UserError(f"{path}: shorter than one frame of {recogniser.features.frame_length_ms:g} ms")
        except UserError as error:
            tell(f"error: {error.by_option if isinstance(error, NotAsked) else error}")
            failed += 1
            continue
        text = texts[recogniser.kinds[-1]]
        print(f"{path}\t{text}", file=results, flush=True)
    return failed


if __name__ == "__main__":
    # Standard output carries the result lines and nothing else, so that it can be piped.
    results_stream = sys.stdout
    asks_for_help = any(word in ("-h", "--help") for word in sys.argv[1:])
    with contextlib.redirect_stdout(sys.stdout if asks_for_help else sys.stderr):
        status = run_main(lambda: main(results_stream))
    sys.exit(status)
