"""Make data folders of LibriSpeech, or of Mini LibriSpeech: read English books.

    python3 local/prepare_librispeech.py --size 100 --corpus-dir /data/LibriSpeech --out data/librispeech

--size mini: train-clean-5, tested on dev-clean-2; 100: train-clean-100; 960: all of train. The big ones have dev_clean as
dev and test_clean, test_other. Mini LibriSpeech has no dev set: some of its training speakers are held out, always the
same. With --unlabelled train-clean-360 that part is a set, too, whose transcripts are not used; mini shares speakers with
train-clean-100. Without --corpus-dir the archives are fetched from OpenSLR.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import fetch, find_folders, finish, reader_parser, split_by_speaker
from local.rows import read_lines
from steps.core.cli import UserError, run_main
from steps.core.datadir import Utterance
from steps.core.tables import Problem

MIRROR = "https://www.openslr.org/resources"
# Those of Mini LibriSpeech are of the files whose MD5 OpenSLR publishes, as others pin them; the others' are torchaudio's.
SHA256 = {
    "train-clean-5": "47805806c8b15f7549f3c51bd6b7da72ec0128a34d32830c8014a88658c0292d",
    "dev-clean-2": "176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012",
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
TESTS = {"dev": ["dev-clean"], "test_clean": ["test-clean"], "test_other": ["test-other"]}
PARTS = {
    "mini": {"train": ["train-clean-5"], "test": ["dev-clean-2"]},
    "100": {"train": ["train-clean-100"], **TESTS},
    "960": {"train": ["train-clean-100", "train-clean-360", "train-other-500"], **TESTS},
}
MINI = ("train-clean-5", "dev-clean-2")
# utterances, speakers, hours
TRAIN_PARTS = {
    "train-clean-100": (28539, 251, 100.6),
    "train-clean-360": (104014, 921, 363.6),
    "train-other-500": (148688, 1166, 496.7),
}
BIG_TESTS = {"dev": (2703, 40, 5.4), "test_clean": (2620, 40, 5.4), "test_other": (2939, 33, 5.3)}
COUNTS = {
    "mini": {"train": (1519, None, None), "test": (1089, None, None)},
    "100": {"train": TRAIN_PARTS["train-clean-100"], **BIG_TESTS},
    "960": {"train": (281241, 2338, 960.9), **BIG_TESTS},
}


def read_part(root, part, problems):
    """Read one part, such as dev-clean: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt and FLAC files beside it."""
    folders = [folder for folder in find_folders(root, part) if next(folder.glob("*/*/*.trans.txt"), None)]
    if not folders:
        problems.append(Problem(str(root), f"no folder {part} with transcripts (*/*/*.trans.txt) here or below"))
        return []
    utterances = []
    for transcript in sorted(folders[0].glob("*/*/*.trans.txt")):
        found = {path.stem: path for path in transcript.parent.glob("*.flac")}
        for where, line in read_lines(transcript):
            utt_id, _, text = line.strip().partition(" ")
            if not text or utt_id not in found:
                problems.append(Problem(where, f"no sound file {utt_id}.flac" if text else "no transcript"))
                continue
            audio = str(found.pop(utt_id).resolve())
            utterances.append(Utterance(utt_id, utt_id.split("-")[0], " ".join(text.split()), audio))
        problems += [Problem(str(path), f"no transcript in {transcript.name}") for path in sorted(found.values())]
    return utterances


def main():
    parser = reader_parser(__doc__, MIRROR, counts=True, unlabelled=True)
    parser.add_argument("--size", choices=PARTS, default="mini", help="how much of it (default: mini)")
    args = parser.parse_args()
    parts, problems = PARTS[args.size], []
    free = [name for name in TRAIN_PARTS if name not in parts["train"]]
    if unknown := [name for name in args.unlabelled if name not in free]:
        there = f"there are {', '.join(free)}" if free else "it has all parts"
        raise UserError(f"--unlabelled {unknown[0]}: no part beside those of --size {args.size}; {there}")
    parts = parts | {name: [name] for name in args.unlabelled}
    names = [name for parts_of_set in parts.values() for name in parts_of_set]
    root = fetch(args, {f"{31 if name in MINI else 12}/{name}.tar.gz": SHA256[name] for name in names})
    sets = {name: [u for part in of_set for u in read_part(root, part, problems)] for name, of_set in parts.items()}
    published = COUNTS[args.size] | {name: TRAIN_PARTS[name] for name in args.unlabelled}
    if args.size == "mini" and not problems:
        split = split_by_speaker(sets["train"], dev_share=0.08, test_share=0)
        dev = split["dev"] + split["test"]
        published = published | {"train": (published["train"][0] - len(dev), None, None)}
        sets = sets | {"train": split["train"], "dev": dev}
    finish(sets, problems, args, published)


if __name__ == "__main__":
    sys.exit(run_main(main))
