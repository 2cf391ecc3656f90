"""Properties of the criteria."""

import math

import pytest
import torch

from steps.losses.ctc import ctc_loss_sum
from steps.losses.distill import frame_kl_sum, hidden_match_sum, select_frames, soften, stretch


def posteriors(seed, shape=(2, 9, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_ctc_of_one_token_is_the_sum_over_its_alignments():
    log_probs = posteriors(0, (1, 2, 3))
    blank, token = log_probs[0, :, 0], log_probs[0, :, 1]
    paths = torch.stack([token[0] + token[1], token[0] + blank[1], blank[0] + token[1]])
    loss = ctc_loss_sum(log_probs, torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))
    torch.testing.assert_close(loss, -paths.logsumexp(0))


def test_ctc_ignores_padding_and_adds_up_over_utterances():
    log_probs, tokens = posteriors(1), torch.tensor([[1, 2], [3, 0]])
    lengths, token_lengths = torch.tensor([9, 6]), torch.tensor([2, 1])
    both = ctc_loss_sum(log_probs, lengths, tokens, token_lengths)
    first = ctc_loss_sum(log_probs[:1], lengths[:1], tokens[:1], token_lengths[:1])
    second = ctc_loss_sum(log_probs[1:, :6], lengths[1:], tokens[1:, :1], token_lengths[1:])
    torch.testing.assert_close(both, first + second)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_is_zero_at_equality_and_positive_elsewhere(temperature):
    own, other = posteriors(2), posteriors(3)
    everything = torch.ones(2, 9, dtype=torch.bool)
    assert frame_kl_sum(own, soften(own, temperature), everything, temperature).abs() < 1e-5
    assert frame_kl_sum(own, soften(other, temperature), everything, temperature) > 0.1


def test_kl_counts_selected_frames_only():
    own, other = posteriors(4), posteriors(5)
    selected = torch.zeros(2, 9, dtype=torch.bool)
    selected[0, 3] = selected[1, 0] = True
    by_hand = (other.exp() * (other - own)).sum(-1)
    torch.testing.assert_close(frame_kl_sum(own, other, selected, 1.0), by_hand[0, 3] + by_hand[1, 0])


def test_kl_gradient_keeps_its_size_as_the_temperature_grows():
    """For small logits the gradient tends to (student - teacher) / V at any temperature (Hinton et al., equation 4)."""
    logits = (torch.randn(1, 1, 6) * 0.01).requires_grad_()
    teacher = (torch.randn(1, 1, 6) * 0.01).log_softmax(-1)
    sizes = []
    for temperature in (2.0, 8.0):
        loss = frame_kl_sum(
            logits.log_softmax(-1), soften(teacher, temperature), torch.ones(1, 1, dtype=torch.bool), temperature
        )
        sizes.append(torch.autograd.grad(loss, logits)[0].norm())
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0)


def test_kl_refuses_other_shapes():
    with pytest.raises(ValueError, match="differ"):
        frame_kl_sum(posteriors(0), posteriors(0, (2, 8, 5)), torch.ones(2, 9, dtype=torch.bool), 1.0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_teachers_one_by_one_pull_as_their_mean_does(temperature):
    """So a mean of posteriors is as good or bad as they are: what counts is that their peaks lie on the same frames."""
    first, second, real = posteriors(6), posteriors(7), torch.ones(2, 9, dtype=torch.bool)
    softened = [soften(log_probs, temperature) for log_probs in (first, second)]
    mean = torch.logaddexp(softened[0] + math.log(0.3), softened[1] + math.log(0.7))
    pulls = []
    for targets in ([(0.3, softened[0]), (0.7, softened[1])], [(1.0, mean)]):
        student = posteriors(8).requires_grad_()
        sum(weight * frame_kl_sum(student, target, real, temperature) for weight, target in targets).backward()
        pulls.append(student.grad)
    torch.testing.assert_close(pulls[0], pulls[1])


def test_states_are_stretched_along_time():
    line = torch.arange(6.0).view(1, 6, 1).repeat(2, 1, 2)
    longer = stretch(line, torch.tensor([6, 3]), torch.tensor([12, 6]), 12)
    assert longer.shape == (2, 12, 2)
    ends = torch.arange(12) / 2 - 0.25
    torch.testing.assert_close(longer[0, :, 0], ends.clamp(0, 5))
    torch.testing.assert_close(longer[1, :6, 0], ends[:6].clamp(0, 2))
    shorter = stretch(line, torch.tensor([6, 6]), torch.tensor([3, 3]), 3)
    torch.testing.assert_close(shorter[0, :, 1], torch.tensor([0.5, 2.5, 4.5]))
    assert torch.equal(stretch(line, torch.tensor([6, 5]), torch.tensor([6, 5]), 6)[:, :5], line[:, :5])


def test_frame_selection():
    log_probs = torch.full((1, 8, 3), -5.0)
    log_probs[0, :, 0] = 0.0
    log_probs[0, 3] = torch.tensor([-5.0, 0.0, -5.0])
    log_probs[0, 5] = log_probs[0, 7] = torch.tensor([-5.0, 0.0, -5.0])
    is_pad = torch.tensor([[False] * 6 + [True] * 2])
    assert select_frames(log_probs, is_pad, "all", 0).sum() == 6
    assert select_frames(log_probs, is_pad, "spikes", 0).nonzero()[:, 1].tolist() == [3, 5]
    assert select_frames(log_probs, is_pad, "window", 1).nonzero()[:, 1].tolist() == [2, 3, 4, 5]


def test_hidden_match_is_least_at_equality_and_ignores_padding():
    target = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(8))
    is_pad = torch.tensor([[False] * 4, [False, False, True, True]])
    at_equality = hidden_match_sum(target, target, is_pad)
    torch.testing.assert_close(at_equality, -6 * torch.nn.functional.logsigmoid(torch.tensor(1.0)))
    moved = target + 0.1 * torch.randn(2, 4, 8)
    assert hidden_match_sum(moved, target, is_pad) > at_equality
    spoiled = moved.clone()
    spoiled[1, 2:] = 1e3
    torch.testing.assert_close(hidden_match_sum(spoiled, target, is_pad), hidden_match_sum(moved, target, is_pad))
