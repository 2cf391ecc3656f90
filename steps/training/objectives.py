"""What the training loop minimises: the head's own loss, alone or mixed with distillation from one or several teachers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import check
from steps.data.dataset import Batch
from steps.losses.distill import frame_kl_sum, hidden_match_sum, mean_teacher, select_frames
from steps.models.asr_model import AsrModel
from steps.models.context import Context
from steps.models.heads.ctc import inner_places
from steps.training.teachers import Teacher


@dataclass
class DistillConfig:
    """How a student is taught.

    kl_weight: share of the frame-wise KL, the rest is CTC, 0..1.  temperature: softens both posteriors, > 0.
    frames: `all`, `spikes` (teacher not blank) or `window` (spikes and `window` frames around them); the mean is over the
    chosen frames of each batch.
    teacher_view: `augmented`, the same features as the student, or `clean`: the teachers label each utterance once, as it is,
    and the labels stay in memory (25 frames a second x vocabulary x 2 bytes): much faster on small corpora.
    intermediate_weight: share of the KL given to the student's middle block, through its own output layer, 0..1; 0: off.
    hidden_weight: added weight of hidden-layer matching, 0: off.  hidden_layers: pairs [student block, teacher block] counted
    from 0 (last: -1); default: the last of each; with several teachers, the first is matched.
    """

    kl_weight: float = 0.5
    temperature: float = 1.0
    frames: str = "all"
    window: int = 2
    teacher_view: str = "augmented"
    intermediate_weight: float = 0.0
    hidden_weight: float = 0.0
    hidden_layers: list[list[int]] | None = None

    def __post_init__(self):
        check(0 <= self.kl_weight <= 1, "kl_weight must be in [0, 1]")
        check(self.temperature > 0, "temperature must be > 0")
        check(self.frames in ("all", "spikes", "window"), "frames must be all, spikes or window")
        check(self.window >= 0, "window must be >= 0")
        check(self.teacher_view in ("augmented", "clean"), "teacher_view must be augmented or clean")
        check(self.teacher_view != "clean" or not self.hidden_weight, "hidden_weight needs teacher_view: augmented")
        check(0 <= self.intermediate_weight < 1, "intermediate_weight must be in [0, 1)")
        check(self.kl_weight or not self.intermediate_weight, "intermediate_weight needs a kl_weight above 0")
        check(self.hidden_weight >= 0, "hidden_weight must be >= 0")
        check(
            self.kl_weight > 0 or self.hidden_weight > 0, "kl_weight and hidden_weight are both 0: nothing is distilled"
        )
        check(
            all(len(pair) == 2 for pair in self.hidden_layers or []), "hidden_layers must be pairs [student, teacher]"
        )


@dataclass(frozen=True)
class Lesson:
    """What the student is taught on a batch.

    target: (N, T', V) mean softened log posteriors.   hidden: states of the first teacher, (N, T', C) for each pair of layers.
    selected: (N, T') bool, the frames that are taught.
    """

    target: torch.Tensor
    hidden: list[torch.Tensor]
    selected: torch.Tensor


class TranscriptObjective(nn.Module):
    """The loss of the model's head against the transcripts.

    Args: settings: the head's section of the training settings, such as CtcConfig.   model: AsrModel.
    Raises: UserError when the settings do not fit the model.
    """

    needs_clean_features = False

    def __init__(self, settings: Any, model: AsrModel):
        super().__init__()
        self.settings = settings
        model.head.check_settings(model, settings)

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
    """The head's loss mixed with frame-wise KL from the teachers' mean posterior and, if configured, hidden-layer matching.

    Args: teachers: accepted by `check_fit`.   settings: the head's section of the training settings, such as CtcConfig.
    Raises: UserError when settings and models do not fit together.
    """

    def __init__(self, config: DistillConfig, student: AsrModel, teachers: list[Teacher], settings: Any):
        super().__init__()
        head = student.head
        if not head.frame_posteriors:
            raise UserError(f"distill: a {head.name} student has no frame-wise posteriors to teach")
        head.check_settings(student, settings)
        if config.kl_weight == 1 and settings != type(settings)():
            raise UserError(
                f"distill.kl_weight: 1 leaves nothing of the {head.name} loss, so the section {head.name}: "
                "has no effect; remove it"
            )
        self.settings = settings
        self.config, self.needs_clean_features = config, config.teacher_view == "clean"
        self.labels: dict[str, torch.Tensor] = {}
        # a tuple, so that they are not saved with this module
        self.teachers = tuple(teachers)
        self.inner = inner_places(student, None, "distill") if config.intermediate_weight else []
        self.pairs = self._layer_pairs(student) if config.hidden_weight else []
        width = student.config.d_model
        self.projections = nn.ModuleList(nn.Linear(width, self.teachers[0].width) for _ in self.pairs)

    def _layer_pairs(self, student: AsrModel) -> list[list[int]]:
        counts = len(student.blocks), self.teachers[0].depth
        pairs = []
        for pair in self.config.hidden_layers or [[-1, -1]]:
            for block, count in zip(pair, counts, strict=True):
                if not -count <= block < count:
                    raise UserError(
                        f"distill: hidden_layers: there is no block {block}; the student has {counts[0]}, the teacher {counts[1]}"
                    )
            # 0 is the front end
            pairs.append([block % count + 1 for block, count in zip(pair, counts, strict=True)])
        return pairs

    def teach(self, feats: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What the teachers say. Returns: (N, T', V) mean softened log posteriors; the first one's hidden states, one per pair."""
        lessons = [teacher.teach(feats, lengths) for teacher in self.teachers]
        target = mean_teacher([taught.log_probs for taught in lessons], self.config.temperature)
        return target, [lessons[0].hidden[place] for _, place in self.pairs]

    def clean_target(self, batch: Batch, frames: int) -> torch.Tensor:
        """What the teachers say about the clean features, computed once per utterance and always for it alone, so that the
        numbers do not depend on its neighbours and a resumed run repeats them. Returns: (N, T', V) float32.
        """
        for index, utt_id in enumerate(batch.utt_ids):
            if utt_id not in self.labels:
                # left out by the loader only when every utterance has its label
                assert batch.clean is not None
                length = batch.lengths[index : index + 1]
                target, _ = self.teach(batch.clean[index : index + 1, : int(length)], length)
                self.labels[utt_id] = target[0].half()
        rows = [self.labels[utt_id].float() for utt_id in batch.utt_ids]
        return torch.stack([nn.functional.pad(row, (0, 0, 0, frames - len(row))) for row in rows])

    @torch.no_grad()
    def lesson(self, model: AsrModel, batch: Batch) -> Lesson:
        """Ask the teachers about a batch. Args: model: the student, for its number of frames."""
        frames = int(model.output_lengths(torch.tensor([batch.feats.shape[1]])))
        is_pad = Context.of(model.output_lengths(batch.lengths), frames).is_pad
        hidden: list[torch.Tensor] = []
        if self.needs_clean_features:
            target = self.clean_target(batch, frames)
        else:
            target, hidden = self.teach(batch.feats, batch.lengths)
        return Lesson(target, hidden, select_frames(target, is_pad, self.config.frames, self.config.window))

    def prepare(self, model: AsrModel, batches: list[Batch]) -> tuple[list[Lesson | None], float]:
        """Look at all batches of an update before training on the first, if the loss needs to know how many of their frames
        will be taught: its mean over these must not depend on how the update is split into batches.

        Returns: a lesson per batch, or None if it can wait until `forward`; the taught frames, weighted (0: all).
        """
        if self.config.frames == "all":
            return [None] * len(batches), 0.0
        lessons = [self.lesson(model, batch) for batch in batches]
        return lessons, sum(b.weight * int(les.selected.sum()) for b, les in zip(batches, lessons, strict=True))

    def kl_sum(
        self, model: AsrModel, hidden: list[torch.Tensor], log_probs: torch.Tensor, lesson: Lesson
    ) -> torch.Tensor:
        """Frame-wise KL of the last output and, with its share, of the middle block's. Returns: scalar, nats."""
        share, temperature = self.config.intermediate_weight, self.config.temperature
        total = (1 - share) * frame_kl_sum(log_probs, lesson.target, lesson.selected, temperature)
        for place in self.inner:
            inner = model.classify(hidden[place])
            total = total + share * frame_kl_sum(inner, lesson.target, lesson.selected, temperature)
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
        # (N, T', V)
        log_probs = model.classify(hidden[-1])
        is_pad = Context.of(lengths, log_probs.shape[1]).is_pad
        lesson = lesson or self.lesson(model, batch)
        if share is None:
            share = float((~is_pad).sum() / lesson.selected.sum().clamp(min=1))
        terms = {}
        if config.kl_weight < 1:
            labelled = model.head.loss_terms(model, hidden, log_probs, lengths, batch, self.settings)
            terms = {name: (1 - config.kl_weight) * value for name, value in labelled.items()}
        if config.kl_weight:
            # the mean is over the frames that are taught
            terms["kl"] = config.kl_weight * share * self.kl_sum(model, hidden, log_probs, lesson)
        for (own, _), projection, taught in zip(self.pairs, self.projections, lesson.hidden, strict=True):
            match = hidden_match_sum(projection(hidden[own]).float(), taught.float(), is_pad)
            terms["hidden"] = terms.get("hidden", 0.0) + config.hidden_weight / len(self.pairs) * match
        return terms


# what a Trainer minimises
Objective = TranscriptObjective | DistillObjective
