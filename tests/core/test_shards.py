"""Cutting a list of utterances into parts."""

import random

from steps.core.shards import plan_shards


def test_parts_cover_the_list_in_order_and_are_balanced():
    rng = random.Random(0)
    for count, num_shards in ((1, 1), (2, 5), (100, 7), (1000, 4)):
        seconds = [rng.uniform(0.5, 10) for _ in range(count)]
        shards = plan_shards(seconds, num_shards)
        assert [index for first, last in shards for index in range(first, last)] == list(range(count))
        assert len(shards) == num_shards
        for first, last in shards:
            assert abs(sum(seconds[first:last]) - sum(seconds) / num_shards) <= 10
    assert plan_shards([None] * 4, 2) == [(0, 2), (2, 4)]
