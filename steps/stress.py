"""How a model fares in noise: decode and score a test set with noise added at several levels.

    python3 -m steps.stress --model exp/an4/student/export --data data/an4/test --snr-db 20 10 5 0 \\
        --config conf/decode.yaml --out exp/an4/student/decode_test_noise

Pink noise, drawn from --seed and the utterance's id, so that every model hears the same; its level is relative to the
power of the whole utterance. Greedy decoding; errors are counted in the units of the decoding settings. Writes
greedy_LEVELdB.txt for each level, then noise.json.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from steps.core.cli import add_common, make_parser, parse_count, run_main, say
from steps.core.config import load_config
from steps.core.datadir import Utterance, read_data_dir
from steps.core.exports import model_hashes
from steps.core.outdir import write_json
from steps.core.tables import counted, write_table
from steps.core.text_units import in_units
from steps.data.augment import utterance_rng
from steps.data.feature_config import FeatureConfig
from steps.data.features import compute_features, utterance_samples
from steps.data.wave_augment import add_noise, coloured_noise
from steps.deploy.pieces import cut_features, cut_samples
from steps.deploy.recognition import DecodeConfig, decode_all
from steps.deploy.runtimes import load_recogniser
from steps.scoring.wer import RATES, count_utterances, format_wer_line, pool


def main() -> None:
    args = parse_args()
    config, out = load_config(DecodeConfig, args.config), Path(args.out)
    utterances = read_data_dir(args.data)
    files = model_hashes(args.model)
    recogniser = load_recogniser(args.model, num_threads=args.num_threads)
    refs = {utt.utt_id: in_units(utt.text, config.unit, config.fold) for utt in utterances}
    say(
        f"{counted(len(utterances), 'utterance')} of {args.data} with noise at {' '.join(map(str, args.snr_db))} dB, {args.model}"
    )
    levels = []
    for snr_db in args.snr_db:
        hyps, _ = decode_all(
            recogniser, utterances, noisy_features(recogniser.features, snr_db, args.seed, recogniser.hears)
        )
        write_table(out / f"greedy_{snr_db}dB.txt", hyps["greedy"])
        said = {utt_id: in_units(text, config.unit, config.fold) for utt_id, text in hyps["greedy"].items()}
        counts = count_utterances(refs, said)
        levels.append({"snr_db": snr_db, "errors": [count.errors for count in counts]})
        say(f"{snr_db} dB: {format_wer_line(pool(counts), RATES[config.unit])}")
    facts = {"ids": list(refs), "speakers": [utt.speaker for utt in utterances], "seed": args.seed, "noise": "pink"}
    words = [count.reference_length for count in counts]
    facts |= {"words": words, "levels": levels, "files": files, "fold": config.fold}
    write_json(out / "noise.json", {"set": Path(args.data).name, **facts})


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="exported folder or model folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with audio and transcripts")
    text = "signal-to-noise ratios (default: 20 10 5 0)"
    parser.add_argument("--snr-db", type=int, nargs="+", default=[20, 10, 5, 0], metavar="DB", help=text)
    parser.add_argument("--num-threads", type=parse_count, default=1, metavar="N", help="CPU threads (default: 1)")
    add_common(parser, config=True, out="folder of the hypotheses", seed=True)
    args = parser.parse_args()
    if len(set(args.snr_db)) != len(args.snr_db):
        parser.error("--snr-db lists a level twice")
    return args


def noisy_features(
    config: FeatureConfig, snr_db: int, seed: int, hears: str = "features"
) -> Callable[[Utterance], list[np.ndarray]]:
    """A function from an utterance to pieces of its audio with noise: (T, D) float32 features, or (S,) samples for recognisers
    that hear audio. None where it fills no frame, as for steps.decode."""

    def features(utt):
        samples = utterance_samples(utt, config.sample_rate_hz).numpy()
        if len(samples) < config.frame_samples:
            return []
        noise = coloured_noise(len(samples), 1, utterance_rng(seed, 0, utt.utt_id))
        noisy = add_noise(samples, noise, snr_db).astype(np.float32)
        if hears == "audio":
            return cut_samples(noisy, config.sample_rate_hz)
        return cut_features(compute_features(torch.from_numpy(noisy), config).numpy(), config)

    return features


if __name__ == "__main__":
    sys.exit(run_main(main))
