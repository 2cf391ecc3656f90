"""A made-up corpus of realistic lengths, for measuring how fast a training runs: nothing in it can be learnt.

    python3 -m tests.gpu.corpus --out /tmp/made-up --utterances 16000 --recordings 1500

Writes train and dev (Kaldi data folders with random features), tokenizer and, with --sound, the WAV files that the same
utterances can be computed from on the fly. Utterances last 2 to 16 s, most of them 10 to 15, as in LibriSpeech; a transcript
has 5.5 of 500 units a second. Recordings are used by several utterances, so that an epoch can be long and the disk small.
"""

import sys
import wave
from pathlib import Path

import kaldiio.matio
import numpy as np

from steps.core.cli import add_common, make_parser, parse_count, run_main, say
from steps.core.config import load_config, save_config
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import write_json
from steps.core.tables import write_table
from steps.data.dataset import count_frames
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
# With the blank and the unknown unit, an output layer of 500.
WORDS = [f"w{number:03d}" for number in range(498)]
UNITS_PER_S = 5.5
LEAST_S, USUAL_S, LONGEST_S = 2.0, 14.0, 16.0
DEV = 24
MEAN, DEVIATION = -6.0, 3.0


def make_corpus(
    out: str | Path,
    utterances: int,
    recordings: int,
    sound: bool = False,
    seed: int = 0,
    longest_s: float = LONGEST_S,
) -> None:
    """Write the corpus.

    Args: utterances: of train.   recordings: how many of them differ.   sound: write WAV files, too.
          longest_s: of the longest utterance; the others are scaled with it.
    """
    out, config = Path(out), load_config(FeatureConfig, ROOT / "conf/features.yaml")
    rng = np.random.default_rng(seed)
    seconds = np.round(rng.triangular(LEAST_S, USUAL_S, LONGEST_S, recordings) * longest_s / LONGEST_S, 2)
    frames = count_frames(seconds, config)
    train_tokenizer([" ".join(WORDS)], "word").save(out / "tokenizer")
    places = write_features(out / "feats.ark", frames, config.dim, rng)
    if sound:
        write_sound(out / "sound", seconds, config.sample_rate_hz, rng)
    for name, count in (("train", utterances), ("dev", DEV)):
        chosen = {f"s{i % 100:02d}-{name}-{i:06d}": i % recordings for i in range(count)}
        write_set(out / name, chosen, seconds, out / "sound", rng)
        write_table(out / name / "feats.scp", {utt_id: places[i] for utt_id, i in chosen.items()})
        write_table(out / name / "utt2num_frames", {utt_id: str(frames[i]) for utt_id, i in chosen.items()})
        save_config(out / name / "feats/features.yaml", config)
    cmvn = {"frames": int(frames.sum()), "mean": [MEAN] * config.dim, "std": [DEVIATION] * config.dim}
    write_json(out / "train/cmvn.json", cmvn)
    total_s = float(seconds.sum()) * utterances / recordings
    say(f"{out}: {utterances} utterances, about {total_s / 3600:.1f} h, made of {recordings} recordings")


def write_features(path: Path, frames: np.ndarray, dim: int, rng: np.random.Generator) -> list[str]:
    """Write random matrices to one archive. Args: frames: of each.  Returns: list of `file:offset`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    places = []
    with open(path, "wb") as file:
        for count in frames:
            file.write(b"r ")
            places.append(f"{path.absolute()}:{file.tell()}")
            matrix = rng.standard_normal((count, dim), dtype=np.float32) * DEVIATION + MEAN
            kaldiio.matio.write_array(file, matrix)
    return places


def write_sound(folder: Path, seconds: np.ndarray, rate_hz: int, rng: np.random.Generator) -> None:
    """Write noise of these lengths as 16-bit WAV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, length_s in enumerate(seconds):
        samples = rng.integers(-3000, 3000, round(length_s * rate_hz), dtype=np.int16)
        with wave.open(sound_path(folder, number), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(samples.astype("<i2").tobytes())


def sound_path(folder: Path, number: int) -> str:
    """Where the WAV file of a recording lies."""
    return str(Path(folder).absolute() / f"{number:05d}.wav")


def write_set(folder: Path, chosen: dict[str, int], seconds: np.ndarray, sound: Path, rng: np.random.Generator) -> None:
    """Write one data folder. Args: chosen: utterance id -> number of its recording.   seconds: of the recordings."""
    utterances = []
    for utt_id, number in chosen.items():
        text = " ".join(rng.choice(WORDS, max(1, int(UNITS_PER_S * seconds[number]))))
        duration_s = float(seconds[number])
        audio = sound_path(sound, number)
        utterances.append(Utterance(utt_id, utt_id.split("-")[0], text, audio, duration_s=duration_s))
    write_data_dir(folder, utterances)


def main():
    parser = make_parser(__doc__)
    add_common(parser, out="folder of the corpus", seed=True)
    parser.add_argument("--utterances", type=parse_count, required=True, metavar="N", help="of train")
    parser.add_argument("--recordings", type=parse_count, required=True, metavar="N", help="how many of them differ")
    parser.add_argument("--sound", action="store_true", help="write WAV files, too")
    parser.add_argument("--longest", type=float, default=LONGEST_S, metavar="S", help="seconds (default: 16)")
    args = parser.parse_args()
    make_corpus(args.out, args.utterances, args.recordings, args.sound, args.seed, args.longest)


if __name__ == "__main__":
    sys.exit(run_main(main))
