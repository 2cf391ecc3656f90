"""Make data folders of yesno: one man says yes and no in Hebrew, eight times a file, 60 files at 8 kHz.

    python3 local/prepare_yesno.py --corpus-dir /data/waves_yesno --out data/yesno

File names tell what is said: 0_1_1_0_1_0_0_1.wav, 1 for yes. Without --corpus-dir the archive (5 MB) is fetched from
OpenSLR. All sets have the same speaker, so the recipe allows that; scores say nothing about other people.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import fetch, find_folders, finish, reader_parser
from steps.core.cli import UserError, run_main
from steps.core.datadir import Utterance

MIRROR = "https://www.openslr.org/resources/1"
SHA256 = "c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73"
NAME = re.compile(r"[01](_[01])*")
COUNTS = {"train": (27, 1, None), "dev": (4, 1, None), "test": (29, 1, None)}


def main():
    args = reader_parser(__doc__, MIRROR, counts=True).parse_args()
    root = fetch(args, {"waves_yesno.tar.gz": SHA256})
    folder = next(iter(find_folders(root, "waves_yesno")[::-1]), root)  # the archive's inner folder
    files = sorted(path for path in folder.glob("*.wav") if NAME.fullmatch(path.stem))
    if len(files) < 12:
        raise UserError(f"{folder}: {len(files)} files such as 0_1_1_0_1_0_0_1.wav; the corpus has 60")
    utterances = [
        Utterance(
            f"one-{path.stem}",
            "one",
            " ".join(("NO", "YES")[int(d)] for d in path.stem.split("_")),
            str(path.resolve()),
        )
        for path in files
    ]
    tests = len(files) - len(files) * 31 // 60
    trains = len(files) - tests - max(2, len(files) // 15)
    sets = {"train": utterances[:trains], "dev": utterances[trains:-tests], "test": utterances[-tests:]}
    finish(sets, [], args, COUNTS, words=["NO", "YES"])


if __name__ == "__main__":
    sys.exit(run_main(main))
