"""Teachers: whatever gives posteriors frame by frame. Distillation and recovery after pruning know only this interface."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.exports import SUMS, is_exported
from steps.core.outdir import sha256_file
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import read_tokens
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.models.asr_model import AsrModel
from steps.models.build import load_model, read_spec

# lengths in feature frames at which two frame rates are compared
LENGTHS = (8, 9, 10, 11, 64, 157, 500)


@dataclass(frozen=True)
class Taught:
    """What a teacher says about a batch.

    log_probs: (N, T', V) normalised.   lengths: (N,) int64, frames of each.
    hidden: outputs of its front end and of each block, (N, T', width) each; empty if it exposes none.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    hidden: list[torch.Tensor]


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
        if not model.head.frame_posteriors:
            raise UserError(f"{folder}: a {model.head.name} model has no frame-wise posteriors and cannot teach")
        features = load_config(FeatureConfig, Path(folder) / "features.yaml")
        return cls(model, features, read_tokens(Path(folder) / "tokens.txt"), str(folder))

    @torch.no_grad()
    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """See Teacher."""
        hidden, out_lengths = self.model.encode(feats, lengths)
        return Taught(self.model.classify(hidden[-1]), out_lengths, hidden)


class ExportTeacher:
    """An exported folder, run by its runtime on the CPU: posteriors only."""

    depth = width = 0

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.name = str(folder)
        recogniser = load_recogniser(folder, num_threads=num_threads)
        if not isinstance(recogniser, CtcRecogniser):
            raise UserError(f"{folder}: its runtime gives no frame-wise posteriors; name its model folder")
        self.recogniser = recogniser
        self.features, self.vocabulary = self.recogniser.features, self.recogniser.tokens
        longest = max(LENGTHS)
        frames = len(self.recogniser.log_probs(np.zeros((longest, self.features.dim), dtype=np.float32)))
        self.frame_shift_ms = self.features.frame_shift_ms * round(longest / frames)

    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> Taught:
        """See Teacher."""
        log_probs, out_lengths = self.recogniser.model.log_probs(feats.cpu().numpy(), lengths.cpu().numpy())
        return Taught(torch.from_numpy(log_probs).to(feats.device), torch.from_numpy(out_lengths).to(feats.device), [])


def open_teacher(folder: str | Path, device: torch.device | str = "cpu", num_threads: int = 1) -> Teacher:
    """Open a model folder or an exported folder as a teacher. Raises: MissingInput, UserError."""
    return ExportTeacher(folder, num_threads) if is_exported(folder) else ModelTeacher.load(folder, device)


def identity(folder: str | Path) -> str:
    """What a training records about a folder it learns from: a hash that changes with its content."""
    return sha256_file(Path(folder) / SUMS) if is_exported(folder) else read_spec(folder)["weights_sha256"]


def check_fit(
    teacher: Teacher, student: AsrModel, vocabulary: list[str], features: FeatureConfig, match_hidden: bool = False
) -> None:
    """Refuse a teacher that cannot teach this student frame by frame.

    Args:   vocabulary: text of each unit of the student.   features: the student's input.
            match_hidden: whether the teacher's hidden states will be matched.
    Raises: UserError that names the remedy.
    """
    name = teacher.name
    if teacher.vocabulary != vocabulary:
        raise UserError(f"{name}/tokens.txt: differs from the student's units; train both with one tokenizer")
    if teacher.features != features:
        raise UserError(f"{name}/features.yaml: differs from the student's --features; use the same for both")
    own_ms = features.frame_shift_ms * student.frontend.stride
    if teacher.frame_shift_ms != own_ms:
        raise UserError(
            f"{name}: emits a frame every {teacher.frame_shift_ms:g} ms, the student every {own_ms:g}; "
            "frame-wise distillation needs equal frame rates"
        )
    feats = torch.zeros(len(LENGTHS), max(LENGTHS), features.dim, device=student.feature_mean.device)
    lengths = torch.tensor(LENGTHS, device=feats.device)
    if teacher.teach(feats, lengths).lengths.tolist() != student.output_lengths(lengths).tolist():
        raise UserError(f"{name}: has other frame counts than the student; frame-wise distillation needs equal ones")
    if match_hidden and not teacher.depth:
        raise UserError(f"{name}: exposes no hidden states; name its model folder, or set distill.hidden_weight to 0")
