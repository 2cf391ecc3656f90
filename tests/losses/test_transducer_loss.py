"""The transducer's loss is the sum over all alignments, written out; its memory is bounded and its gradient exact."""

import itertools

import pytest
import torch

from steps.losses import transducer
from steps.losses.transducer import (
    LogLikelihood,
    collapsed,
    first_of_range,
    lattice,
    lattice_kl_sum,
    transducer_loss_sum,
)

LENGTHS, TOKEN_LENGTHS = torch.tensor([6, 4, 5, 1]), torch.tensor([3, 2, 0, 1])
TOKENS = torch.tensor([[2, 1, 2], [3, 3, 0], [0, 0, 0], [4, 0, 0]])


def every_alignment(blank, emit, frames, units):
    """Choose the frames that emit; the others are blank."""
    totals = []
    for chosen in itertools.combinations(range(frames), units):
        steps = [
            emit[t, sum(c < t for c in chosen)] if t in chosen else blank[t, sum(c < t for c in chosen)]
            for t in range(frames)
        ]
        totals.append(sum(steps))
    return torch.stack(totals).logsumexp(0)


def arcs_at_random(rows=4, units=3):
    random = torch.Generator().manual_seed(0)
    sizes = (units + 1, units)
    return [torch.randn(rows, 6, size, dtype=torch.float64, generator=random).requires_grad_() for size in sizes]


def test_the_likelihood_is_the_sum_over_all_alignments_whatever_padding_holds():
    blank, emit = arcs_at_random()
    found = LogLikelihood.apply(blank, emit, LENGTHS, TOKEN_LENGTHS)
    for row, (frames, units) in enumerate(zip(LENGTHS.tolist(), TOKEN_LENGTHS.tolist(), strict=True)):
        torch.testing.assert_close(found[row], every_alignment(blank[row], emit[row], frames, units))


def test_its_gradient_is_that_of_the_likelihood():
    lengths = torch.tensor([6, 4]), torch.tensor([2, 1])
    assert torch.autograd.gradcheck(lambda *arcs: LogLikelihood.apply(*arcs, *lengths), arcs_at_random(rows=2, units=2))


def test_padding_that_fits_a_transcript_better_than_its_sound_has_no_gradient():
    blank, emit = torch.full((2, 600, 41), -0.01), torch.full((2, 600, 40), -4.0)
    emit[0, :60] = -30.0
    found = []
    for rows, frames in ((2, 600), (1, 60)):
        arcs = [part[:rows, :frames].clone().requires_grad_() for part in (blank, emit)]
        lengths, tokens = torch.tensor([60, 600])[:rows], torch.tensor([40, 40])[:rows]
        LogLikelihood.apply(*arcs, lengths, tokens).sum().backward()
        found.append([part.grad for part in arcs])
    for batched, alone in zip(*found, strict=True):
        assert torch.isfinite(batched).all() and not batched[0, 60:].any()
        assert torch.equal(batched[0, :60], alone[0])


def test_a_transcript_with_more_units_than_frames_has_no_alignment():
    found = LogLikelihood.apply(*arcs_at_random(), torch.tensor([2, 2, 2, 2]), torch.tensor([3, 2, 1, 0]))
    assert found.isinf().tolist() == [True, False, False, False]


def inputs():
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 7, generator=random).requires_grad_()
    encoded, predicted = (torch.randn(4, size, 7, generator=random).requires_grad_() for size in (6, 4))
    return encoded, predicted, weight


