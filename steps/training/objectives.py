"""What the training loop minimises: the head's own loss, alone or mixed with distillation from one or several teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steps.core.cli import UserError
from steps.data.batches import Batch
from steps.data.dataset import SpeechDataset
from steps.losses.distill import frame_kl_sum, hidden_match_sum, select_frames, soften, stretch
from steps.losses.late import lay_late
from steps.losses.transducer import lattice_kl_sum
from steps.models.asr_model import AsrModel
from steps.models.context import padding_mask
from steps.models.heads.ctc import inner_places
from steps.training.distill_config import DistillConfig
from steps.training.stored import StoredTeacher
from steps.training.teachers import Teacher, check_lattices, frame_ratio
from steps.training.teaching import CleanLabels, Taught, follow, memory_line, on_frames, padded


@dataclass(frozen=True)
class Lesson:
    """What the student is taught on a batch.

    targets: softened log posteriors of each teacher, (N, T', V).   selected: of each, (N, T') bool, the frames that it teaches.
    hidden: states of the first teacher, (N, T', C) for each pair of layers.   collapsed: its lattice, (N, T', U + 1, 3).
    """

    targets: list[torch.Tensor]
    selected: list[torch.Tensor]
    hidden: list[torch.Tensor]
    collapsed: torch.Tensor | None = None


class TranscriptObjective(nn.Module):
    """The loss of the model's head against the transcripts.

    Args: settings: the head's section of the training settings, such as CtcConfig.   model: AsrModel.
    Raises: UserError when the settings do not fit the model.
    """

    def __init__(self, settings: Any, model: AsrModel):
        super().__init__()
        self.settings = settings
        model.head.check_settings(model, settings)

    def wants_clean(self, count: int) -> bool:
        """See DistillObjective."""
        return False

    def check_data(self, data: SpeechDataset) -> list[str]:
        """See DistillObjective."""
        return []

    def prepare(self, model: AsrModel, batches: list[Batch]) -> tuple[list[Lesson | None], float]:
        """See DistillObjective."""
        return [None] * len(batches), 0.0

    def forward(
        self, model: AsrModel, batch: Batch, lesson: Lesson | None = None, share: float | None = None
    ) -> dict[str, torch.Tensor]:
        """Terms of the criterion, summed over frames. Args: lesson, share: unused here.  Returns: scalars, nats."""
        hidden, lengths = model.encode(batch.feats, batch.lengths)
        outputs = model.classify(hidden[-1])
        return model.head.loss_terms(model, hidden, outputs, lengths, batch, self.settings)


class DistillObjective(nn.Module):
    """The head's loss mixed with frame-wise KL from each teacher and, if configured, hidden-layer matching.

    The KL from several teachers is the weighted sum of the KL from each. Its gradient is that from their mean posterior, so
    what matters is that they speak of the same frames: the peaks of all but the first are laid on the first one's.

    Args: teachers: accepted by `check_fit`.   settings: the head's section of the training settings, such as CtcConfig.
          weights: of those that teach frames, above 0, sum 1; None: equal.
    Raises: UserError when settings and models do not fit together.
    """

    def __init__(
        self, config: DistillConfig, student: AsrModel, teachers: Sequence[Teacher | StoredTeacher], settings: Any,
        weights: list[float] | None = None,
    ):  # fmt: skip
        super().__init__()
        head = student.head
        if config.kl_weight and not head.has_posteriors(student):
            raise UserError(
                f"distill: this {head.name} student has no frame-wise posteriors to teach; set kl_weight to 0"
            )
        if config.kl_weight == 1 and not head.frame_wise:
            raise UserError(
                f"distill.kl_weight: 1, but parts of a {head.name} model learn from transcripts alone; lower it"
            )
        head.check_settings(student, settings)
        if config.kl_weight == 1 and settings != type(settings)():
            raise UserError(
                f"distill.kl_weight: 1 leaves nothing of the {head.name} loss, so the section {head.name}: "
                "has no effect; remove it"
            )
        self.settings, self.config = settings, config
        # a tuple, so that they are not saved with this module
        self.teachers = tuple(teachers)
        # the teacher whose states are matched, and those whose posteriors teach
        self.matched = self.teachers[-1 if config.hidden_only else 0]
        speakers = len(teachers) - config.hidden_only
        self.weights = weights or [1 / speakers] * speakers
        self.inner = inner_places(student, None, "distill") if config.intermediate_weight else []
        self.pairs = self._layer_pairs(student) if config.hidden_weight else []
        self.ratios = [frame_ratio(teacher, student) for teacher in teachers]
        if config.lattice_weight:
            check_lattices(student, self.teachers[0], self.ratios[0])
        places = [place for _, place in self.pairs]
        # of each teacher, where it labels clean speech as it goes
        self.clean = [
            CleanLabels(teacher.teach, places if teacher is self.matched else [])
            if config.teacher_view == "clean" and not isinstance(teacher, StoredTeacher)
            else None
            for teacher in teachers
        ]
        width = student.config.d_model
        self.projections = nn.ModuleList(nn.Linear(width, self.matched.width) for _ in self.pairs)

    def _layer_pairs(self, student: AsrModel) -> list[list[int]]:
        first = self.matched
        counts = len(student.blocks), first.depth
        pairs = []
        for pair in self.config.hidden_layers or [[-1, -1]]:
            for block, count in zip(pair, counts, strict=True):
                if not -count <= block < count:
                    raise UserError(
                        f"distill: hidden_layers: there is no block {block}; the student has {counts[0]}, the teacher {counts[1]}"
                    )
            # 0 is the front end
            pairs.append([block % count + 1 for block, count in zip(pair, counts, strict=True)])
        for _, place in pairs:
            if isinstance(first, StoredTeacher) and place not in first.places:
                raise UserError(
                    f"{first.name}: holds no states of block {place - 1}; store them (steps.label_data, hidden_layers)"
                )
        return pairs

    def wants_clean(self, count: int) -> bool:
        """Whether batches must hold clean features: not once the teachers have labelled all `count` utterances."""
        return any(labels is not None and len(labels.kept) < count for labels in self.clean)

    def check_data(self, data: SpeechDataset) -> list[str]:
        """Refuse training data that stored labels are not of, or whose labels need too much memory.

        Returns: lines to say.   Raises: UserError.
        """
        lines = []
        size = 0.0
        for teacher, labels in zip(self.teachers, self.clean, strict=True):
            if isinstance(teacher, StoredTeacher):
                lines.append(teacher.check_data(data))
            elif labels is not None:
                frames_an_hour = 3.6e6 / teacher.frame_shift_ms
                size += 2 * data.hours * frames_an_hour * (len(teacher.vocabulary) + len(labels.places) * teacher.width)
        return [*lines, memory_line(size)] if size else lines

    def teach(self, number: int, batch: Batch) -> Taught:
        """What one teacher says about a batch, at its own frames."""
        teacher, labels = self.teachers[number], self.clean[number]
        if isinstance(teacher, StoredTeacher):
            return teacher.look_up(batch.utt_ids, batch.feats.device)
        return labels.taught(batch) if labels is not None else teacher.teach(batch.feats, batch.lengths)

    def lay(self, said: list[Taught], lengths: torch.Tensor, frames: int) -> list[Taught]:
        """Lay what the teachers say on the student's frames. Args: lengths (N,) int64, frames of the student."""
        laid: list[Taught] = []
        for taught, ratio in zip(said, self.ratios, strict=False):
            if laid:
                taught_frames = torch.where(taught.lengths > 0, laid[0].lengths, 0)
                laid.append(Taught(follow(taught, laid[0]), taught_frames, []))
            elif ratio is None:
                laid.append(Taught(padded(taught.log_probs, frames), taught.lengths, taught.hidden))
            else:
                laid.append(on_frames(taught, lengths, frames, ratio))
        return laid

    @torch.no_grad()
    def lesson(self, model: AsrModel, batch: Batch) -> Lesson:
        """Ask the teachers about a batch. Args: model: the student, for its number of frames."""
        config = self.config
        frames = int(model.output_lengths(torch.tensor([batch.feats.shape[1]])))
        lengths = model.output_lengths(batch.lengths)
        said = [self.teach(number, batch) for number in range(len(self.teachers))]
        place = -1 if config.hidden_only else 0
        hidden = [said[place].hidden[block] for _, block in self.pairs]
        if config.hidden_norm:
            hidden = [nn.functional.layer_norm(states, states.shape[-1:]) for states in hidden]
        if self.ratios[place] is None:
            hidden = [padded(states, frames) for states in hidden]
        else:
            hidden = [stretch(states, said[place].lengths, lengths, frames) for states in hidden]
        targets, selected = [], []
        # nobody's units need to be the student's where only states are matched
        for taught in self.lay(said[: len(self.weights)], lengths, frames) if config.kl_weight else []:
            targets.append(soften(taught.log_probs, config.temperature))
            is_pad = padding_mask(torch.minimum(lengths, taught.lengths), frames)
            selected.append(select_frames(targets[-1], is_pad, config.frames, config.window))
        collapsed = self.teachers[0].collapsed(said[0], batch) if config.lattice_weight else None  # type: ignore[union-attr]
        return Lesson(targets, selected, hidden, collapsed)

    def taught_frames(self, lesson: Lesson) -> torch.Tensor:
        """Frames that are taught, those of each teacher with its weight. Returns: scalar."""
        counts = [weight * chosen.sum() for weight, chosen in zip(self.weights, lesson.selected, strict=False)]
        return torch.stack(counts).sum() if counts else torch.tensor(0.0)

    def prepare(self, model: AsrModel, batches: list[Batch]) -> tuple[list[Lesson | None], float]:
        """Look at all batches of an update before training on the first, if the loss needs to know how many of their frames
        will be taught: its mean over these must not depend on how the update is split into batches.

        Returns: a lesson per batch, or None if it can wait until `forward`; the taught frames, weighted (0: all).
        """
        if self.config.frames == "all":
            return [None] * len(batches), 0.0
        lessons = [self.lesson(model, batch) for batch in batches]
        return lessons, sum(b.weight * float(self.taught_frames(les)) for b, les in zip(batches, lessons, strict=True))

    def kl_sum(
        self, model: AsrModel, hidden: list[torch.Tensor], log_probs: torch.Tensor, lesson: Lesson
    ) -> torch.Tensor:
        """Frame-wise KL of the last output and, with its share, of the middle block's, from each teacher with its weight.

        Returns: scalar, nats.
        """
        share, temperature, late = self.config.intermediate_weight, self.config.temperature, self.config.late
        inner = [(share, model.head.posteriors(model, hidden[place])) for place in self.inner]
        outputs = [(1 - share, log_probs), *inner]
        total = log_probs.new_zeros(())
        for weight, target, selected in zip(self.weights, lesson.targets, lesson.selected, strict=True):
            for part, output in outputs:
                said = target
                if late:
                    said = lay_late(soften(output, temperature), target, selected.sum(dim=1), late)
                total = total + weight * part * frame_kl_sum(output, said, selected, temperature)
        return total

    def forward(
        self, model: AsrModel, batch: Batch, lesson: Lesson | None = None, share: float | None = None
    ) -> dict[str, torch.Tensor]:
        """Weighted terms of the criterion, summed over frames.

        Args:    lesson: from `prepare`.   share: all frames of the update / those taught; default: the same of this batch.
        Returns: scalars, nats.
        """
        config = self.config
        hidden, lengths = model.encode(batch.feats, batch.lengths)
        # (N, T', ...)
        outputs = model.classify(hidden[-1])
        is_pad = padding_mask(lengths, outputs.shape[1])
        lesson = lesson or self.lesson(model, batch)
        if share is None:
            share = float((~is_pad).sum() / self.taught_frames(lesson).clamp(min=1))
        terms = {}
        if config.kl_weight < 1:
            labelled = model.head.loss_terms(model, hidden, outputs, lengths, batch, self.settings)
            terms = {name: (1 - config.kl_weight) * value for name, value in labelled.items()}
        if config.kl_weight:
            log_probs = outputs if model.head.frame_wise else model.head.posteriors(model, hidden[-1])
            # the mean is over the frames that are taught
            terms["kl"] = config.kl_weight * share * self.kl_sum(model, hidden, log_probs, lesson)
        for (own, _), projection, taught in zip(self.pairs, self.projections, lesson.hidden, strict=True):
            match = hidden_match_sum(projection(hidden[own]).float(), taught.float(), is_pad)
            terms["hidden"] = terms.get("hidden", 0.0) + config.hidden_weight / len(self.pairs) * match
        if lesson.collapsed is not None:
            own = model.head.collapsed(model, outputs, batch)  # type: ignore[attr-defined]
            matched = lattice_kl_sum(own, lesson.collapsed, lengths, batch.token_lengths)
            terms["lattice"] = config.lattice_weight * matched
        return terms


# what a Trainer minimises
Objective = TranscriptObjective | DistillObjective
