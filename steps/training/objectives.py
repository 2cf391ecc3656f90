"""What the training loop minimises: CTC alone, or mixed with distillation from one or several teachers."""

from dataclasses import dataclass

import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import check
from steps.losses.ctc import ctc_loss_sum
from steps.losses.distill import frame_kl_sum, hidden_match_sum, mean_teacher, select_frames


@dataclass
class DistillConfig:
    """How a student is taught.

    kl_weight: share of the frame-wise KL, the rest is CTC, 0..1.  temperature: softens both posteriors, > 0.
    frames: `all`, `spikes` (teacher not blank) or `window` (spikes and `window` frames around them); the mean is over the
    chosen frames of each batch.
    teacher_view: `augmented`, the very features of the student, or `clean`: the teachers label each utterance once, as it is,
    and the labels stay in memory (25 frames a second x vocabulary x 2 bytes): much faster on small corpora.
    intermediate_weight: share of the KL that the student's middle block gets, through its own output layer, 0..1; 0: off.
    hidden_weight: added weight of hidden-layer matching, 0: off.  hidden_layers: pairs [student block, teacher block] counted
    from 0 (last: -1); default: the last of each; of several teachers the first is matched.
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


@dataclass
class CtcConfig:
    """What is added to plain CTC, in training alone.

    intermediate_weight: share of the loss that CTC on earlier blocks gets, through the model's own output layer, 0..1; 0: off.
    intermediate_blocks: which, counted from 0; default: the middle one.
    """

    intermediate_weight: float = 0.0
    intermediate_blocks: list[int] | None = None

    def __post_init__(self):
        check(0 <= self.intermediate_weight < 1, "intermediate_weight must be in [0, 1)")
        blocks = self.intermediate_blocks
        check(blocks is None or blocks, "intermediate_blocks is empty; leave it out for the middle one")
        check(blocks is None or self.intermediate_weight, "intermediate_blocks needs an intermediate_weight above 0")


def inner_places(model, blocks, section):
    """Where `CtcModel.encode` returns the outputs of earlier blocks.

    Args: blocks: counted from 0, or None for the middle one.   section: of the settings, for the message.
    Raises: UserError when the model has no such block.
    """
    count = len(model.blocks)
    places = [block + 1 for block in blocks or [(count - 1) // 2]]
    if not all(1 <= place < count for place in places):
        raise UserError(
            f"{section}: intermediate blocks must lie before the last, and the model has {count}; set intermediate_weight to 0"
        )
    return places


class CtcObjective(nn.Module):
    """CTC, with intermediate CTC where asked for.

    Args: config: CtcConfig; default: CTC alone.   model: CtcModel; needed for intermediate CTC.
    Raises: UserError when the model has no such block.
    """

    wants_clean = False

    def __init__(self, config=None, model=None):
        super().__init__()
        self.config = config = config or CtcConfig()
        self.inner = inner_places(model, config.intermediate_blocks, "ctc") if config.intermediate_weight else []

    def forward(self, model, batch):
        """Weighted terms of the criterion, summed over frames. Returns: dict of scalars, nats."""
        hidden, lengths = model.encode(model.normalise(batch.feats, batch.lengths), batch.lengths)
        return self.terms(model, hidden, model.classify(hidden[-1]), lengths, batch)

    def terms(self, model, hidden, log_probs, lengths, batch):
        """The same for what the model made of the batch. Args: hidden, lengths: of CtcModel.encode; log_probs (N, T', V).

        Source: Lee & Watanabe 2021 (arXiv:2102.03216), section 3, for intermediate CTC.
        """
        config, target = self.config, (batch.tokens, batch.token_lengths)
        terms = {"ctc": (1 - config.intermediate_weight) * ctc_loss_sum(log_probs, lengths, *target)}
        for place in self.inner:
            share = config.intermediate_weight / len(self.inner)
            inner = ctc_loss_sum(model.classify(hidden[place]), lengths, *target)
            terms["inner"] = terms.get("inner", 0.0) + share * inner
        return terms


class DistillObjective(nn.Module):
    """CTC mixed with frame-wise KL from the teachers' mean posterior and, if asked, hidden-layer matching.

    Args: config: DistillConfig.   student, teachers: CtcModel and a list of them, same frame rate and vocabulary; the
          teachers are in eval mode.   ctc: CtcConfig.
    Raises: UserError when they do not fit together.
    """

    def __init__(self, config, student, teachers, ctc=None):
        super().__init__()
        self.ctc = CtcObjective(ctc, student)
        if self.ctc.inner and config.kl_weight == 1:
            raise UserError(
                "distill.kl_weight: 1 leaves no CTC, so ctc.intermediate_weight would do nothing; set it to 0"
            )
        for teacher in teachers:
            if teacher.spec["vocab_size"] != student.spec["vocab_size"]:
                raise UserError("teacher and student have different vocabularies; train both with one tokenizer")
            if teacher.spec["feature_dim"] != student.spec["feature_dim"]:
                raise UserError("teacher and student take different features; use one features.yaml for both")
            frames = torch.arange(1, 200)
            if not torch.equal(teacher.output_lengths(frames), student.output_lengths(frames)):
                raise UserError(
                    "teacher and student have different frame rates; frame-wise distillation needs equal ones"
                )
        self.config, self.wants_clean, self.labels = config, config.teacher_view == "clean", {}
        self.teachers = tuple(
            teacher.requires_grad_(False).eval() for teacher in teachers
        )  # a tuple: not saved with us
        self.inner = inner_places(student, None, "distill") if config.intermediate_weight else []
        self.pairs = self._layer_pairs(student) if config.hidden_weight else []
        width = student.config.d_model
        self.projections = nn.ModuleList(nn.Linear(width, self.teachers[0].config.d_model) for _ in self.pairs)

    def _layer_pairs(self, student):
        counts = len(student.blocks), len(self.teachers[0].blocks)
        pairs = []
        for pair in self.config.hidden_layers or [[-1, -1]]:
            for block, count in zip(pair, counts, strict=True):
                if not -count <= block < count:
                    raise UserError(
                        f"distill: hidden_layers: there is no block {block}; the student has {counts[0]}, the teacher {counts[1]}"
                    )
            pairs.append([block % count + 1 for block, count in zip(pair, counts, strict=True)])  # 0 is the front end
        return pairs

    def teach(self, feats, lengths):
        """What the teachers say. Returns: (N, T', V) mean softened log posteriors, hidden states of the first teacher."""
        states = [teacher.encode(teacher.normalise(feats, lengths), lengths)[0] for teacher in self.teachers]
        posteriors = [teacher.classify(hidden[-1]) for teacher, hidden in zip(self.teachers, states, strict=True)]
        return mean_teacher(posteriors, self.config.temperature), states[0]

    def clean_target(self, batch, frames):
        """What the teachers say about the clean features, asked once per utterance and always about it alone, so that the
        numbers do not depend on its neighbours and a resumed run repeats them. Returns: (N, T', V) float32, None.
        """
        for index, utt_id in enumerate(batch.utt_ids):
            if utt_id not in self.labels:
                length = batch.lengths[index : index + 1]
                target, _ = self.teach(batch.clean[index : index + 1, : int(length)], length)
                self.labels[utt_id] = target[0].half()
        rows = [self.labels[utt_id].float() for utt_id in batch.utt_ids]
        return torch.stack([nn.functional.pad(row, (0, 0, 0, frames - len(row))) for row in rows]), None

    def kl_sum(self, model, hidden, log_probs, target, selected):
        """Frame-wise KL of the last output and, with its share, of the middle block's. Returns: scalar, nats."""
        share, temperature = self.config.intermediate_weight, self.config.temperature
        total = (1 - share) * frame_kl_sum(log_probs, target, selected, temperature)
        for place in self.inner:
            total = total + share * frame_kl_sum(model.classify(hidden[place]), target, selected, temperature)
        return total

    def forward(self, model, batch):
        """Weighted terms of the criterion, summed over frames. Returns: dict of scalars, nats."""
        config = self.config
        hidden, lengths = model.encode(model.normalise(batch.feats, batch.lengths), batch.lengths)
        log_probs = model.classify(hidden[-1])  # (N, T', V)
        time = torch.arange(log_probs.shape[1], device=log_probs.device)
        is_pad = time.unsqueeze(0) >= lengths.unsqueeze(1)  # (N, T')
        with torch.no_grad():
            target, taught = (
                self.clean_target(batch, is_pad.shape[1])
                if self.wants_clean
                else self.teach(batch.feats, batch.lengths)
            )
            selected = select_frames(target, is_pad, config.frames, config.window)
        terms = {}
        if config.kl_weight < 1:
            labelled = self.ctc.terms(model, hidden, log_probs, lengths, batch)
            terms = {name: (1 - config.kl_weight) * value for name, value in labelled.items()}
        if config.kl_weight:
            share = (~is_pad).sum() / selected.sum().clamp(min=1)  # the mean is over the frames that are taught
            terms["kl"] = config.kl_weight * share * self.kl_sum(model, hidden, log_probs, target, selected)
        for (own, other), projection in zip(self.pairs, self.projections, strict=True):
            match = hidden_match_sum(projection(hidden[own]).float(), taught[other].float(), is_pad)
            terms["hidden"] = terms.get("hidden", 0.0) + config.hidden_weight / len(self.pairs) * match
        return terms