def loss_of(encoded, predicted, weight, **more):
    def join(heard, said):
        return (heard + said).tanh() @ weight.T

    return transducer_loss_sum(encoded, predicted, LENGTHS, TOKENS, TOKEN_LENGTHS, join, **more)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_units_are_scored_after_those_before_them(penalty):
    sides = inputs(), inputs()
    encoded, predicted, weight = sides[0]
    total = 0.0
    for row, (frames, units) in enumerate(zip(LENGTHS.tolist(), TOKEN_LENGTHS.tolist(), strict=True)):
        scores = ((encoded[row, :, None] + predicted[row]).tanh() @ weight.T).log_softmax(-1)
        emit = torch.stack([scores[:, u, TOKENS[row, u]] for u in range(3)], dim=1)
        emit = emit + penalty * ((frames - 1) / 2 - torch.arange(6.0)).unsqueeze(1)
        total = total - every_alignment(scores[..., 0], emit, frames, units)
    found = loss_of(*sides[1], delay_penalty=penalty)
    torch.testing.assert_close(found, total)
    for value in (total, found):
        value.backward()
    for expected, own in zip(*sides, strict=True):
        torch.testing.assert_close(own.grad, expected.grad)


def test_in_portions_it_is_the_same_and_no_larger_tensor_is_made(monkeypatch):
    whole = inputs()
    loss_of(*whole).backward()
    monkeypatch.setattr(transducer, "MOST_LOGITS", 2 * 4 * 4 * 5)
    parts, sizes = inputs(), []
    arcs = transducer.arcs
    monkeypatch.setattr(transducer, "arcs", lambda logits, tokens: sizes.append(logits.numel()) or arcs(logits, tokens))
    loss_of(*parts).backward()
    # three portions of two frames each, and again for their gradients
    assert sizes == [2 * 4 * 4 * 5] * 6
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(("frame", "gain"), [(0, 2), (2, 0), (4, -2)])
def test_the_delay_penalty_rewards_early_units_and_leaves_those_in_the_middle(monkeypatch, frame, gain):
    only = torch.full((2, 6, 1), -1000.0)
    only[:, frame] = 0.0
    monkeypatch.setattr(transducer, "lattice", lambda *_: (torch.zeros(2, 6, 2), only))
    transcripts = torch.tensor([5, 5]), torch.tensor([[1], [0]]), torch.tensor([1, 0])
    losses = [transducer_loss_sum(None, None, *transcripts, None, penalty).item() for penalty in (0.0, 0.1)]
    assert losses[0] - losses[1] == pytest.approx(gain * 0.1, abs=1e-6)


