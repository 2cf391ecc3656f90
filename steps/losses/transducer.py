"""Transducers: the likelihood of transcripts over all alignments in which every frame emits one unit or the blank.

A lattice has a node for each number of frames that are over and of units that are out; from each, the blank leads to the next
frame, a unit to the next frame and the next unit. Unit 0 is the blank. That a frame emits one unit at most is what searches
assume, ours and those of devices; in Graves' lattice it may emit many, which such a search then has no time for.

Source: Graves 2012 (arXiv:1211.3711), sections 2.4 and 2.5, with the lattice of Tripathi, Lu, Sak, Soltau, ASRU 2019.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# (N, T, 1, J) of frames and (N, 1, S, J) of what was emitted before -> (N, T, S, V), unnormalised
Join = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# numbers of one (N, T, S, V) tensor that are in memory at once
MOST_LOGITS = 1 << 24


class LogLikelihood(torch.autograd.Function):
    """Log-likelihood of each transcript.

    Args:    blank (N, T, U + 1), emit (N, T, U): log-probabilities of the blank, and of the next unit, at each node; lengths,
             token_lengths (N,) int64; what lies beyond them counts for nothing.
    Returns: (N,) float64, nats; -inf when a transcript has more units than its utterance has frames.
    The gradient is the probability that an alignment of the transcript passes through an arc.
    """

    @staticmethod
    def forward(
        ctx: Any, blank: torch.Tensor, emit: torch.Tensor, lengths: torch.Tensor, token_lengths: torch.Tensor
    ) -> torch.Tensor:
        stay, move = blank.detach().double(), emit.detach().double()
        before, after = prefixes(stay, move), suffixes(stay, move, lengths, token_lengths)
        total = after[:, 0, 0]
        is_padding = (torch.arange(stay.shape[1], device=stay.device) >= lengths.unsqueeze(1)).unsqueeze(-1)
        rest = total.view(-1, 1, 1)
        arcs = (before[:, :-1] + stay + after[:, 1:] - rest, before[:, :-1, :-1] + move + after[:, 1:, 1:] - rest)
        # before exp: an unlikely transcript can be so much likelier in padding that it would be infinite there
        shares = [arc.masked_fill(is_padding, -torch.inf).exp() for arc in arcs]
        ctx.save_for_backward(shares[0].to(blank.dtype), shares[1].to(emit.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        through_blank, through_emit = ctx.saved_tensors
        scale = grad.view(-1, 1, 1).to(through_blank.dtype)
        return scale * through_blank, scale * through_emit, None, None


def prefixes(stay: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
    """Log-probability of all that leads to each node. Args: stay (N, T, S); move (N, T, S - 1).  Returns: (N, T + 1, S)."""
    column = torch.full_like(stay[:, 0], -torch.inf)
    column[:, 0] = 0.0
    columns = [column]
    for frame in range(stay.shape[1]):
        came = functional.pad(column[:, :-1] + move[:, frame], (1, 0), value=-torch.inf)
        column = torch.logaddexp(column + stay[:, frame], came)
        columns.append(column)
    return torch.stack(columns, dim=1)


def suffixes(
    stay: torch.Tensor, move: torch.Tensor, lengths: torch.Tensor, token_lengths: torch.Tensor
) -> torch.Tensor:
    """Log-probability of all that leads from each node to the end of its utterance. Args, Returns: as in `prefixes`."""
    unit = torch.arange(stay.shape[2], device=stay.device)
    end = torch.zeros_like(stay[:, 0]).masked_fill(unit != token_lengths.unsqueeze(1), -torch.inf)
    columns = [end]
    for frame in reversed(range(stay.shape[1])):
        goes = functional.pad(columns[-1][:, 1:] + move[:, frame], (0, 1), value=-torch.inf)
        column = torch.logaddexp(columns[-1] + stay[:, frame], goes)
        columns.append(torch.where((frame < lengths).unsqueeze(1), column, end))
    return torch.stack(columns[::-1], dim=1)


def arcs(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of blank and next unit. Args: logits (N, T, U + 1, V); tokens (N, U).  Returns: as LogLikelihood takes."""
    log_probs = logits.float().log_softmax(dim=-1)
    index = tokens.unsqueeze(1).expand(-1, logits.shape[1], -1).unsqueeze(-1)
    return log_probs[..., 0], log_probs[:, :, :-1].gather(3, index).squeeze(3)


