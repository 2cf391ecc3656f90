"""Late peaks: a delayed student is followed, in order, and no unit of the teacher is lost."""

import itertools

import pytest
import torch

from steps.losses.late import late_places
from steps.search.greedy import greedy_search

UNITS = 5


def spoken(path, sure=0.97):
    """Posteriors of a path of units. Args: path (T,) list.  Returns: (1, T, UNITS) log-probabilities."""
    probs = torch.full((len(path), UNITS), (1 - sure) / (UNITS - 1))
    probs[torch.arange(len(path)), torch.tensor(path)] = sure
    return probs.log().unsqueeze(0)


def kl(student, said):
    return float((said.exp() * (said - student)).sum())


def test_a_student_of_the_same_frames_is_taught_by_them():
    said = torch.randn(3, 12, UNITS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert torch.equal(late_places(said, said, torch.tensor([12, 7, 1]), 3), torch.arange(12).expand(3, 12))
    other = torch.randn(3, 12, UNITS).log_softmax(-1)
    assert torch.equal(late_places(other, said, torch.tensor([12, 7, 0]), 0), torch.arange(12).expand(3, 12))


def test_peaks_are_found_where_they_are_late_each_by_its_own_delay():
    teacher = [0, 0, 1, 0, 0, 0, 2, 3, 0, 0, 0, 4, 0, 0, 0]
    student = [0, 0, 0, 1, 0, 0, 2, 3, 0, 0, 0, 0, 0, 4, 0]
    places = late_places(spoken(student), spoken(teacher), torch.tensor([15]), 3)[0].tolist()
    assert [teacher[place] for place in places] == student
    # later than allowed: left where it was, or as near as it may come
    near = late_places(spoken(student), spoken(teacher), torch.tensor([15]), 1)[0].tolist()
    assert [teacher[place] for place in near] != student and near[3] == 2
    assert all(place - near[place] in (0, 1) for place in range(15))


@pytest.mark.parametrize("seed", range(8))
def test_ways_are_in_order_never_early_and_lose_nothing(seed):
    random = torch.Generator().manual_seed(seed)
    said = 3 * torch.randn(4, 30, UNITS, generator=random)
    said[..., 0] += 4.0
    said, student = said.log_softmax(-1), torch.randn(4, 30, UNITS, generator=random).log_softmax(-1)
    lengths, late = torch.tensor([30, 21, 2, 0]), 1 + seed % 4
    places = late_places(student, said, lengths, late)
    moved = said.gather(1, places.unsqueeze(2).expand_as(said))
    delays = torch.arange(30) - places
    assert delays.min() >= 0 and delays.max() <= late
    for row, length in enumerate(lengths.tolist()):
        own = places[row, :length].tolist()
        assert all(0 <= b - a <= 2 for a, b in itertools.pairwise(own)) and torch.equal(
            places[row, length:], torch.arange(length, 30)
        )
        spikes = [t for t in range(length) if said[row, t].argmax()]
        assert [t for t in own if said[row, t].argmax()] == spikes
        assert kl(student[row, :length], moved[row, :length]) <= kl(student[row, :length], said[row, :length]) + 1e-4
    assert greedy_search(moved, lengths) == greedy_search(said, lengths)


def test_it_is_the_best_of_all_ways():
    """Against every way written out, for short utterances."""
    random = torch.Generator().manual_seed(3)
    for _ in range(6):
        said = 2 * torch.randn(1, 6, UNITS, generator=random)
        said[..., 0] += 2.0
        said, student = said.log_softmax(-1), (2 * torch.randn(1, 6, UNITS, generator=random)).log_softmax(-1)
        blank = (said[0].argmax(-1) == 0).tolist()

        def allowed(way, blank=blank, said=said):
            pairs = list(itertools.pairwise(way))
            steps = all(0 <= b - a <= 2 for a, b in pairs)
            again = all(blank[b] for a, b in pairs if a == b)
            left = all(
                blank[a + 1] and not said[0, a].argmax() == said[0, b].argmax() != 0 for a, b in pairs if b - a == 2
            )
            return steps and again and left and all(blank[way[-1] + 1 :])

        ways = itertools.product(*([t - d for d in range(3) if t >= d] for t in range(6)))
        costs = [kl(student[0], said[0, list(way)]) for way in ways if way[0] == 0 and allowed(way)]
        found = late_places(student, said, torch.tensor([6]), 2)[0]
        assert kl(student[0], said[0, found]) == pytest.approx(min(costs), rel=1e-5)
