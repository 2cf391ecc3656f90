"""Store what teachers say about one part of a data folder, so that trainings look it up instead of asking.

    python3 -m steps.label_data --teacher exp/an4/teacher --data data/an4/train_sp --config conf/label.yaml \\
        --out exp/an4/teacher_labels

    python3 -m steps.distill_student --teacher exp/an4/teacher_labels ...

Each utterance is heard alone and clean, at its own speed; a teacher hears its own features, those of the data folder where they
are the same, else computed from the sound. Teachers are those of steps.distill_student, several with commas, each stored apart.
With --num-shards above 1 each part is a run of its own (shards count from 1), and `python3 -m steps.combine_labels` puts them
together. A part that is there, made with the same settings of the same teacher and files, is kept. Format: steps/data/labels.py.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from steps.core.cli import MissingInput, UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, to_dict
from steps.core.datadir import Utterance, read_data_dir
from steps.core.outdir import atomic_file
from steps.core.shards import add_shard_options, own_part
from steps.core.tables import counted
from steps.data.archives import load_feature_matrix, read_feats_scp
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.data.foreign_features import ForeignFeatures, heard_features
from steps.data.label_description import Description, LabelConfig
from steps.data.label_parts import combine, forget_others
from steps.data.labels import FILE, LabelPart, LabelWriter, part_name
from steps.data.progress import Progress
from steps.data.sparse_posteriors import SparsePosteriors
from steps.data.state_codes import spread_order
from steps.training import distributed
from steps.training.teachers import Teacher, dev_wer, identity, open_teacher
from steps.training.teaching import LARGEST_HALF


class Hearing:
    """What a teacher hears of an utterance: stored features where they are its own, else the sound.

    Args: data: data folder.   config: its features.
    """

    def __init__(self, data: str | Path, config: FeatureConfig):
        self.config, self.places = config, {}
        scp, made = Path(data) / "feats.scp", Path(data) / "feats" / "features.yaml"
        if scp.is_file() and made.is_file() and load_config(FeatureConfig, made) == config:
            self.places = read_feats_scp(scp)
        self.source = str(scp) if self.places else "the sound"

    def __call__(self, utt: Utterance) -> torch.Tensor:
        """Features, (T, D) float32. Raises: UserError."""
        if self.places:
            return torch.from_numpy(load_feature_matrix(self._place(utt)).copy())
        if not isinstance(self.config, ForeignFeatures):
            return utterance_features(utt, self.config)
        try:
            return heard_features(utt, self.config)
        except ValueError as error:
            raise UserError(f"{utt.audio}: utterance {utt.utt_id}: {error}") from None

    def _place(self, utt):
        if utt.utt_id not in self.places:
            raise UserError(f"feats.scp: has no {utt.utt_id}; extract features again")
        return self.places[utt.utt_id]

    def inputs(self, utterances: list[Utterance]) -> str:
        """Hash of the utterances and of size and time of the files they are read from."""
        digest = hashlib.sha256()
        stamps: dict[str, str] = {}
        for utt in utterances:
            path = self._place(utt).rpartition(":")[0] if self.places else utt.audio
            if path not in stamps:
                stamps[path] = f"{os.path.basename(path)} {_stamp(path)}"
            digest.update(f"{utt.utt_id} {utt.start_s} {utt.end_s} {utt.speed} {stamps[path]}\n".encode())
        return digest.hexdigest()


def _stamp(path):
    try:
        status = os.stat(path)
    except OSError:
        raise MissingInput(f"{path}: no such file; run the stage that makes it again") from None
    return f"{status.st_size} {status.st_mtime_ns}"


def describe(
    teacher: Teacher, folder: str, settings: LabelConfig, part: int, num_parts: int, inputs: str
) -> Description:
    """What will stand in the file. Args: inputs: from Hearing.  Raises: UserError for layers that are not there."""
    for block in settings.hidden_layers:
        if not -teacher.depth <= block < teacher.depth:
            raise UserError(f"{folder}: hidden_layers: there is no block {block}; it shows {teacher.depth}")
    places = sorted({block % teacher.depth + 1 for block in settings.hidden_layers})
    return Description(
        teacher=Path(folder).resolve().name, identity=identity(folder), features=to_dict(teacher.features),
        vocabulary=teacher.vocabulary, frame_shift_ms=teacher.frame_shift_ms, depth=teacher.depth, width=teacher.width,
        dev_wer=dev_wer(folder), settings=settings, places=places, part=part, num_parts=num_parts, inputs=inputs,
    )  # fmt: skip


def is_there(path: Path, description: Description) -> bool:
    """Whether a part is on disk already, made just so."""
    try:
        return LabelPart(path).description == description
    except UserError:
        return False


def in_turn(utterances: list[Utterance], writer: LabelWriter) -> Iterator[Utterance]:
    """Utterances in order; but while codebooks are to be fitted, such as lie evenly, so that they hear all speakers."""
    heard = set()
    for place in spread_order(len(utterances)):
        if writer.is_fitted:
            break
        heard.add(place)
        yield utterances[place]
    yield from (utt for place, utt in enumerate(utterances) if place not in heard)


def write_part(
    path: Path, description: Description, teacher: Teacher, utterances: list[Utterance],
    hear: Callable[[Utterance], torch.Tensor], device: torch.device,
) -> None:  # fmt: skip
    """Ask a teacher about some utterances, one by one, and write what it says. Raises: UserError naming an utterance."""
    settings, progress = description.settings, Progress(len(utterances), teacher.features.frame_shift_ms)
    short = []
    with atomic_file(path, "wb") as file:
        writer = LabelWriter(file, description)
        for utt in in_turn(utterances, writer):
            feats = hear(utt)
            said = teacher.teach(feats[None].to(device), torch.tensor([len(feats)], device=device))
            frames = int(said.lengths[0])
            log_probs = said.log_probs[0, :frames].float().cpu().numpy()
            if np.isnan(log_probs).any():
                raise UserError(
                    f"{teacher.name}: says nothing sound about {utt.utt_id}; leave it out or take another teacher"
                )
            hidden = [said.hidden[place][0, :frames].float().cpu().numpy() for place in description.places]
            if any(not np.abs(states).max(initial=0) <= LARGEST_HALF for states in hidden):
                what = f"its states are beyond {LARGEST_HALF:g}, half precision's largest"
                raise UserError(f"{teacher.name}: {utt.utt_id}: {what}; take an earlier block in hidden_layers")
            short += [] if frames else [utt.utt_id]
            writer.add(utt.utt_id, SparsePosteriors.of(log_probs, settings.keep, settings.threshold), hidden)
            progress.add(len(feats))
        writer.close()
    if short:
        say(f"{teacher.name}: too short for a frame of it, and so without labels: {len(short)}, {short[0]} among them")
    what = "its states" if writer.is_checked else "the states they were fitted to"
    for place, lost in zip(description.places, writer.lost, strict=bool(writer.lost)):
        say(
            f"block {place - 1}: {settings.hidden_codes} codes a frame; they lose {100 * lost:.1f} % of the variance of {what}"
        )


def main() -> None:
    """Label the part with each teacher, put the parts together where it is the only one."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--teacher", required=True, metavar="DIR[,DIR...]", help="model folders, exported ones, or others' ONNX folders"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    add_common(parser, config=True, out="folder of the labels", device=True)
    add_shard_options(parser)
    args = parser.parse_args()
    settings = load_config(LabelConfig, args.config)
    device = distributed.start(args.device, args.num_threads, False)
    utterances = read_data_dir(args.data, check_audio=False, need_text=False)
    own = own_part(parser, args, utterances)
    say(
        f"{args.data}: {counted(len(utterances), 'utterance')}, {len(own)} of them in part {args.shard} of {args.num_shards}"
    )
    out, folders = Path(args.out), args.teacher.split(",")
    forget_others(out, len(folders), args.shard)
    for number, folder in enumerate(folders, start=1):
        teacher = open_teacher(folder, device, args.num_threads)
        hear = Hearing(args.data, teacher.features)
        description = describe(teacher, folder, settings, args.shard, args.num_shards, hear.inputs(own))
        path = out / part_name(number, args.shard)
        if is_there(path, description):
            say(f"{path}: is there")
            continue
        say(f"{folder}: hears {hear.source}")
        # it would no longer tell the truth
        (out / FILE).unlink(missing_ok=True)
        write_part(path, description, teacher, own, hear, device)
        say(f"{counted(len(own), 'utterance')}, {path.stat().st_size / 1e3:.1f} kB: {path}")
    if args.num_shards == 1:
        say(combine(out, args.data, 1))


if __name__ == "__main__":
    sys.exit(run_main(main))
