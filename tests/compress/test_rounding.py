"""Scales and rounding: half a step at most where nothing is clipped, no larger error than that where something is."""

import itertools

import pytest
import torch

from steps.compress.rounding import (
    SMALLEST_SCALE,
    fitted_scales,
    largest_scales,
    least_squares_scales,
    noise,
    reach,
    round_to_codes,
    short_scales,
    spread,
)
from steps.models.codes import CodeFormat, Codes

FORMATS = [CodeFormat(bits, "symmetric") for bits in range(2, 9)] + [CodeFormat(bits, "half") for bits in range(1, 8)]
FORMATS += [CodeFormat(2, "ternary"), CodeFormat(3, "half", 7), CodeFormat(4, "symmetric", 16)]


def draw(rows=20, columns=50):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    # heavy tails, which are worth clipping
    return weight * weight.abs()


def squares(weight, codes):
    return (codes.dequantized() - weight).square().sum(dim=1)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_no_weight_is_clipped_by_the_scale_of_the_largest(format):
    weight = draw()
    scales = largest_scales(weight, format)
    codes = round_to_codes(weight, scales, format)
    assert scales.shape == ((20,) if format.group is None else (20, format.groups(50)))
    step = spread(scales, format, 50)
    assert ((codes.dequantized() - weight).abs() <= step * (0.5 + 1e-4)).all()
    assert noise(weight, codes).clipped == 0
    # a scale for each row or group: none could be smaller
    tight = (weight.abs() / step >= (reach(format) - (0 if format.grid == "half" else 0.5)) * (1 - 1e-5)).sum()
    assert tight >= 19 * format.groups(50)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_least_squares_err_less_in_every_row_and_nothing_near_errs_less(format):
    weight = draw()
    best = least_squares_scales(weight, format)
    errors = squares(weight, round_to_codes(weight, best, format))
    assert (errors <= squares(weight, round_to_codes(weight, largest_scales(weight, format), format))).all()
    if format.bits <= 3 and format.group is None:
        assert (
            errors.sum() < 0.9 * squares(weight, round_to_codes(weight, largest_scales(weight, format), format)).sum()
        )
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert errors.sum() <= 1.01 * squares(weight, round_to_codes(weight, best * factor, format)).sum()


def test_a_row_of_zeros_is_nearly_zero_on_a_grid_without_zero():
    for scales_of in (largest_scales, least_squares_scales):
        codes = round_to_codes(
            torch.zeros(2, 6), scales_of(torch.zeros(2, 6), CodeFormat(1, "half")), CodeFormat(1, "half")
        )
        assert 0 < codes.dequantized().abs().max() < 1e-4


def test_one_bit_is_the_mean_magnitude():
    weight, format = draw(), CodeFormat(1, "half")
    torch.testing.assert_close(least_squares_scales(weight, format)[4:], 2 * weight.abs().mean(dim=1)[4:])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_codes_are_the_nearest(format):
    weight, values = (
        torch.linspace(-3, 3, 61).unsqueeze(0),
        range(-format.largest, format.largest + 1, format.code_step),
    )
    format = CodeFormat(format.bits, format.grid)
    codes = round_to_codes(weight, torch.tensor([0.4]), format)
    levels = torch.tensor(list(values)) / format.code_step * 0.4
    nearest = (weight.unsqueeze(-1) - levels).abs().amin(dim=-1)
    torch.testing.assert_close((codes.dequantized() - weight).abs(), nearest)


def test_fitted_scales_are_a_projection():
    weight, format = draw(), CodeFormat(2, "half", 10)
    scales = largest_scales(weight, format)
    fitted = fitted_scales(weight, scales, format)
    values = round_to_codes(weight, scales, format).codes / 2
    for row, group in itertools.product(range(4, 20), range(5)):
        part = slice(10 * group, 10 * group + 10)
        error = weight[row, part] - fitted[row, group] * values[row, part]
        assert abs(float(error @ values[row, part])) < 1e-4 * float(weight[row, part].norm())


def test_short_scales_are_float16_and_so_are_their_halves():
    scales = short_scales(torch.tensor([1e-9, SMALLEST_SCALE * 1.37, 0.1, 3.0]))
    assert torch.equal(scales, scales.half().float()) and scales[0] == SMALLEST_SCALE
    assert torch.equal(scales / 2, (scales / 2).half().float())
    with pytest.raises(ValueError, match="too large for a scale in float16"):
        short_scales(torch.tensor([1.0, 7e4]))


def test_noise_by_hand():
    codes = Codes(torch.tensor([[1, 1, 0, 1]], dtype=torch.int8), torch.tensor([1.0]), CodeFormat(2, "symmetric"))
    found = noise(torch.tensor([[1.0, 1.1, 0.0, 2.0]]), codes)
    assert found.snr_db == pytest.approx(10 * torch.tensor(6.21 / 1.01).log10().item()) and found.clipped == 0.25
