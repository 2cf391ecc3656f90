"""Write transcripts for a data folder that has none: what a recogniser hears in it.

    python3 -m steps.transcribe_data --model exp/mine/teacher/export --data data/mine/extra --out data/mine/extra_heard
    python3 -m steps.transcribe_data --command 'python3 my_recogniser.py' --data data/mine/extra --out data/mine/extra_heard

--model: whatever steps.decode runs: a model folder or an exported one, a folder with a CTC model that others exported to ONNX
(as sherpa-onnx runs them: conf/README.md), a Hugging Face folder of a sequence-to-sequence model (Whisper, Moonshine;
requirements-hub.txt; CTC models are imported first: steps.import_model), a Whisper folder of CTranslate2
(requirements-whisper.txt). --command is run here, without a shell: it reads lines `utterance-id WAV-file` (16 bits, one channel,
--rate) from standard input and writes lines `utterance-id text` to standard output. --out becomes a data folder with the text
as it came; local/filter_transcripts.py brings it into the student's form and drops what is likely wrong. Utterances in which
nothing was heard, and answers that cannot be a transcript (with control characters or `<s>`), are left out and listed in
dropped.tsv. utt2confidence holds the geometric mean of the probabilities of each transcript's tokens, where the recogniser
tells them and there is no --words: CTC models, CTranslate2. With --shard J --num-shards N one part goes to part.J, and
utils/combine_data_dir.py --parts N puts them together.
"""

import argparse
import dataclasses
import functools
import hashlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import soundfile

from steps.core.cli import UserError, add_common, make_parser, parse_count, run_main, say
from steps.core.datacheck import transcript_problem
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import write_json, write_text
from steps.core.shards import add_shard_options, own_part
from steps.core.tables import PART_FILE, counted, write_table
from steps.deploy.recognition import decode_all, hear
from steps.deploy.runtimes import RUNTIMES, load_recogniser, runtime_of

REASON = "nothing recognised"
CONFIDENCE = "utt2confidence"
SHELL = {"|", "||", "&", "&&", ";", "<", ">", ">>"}


def main() -> None:
    parser = make_transcribe_parser()
    args = parser.parse_args()
    if (args.model is None) == (args.command is None):
        parser.error("exactly one of --model and --command says what transcribes")
    if args.command is not None:
        args.command = command_words(args.command)
    if args.command and (args.words or args.language):
        parser.error("--words and --language are for --model; a --command has its own")
    everything = read_data_dir(args.data, need_text=False)
    utterances = own_part(parser, args, everything)
    out = Path(args.out) / f"part.{args.shard}" if args.num_shards > 1 else Path(args.out)
    if out.resolve() == Path(args.data).resolve():
        raise UserError(f"{out}: is --data; choose another --out")
    # what an earlier run left must not stand beside new transcripts, nor say that they are finished
    for name in (PART_FILE, "dropped.tsv", "utt2spk"):
        (out / name).unlink(missing_ok=True)
    confidences: dict[str, float] = {}
    texts = hear_with_command(args, utterances) if args.command else hear_with_model(args, utterances, confidences)
    # one odd answer must not lose all others
    dropped = {utt_id: why for utt_id, text in texts.items() if (why := transcript_problem(text) if text else REASON)}
    heard = [dataclasses.replace(utt, text=texts[utt.utt_id]) for utt in utterances if utt.utt_id not in dropped]
    shown = ", ".join(f"{why}: {count}" for why, count in Counter(dropped.values()).most_common())
    if not heard and args.num_shards == 1:
        raise UserError(f"{args.data}: no transcript of any of {counted(len(utterances), 'utterance')} ({shown})")
    if heard:
        write_data_dir(out, heard)
        if confidences:
            write_table(out / CONFIDENCE, {utt.utt_id: f"{confidences.get(utt.utt_id, 0.0):.4f}" for utt in heard})
    write_text(out / "dropped.tsv", "".join(f"{utt_id}\t{why}\n" for utt_id, why in dropped.items()))
    if args.num_shards > 1:
        ids = hashlib.sha256("\n".join(utt.utt_id for utt in everything).encode()).hexdigest()
        write_json(out / PART_FILE, {"parts": args.num_shards, "ids_sha256": ids})
    left_out = f"; left out {shown}" if dropped else ""
    say(f"{out}: transcripts of {counted(len(heard), 'utterance')}{left_out}")


