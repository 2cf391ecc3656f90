"""Numbers in eight bits: the nearest ones, the same when rounded again or halved, and none that float16 lacks."""

import pytest
import torch

from steps.models.blocks import BLOCK, EXPONENTS, LARGEST, from_blocks, round_to_blocks, to_blocks


def nearest(block):
    """The numbers n * 2 ** e next to those of a block with the smallest e that has room for the largest, written out."""
    for exponent in EXPONENTS:
        numbers = [round(value / 2.0**exponent) for value in block]
        if max(map(abs, numbers)) <= LARGEST:
            return [number * 2.0**exponent for number in numbers]
    raise AssertionError(block)


@pytest.mark.parametrize("size", [1, 8, 13, 72])
def test_blocks_are_the_nearest_numbers_and_stay(size):
    generator = torch.Generator().manual_seed(size)
    for spread in (1e-6, 1e-3, 1.0, 900.0):
        values = spread * torch.randn(size, generator=generator)
        rounded = round_to_blocks(values)
        parts = [values[start : start + BLOCK].tolist() for start in range(0, size, BLOCK)]
        assert rounded.tolist() == [value for part in parts for value in nearest(part)]
        for again in (rounded, rounded / 2):
            assert torch.equal(round_to_blocks(again), again) or spread == 1e-6
            assert torch.equal(again.half().float(), again)


@pytest.mark.parametrize("largest", [127.0, 127.4, 127.5, 127.6, 128.0, 63.5, 63.7, 64.0])
def test_the_largest_number_of_a_block_fits(largest):
    values = torch.tensor([largest, -largest, 1.0, 0.25])
    numbers, exponents = to_blocks(values)
    assert numbers.shape == (1, BLOCK) and numbers.dtype == torch.int8
    # a step of 1 reaches 127 and what is rounded to it, one of a half as far as 63.5 and what is rounded to that, below 63.75
    assert exponents.tolist() == [1 if largest >= 127.5 else -1 if largest < 63.75 else 0]
    assert (from_blocks(numbers, exponents, values.shape) - values).abs().max() <= 2.0 ** exponents[0] / 2


def test_zeros_shapes_and_scales():
    assert torch.equal(round_to_blocks(torch.zeros(3, 5)), torch.zeros(3, 5))
    assert round_to_blocks(torch.zeros(0)).shape == (0,)
    assert round_to_blocks(torch.tensor(0.1)).item() == pytest.approx(0.1, rel=0.01)
    scales = torch.tensor([1.0, 1e-4])
    assert round_to_blocks(scales).tolist() == [1.0, 0.0]
    assert round_to_blocks(scales, above_zero=True).tolist() == [1.0, 2.0**-6]


def test_numbers_that_are_too_large_are_refused():
    assert round_to_blocks(torch.tensor([127.0 * 2 ** EXPONENTS[-1]])).item() == 127 * 2 ** EXPONENTS[-1]
    with pytest.raises(ValueError, match="too large for rest: int8"):
        round_to_blocks(torch.tensor([1.0, 128.0 * 2 ** EXPONENTS[-1]]))