def scores(seed):
    """Scores of all units at each node, and the arcs among them."""
    logits = torch.randn(4, 6, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.log_softmax(-1), transducer.arcs(logits, TOKENS)


def test_the_distance_of_lattices_by_hand():
    (own, own_arcs), (theirs, their_arcs) = scores(0), scores(1)
    found = lattice_kl_sum(
        *(collapsed(*arcs, TOKEN_LENGTHS) for arcs in (own_arcs, their_arcs)), LENGTHS, TOKEN_LENGTHS
    )
    total = 0.0
    for row, (frames, units) in enumerate(zip(LENGTHS.tolist(), TOKEN_LENGTHS.tolist(), strict=True)):
        for frame, unit in itertools.product(range(frames), range(units + 1)):
            known = [0] if unit == units else [0, int(TOKENS[row, unit])]
            p, q = (side[row, frame, unit].exp() for side in (theirs, own))
            p, q = (torch.cat([side[known], (1 - side[known].sum()).view(1)]) for side in (p, q))
            total += (p * (p / q).log()).sum() / (units + 1)
    torch.testing.assert_close(found.double(), total, rtol=1e-5, atol=1e-5)


def test_equal_lattices_have_no_distance_and_gradients_are_finite():
    logits = torch.randn(4, 6, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = collapsed(*transducer.arcs(logits * 30, TOKENS), TOKEN_LENGTHS)
    assert abs(lattice_kl_sum(own, own.detach(), LENGTHS, TOKEN_LENGTHS).item()) < 1e-6
    theirs = collapsed(*transducer.arcs(logits.detach().flip(0) * 30, TOKENS), TOKEN_LENGTHS)
    lattice_kl_sum(own, theirs, LENGTHS, TOKEN_LENGTHS).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def ctc_at_random(rows=4, frames=6, seed=0, sharpness=1.0):
    random = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(rows, frames, 5, generator=random)).log_softmax(-1)


@pytest.mark.parametrize("portion", [1 << 24, 5])
def test_within_ranges_the_lattice_is_the_whole_one_and_nothing_elsewhere(portion, monkeypatch):
    monkeypatch.setattr(transducer, "MOST_LOGITS", portion)
    encoded, predicted, weight = inputs()

    def join(heard, said):
        return (heard + said).tanh() @ weight.T

    whole = lattice(encoded, predicted, TOKENS, join)
    first = first_of_range(ctc_at_random(), LENGTHS, TOKENS, TOKEN_LENGTHS, 2)
    some = lattice(encoded, predicted, TOKENS, join, first, 2)
    for full, part in zip(whole, some, strict=True):
        unit = torch.arange(full.shape[2])
        inside = (unit >= first.unsqueeze(2)) & (unit < first.unsqueeze(2) + 2)
        torch.testing.assert_close(part[inside], full[inside])
        assert part[~inside].isinf().all() and (~inside).any() and inside.any()
    torch.testing.assert_close(lattice(encoded, predicted, TOKENS, join, torch.zeros_like(first), 4), whole)
    found = [torch.autograd.grad(sum(part.exp().sum() for part in arcs), (encoded, predicted, weight)) for arcs in (
        lattice(encoded, predicted, TOKENS, join, torch.zeros_like(first), 4), lattice(encoded, predicted, TOKENS, join))]  # fmt: skip
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 10.0])
def test_ranges_always_hold_an_alignment_and_move_by_one_at_most(width, sharpness):
    tokens = torch.randint(1, 5, (30, 12), generator=torch.Generator().manual_seed(1))
    lengths, token_lengths = torch.arange(30) % 19 + 12, torch.arange(30) % 13
    log_probs = ctc_at_random(30, 30, sharpness=sharpness)
    first = first_of_range(log_probs, lengths, tokens, token_lengths, width)
    assert (first.diff(dim=1) >= 0).all() and (first.diff(dim=1) <= 1).all() and (first[:, 0] == 0).all()
    assert (first + width <= (token_lengths + 1).clamp(min=width).unsqueeze(1)).all()
    unit = torch.arange(13)
    inside = (unit >= first.unsqueeze(2)) & (unit < first.unsqueeze(2) + width)
    blank = torch.zeros(30, 30, 13).masked_fill(~inside, -torch.inf)
    assert LogLikelihood.apply(blank, blank[..., :-1], lengths, token_lengths).isfinite().all()


def test_ranges_lie_about_where_ctc_hears_the_units_whatever_padding_holds():
    spoken = [0, 0, 2, 0, 0, 0, 1, 0, 2, 0, 0, 0]
    log_probs = torch.full((1, 12, 5), -9.0)
    log_probs[0, range(12), spoken] = 0.0
    lengths, token_lengths = torch.tensor([12]), torch.tensor([3])
    found = first_of_range(log_probs, lengths, TOKENS[:1], token_lengths, 2)
    # out before each frame: 0 0 0 1 1 1 1 2 2 3 3 3
    assert found.tolist() == [[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]]
    padded = torch.cat([log_probs, torch.randn(1, 5, 5)], dim=1)
    assert torch.equal(first_of_range(padded, lengths, TOKENS[:1], token_lengths, 2)[:, :12], found)
    # a transcript that does not fit its utterance
    assert first_of_range(log_probs[:, :2], torch.tensor([2]), TOKENS[:1], token_lengths, 2).tolist() == [[0, 0]]


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_a_pruned_loss_sums_over_the_alignments_within(penalty):
    sides = inputs(), inputs()
    first = first_of_range(ctc_at_random(), LENGTHS, TOKENS, TOKEN_LENGTHS, 2)
    whole, pruned = (
        loss_of(*sides[0], delay_penalty=penalty),
        loss_of(*sides[1], delay_penalty=penalty, first=first, width=2),
    )
    assert whole < pruned < whole + 10
    pruned.backward()
    assert all(part.grad.isfinite().all() and part.grad.any() for part in sides[1])
