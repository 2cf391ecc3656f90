"""Float numbers in eight bits: whole numbers of a byte, and a power of two for every eight of them.

Source: the MX formats of the Open Compute Project (OCP Microscaling Formats, version 1.0, section 5.2), MXINT8, with blocks of 8
instead of 32: a bias or norm of a small net has few numbers, and its neighbours differ.
"""

import torch
from torch import nn

BLOCK = 8
LARGEST = 127
# a number beyond it is no weight but says `never`, as the bias of a unit that an imported model lacks; in a block with others it
# would leave nothing of them
MARK = 1000.0
# exponents whose multiples float16 has, halved ones, too
EXPONENTS = range(-20, 9)


def to_blocks(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest numbers in eight bits, the last block filled up with zeros.

    Args:    tensor: of any shape, finite; blocks are neighbours in it.
    Returns: whole numbers (G, 8) int8 and exponents (G,) int64: what they stand for is number * 2 ** exponent.
    Raises:  ValueError for a number that is too large, over 32,000.
    """
    flat = tensor.detach().float().flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1)
    # largest / 2 ** exponents is 64 or more, and below 128
    exponents = (torch.frexp(largest).exponent.long() - 7).clamp(min=EXPONENTS[0])
    exponents += (torch.ldexp(largest, -exponents).round() > LARGEST).long()
    if len(exponents) and exponents.max() > EXPONENTS[-1]:
        raise ValueError("a number is too large for rest: int8; set rest: float16, or float32")
    return torch.ldexp(blocks, -exponents.unsqueeze(1)).round().to(torch.int8), exponents


def from_blocks(numbers: torch.Tensor, exponents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of `to_blocks`. Returns: float32 of this shape."""
    return torch.ldexp(numbers.float(), exponents.unsqueeze(1)).flatten()[: shape.numel()].view(shape)


def round_to_blocks(tensor: torch.Tensor, above_zero: bool = False) -> torch.Tensor:
    """Round to numbers in eight bits; those that are such already stay. Args: above_zero: whether what would be 0 is one step of its
    block instead, as scales must be.  Returns: float32.  Raises: ValueError, see `to_blocks`."""
    numbers, exponents = to_blocks(tensor)
    return from_blocks(numbers.clamp(min=1) if above_zero else numbers, exponents, tensor.shape)
