"""What all corpus readers share: options, archives, lists, splits by speaker, and the way to finished data folders.

A reader yields `steps.core.datadir.Utterance`s by set and hands them to `finish`, which measures them, checks the
published counts, applies the preparation options (local/preparation.py), refuses leaks between sets, and writes.
"""

import argparse
import hashlib
import sys
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.archives import BadArchive, discard_leftovers, unpack
from local.download import download, put_aside, record_all, recorded
from local.durations import measure, rates_of
from local.leaks import refuse_leaks
from local.preparation import PreparationConfig, prepare_sets
from local.unlabelled import without_transcripts
from local.used_files import write_used_files
from steps.core.cli import UserError, add_common, make_parser, parse_bool, parse_count, say
from steps.core.config import load_config
from steps.core.datadir import write_data_dir
from steps.core.outdir import write_text
from steps.core.tables import counted, raise_problems

HOURS_OFF = 0.05
FEW = 10  # so many names are all listed, of more only the first ones


def reader_parser(description, mirror=None, counts=False, unlabelled=False):
    """Parser with the options every reader has.

    Args: mirror: where archives are fetched from by default, or None for a corpus that cannot be fetched.
          counts: whether there are published counts to check against.
          unlabelled: whether the reader can write sets without transcripts; `args.unlabelled` lists those to write.
    """
    parser = make_parser(description)
    text = "the corpus: its folder" + (" or archive (default: fetch it)" if mirror else "")
    missing = {"nargs": "?", "default": "", "const": ""} if mirror else {"required": True}
    parser.add_argument("--corpus-dir", metavar="PATH", help=text, **missing)
    add_common(parser, out="folder of the data folders, such as data/mine")
    text = "preparation options (default: none; see conf/prepare.yaml)"
    parser.add_argument("--options", metavar="YAML", help=text)
    parser.add_argument(
        "--nj", type=parse_count, default=1, metavar="N", help="processes that treat audio (default: 1)"
    )
    if mirror:
        text = f"folder on the web that holds the archives (default: {mirror})"
        parser.add_argument("--mirror", default=mirror, metavar="URL", help=text)
    if unlabelled:
        text = "sets without transcripts to write, too, separated by blanks, such as extra (default: none)"
        parser.add_argument("--unlabelled", type=str.split, default=[], metavar="SETS", help=text)
    if counts:
        text = "false: accept a part of the corpus (default: true)"
        parser.add_argument("--check-counts", type=parse_bool, default=True, metavar="BOOL", help=text)
    return parser


def fetch(args, archives):
    """Find the folder of the corpus: --corpus-dir, an archive unpacked, or archives fetched and unpacked to --out.

    Args:    archives: path below the mirror -> published checksum (SHA-256, or MD5 where there is no other) or None.
    Returns: Path of a folder.   Raises: UserError.
    """
    out = Path(args.out)
    discard_leftovers(out / "corpus")
    if args.corpus_dir:
        path = Path(args.corpus_dir)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; --corpus-dir names the corpus")
        return unpack(path, out / "corpus") if path.is_file() else path
    if not archives:
        raise UserError("--corpus-dir is empty: name the corpus there, or as corpus_dir= in recipe.sh")
    for name, published in archives.items():
        file_name = Path(name).name
        folder = out / "corpus" / file_name.split(".")[0]
        discard_leftovers(folder)
        if not folder.is_dir():
            _fetch_one(f"{args.mirror.rstrip('/')}/{name}", out / "download" / file_name, published, folder)
    return out / "corpus"


def _fetch_one(url, archive, published, folder):
    """Download an archive and unpack it; one that turns out to be bad is put aside, so that the next start fetches anew."""
    say(f"fetching {url}")
    try:
        download(url, archive, published)
        unpack(archive, folder)
    except UserError as error:
        message = str(error)
        if isinstance(error, BadArchive) and published is None:
            bad = put_aside(archive, forget=True)
            message = f"{error}; what came is kept as {bad}: run again to fetch it anew"
        message += "; or name a copy with --corpus-dir, or another server with --mirror"
        raise UserError(message) from None
    if published is None and not recorded(archive):
        say(
            f"{archive}: nobody publishes its checksum; it is recorded once the counts are right, and later ones must agree"
        )


def find_folders(root, name, depth=3):
    """All folders called `name` (case does not matter) at most `depth` levels below `root`, sorted; links not followed."""
    found, level = [], [Path(root)]
    for _ in range(depth + 1):
        found += [folder for folder in level if folder.name.lower() == name.lower()]
        level = [
            item for folder in level for item in sorted(folder.iterdir()) if item.is_dir() and not item.is_symlink()
        ]
    return found


def clean_id(text):
    """An id that is safe in tables and as a file name: letters with their marks, digits, _ and - stay, anything else becomes _."""
    stays = (char.isalnum() or char == "-" or unicodedata.category(char)[0] == "M" for char in text)
    return "".join(char if keep else "_" for char, keep in zip(text, stays, strict=True)).strip("_") or "_"


def names_of(values):
    """The names in their order, once each, the first ten of more: `ann, bob` or `a, b, c, d, e, f, g, h, i, j, ...`."""
    names = sorted(set(values))
    return ", ".join(names[:FEW] + ["..."] * (len(names) > FEW))


