"""Distillation losses: sums over frames, so that batches of any size can be added up before dividing."""

import torch
from torch.nn import functional


def soften(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-softmax at a temperature. Args: log_probs (..., V), normalised; temperature > 0.  Returns: (..., V), normalised."""
    return log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(dim=-1)


def select_frames(teacher_log_probs: torch.Tensor, is_pad: torch.Tensor, mode: str, window: int) -> torch.Tensor:
    """Frames on which the student is taught.

    Args:    teacher_log_probs (N, T, V), unit 0 = blank; is_pad (N, T) bool, True on padding.
             mode: `all`; `spikes`: frames where the blank is not the teacher's best unit; `window`: those plus `window`
             frames on each side.
    Returns: (N, T) bool.   Source: arXiv:2506.01503 (symmetric selection around non-blank frames) for `window`.
    """
    if mode == "all":
        return ~is_pad
    spikes = (teacher_log_probs.argmax(dim=-1) != 0) & ~is_pad
    if mode == "window":
        near = functional.max_pool1d(spikes.float().unsqueeze(1), 2 * window + 1, stride=1, padding=window)
        spikes = near.squeeze(1).bool()
    return spikes & ~is_pad


def frame_kl_sum(
    student_log_probs: torch.Tensor, softened_teacher: torch.Tensor, selected: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Per-frame KL(teacher || student) on softened posteriors, summed over the selected frames.

    Args:    student_log_probs (N, T, V), normalised at temperature 1; softened_teacher (N, T, V), normalised at
             `temperature`, a constant; selected (N, T) bool; temperature > 0, no unit.
    Returns: scalar, nats times temperature**2, so that the gradient does not shrink as the temperature grows.
    Raises:  ValueError when shapes differ.
    Source:  Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2; per frame of a CTC model as in Takashima, Li, Kawai 2018.
    """
    if student_log_probs.shape != softened_teacher.shape:
        raise ValueError(f"student {tuple(student_log_probs.shape)} and teacher {tuple(softened_teacher.shape)} differ")
    student = soften(student_log_probs, temperature)
    per_frame = functional.kl_div(student, softened_teacher, reduction="none", log_target=True).sum(dim=-1)
    return per_frame.masked_fill(~selected, 0.0).sum() * temperature**2


def hidden_match_sum(projected: torch.Tensor, target: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """Distance of projected student states from teacher states: mean absolute difference minus log-sigmoid of the cosine.

    Args:    projected, target (N, T, C); is_pad (N, T) bool.   Returns: scalar, summed over real frames.
    Source:  Chang, Yang, Lee 2022 (DistilHuBERT, arXiv:2110.01900), equation 1.
    """
    distance = (projected - target).abs().mean(dim=-1)
    cosine = functional.cosine_similarity(projected, target, dim=-1)
    return (distance - functional.logsigmoid(cosine)).masked_fill(is_pad, 0.0).sum()


def stretch(states: torch.Tensor, lengths: torch.Tensor, wanted: torch.Tensor, frames: int) -> torch.Tensor:
    """Hidden states at another frame rate, linearly interpolated; first and last frames stand for what lies beyond them.

    Args:    states (N, T, C); lengths (N,) int64 of them; wanted (N,) int64 lengths to stretch to; frames: T', padding included.
    Returns: (N, T', C).
    """
    ratio = lengths.clamp(min=1) / wanted.clamp(min=1)
    # (N, T')
    middles = (torch.arange(frames, device=states.device) + 0.5).unsqueeze(0) * ratio.unsqueeze(1) - 0.5
    middles = torch.minimum(middles.clamp(min=0), (lengths.clamp(min=1) - 1).unsqueeze(1))
    before = middles.floor().long()
    after = torch.minimum(before + 1, (lengths.clamp(min=1) - 1).unsqueeze(1))
    left, right = (states.gather(1, at.unsqueeze(-1).expand(-1, -1, states.shape[2])) for at in (before, after))
    return torch.lerp(left, right, (middles - before).unsqueeze(-1).to(states.dtype))
