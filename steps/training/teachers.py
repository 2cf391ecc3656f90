"""Teachers: whatever gives posteriors frame by frame. Distillation and recovery after pruning know only this interface."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.exports import SUMS, is_exported, model_hashes
from steps.core.limits import read_limited
from steps.core.outdir import sha256_file
from steps.data.feature_config import FRAME_SHIFT_MS, FeatureConfig, differing
from steps.data.labels import is_stored
from steps.data.tokenizer import read_tokens
from steps.deploy.foreign import ForeignCtc
from steps.deploy.runtimes import frame_recogniser
from steps.deploy.runtimes.base import SHORTEST
from steps.deploy.screen import is_foreign
from steps.models.asr_model import AsrModel
from steps.models.build import load_model, read_spec
from steps.models.heads.transducer import TransducerHead
from steps.training.stored import StoredTeacher, open_stored, stored_identity
from steps.training.teaching import Taught

if TYPE_CHECKING:
    from steps.data.batches import Batch

# lengths in feature frames at which two frame rates are compared
LENGTHS = (8, 9, 10, 11, 64, 157, 500)
# of run.json, in bytes
LARGEST_RECORD = 1 << 20
# percent; a teacher without errors on a small dev set is not right for ever
LEAST_WER = 0.5


class Teacher(Protocol):
    """The interface of a teacher.

    name: folder, for messages.   features: its input.   vocabulary: text of each unit, the blank first.
    frame_shift_ms: from one output frame to the next.   depth, width: number and width of the blocks it exposes; 0: none.
    """

    name: str
    features: FeatureConfig
    vocabulary: list[str]
    frame_shift_ms: float
    depth: int
    width: int

    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """Run a padded batch. Args: feats (N, T, D) float32 on the student's device; lengths (N,) int64."""


class ModelTeacher:
    """A model in torch, frozen."""

    def __init__(self, model: AsrModel, features: FeatureConfig, vocabulary: list[str], name: str = "the teacher"):
        self.model = model.requires_grad_(False).eval()
        self.features, self.vocabulary, self.name = features, vocabulary, name
        self.frame_shift_ms = features.frame_shift_ms * model.frontend.stride
        self.depth, self.width = len(model.blocks), model.config.d_model

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "ModelTeacher":
        """Open a model folder. Raises: MissingInput, UserError."""
        model = load_model(folder, device)
        if not model.head.has_posteriors(model):
            raise UserError(f"{folder}: this {model.head.name} model has no frame-wise posteriors and cannot teach")
        features = load_config(FeatureConfig, Path(folder) / "features.yaml")
        return cls(model, features, read_tokens(Path(folder) / "tokens.txt"), str(folder))

    @torch.no_grad()
    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """See Teacher. What is shorter than its front end takes is filled up, and has no frames."""
        feats = torch.nn.functional.pad(feats, (0, 0, 0, max(0, SHORTEST - feats.shape[1])))
        hidden, out_lengths = self.model.encode(feats, lengths)
        return Taught(self.model.head.posteriors(self.model, hidden[-1]), out_lengths, hidden)

    @torch.no_grad()
    def collapsed(self, taught: Taught, batch: "Batch") -> torch.Tensor:
        """The lattice of a transducer, collapsed. Args: taught: what `teach` said.  Returns: (N, T', U + 1, 3)."""
        outputs = self.model.classify(taught.hidden[-1])
        return cast(TransducerHead, self.model.head).collapsed(self.model, outputs, batch)


class ExportTeacher:
    """An exported folder, run by its runtime on the CPU: posteriors only."""

    depth = width = 0

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.name = str(folder)
        self.recogniser = frame_recogniser(folder, num_threads)
        self.features, self.vocabulary = self.recogniser.features, self.recogniser.tokens
        longest = max(LENGTHS)
        frames = len(self.recogniser.log_probs(np.zeros((longest, self.features.dim), dtype=np.float32)))
        self.frame_shift_ms = self.features.frame_shift_ms * round(longest / frames)

    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """See Teacher."""
        log_probs, out_lengths = self.recogniser.model.log_probs(feats.cpu().numpy(), lengths.cpu().numpy())
        return Taught(torch.from_numpy(log_probs).to(feats.device), torch.from_numpy(out_lengths).to(feats.device), [])


class ForeignTeacher:
    """A CTC model that others exported, run by onnxruntime on the CPU: posteriors only."""

    depth = width = 0

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.name, self.model = str(folder), ForeignCtc(folder, num_threads)
        self.features, self.vocabulary = self.model.features, self.model.vocabulary
        self.frame_shift_ms = self.features.frame_shift_ms * self.model.stride

    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """See Teacher."""
        rows = []
        for row, length in zip(feats.cpu().numpy(), lengths.tolist(), strict=True):
            rows.append(torch.from_numpy(self.model.log_probs(row[:length])))
        said = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(feats.device)
        return Taught(said, torch.tensor([len(row) for row in rows], device=feats.device), [])


def open_teacher(folder: str | Path, device: torch.device | str = "cpu", num_threads: int = 1) -> Teacher:
    """Open a model folder, an exported folder, or one with others' ONNX file as a teacher. Raises: MissingInput, UserError."""
    if not is_exported(folder):
        return ModelTeacher.load(folder, device)
    return ForeignTeacher(folder, num_threads) if is_foreign(folder) else ExportTeacher(folder, num_threads)


