"""Make a data folder with augmented copies of every utterance: reverberation, noise, volume. Inputs stay as they are.

    python3 -m steps.augment_data --data data/an4/test --config recipes/an4_noise/conf/test_10db.yaml --set test_10db \\
        --out data/an4

Writes OUT/SET, a data folder, and its sound files to OUT/audio/SET (FLAC, 16 bits). Copy K of an utterance is what a
training on the fly would hear of it in epoch K with the same seed. With one copy and no
originals ids stay; otherwise copies get the prefixes `aug1-`, `aug2-`, ...
"""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

import numpy as np
import soundfile

from steps.core.cli import UserError, add_common, make_parser, parse_bool, parse_count, run_main, say
from steps.core.config import load_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import atomic_file
from steps.core.tables import counted
from steps.data.augment import augment_wave
from steps.data.features import utterance_samples
from steps.data.wave_augment import WaveAugment, WaveAugmentConfig


def main() -> None:
    args = parse_args()
    augment = WaveAugment(load_config(WaveAugmentConfig, args.config), args.sample_rate)
    utterances, out = read_data_dir(args.data, need_text=False), Path(args.out)
    if (out / args.set).resolve() == Path(args.data).resolve():
        raise UserError(f"{args.data}: --set {args.set} is the input folder; choose another name")
    made = list(utterances) if args.originals else []
    for copy in range(args.copies):
        prefix = f"aug{copy + 1}-" if args.copies > 1 or args.originals else ""
        made += [make_copy(utt, prefix, copy, augment, args, out / "audio" / args.set) for utt in utterances]
    write_data_dir(out / args.set, made)
    hours = sum(utt.duration_s or 0 for utt in made) / 3600
    say(f"{out / args.set}: {counted(len(made), 'utterance')}, {hours:.2f} h, from {len(utterances)} of {args.data}")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    add_common(parser, config=True, out="folder that holds the data folders, such as data/an4", seed=True)
    parser.add_argument("--set", required=True, metavar="NAME", help="name of the new data folder")
    parser.add_argument(
        "--copies", type=parse_count, default=1, metavar="N", help="copies of each utterance (default: 1)"
    )
    text = "true: include the original utterances (default: false)"
    parser.add_argument("--originals", type=parse_bool, default=False, metavar="BOOL", help=text)
    text = "sample rate of the copies, the one the features need (default: 16000)"
    parser.add_argument("--sample-rate", type=parse_count, default=16000, metavar="HZ", help=text)
    return parser.parse_args()


def make_copy(
    utt: Utterance, prefix: str, epoch: int, augment: WaveAugment, args: argparse.Namespace, folder: Path
) -> Utterance:
    """Write one augmented utterance. Returns: its Utterance."""
    samples = utterance_samples(utt, args.sample_rate).numpy()
    samples = augment_wave(samples, augment, args.seed, epoch, utt.utt_id)
    name = hashlib.sha256(f"{prefix}{utt.utt_id}".encode()).hexdigest()[:24]
    path = folder / f"{name}.flac"
    with atomic_file(path, "wb") as file:
        soundfile.write(file, np.clip(samples, -1, 1), args.sample_rate, subtype="PCM_16", format="FLAC")
    names = {"utt_id": prefix + utt.utt_id, "speaker": prefix + utt.speaker, "audio": str(path.absolute())}
    seconds = len(samples) / args.sample_rate
    return dataclasses.replace(utt, **names, start_s=0.0, end_s=None, speed=1.0, duration_s=round(seconds, 6))


if __name__ == "__main__":
    sys.exit(run_main(main))
