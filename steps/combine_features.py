"""Put together the parts that `steps.extract_features` wrote, and measure mean and deviation over all frames.

    python3 -m steps.combine_features --data data/an4/test --feats data/an4/test/feats --num-shards 4 \\
        --cmvn data/an4/test/cmvn.json

Writes feats.scp and utt2num_frames to the data folder, and features.yaml to --feats, after checking that every utterance is
there exactly once and that all parts were made with the same settings. The numbers in --cmvn do not depend on the number
of parts.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from steps.core.cli import MissingInput, UserError, make_parser, run_main, say
from steps.core.config import load_config, save_config
from steps.core.datadir import read_data_dir
from steps.core.outdir import write_json
from steps.core.places import Places
from steps.core.shards import add_shard_options, merge_tables
from steps.core.tables import Problem, byte_order, counted, raise_problems, write_table
from steps.data.archives import PartSettings, load_feature_matrix

REMEDY = "run steps.extract_features again for every part"
# natural log units: a bin that is constant in training must not be blown up when it varies later
STD_FLOOR = 0.1


def merge_shards(feats: Path, num_shards: int, utt_ids: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Merge the tables of all parts.

    Args:    utt_ids: the ids that must be there.
    Returns: (id -> `file:offset`, to be opened; id -> number of frames as text).   Raises: UserError, MissingInput.
    """
    problems: list[Problem] = []
    merged = []
    for stem, end in (("feats", ".scp"), ("utt2num_frames", "")):
        paths = [feats / f"{stem}.{shard}{end}" for shard in range(1, num_shards + 1)]
        merged.append(merge_tables(paths, feats / f"{stem}.*{end}", utt_ids, problems))
    raise_problems(problems, REMEDY)
    (places, frames), opened = merged, Places(feats).opened
    return {utt_id: opened(place) for utt_id, place in places.items()}, frames


def common_settings(feats: Path, num_shards: int) -> PartSettings:
    """What all parts were made with. Raises: MissingInput; UserError naming a part that differs."""
    paths = [feats / f"settings.{shard}.yaml" for shard in range(1, num_shards + 1)]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise MissingInput(f"{missing[0]}: no such file; {REMEDY}")
    settings = [load_config(PartSettings, path) for path in paths]
    for path, own in zip(paths, settings, strict=True):
        if own != settings[0]:
            raise UserError(f"{path}: other settings than {paths[0].name}; {REMEDY}")
    return settings[0]


def global_stats(matrices: Iterable[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """Mean and deviation of each column over the rows of all matrices, in double precision and in the order given.

    Args:    matrices: iterable of (T, D) arrays.
    Returns: (number of rows, mean (D,), std (D,) of at least STD_FLOOR).
    Source:  Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances.
    """
    count, mean, squares = 0, 0.0, 0.0
    for matrix in matrices:
        rows = np.asarray(matrix, dtype=np.float64)
        own_mean = rows.mean(axis=0)
        delta, total = own_mean - mean, count + len(rows)
        squares = squares + ((rows - own_mean) ** 2).sum(axis=0) + delta**2 * (count * len(rows) / total)
        mean = mean + delta * (len(rows) / total)
        count = total
    return count, mean, np.maximum(np.sqrt(squares / count), STD_FLOOR)


def read_matrices(places: Mapping[str, str], frames: Mapping[str, str]) -> Iterator[np.ndarray]:
    """Read all matrices in C-locale order of their ids, checking their numbers of frames."""
    dim = None
    for utt_id in sorted(places, key=byte_order):
        matrix = load_feature_matrix(places[utt_id], utt_id)
        dim = dim or matrix.shape[1]
        if matrix.shape != (int(frames[utt_id]), dim):
            what = f"{utt_id} has shape {matrix.shape}, expected ({frames[utt_id]}, {dim})"
            raise UserError(f"{places[utt_id]}: {what}; extract features again")
        yield matrix


def remove_stale_shards(feats: Path, num_shards: int) -> None:
    """Remove parts beyond the last, left by a run with more of them."""
    known = {f"{shard}" for shard in range(1, num_shards + 1)}
    names = ("feats.*.ark", "feats.*.scp", "utt2num_frames.*", "settings.*.yaml")
    for path in [path for name in names for path in feats.glob(name)]:
        if path.name.split(".")[1].isdigit() and path.name.split(".")[1] not in known:
            path.unlink()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    parser.add_argument("--feats", required=True, metavar="DIR", help="folder of the feature files")
    add_shard_options(parser, both=False)
    parser.add_argument("--cmvn", metavar="JSON", help="write mean and deviation over all frames here")
    args = parser.parse_args()
    data, feats = Path(args.data), Path(args.feats)
    utt_ids = [utt.utt_id for utt in read_data_dir(data, check_audio=False, need_text=False)]
    places, frames = merge_shards(feats, args.num_shards, utt_ids)
    save_config(feats / "features.yaml", common_settings(feats, args.num_shards).features)
    if args.cmvn:
        count, mean, std = global_stats(read_matrices(places, frames))
        write_json(args.cmvn, {"frames": count, "mean": mean.tolist(), "std": std.tolist()})
    write_table(data / "utt2num_frames", frames)
    write_table(data / "feats.scp", places)
    remove_stale_shards(feats, args.num_shards)
    say(f"{counted(len(places), 'utterance')}, {sum(map(int, frames.values()))} frames: {data}/feats.scp")


if __name__ == "__main__":
    sys.exit(run_main(main))