def open_teachers(
    folders: Sequence[str | Path], device: torch.device | str = "cpu", num_threads: int = 1
) -> list[Teacher | StoredTeacher]:
    """Open teachers; a folder of stored labels may hold several. Raises: MissingInput, UserError."""
    teachers: list[Teacher | StoredTeacher] = []
    for folder in folders:
        teachers += open_stored(folder) if is_stored(folder) else [open_teacher(folder, device, num_threads)]
    return teachers


def identity(folder: str | Path) -> str:
    """What a training records about a folder it learns from: a hash that changes with its content."""
    if is_stored(folder):
        return stored_identity(folder)
    if not is_exported(folder):
        return read_spec(folder)["weights_sha256"]
    if (Path(folder) / SUMS).is_file():
        return sha256_file(Path(folder) / SUMS)
    return hashlib.sha256(json.dumps(model_hashes(folder)).encode()).hexdigest()


def dev_wer(folder: str | Path) -> float | None:
    """Word error rate on dev in percent that a training recorded beside its model; None where there is none."""
    try:
        value = json.loads(read_limited(Path(folder) / "run.json", LARGEST_RECORD, "run record"))["dev_wer"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return float(value) if isinstance(value, (int, float)) and 0 <= value < float("inf") else None


def weigh(teachers: Sequence[Teacher | StoredTeacher], weighting: str) -> list[float]:
    """Weights of teachers, sum 1: all equal, or by 1 / word error rate on dev (at least half a percent).

    Raises: UserError naming a teacher whose error rate is not known.
    """
    if weighting == "equal":
        return [1 / len(teachers)] * len(teachers)
    rates = []
    for teacher in teachers:
        rate = teacher.dev_wer if isinstance(teacher, StoredTeacher) else dev_wer(teacher.name)
        if rate is None:
            raise UserError(f"{teacher.name}: no dev_wer in a run.json here; set distill.weighting to equal")
        rates.append(1 / max(rate, LEAST_WER))
    return [rate / sum(rates) for rate in rates]


def frame_ratio(teacher: Teacher | StoredTeacher, student: AsrModel) -> float | None:
    """Length of a student's frame / a teacher's; None where both have the same frames and nothing is to be moved."""
    own_ms = FRAME_SHIFT_MS * student.frontend.stride
    ratio = own_ms / teacher.frame_shift_ms
    if isinstance(teacher, StoredTeacher) or ratio != 1 or teacher.features.dim != student.feature_mean.numel():
        return ratio
    feats = torch.zeros(len(LENGTHS), max(LENGTHS), teacher.features.dim, device=student.feature_mean.device)
    lengths = torch.tensor(LENGTHS, device=feats.device)
    same = teacher.teach(feats, lengths).lengths.tolist() == student.output_lengths(lengths).tolist()
    return None if same else ratio


def check_fit(
    teacher: Teacher | StoredTeacher,
    vocabulary: list[str],
    features: FeatureConfig,
    match_units: bool = True,
    match_hidden: bool = False,
) -> None:
    """Refuse a teacher that cannot teach this student.

    Args:   vocabulary: text of each unit of the student.   features: the student's input.
            match_units: whether its posteriors will be.   match_hidden: whether its hidden states will be.
    Raises: UserError that names the remedy.
    """
    name = teacher.name
    if match_units and teacher.vocabulary != vocabulary:
        source = f"the folder of {teacher.labels.description.teacher}" if isinstance(teacher, StoredTeacher) else name
        raise UserError(
            f"{name}: its units differ from the student's; take them over (steps.train_tokenizer --from {source}), or teach by "
            "its text: train on what it hears (steps.transcribe_data)"
        )
    if not isinstance(teacher, StoredTeacher) and teacher.features != features:
        pairs = differing(teacher.features, features)
        differ = ", ".join(f"{key} {theirs}, not {own}" for key, (theirs, own) in pairs.items())
        raise UserError(
            f"{name}: hears other features than --features ({differ}); store what it says "
            f"(steps.label_data --teacher {name}) and name that folder"
        )
    if match_hidden and not teacher.depth:
        what = "label again with hidden_layers" if isinstance(teacher, StoredTeacher) else "name its model folder"
        raise UserError(f"{name}: exposes no hidden states; {what}, or set distill.hidden_weight to 0")


def check_lattices(student: AsrModel, teacher: Teacher | StoredTeacher, ratio: float | None) -> None:
    """Refuse lattice distillation between models without lattices of the same frames. Raises: UserError."""
    if not isinstance(student.head, TransducerHead):
        raise UserError(f"distill: lattice_weight: a {student.head.name} student has no lattice; set it to 0")
    if not isinstance(teacher, ModelTeacher) or not isinstance(teacher.model.head, TransducerHead):
        raise UserError(f"{teacher.name}: not the model folder of a transducer; set distill.lattice_weight to 0")
    if ratio is not None:
        raise UserError(f"{teacher.name}: has other frames than the student; set distill.lattice_weight to 0")
