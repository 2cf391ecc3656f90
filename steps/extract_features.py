"""Compute the features of one part of a data folder.

    python3 -m steps.extract_features --data data/an4/test --config conf/features.yaml --out data/an4/test/feats \\
        --shard 1 --num-shards 4

Writes feats.1.ark, feats.1.scp, utt2num_frames.1 and settings.1.yaml to --out (shards count from 1). The parts are runs of
utterances of like total length; `python3 -m steps.combine_features` puts them together, if all were made with the same
settings. The folder's feats.scp, if there is one, is removed first, because it would no longer tell the truth. Compressed
features take a quarter of the space and lose a little precision.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import kaldiio.matio
import torch

from steps.core.cli import UserError, add_common, make_parser, parse_bool, run_main, say
from steps.core.config import load_config, save_config
from steps.core.datadir import Utterance, read_data_dir
from steps.core.outdir import atomic_file, write_text
from steps.core.shards import add_shard_options, own_part
from steps.core.sound import sound_info
from steps.core.tables import Problem, counted, raise_problems
from steps.data.archives import PartSettings
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.data.progress import Progress

# files whose rate is looked up
LOOKED_AT = 50
# Kaldi's compression method for speech features: one byte per number, scaled per column
SPEECH_FEATURE = 2


def write_shard(
    utterances: Sequence[Utterance], config: FeatureConfig, out: str | Path, shard: int, compress: bool
) -> int:
    """Write the features of some utterances; if any fail, all of these are reported at the end and no file is left.

    Returns: number of frames.
    """
    ark = Path(out) / f"feats.{shard}.ark"
    places, frames, problems = [], [], []
    progress = Progress(len(utterances), config.frame_shift_ms)
    with atomic_file(ark, "wb") as file:
        for utt in utterances:
            try:
                matrix = utterance_features(utt, config).numpy()
            except UserError as error:
                problems.append(Problem(f"utterance {utt.utt_id}", str(error)))
                continue
            file.write(f"{utt.utt_id} ".encode())
            places.append(f"{utt.utt_id} ./{ark.name}:{file.tell()}\n")
            frames.append(f"{utt.utt_id} {len(matrix)}\n")
            kaldiio.matio.write_array(file, matrix, compression_method=SPEECH_FEATURE if compress else None)
            progress.add(len(matrix))
        out = "`filter: {min_s: 0.1, sets: [train, dev, test]}` in the preparation options, or utils/subset_data_dir.py"
        raise_problems(problems, f"mend these sound files or leave the utterances out: {out}")
    if len(places) != len(utterances):
        raise UserError(f"{ark}: {counted(len(utterances), 'utterance')} went in, {len(places)} came out")
    write_text(ark.with_suffix(".scp"), "".join(places))
    write_text(ark.with_name(f"utt2num_frames.{shard}"), "".join(frames))
    return progress.frames


def tell_rates(utterances: Sequence[Utterance], config: FeatureConfig) -> None:
    """Name the rate of the sound where it is not that of the features, judged by a sample of the files."""
    rates = set()
    for utt in utterances[:: max(1, len(utterances) // LOOKED_AT)]:
        # what cannot be read is reported with its reason when its turn comes
        with contextlib.suppress(UserError):
            rates.add(sound_info(utt.audio, guess=True).rate_hz)
    others = sorted(rates - {config.sample_rate_hz})
    if others:
        shown = f"{' and '.join(map(str, others))} Hz"
        remedy = f"set sample_rate_hz: {others[0]} in features.yaml" if rates == {others[0]} else "mixed rates"
        lost = "; above half that rate there is nothing to hear" if others[0] < config.sample_rate_hz else ""
        say(f"note: sound of {shown} is resampled to the {config.sample_rate_hz} Hz of the features{lost} ({remedy})")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    add_common(parser, config=True, out="folder of the feature files")
    add_shard_options(parser)
    parser.add_argument(
        "--compress", type=parse_bool, default=False, help="true: lossy, one byte per number (default: false)"
    )
    args = parser.parse_args()
    # the parts run side by side
    torch.set_num_threads(1)
    config = load_config(FeatureConfig, args.config)
    utterances = read_data_dir(args.data, need_text=False)
    own = own_part(parser, args, utterances)
    say(
        f"{args.data}: {counted(len(utterances), 'utterance')}, {len(own)} of them in part {args.shard} of {args.num_shards}"
    )
    tell_rates(own, config)
    settings = Path(args.out) / f"settings.{args.shard}.yaml"
    for path in (Path(args.data) / "feats.scp", Path(args.data) / "utt2num_frames", settings):
        path.unlink(missing_ok=True)
    frames = write_shard(own, config, args.out, args.shard, args.compress)
    save_config(settings, PartSettings(config, args.compress))
    ark = Path(args.out) / f"feats.{args.shard}.ark"
    say(f"{counted(len(own), 'utterance')}, {counted(frames, 'frame')}, {ark.stat().st_size / 1e6:.1f} MB: {ark}")


if __name__ == "__main__":
    sys.exit(run_main(main))
