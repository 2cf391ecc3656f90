"""What a head promises to the rest of the house."""

import pytest
import torch

from steps.losses.ctc import ctc_loss_sum
from steps.models.heads import HEADS


@pytest.mark.parametrize("tokens", [[1], [1, 2, 3], [2, 2], [1, 2, 2, 3, 3, 3]], ids=str)
def test_the_frames_that_ctc_needs_are_the_fewest_with_a_finite_loss(tokens):
    repeats = sum(left == right for left, right in zip(tokens[:-1], tokens[1:], strict=True))
    needed = HEADS["ctc"].frames_needed(torch.tensor([len(tokens)]), torch.tensor([repeats]))
    log_probs = torch.zeros(1, 12, 4).log_softmax(-1)
    losses = [
        ctc_loss_sum(log_probs, needed - fewer, torch.tensor([tokens]), torch.tensor([len(tokens)])) for fewer in (0, 1)
    ]
    assert losses[0].isfinite() and losses[1].isinf()