def split_by_speaker(utterances, dev_share=0.1, test_share=0.1):
    """Split into train, dev and test with speakers of their own.

    The speakers' order is that of a hash of their names, so neither the order of files nor a new speaker moves others
    far; dev and test get speakers until they have their share of utterances, one at least.

    Args:    dev_share, test_share: from 0 to 1; None: no such set.
    Returns: dict set name -> list.   Raises: UserError with fewer speakers than sets.
    """
    shares = {name: share for name, share in (("test", test_share), ("dev", dev_share)) if share is not None}
    speakers = {}
    for utt in utterances:
        speakers.setdefault(utt.speaker, []).append(utt)
    if len(speakers) <= len(shares):
        wanted = "train, dev and test" if len(shares) == 2 else f"train and {' '.join(shares)}"
        raise UserError(f"{counted(len(speakers), 'speaker')} cannot be split into {wanted}; list the sets yourself")
    order = sorted(speakers, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    sets = {name: [] for name in ("train", "dev", "test") if name == "train" or name in shares}
    for left, speaker in zip(range(len(order), 0, -1), order, strict=True):
        size = len(speakers[speaker])
        for needed, (name, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
            if not sets[name] or (len(sets[name]) + size <= share * len(utterances) and left > needed):
                break
        else:
            name = "train"
        sets[name] += speakers[speaker]
    return sets


def fetch_again(args: argparse.Namespace) -> str:
    """The remedy for a corpus that was fetched and is not whole; empty for one that was named."""
    folders = " and ".join(str(Path(args.out) / name) for name in ("corpus", "download"))
    return "" if args.corpus_dir else f"; to fetch it again, remove {folders}"


def check_counts(sets, published, args=None):
    """Refuse a copy of the corpus that is not the published one.

    Args: args: of `reader_parser`, for the remedy.
          published: set -> (utterances, speakers, hours); None: not published. Hours may be 5 % off: they are rounded there.
    """
    for name, expected in published.items():
        hours = sum(utt.duration_s for utt in sets[name]) / 3600
        found = (len(sets[name]), len({utt.speaker for utt in sets[name]}), hours)
        same = [there == wanted for there, wanted in zip(found[:2], expected[:2], strict=True) if wanted is not None]
        if not all(same) or (expected[2] is not None and abs(hours - expected[2]) > HOURS_OFF * expected[2]):
            numbers = [
                f"{n:g} {what}" for n, what in zip(expected, ("utterances", "speakers", "hours"), strict=True) if n
            ]
            raise UserError(
                f"{name} has {found[0]} utterances, {found[1]} speakers, {hours:.2f} hours; the published corpus "
                f"{', '.join(numbers)}; for a part of it, say --check-counts false{fetch_again(args) if args else ''}"
            )


def options_of(args: argparse.Namespace) -> PreparationConfig:
    """The preparation options that --options names. Returns: PreparationConfig."""
    return load_config(PreparationConfig, args.options) if args.options else PreparationConfig()


def finish(sets, problems, args, published=None, words=None, labels=False, heard=()):
    """Measure, check, prepare and write the sets; nothing is written when anything is wrong.

    Args:   sets: name -> list of Utterance.   problems: list of Problem found so far.   args: of `reader_parser`.
            published: see check_counts.   words: list for words.txt; None: the words of the sets whose names begin with
            train or dev, of the first one if none does; "all": of all sets.   labels: whether the transcripts are a
            closed list, to be written to labels.txt.   heard: files that sound was made from.
    Raises: UserError.
    """
    config, unlabelled = options_of(args), getattr(args, "unlabelled", [])
    sets = measure(without_transcripts(sets, unlabelled), problems, config.sound)
    labelled = [name for name in sets if name not in unlabelled] or [*sets]
    raise_problems(problems, f"{args.corpus_dir or args.out} cannot be used as it is{fetch_again(args)}")
    for name, utterances in sets.items():
        if not utterances:
            raise UserError(f"{args.corpus_dir or args.out}: no utterances for {name}{fetch_again(args)}")
    if published and args.check_counts:
        check_counts(sets, published, args)
    trained = next((name for name in labelled if name.startswith("train")), labelled[0])
    refuse_leaks(sets, config.shared_speakers, dict.fromkeys(unlabelled, trained))
    audio = {utt.audio for utterances in sets.values() for utt in utterances}
    say(f"sound: {rates_of(audio, config.sound)}; features are computed at the sample_rate_hz of features.yaml")
    sets = prepare_sets(sets, config, Path(args.out), args.nj, unlabelled)
    for name, utterances in sets.items():
        write_data_dir(Path(args.out) / name, utterances, need_text=name not in unlabelled)
    if words in (None, "all"):
        names = [name for name in labelled if words == "all" or name.startswith(("train", "dev"))] or labelled[:1]
        words = sorted({word for name in names for utt in sets[name] for word in utt.text.split()})
    write_text(Path(args.out) / "words.txt", "".join(f"{word}\n" for word in words))
    if labels:
        texts = sorted({utt.text for name in labelled for utt in sets[name]})
        write_text(Path(args.out) / "labels.txt", "".join(f"{text}\n" for text in texts))
    if getattr(args, "check_counts", True):
        record_all(Path(args.out) / "download")
    write_used_files(Path(args.out), args.corpus_dir, audio | set(heard))
    for name, utterances in sets.items():
        say(describe(name, utterances, set(words)))


def describe(name, utterances, words):
    """One line about a set; a few speakers are named."""
    speakers = {utt.speaker for utt in utterances}
    who = f"; {'speaker' if len(speakers) == 1 else 'speakers'} {names_of(speakers)}" if len(speakers) <= FEW else ""
    tokens = [word for utt in utterances for word in utt.text.split()]
    hours = sum(utt.duration_s for utt in utterances) / 3600
    outside = sum(word not in words for word in tokens)
    said = f"{counted(len(tokens), 'word')}, {outside} of them not in words.txt" if tokens else "without transcripts"
    return f"{name}: {counted(len(utterances), 'utterance')}, {counted(len(speakers), 'speaker')}, {hours:.2f} h, {said}{who}"
