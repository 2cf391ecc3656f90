"""Codes that turn back are counted, whatever they did in between; the rest of a training is not looked at."""

import pytest
import torch
from torch import nn

from steps.compress.fake_quant import RoundedLinear
from steps.compress.oscillation import Oscillation
from steps.models.codes import CodeFormat

STEPS = Oscillation.WINDOW


def layer_of(bits=8):
    layer = RoundedLinear(nn.Linear(4, 1, bias=False), CodeFormat(bits), shorten=None)
    layer.weight_log_scales.data.zero_()
    return layer


def look_at(oscillation, layer, rows):
    """Take in updates whose codes are these rows."""
    for row in rows:
        layer.weight.data = torch.tensor([row], dtype=torch.float32)
        oscillation.look(layer)


def path(*codes):
    """A weight that stays at the last of its codes."""
    return [*codes, *[codes[-1]] * (STEPS - len(codes))]


@pytest.mark.parametrize(
    ("paths", "share"),
    [
        ([path(0), path(0, 1), path(0, 1, 2, 3), path(5, 3, 3, 1)], "0.00%"),
        ([path(0, 1, 0), path(0, 1, 2), path(0), path(0)], "25.00%"),
        # rested before it came back; turned twice and counts once
        ([path(0, 1, 1, 1, 0), path(2, 1, 2, 1), path(0), path(0, 1)], "50.00%"),
        ([path(127, -127), path(127, -127, -126), path(-127, 0, 127), path(0)], "25.00%"),
    ],
)
def test_codes_that_turn_back(paths, share):
    oscillation = Oscillation()
    look_at(oscillation, layer_of(), zip(*paths, strict=True))
    assert oscillation.describe() == f"; {share} of the codes turned back within {STEPS} updates"


def test_windows_and_epochs_begin_anew():
    oscillation, layer = Oscillation(), layer_of()
    rests, turns = [[0] * 4] * STEPS, [[n % 2, 0, 0, 0] for n in range(Oscillation.EVERY)]
    look_at(oscillation, layer, rests)
    look_at(oscillation, layer, turns[: Oscillation.EVERY - STEPS])
    assert oscillation.updates == Oscillation.EVERY
    look_at(oscillation, layer, turns[:STEPS])
    # half of the windows, a quarter of the codes
    assert "; 12.50% " in oscillation.describe()
    look_at(oscillation, layer, rests)
    assert "; 0.00% " in oscillation.describe()
    look_at(oscillation, layer, turns[: STEPS - 1])
    assert oscillation.describe() == ""