def command_words(command: str) -> list[str]:
    """The words of --command. Raises: UserError for one that cannot be run as it stands."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--command: {command}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise UserError(f"--command: {command!r}: {f'no program {words[0]}' if words else 'is empty'}")
    if shell := SHELL.intersection(words):
        raise UserError(
            f"--command: no shell runs it, so {sorted(shell)[0]} would be a word; write bash -c '...' for one"
        )
    return words


def make_transcribe_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="data folder; its text, if it has one, is not read"
    )
    parser.add_argument("--model", metavar="DIR", help="folder of the recogniser")
    text = "what runs it (default: what suits the folder)"
    parser.add_argument("--runtime", choices=("own", *RUNTIMES), default="own", help=text)
    parser.add_argument("--language", metavar="CODE", help="what is spoken, for models that would guess it")
    parser.add_argument("--words", metavar="FILE", help="word list, one per line: only these words come out")
    parser.add_argument("--command", metavar="COMMAND", help="program to run instead of --model")
    text = "sample rate of the WAV files for --command, in Hz (default: 16000)"
    parser.add_argument("--rate", type=parse_count, default=16000, metavar="HZ", help=text)
    add_common(parser, out="data folder to write", device=True)
    add_shard_options(parser)
    return parser


def hear_with_model(
    args: argparse.Namespace, utterances: Sequence[Utterance], confidences: dict[str, float]
) -> dict[str, str]:
    """Text of every utterance by --model.

    Args:    confidences: see `decode_all`.
    Returns: {id: text}, texts perhaps empty.   Raises: UserError, MissingInput.
    """
    runtime = runtime_of(args.model, args.runtime)
    device = "cpu"
    if "torch" in RUNTIMES[runtime].packages:
        # here, so that other folders are opened without torch
        from steps.training.distributed import choose_device

        device = str(choose_device(args.device))
    with load_recogniser(args.model, device=device, num_threads=args.num_threads, runtime=runtime) as recogniser:
        if args.language:
            if not hasattr(recogniser, "use_language"):
                raise UserError(f"{args.model}: {runtime} knows no languages; leave out --language")
            recogniser.use_language(args.language)
        if args.words and recogniser.use_words(args.words, args.model) is None:
            raise UserError(f"{args.model}: {runtime} cannot be limited to a word list; leave out --words")
        # not feats.scp: it may be older than the sound, or of another model
        inputs = functools.partial(hear, recogniser)
        say(
            f"transcribing {counted(len(utterances), 'utterance')} of {args.data} with {args.model} by {runtime} on {device}"
        )
        # the tokens are those of the best path, and with a word list the words are not
        hyps, _ = decode_all(recogniser, utterances, inputs, confidences=None if args.words else confidences)
    return hyps.get("lexicon", hyps["greedy"])


def hear_with_command(args: argparse.Namespace, utterances: Sequence[Utterance]) -> dict[str, str]:
    """Text of every utterance by --command, which receives copies of their sound. Returns, raises: as `hear_with_model`."""
    # here, because it loads torch
    from steps.data.features import utterance_samples

    with tempfile.TemporaryDirectory(prefix="transcribe_data.") as folder:
        lines = []
        for number, utt in enumerate(utterances):
            path = Path(folder) / f"{number:07d}.wav"
            soundfile.write(path, utterance_samples(utt, args.rate).numpy(), args.rate, subtype="PCM_16")
            lines.append(f"{utt.utt_id} {path}\n")
        command = shlex.join(args.command)
        say(f"transcribing {counted(len(utterances), 'utterance')} of {args.data} with {command}")
        try:
            done = subprocess.run(args.command, input="".join(lines).encode(), stdout=subprocess.PIPE)
        except OSError as error:
            raise UserError(f"--command: {command}: {error}") from None
    if done.returncode:
        raise UserError(f"--command: {command}: ended with status {done.returncode}; its messages are above")
    return read_answers(done.stdout, [utt.utt_id for utt in utterances])


def read_answers(answer: bytes, utt_ids: Sequence[str]) -> dict[str, str]:
    """Lines `utterance-id text` of a command.

    Args:    utt_ids: the ids that must be there, each once.
    Returns: {id: text}, words separated by single spaces.   Raises: UserError naming what is unknown, missing or there twice.
    """
    texts: dict[str, str] = {}
    wanted = set(utt_ids)
    for number, line in enumerate(answer.decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        utt_id, *words = line.split()
        if utt_id not in wanted or utt_id in texts:
            what = "is there twice" if utt_id in texts else "was not asked about"
            raise UserError(f"--command: line {number} of its output: {utt_id!r} {what}; it writes `utterance-id text`")
        texts[utt_id] = " ".join(words)
    if missing := [utt_id for utt_id in utt_ids if utt_id not in texts]:
        raise UserError(f"--command: wrote no line for {counted(len(missing), 'utterance')}: {' '.join(missing[:10])}")
    return texts


if __name__ == "__main__":
    sys.exit(run_main(main))
