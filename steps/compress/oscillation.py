"""Codes that a training with rounded weights does not settle on: they leave a level, and come back from where they went."""

import torch
from torch import nn

from steps.compress.fake_quant import RoundedWeights


class Oscillation:
    """Counts codes that turn back, in some updates of an epoch so that it costs little: the first `WINDOW` of every `EVERY`.

    Nothing but the log depends on it, so that it is not saved: behind an interruption an epoch's count begins anew.

    Source: oscillating weights, Nagel et al. 2022 (arXiv:2203.11086), section 3: a code that changes in the direction opposite to
            that of its change before. They average over all updates; the windows are ours.
    """

    WINDOW, EVERY = 20, 100

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.updates = self.turned = self.watched = 0

    def look(self, model: nn.Module) -> None:
        """Take in the codes behind an update. Args: model: prepared."""
        place = self.updates % self.EVERY
        self.updates += 1
        if place >= self.WINDOW:
            return
        now = codes_of(model)
        if place == 0:
            self.before, self.direction = now, torch.zeros_like(now)
            self.has_turned = torch.zeros_like(now, dtype=torch.bool)
        # of int8: differences do not fit
        change = (now > self.before).to(torch.int8) - (now < self.before).to(torch.int8)
        self.has_turned |= change * self.direction < 0
        self.direction = torch.where(change != 0, change, self.direction)
        self.before = now
        if place == self.WINDOW - 1:
            self.turned, self.watched = self.turned + int(self.has_turned.sum()), self.watched + now.numel()

    def describe(self) -> str:
        """What was counted since this was called last, in words; nothing for an epoch of fewer than `WINDOW` updates."""
        share = self.turned / self.watched if self.watched else None
        self._begin()
        return "" if share is None else f"; {share:.2%} of the codes turned back within {self.WINDOW} updates"


def codes_of(model: nn.Module) -> torch.Tensor:
    """All codes of a prepared model, one after the other. Returns: (N,) int8."""
    layers = [layer for layer in model.modules() if isinstance(layer, RoundedWeights)]
    return torch.cat([layer.codes(matrix).codes.flatten() for layer in layers for matrix in layer.matrices])
