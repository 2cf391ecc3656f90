"""What a teacher says, laid on the frames of a student whose peaks come later."""

import torch
from torch.nn import functional

# cost of what is not allowed, in nats
NEVER = 1e30
# how the delay was one frame earlier: the same, one more, one less
BEFORE = (0, 1, -1)


def lay_late(
    student_log_probs: torch.Tensor, teacher_log_probs: torch.Tensor, lengths: torch.Tensor, late: int
) -> torch.Tensor:
    """What the teacher says, its peaks where the student's are. Args: see `late_places`.  Returns: (N, T, V)."""
    places = late_places(student_log_probs, teacher_log_probs, lengths, late)
    return teacher_log_probs.gather(1, places.unsqueeze(2).expand_as(teacher_log_probs))


@torch.no_grad()
def late_places(
    student_log_probs: torch.Tensor, teacher_log_probs: torch.Tensor, lengths: torch.Tensor, late: int
) -> torch.Tensor:
    """For every frame of the student the frame of the teacher that teaches it: that frame itself or one of the `late` before.

    Of all ways to say what the teacher says, in order, it is the one with the least KL to what the student says now. Blank
    frames of the teacher may be repeated or left out, but not two in a row at once, nor the only one between equal units; the
    others come once each, so that no unit is lost or doubled.

    Args:    student_log_probs, teacher_log_probs (N, T, V), normalised, unit 0 = blank; lengths (N,) int64; late: frames, 0 or
             more.
    Returns: (N, T) int64; on padding the frame itself.
    Source:  a buffer in which a streaming student's peaks may come later than its teacher's: Delayed-KD, arXiv:2505.22069.
             Finding them by dynamic programming over the delay of each frame is ours.
    """
    costs = _by_delay(_kl(student_log_probs, teacher_log_probs, late), NEVER)
    is_blank, is_spare = _blanks(teacher_log_probs.argmax(dim=-1), late)
    # (N, late + 1): of the ways to the present frame that end with each delay, the least
    best = torch.full_like(costs[:, 0], NEVER)
    best[:, 0] = costs[:, 0, 0]
    bests, moves = [best], []
    for frame in range(1, costs.shape[1]):
        # one more: the teacher's frame comes again; one less: the frame before it is left out
        more = functional.pad(best[:, :-1], (1, 0), value=NEVER).masked_fill(~is_blank[:, frame], NEVER)
        less = functional.pad(best[:, 1:], (0, 1), value=NEVER).masked_fill(~is_spare[:, frame - 1], NEVER)
        least, move = torch.stack([best, less, more]).min(dim=0)
        best = (least + costs[:, frame]).clamp(max=NEVER)
        bests.append(best)
        moves.append(move)
    # what the teacher says after the last of its frames that teach must be blank
    rest = is_blank[torch.arange(len(lengths), device=lengths.device), (lengths - 1).clamp(min=0)]
    is_lost = ~functional.pad(rest[:, :-1], (1, 0), value=True).cumprod(dim=1).bool()
    ends = [best.masked_fill(is_lost, NEVER).argmin(dim=1) for best in bests]
    return _places(ends, moves, lengths)


def _places(ends, moves, lengths):
    """The way back. Args: ends: of each frame, (N,) best delays if it is the last; moves: to each frame but the first, (N, delays)."""
    delay, steps = torch.zeros_like(lengths), torch.tensor(BEFORE, device=lengths.device)
    places = torch.arange(len(ends), device=lengths.device).expand(len(lengths), -1).clone()
    for frame in range(len(ends) - 1, -1, -1):
        delay = torch.where(lengths - 1 == frame, ends[frame], delay)
        places[:, frame] -= delay
        if frame:
            before = delay + steps[moves[frame - 1].gather(1, delay.unsqueeze(1)).squeeze(1)]
            delay = torch.where(lengths > frame, before, delay)
    return places


def _blanks(units, late):
    """Whether the teacher's frame at each delay may be repeated, and whether it may be left out. Args: units (N, T).

    Returns: two (N, T, late + 1) bool.
    """
    is_blank = units == 0
    before, after = functional.pad(units[:, :-1], (1, 0)), functional.pad(units[:, 1:], (0, 1))
    is_spare = is_blank & ~((before == after) & (before != 0))
    cuts = [max(0, units.shape[1] - delay) for delay in range(late + 1)]
    one, two = (_by_delay([flags[:, :cut] for cut in cuts], False) for flags in (is_blank, is_spare))
    return one, two


def _kl(student_log_probs, teacher_log_probs, late):
    """KL(teacher || student) where the student is 0, 1, ... frames late. Returns: (N, T - delay) for each delay."""
    frames = student_log_probs.shape[1]
    found = []
    for delay in range(late + 1):
        said = teacher_log_probs[:, : max(0, frames - delay)].float()
        kl = functional.kl_div(student_log_probs[:, delay:].float(), said, reduction="none", log_target=True)
        found.append(kl.sum(dim=-1))
    return found


def _by_delay(rows, filler):
    """Rows (N, T - delay) for each delay, filled up in front. Returns: (N, T, delays)."""
    frames = rows[0].shape[1]
    return torch.stack([functional.pad(row, (frames - row.shape[1], 0), value=filler) for row in rows], dim=2)
