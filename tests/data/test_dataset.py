"""Batch plans: everything once, within the limit, reproducible."""

import random

import numpy as np
import pytest

from steps.data.dataset import plan_batches

_random = random.Random(1)
FRAMES = [_random.randint(20, 900) for _ in range(300)]


@pytest.mark.parametrize("max_frames", [500, 3000, 10**6])
def test_every_utterance_once_and_within_the_limit(max_frames):
    batches = plan_batches(FRAMES, max_frames, seed=0, epoch=2)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(FRAMES[index] for index in batch) <= max_frames


def test_a_plan_depends_on_seed_and_epoch_alone():
    plan = plan_batches(FRAMES, 3000, 0, 0)
    assert list(plan) == list(plan_batches(FRAMES, 3000, 0, 0))
    assert list(plan) != list(plan_batches(FRAMES, 3000, 0, 1))
    assert list(plan) != list(plan_batches(FRAMES, 3000, 1, 0))


def test_utterances_of_like_length_share_a_batch():
    padded = sum(len(batch) * max(FRAMES[index] for index in batch) for batch in plan_batches(FRAMES, 6000, 0, 0))
    shuffled = np.random.default_rng(0).permutation(300)
    unsorted = sum(len(part) * max(FRAMES[index] for index in part) for part in np.array_split(shuffled, 30))
    assert padded < 1.2 * sum(FRAMES) < unsorted
