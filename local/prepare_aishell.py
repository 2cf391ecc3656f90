"""Make data folders of AISHELL-1: read Mandarin, 400 speakers, 178 hours.

    python3 local/prepare_aishell.py --corpus-dir /data/data_aishell --out data/aishell

Reads data_aishell as it is published, with one archive per speaker in wav/ (unpacked to --out) or these unpacked.
Transcripts become characters without blanks. Some recordings have no transcript; they are left out and counted.
Without --corpus-dir the archive (15 GB) is fetched from OpenSLR.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.archives import unpack
from local.corpus import fetch, find_folders, finish, reader_parser
from local.rows import read_lines
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance
from steps.core.tables import Problem, counted

MIRROR = "https://www.openslr.org/resources/33"
MD5 = "2f494334227864a8a8fec932999db9d8"  # OpenSLR's; it publishes no other checksum
COUNTS = {"train": (120098, 340, 150.9), "dev": (14326, 40, 18.1), "test": (7176, 20, 10.0)}


def find_wav(root, out):
    """The folder that holds train, dev and test, after unpacking the archives of speakers if need be."""
    wavs = [folder for folder in find_folders(root, "wav") if any(folder.iterdir())]
    if not wavs:
        raise UserError(f"{root}: no folder wav/ here or below; --corpus-dir names data_aishell")
    archives = sorted(wavs[0].glob("*.tar.gz"))
    if (wavs[0] / "train").is_dir() or not archives:
        return [wavs[0]]
    folders = [out / "wav" / archive.name.split(".")[0] for archive in archives]
    for archive, folder in zip(archives, folders, strict=True):
        if not folder.is_dir():
            unpack(archive, folder)
    return folders


def read_transcripts(root, problems):
    """Utterance -> characters."""
    path = next(
        (p for folder in find_folders(root, "transcript") for p in sorted(folder.glob("aishell_transcript*.txt"))), None
    )
    if path is None:
        raise UserError(f"{root}: no transcript/aishell_transcript_v0.8.txt here or below")
    transcripts = {}
    for where, line in read_lines(path):
        utt_id, *words = line.split()
        if not words or utt_id in transcripts:
            problems.append(Problem(where, f"{utt_id} is there twice" if words else "no transcript"))
        transcripts[utt_id] = "".join(words)
    return transcripts


def main():
    args = reader_parser(__doc__, MIRROR, counts=True).parse_args()
    root, problems = fetch(args, {"data_aishell.tgz": MD5}), []
    transcripts, without = read_transcripts(root, problems), 0
    folders, sets = find_wav(root, Path(args.out)), {}
    for name in COUNTS:
        audio = sorted(
            (path for folder in folders for path in folder.glob(f"{name}/S*/*.wav")), key=lambda path: path.name
        )
        without += sum(path.stem not in transcripts for path in audio)
        sets[name] = [
            Utterance(f"{path.parent.name}-{path.stem}", path.parent.name, transcripts[path.stem], str(path.resolve()))
            for path in audio
            if path.stem in transcripts
        ]
    if without:
        say(f"left out {counted(without, 'recording')} without a transcript")
    finish(sets, problems, args, COUNTS)


if __name__ == "__main__":
    sys.exit(run_main(main))
