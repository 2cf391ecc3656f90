"""Learning rate, weight decay groups, averaging."""

import pytest
import torch

from steps.training.averaging import WeightAverage
from steps.training.optim import OptimConfig, learning_rate, make_optimizer


def test_the_rate_climbs_to_the_peak_and_falls_to_its_end():
    config = OptimConfig(peak_lr=1e-3, warmup=0.2, final_lr=0.1)
    rates = [learning_rate(i / 100, config) for i in range(101)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 20
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[0] > 0


def test_only_matrices_decay():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, spared = make_optimizer(layer.parameters(), OptimConfig(weight_decay=0.1)).param_groups
    assert [p.dim() for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert {p.dim() for p in spared["params"]} == {1} and spared["weight_decay"] == 0.0


def test_the_average_is_the_mean_and_survives_saving():
    layers = [torch.nn.Linear(2, 2) for _ in range(3)]
    average = WeightAverage()
    for layer in layers[:2]:
        average.add(layer)
    restored = WeightAverage()
    restored.load_state_dict(average.state_dict(), "cpu")
    restored.add(layers[2])
    result = torch.nn.Linear(2, 2)
    restored.copy_to_(result)
    torch.testing.assert_close(result.weight, torch.stack([layer.weight for layer in layers]).mean(0))


def test_an_empty_average_changes_nothing():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    WeightAverage().copy_to_(layer)
    assert torch.equal(layer.weight, before)
