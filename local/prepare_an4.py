"""Make data folders of AN4, the CMU Census corpus: spelled words, dates and commands, 84 speakers, 0.8 hours.

    python3 local/prepare_an4.py --corpus-dir downloads/an4 --out data/an4

--corpus-dir: a folder with etc/ and flac/ or wav/ (FLAC, WAV or NIST SPHERE files), or the archive an4_sphere.tar.gz.
Without it the archive (64 MB) is fetched from CMU to --out and unpacked there. Writes train, dev, test and words.txt,
the words of the corpus' own dictionary. AN4 has no dev set: seven training speakers are held out, always the same.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import unpack
from local.download import download
from steps.core.cli import UserError, add_common, make_parser, parse_bool, run_main, say
from steps.core.datadir import Utterance, audio_info, write_data_dir
from steps.core.outdir import write_text
from steps.core.tables import Problem, raise_problems

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
DEV_SPEAKERS = {"fbbh", "fkai", "fplp", "mcel", "mewl", "mmal", "msct"}  # three women, four men; chosen by name only
COUNTS = {"train": (948, 74), "test": (130, 10)}  # utterances, speakers, as published
SUFFIXES = (".flac", ".wav", ".sph")
TRANSCRIPT = re.compile(r"(?:<s>\s+)?(.*?)\s*(?:</s>\s*)?\((\S+)\)")


def find_root(corpus_dir, out):
    """Find the folder that holds etc/, after unpacking an archive to OUT/corpus if that is what was given."""
    path = Path(corpus_dir)
    if path.is_file():
        path = unpack(path, Path(out) / "corpus")
    for root in (path, path / "an4"):
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
            utterances.append(make_utterance(speaker, stem, transcripts[stem], audio, problems))
    listed = {utt.utt_id.removeprefix(f"{utt.speaker}-") for utt in utterances if utt}
    if not problems and (extra := sorted(set(transcripts) - listed)):
        problems.append(Problem(str(list_path), f"{len(extra)} transcripts are of files not listed, e.g. {extra[0]}"))
    return [utt for utt in utterances if utt]


def read_transcripts(path, problems):
    """Read `<s> WORDS </s> (utterance)` lines. Returns: dict utterance -> words."""
    transcripts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        match = TRANSCRIPT.fullmatch(line.strip())
        if not match or not match[1]:
            problems.append(Problem(f"{path}:{number}", f"expected `<s> WORDS </s> (utterance)`, not {line!r}"))
        else:
            transcripts[match[2]] = " ".join(match[1].split())
    return transcripts


def make_utterance(speaker, stem, text, audio, problems):
    """One row, or None when its sound file cannot be read."""
    try:
        seconds, _, _ = audio_info(str(audio))
    except UserError as error:
        problems.append(Problem(str(audio), str(error)))
        return None
    return Utterance(f"{speaker}-{stem}", speaker, text, str(audio.resolve()), duration_s=seconds)


def read_words(root):
    """The words of the corpus' dictionary, once each, sorted."""
    lines = (root / "etc" / "an4.dic").read_text(encoding="utf-8").split("\n")
    return sorted({re.sub(r"\(\d+\)$", "", line.split()[0]) for line in lines if line.split()})


def check_counts(sets):
    """Refuse a copy of the corpus that is not the published one."""
    for name, expected in COUNTS.items():
        found = (len(sets[name]), len({utt.speaker for utt in sets[name]}))
        if found != expected:
            raise UserError(
                f"{name} has {found[0]} utterances of {found[1]} speakers, the published corpus {expected[0]} of "
                f"{expected[1]}; for a part of it, say --check-counts false"
            )


def write_sets(sets, words, out):
    """Write the data folders and the word list, and say what is in them."""
    for name, utterances in sets.items():
        write_data_dir(out / name, utterances)
        tokens = [word for utt in utterances for word in utt.text.split()]
        hours = sum(utt.duration_s for utt in utterances) / 3600
        speakers = len({utt.speaker for utt in utterances})
        outside = sum(word not in set(words) for word in tokens)
        say(
            f"{name}: {len(utterances)} utterances, {speakers} speakers, {hours:.2f} h, {len(tokens)} words, "
            f"{outside} of them not in words.txt"
        )
    write_text(out / "words.txt", "".join(f"{word}\n" for word in words))
    say(f"{out}/words.txt: {len(words)} words")


def main():
    parser = make_parser(__doc__)
    text = "the corpus: a folder or an4_sphere.tar.gz (default: fetch the latter)"
    parser.add_argument("--corpus-dir", nargs="?", default="", const="", metavar="PATH", help=text)
    add_common(parser, out="folder of the data folders, such as data/an4")
    parser.add_argument("--url", default=URL, help="where to fetch the archive")
    text = "true: train also on the dev speakers, for a final model (default: false)"
    parser.add_argument("--dev-in-train", type=parse_bool, default=False, metavar="BOOL", help=text)
    text = "false: accept a part of the corpus (default: true)"
    parser.add_argument("--check-counts", type=parse_bool, default=True, metavar="BOOL", help=text)
    args = parser.parse_args()
    out, problems = Path(args.out), []
    corpus = args.corpus_dir or fetch(args.url, out)
    root = find_root(corpus, out)
    sets = {name: read_set(root, name, problems) for name in COUNTS}
    raise_problems(problems, f"{root} is not a complete AN4")
    if args.check_counts:
        check_counts(sets)
    train, test = sets["train"], sets["test"]
    dev = [utt for utt in train if utt.speaker in DEV_SPEAKERS]
    if args.dev_in_train:
        say("the dev speakers are in train, too: scores on dev say nothing about unseen speakers")
    else:
        train = [utt for utt in train if utt.speaker not in DEV_SPEAKERS]
    write_sets({"train": train, "dev": dev, "test": test}, read_words(root), out)


def fetch(url, out):
    """Fetch the archive. Returns: its path."""
    say(f"fetching {url}")
    try:
        return download(url, out / "download" / Path(url).name)
    except UserError as error:
        raise UserError(f"{error}; or fetch AN4 elsewhere and name it with --corpus-dir") from None


if __name__ == "__main__":
    sys.exit(run_main(main))
