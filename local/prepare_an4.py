"""Make data folders of AN4, the CMU Census corpus: spelled words, dates and commands, 84 speakers, 0.8 hours.

    python3 local/prepare_an4.py --corpus-dir downloads/an4 --out data/an4

--corpus-dir: a folder with etc/ and flac/ or wav/ (FLAC, WAV or NIST SPHERE files), or the archive an4_sphere.tar.gz.
Without it the archive (64 MB) is fetched to --out over https, compared with its checksum, and unpacked there. Writes
train, dev, test and words.txt, the words of the corpus' own dictionary. AN4 has no dev set: seven training speakers are
held out, always the same.
"""

import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import check_counts, fetch, fetch_again, finish, options_of, reader_parser
from local.durations import measure
from steps.core.cli import UserError, parse_bool, parse_count, run_main, say
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.tables import Problem, raise_problems

# NVIDIA's copy, of NeMo's tutorials: CMU's own server has no https. The checksum is the one others pin for it.
MIRROR, ARCHIVE = "https://dldata-public.s3.us-east-2.amazonaws.com", "an4_sphere.tar.gz"
SHA256 = "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12"
DEV_SPEAKERS = {"fbbh", "fkai", "fplp", "mcel", "mewl", "mmal", "msct"}  # three women, four men; chosen by name only
COUNTS = {"train": (948, 74, None), "test": (130, 10, None)}  # utterances, speakers, as published
SUFFIXES = (".flac", ".wav", ".sph")
TRANSCRIPT = re.compile(r"(?:<s>\s+)?(.*?)\s*(?:</s>\s*)?\((\S+)\)")


def find_root(path):
    """Find the folder that holds etc/: `path`, an4/ in it, or where its archive was unpacked."""
    for root in (path, path / "an4", path / Path(ARCHIVE).name.split(".")[0] / "an4"):
        if (root / "etc" / "an4_train.fileids").is_file():
            return root
    raise UserError(
        f"{path}: no etc/an4_train.fileids here or in an4/; --corpus-dir names a folder or the .tar.gz file"
    )


def read_set(root, name, problems):
    """Read the utterances of `train` or `test` by the corpus' own lists.

    Returns: list of Utterance; `problems` grows by what is missing or odd.
    """
    transcripts = read_transcripts(root / "etc" / f"an4_{name}.transcription", problems)
    list_path = root / "etc" / f"an4_{name}.fileids"
    utterances = []
    for number, line in enumerate(list_path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where, file_id = f"{list_path}:{number}", line.strip()
        speaker, stem = Path(file_id).parent.name, Path(file_id).name
        paths = [root / kind / f"{file_id}{suffix}" for kind in ("flac", "wav") for suffix in SUFFIXES]
        audio = next((path for path in paths if path.is_file()), None)
        if stem not in transcripts:
            problems.append(Problem(where, f"{stem} has no transcript"))
        elif audio is None:
            problems.append(
                Problem(where, f"no sound file {file_id} with suffix {', '.join(SUFFIXES)} in flac/ or wav/")
            )
        else:
            utterances.append(Utterance(f"{speaker}-{stem}", speaker, transcripts[stem], str(audio.resolve())))
    listed = {utt.utt_id.removeprefix(f"{utt.speaker}-") for utt in utterances}
    if not problems and (extra := sorted(set(transcripts) - listed)):
        problems.append(Problem(str(list_path), f"{len(extra)} transcripts are of files not listed, e.g. {extra[0]}"))
    return utterances


def read_transcripts(path, problems):
    """Read `<s> WORDS </s> (utterance)` lines. Returns: dict utterance -> words."""
    transcripts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        match = TRANSCRIPT.fullmatch(line.strip())
        if not match or not match[1]:
            problems.append(Problem(f"{path}:{number}", f"expected `<s> WORDS </s> (utterance)`, not {line!r}"))
        elif match[2] in transcripts:
            problems.append(Problem(f"{path}:{number}", f"{match[2]} has a transcript already"))
        else:
            transcripts[match[2]] = " ".join(match[1].split())
    return transcripts


def read_words(root):
    """The words of the corpus' dictionary, once each, sorted."""
    lines = (root / "etc" / "an4.dic").read_text(encoding="utf-8").split("\n")
    return sorted({re.sub(r"\(\d+\)$", "", line.split()[0]) for line in lines if line.split()})


def forget_transcripts(out, number):
    """Keep the transcripts of some training speakers, chosen by a hash of their names; the others' audio goes to `extra`."""
    utterances = read_data_dir(out / "train")
    speakers = sorted({utt.speaker for utt in utterances}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if number >= len(speakers):
        raise UserError(f"--labelled-speakers {number}: there are only {len(speakers)} training speakers")
    labelled = set(speakers[:number])
    write_data_dir(out / "train", [utt for utt in utterances if utt.speaker in labelled])
    write_data_dir(out / "extra", [utt for utt in utterances if utt.speaker not in labelled], need_text=False)
    say(f"{out}: transcripts of {number} speakers in train; extra: audio of {len(speakers) - number} others")


def main():
    parser = reader_parser(__doc__, mirror=MIRROR, counts=True)
    text = "true: train also on the dev speakers, for a final model (default: false)"
    parser.add_argument("--dev-in-train", type=parse_bool, default=False, metavar="BOOL", help=text)
    text = (
        "number of training speakers whose transcripts are kept; the others' audio becomes the set extra, without any"
    )
    parser.add_argument("--labelled-speakers", type=parse_count, metavar="N", help=text)
    args, problems = parser.parse_args(), []
    out, root = Path(args.out), find_root(fetch(args, {ARCHIVE: SHA256}))
    sets = {name: read_set(root, name, problems) for name in COUNTS}
    sets = measure(sets, problems, options_of(args).sound)
    raise_problems(problems, f"{root} is not a complete AN4{fetch_again(args)}")
    if args.check_counts:
        check_counts(sets, COUNTS, args)
    sets["dev"] = [utt for utt in sets["train"] if utt.speaker in DEV_SPEAKERS]
    sets["train"] = [utt for utt in sets["train"] if utt.speaker not in DEV_SPEAKERS]
    finish(sets, problems, args, words=read_words(root))
    if args.dev_in_train:
        write_data_dir(out / "train", [utt for name in ("train", "dev") for utt in read_data_dir(out / name)])
        say("the dev speakers are in train, too: scores on dev say nothing about unseen speakers")
    if args.labelled_speakers:
        forget_transcripts(out, args.labelled_speakers)


if __name__ == "__main__":
    sys.exit(run_main(main))