def lattice(
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    tokens: torch.Tensor,
    join: Join,
    first: torch.Tensor | None = None,
    width: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arcs of every node, computed some frames at a time, so that the scores of all units are never in memory for all nodes;
    with more than one portion each is computed again for its gradient.

    Args:    encoded (N, T, J); predicted (N, U + 1, J); tokens (N, U) int64.
             first (N, T) int64, of `first_of_range`: at each frame only the nodes first .. first + width - 1 are computed, the
             arcs of all others are -inf.
    Returns: as LogLikelihood takes them.
    """
    nodes = predicted.shape[1] if first is None else width

    def some(frames: torch.Tensor, begin: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if begin is None:
            return arcs(join(frames.unsqueeze(2), predicted.unsqueeze(1)), tokens)
        return some_nodes(
            frames, predicted, tokens, join, begin.unsqueeze(2) + torch.arange(width, device=begin.device)
        )

    vocab_size = join(encoded[:1, :1, None], predicted[:1, None, :1]).shape[-1]
    portions = list(portions_of(encoded, predicted.shape[0] * nodes * vocab_size))
    begins = [None] * len(portions) if first is None else first.split(portions[0].shape[1], dim=1)
    if len(portions) == 1:
        return some(encoded, begins[0])
    parts = [
        checkpoint(some, part, begin, use_reentrant=False, preserve_rng_state=False)
        for part, begin in zip(portions, begins, strict=True)
    ]
    blank, emit = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    return blank, emit


def some_nodes(
    encoded: torch.Tensor, predicted: torch.Tensor, tokens: torch.Tensor, join: Join, nodes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arcs of some nodes of each frame, -inf of the others. Args: nodes (N, T, W) int64; others, Returns: as of `lattice`."""
    flat = nodes.flatten(1)
    # many nodes add to the gradient of one: not in half precision
    said = (
        predicted.float().gather(1, flat.unsqueeze(2).expand(-1, -1, predicted.shape[2])).unflatten(1, nodes.shape[1:])
    )
    # behind the last unit there is none to emit: the arc to this one is cut off below
    following = functional.pad(tokens, (0, 1)).gather(1, flat).unflatten(1, nodes.shape[1:])
    log_probs = join(encoded.unsqueeze(2), said).float().log_softmax(dim=-1)
    nowhere = log_probs.new_full((*nodes.shape[:2], predicted.shape[1]), -torch.inf)
    emit = log_probs.gather(3, following.unsqueeze(3)).squeeze(3)
    return nowhere.scatter(2, nodes, log_probs[..., 0]), nowhere.scatter(2, nodes, emit)[..., :-1]


def first_of_range(
    log_probs: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor, width: int
) -> torch.Tensor:
    """Where the nodes that matter begin at each frame: `width` of them about the number of units that are out by then, on the
    average over all alignments, as a CTC layer has it. That average grows by one a frame at most, and so do the ranges:
    an alignment within them exists wherever the transcript fits its utterance.

    Args:    log_probs (N, T, V), of a CTC layer, a constant; others as for `transducer_loss_sum`; width: at most U + 1.
    Returns: (N, T) int64.
    Source:  Kuang et al. 2022 (arXiv:2206.13236), section 3, whose ranges come from a joiner that adds.
    """
    said = log_probs.detach().float()
    with torch.enable_grad():
        blank = said[..., :1].repeat(1, 1, tokens.shape[1] + 1).requires_grad_()
        emit = said.gather(2, tokens.unsqueeze(1).expand(-1, said.shape[1], -1)).requires_grad_()
        total = LogLikelihood.apply(blank, emit, lengths, token_lengths)
        # a transcript that does not fit its utterance has no average
        shares = torch.autograd.grad(torch.where(total.isinf(), 0.0, total).sum(), (blank, emit))
    unit = torch.arange(blank.shape[2], device=said.device)
    out = sum((share.nan_to_num() * unit[: share.shape[2]]).sum(dim=2) for share in shares)
    last = (token_lengths + 1 - width).clamp(min=0).unsqueeze(1)
    # a little more, so that an average of whole units is not rounded now this way, now that
    first = torch.minimum((out - width / 2 + 1.01).floor().long().clamp(min=0), last)
    # what rounding did to the average must not move a range back, or by two
    frame = torch.arange(said.shape[1], device=said.device)
    return (first.cummax(dim=1).values - frame).cummin(dim=1).values + frame


def portions_of(encoded: torch.Tensor, per_frame: int) -> Iterator[torch.Tensor]:
    """Split frames (N, T, J) so that `per_frame` numbers each stay within MOST_LOGITS, one frame at least."""
    yield from encoded.split(max(1, MOST_LOGITS // per_frame), dim=1)


def collapsed(blank: torch.Tensor, emit: torch.Tensor, token_lengths: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of three things at each node: the blank, the next unit (none after the last), all others together.

    Args: as for LogLikelihood.   Returns: (N, T, U + 1, 3).
    """
    done = torch.arange(emit.shape[2], device=emit.device) >= token_lengths.view(-1, 1, 1)
    correct = functional.pad(emit.masked_fill(done, -torch.inf), (0, 1), value=-torch.inf)
    rest = (1 - blank.exp() - correct.exp()).clamp(min=1e-6).log()
    return torch.stack([blank, correct, rest], dim=-1)


def lattice_kl_sum(
    student: torch.Tensor, teacher: torch.Tensor, lengths: torch.Tensor, token_lengths: torch.Tensor
) -> torch.Tensor:
    """KL(teacher || student) of collapsed posteriors: the mean over the nodes of a frame, summed over frames.

    Args:    student, teacher (N, T, U + 1, 3), of `collapsed`, the teacher a constant; lengths, token_lengths (N,) int64.
    Returns: scalar, nats.
    Source:  Panchapagesan et al. 2021 (arXiv:2011.06110), section 3.2; they sum over the nodes of a frame, too.
    """
    per_node = torch.where(teacher.isinf(), 0.0, teacher.exp() * (teacher - student)).sum(dim=-1)
    frame, unit = (torch.arange(size, device=teacher.device) for size in per_node.shape[1:])
    inside = (frame < lengths.unsqueeze(1)).unsqueeze(2) & (unit <= token_lengths.unsqueeze(1)).unsqueeze(1)
    return ((per_node * inside).sum(dim=2) / (token_lengths + 1).unsqueeze(1)).sum()


def transducer_loss_sum(
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    lengths: torch.Tensor,
    tokens: torch.Tensor,
    token_lengths: torch.Tensor,
    join: Join,
    delay_penalty: float = 0.0,
    first: torch.Tensor | None = None,
    width: int = 0,
) -> torch.Tensor:
    """Negative log-likelihood of the transcripts, summed over the batch.

    Args:    encoded (N, T, J); predicted (N, U + 1, J), one for each number of units emitted so far; lengths (N,) int64
             encoder frames; tokens (N, U) int64; token_lengths (N,) int64; join: see Join.
             delay_penalty: nats a frame by which late units are punished and early ones rewarded, about the middle of the
             utterance (Kang et al. 2022, arXiv:2211.00490, equation 7).
             first, width: see `lattice`: alignments within these ranges count alone.
    Returns: scalar float32, nats; infinite when a transcript does not fit its utterance.
    """
    blank, emit = lattice(encoded, predicted, tokens, join, first, width)
    if delay_penalty:
        frames = torch.arange(emit.shape[1], device=emit.device)
        early = (lengths - 1).unsqueeze(1) / 2 - frames.unsqueeze(0)
        emit = emit + delay_penalty * early.unsqueeze(2)
    return -LogLikelihood.apply(blank, emit, lengths, token_lengths).sum().float()
