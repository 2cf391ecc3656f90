"""What teachers say about a batch, brought to the student's frames."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from steps.core.cli import UserError
from steps.losses.spikes import resample, retime

if TYPE_CHECKING:
    from steps.data.batches import Batch


# in which labels of clean speech are kept
LARGEST_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Taught:
    """What a teacher says about a batch.

    log_probs: (N, T', V) normalised.   lengths: (N,) int64, frames of each; 0: it has nothing to teach.
    hidden: outputs of its front end and of each block, (N, T', width) each; empty if it exposes none.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    hidden: list[torch.Tensor]


class CleanLabels:
    """What a teacher says about the clean features, computed once per utterance and always for it alone, so that the numbers do
    not depend on its neighbours and a resumed run repeats them; kept in half precision.

    Args: teach: of a Teacher.   places: of hidden states that are kept.
    """

    def __init__(self, teach: Callable[[torch.Tensor, torch.Tensor], Taught], places: list[int]):
        self.teach, self.places = teach, places
        self.kept: dict[str, list[torch.Tensor]] = {}

    def taught(self, batch: "Batch") -> Taught:
        """Look a batch up, after asking about the utterances that are new. Raises: UserError for states too large to be kept."""
        for index, utt_id in enumerate(batch.utt_ids):
            if utt_id not in self.kept:
                # left out by the loader only when every utterance has its label
                assert batch.clean is not None
                length = batch.lengths[index : index + 1]
                said = self.teach(batch.clean[index : index + 1, : int(length)], length)
                states = [said.hidden[place][0] for place in self.places]
                if not all(bool(own.abs().max() <= LARGEST_HALF) for own in states):
                    raise UserError(
                        f"distill: {utt_id}: the teacher's states are beyond {LARGEST_HALF:g}, half precision's largest; take an "
                        "earlier block in hidden_layers, or teacher_view: augmented"
                    )
                heard = said.log_probs[0, : int(said.lengths[0])]
                self.kept[utt_id] = [tensor.half() for tensor in (heard, *states)]
        rows = [self.kept[utt_id] for utt_id in batch.utt_ids]
        pad = nn.utils.rnn.pad_sequence
        log_probs, *states = (
            pad([row.float() for row in column], batch_first=True) for column in zip(*rows, strict=True)
        )
        hidden = [torch.empty(0)] * (1 + max(self.places, default=-1))
        for place, state in zip(self.places, states, strict=True):
            hidden[place] = state
        return Taught(log_probs, torch.tensor([len(row[0]) for row in rows], device=log_probs.device), hidden)


def on_frames(taught: Taught, lengths: torch.Tensor, frames: int, ratio: float) -> Taught:
    """Posteriors at the student's frames, whatever the teacher's (steps.losses.spikes.resample).

    Args:    lengths (N,) int64, the student's.   frames: of the padded result.   ratio: a student's frame / a teacher's.
    Returns: Taught with the hidden states as they were; length 0 where the spikes need more frames than the student has.
    """
    rows, fitted = [], []
    for said, own, wanted in zip(taught.log_probs, taught.lengths.tolist(), lengths.tolist(), strict=True):
        if ratio == 1 and own == wanted:
            fitted.append(own)
            rows.append(said[:own])
            continue
        places = resample(said[:own].float().cpu().numpy(), wanted, ratio) if own else None
        fitted.append(0 if places is None else wanted)
        rows.append(said[:0] if places is None else said[torch.from_numpy(places).to(said.device)])
    moved = padded(nn.utils.rnn.pad_sequence(rows, batch_first=True), frames)
    return Taught(moved, torch.tensor(fitted, device=lengths.device), taught.hidden)


def follow(taught: Taught, first: Taught) -> torch.Tensor:
    """Posteriors laid on the spikes of the first teacher (steps.losses.spikes.retime). Returns: (N, T', V), as the first's."""
    rows = []
    for said, own, lead, leads in zip(
        taught.log_probs, taught.lengths.tolist(), first.log_probs, first.lengths.tolist(), strict=True
    ):
        if not own or not leads:
            rows.append(lead)
            continue
        places = retime(said[:own].float().cpu().numpy(), lead[:leads].float().cpu().numpy())
        rows.append(padded(said[torch.from_numpy(places).to(said.device)], len(lead)))
    return torch.stack(rows)


def padded(rows: torch.Tensor, frames: int) -> torch.Tensor:
    """Frames cut or filled up with zeros. Args: rows (..., T, V).  Returns: (..., frames, V)."""
    return nn.functional.pad(rows[..., :frames, :], (0, 0, 0, max(0, frames - rows.shape[-2])))


def memory_line(size: float) -> str:
    """A line about the bytes that clean labels will take. Raises: UserError when the machine has less than twice as many."""
    if 2 * size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise UserError(
            f"distill: teacher_view: clean would keep {size / 1e9:,.0f} GB in memory; store them (steps.label_data), or use augmented"
        )
    return f"teacher labels: made once per utterance and kept in memory, {size / 1e6:,.0f} MB"
