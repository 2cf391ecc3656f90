"""Low-rank factors: as good as the singular values allow, and smaller."""

import pytest
import torch
from torch import nn

from steps.compress.footprint import count_parameters, macs_per_second, predict
from steps.compress.lowrank import LowRankConfig, factorise, factors, plan_ranks
from steps.core.cli import UserError
from steps.models.low_rank import LowRankLinear

KINDS = ["conformer", "rnn", "dnn"]


def outputs(model):
    feats = torch.randn(2, 70, 20, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(feats, torch.tensor([70, 50]))[0]


def linears(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_reproduces_the_model(make, kind):
    model = make(kind)
    same = factorise(model, {name: min(layer.weight.shape) for name, layer in linears(model).items()})
    assert all(isinstance(same.get_submodule(name), LowRankLinear) for name in linears(model))
    assert torch.allclose(outputs(same), outputs(model), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_error_is_what_the_discarded_singular_values_say(rank):
    weight = torch.randn(17, 12, generator=torch.Generator().manual_seed(rank))
    first, second = factors(weight, rank)
    error = weight - second @ first
    discarded = torch.linalg.svdvals(weight)[rank:]
    assert torch.linalg.matrix_norm(error, 2).item() == pytest.approx(discarded[0].item(), rel=1e-3)
    assert torch.linalg.matrix_norm(error).item() == pytest.approx(discarded.norm().item(), rel=1e-3)
    assert torch.allclose(first @ first.T, second.T @ second, atol=1e-4)  # balanced


@pytest.mark.parametrize("kind", KINDS)
def test_keep_bounds_every_layer_and_the_model_shrinks(make, kind):
    model = make(kind)
    ranks, _ = plan_ranks(model, LowRankConfig(keep=0.8))
    for name, rank in ranks.items():
        weight = model.get_submodule(name).weight
        assert rank % 8 == 0
        assert rank * sum(weight.shape) <= 0.8 * weight.numel() or rank == 8
        assert (rank + 8) * sum(weight.shape) > 0.8 * weight.numel()
    small = factorise(model, ranks)
    assert small.spec["low_rank"] == ranks
    assert count_parameters(small) == predict(small.spec).parameters < count_parameters(model)
    assert macs_per_second(small) < macs_per_second(model)
    assert "output" not in ranks


def test_energy_is_kept_and_no_smaller_rank_would_do(make):
    model = make("dnn", d_model=64, block={"units": 128})
    ranks, _ = plan_ranks(model, LowRankConfig(energy=0.6))
    for name, rank in ranks.items():
        squares = torch.linalg.svdvals(model.get_submodule(name).weight.detach().double()).square()
        assert squares[:rank].sum() >= 0.6 * squares.sum()
        assert rank == 8 or squares[: rank - 8].sum() < 0.6 * squares.sum()


def test_layers_that_would_not_shrink_are_listed(make):
    model = make("dnn", block={"units": 8})
    ranks, left_out = plan_ranks(model, LowRankConfig(keep=0.5))
    assert set(ranks) == {"frontend.linear"}
    assert left_out == [f"blocks.{block}.{name}" for block in range(3) for name in ("up", "down")]
    with pytest.raises(UserError, match="no layer becomes smaller"):
        plan_ranks(model, LowRankConfig(layers=["blocks.*"]))


def test_layers_already_thin_are_not_made_thinner(make):
    model = factorise(make("dnn"), {"blocks.0.up": 8})
    ranks, _ = plan_ranks(model, LowRankConfig())
    assert not any(name.startswith("blocks.0.up") for name in ranks)
    again = factorise(model, ranks)
    assert again.spec["low_rank"] == {"blocks.0.up": 8} | ranks
    with pytest.raises(ValueError, match="not a dense Linear"):
        factorise(model, {"blocks.0.up": 4})


def test_mistakes_are_told(make):
    with pytest.raises(UserError, match="'encoder.*' matches none"):
        plan_ranks(make("dnn"), LowRankConfig(layers=["encoder.*"]))
    with pytest.raises(ValueError, match="rank 0"):
        factorise(make("dnn"), {"blocks.0.up": 0})
    with pytest.raises(ValueError, match="rank 41"):
        factorise(make("dnn"), {"blocks.0.up": 41})
    with pytest.raises(ValueError, match="not a dense Linear"):
        factorise(make("dnn"), {"norm": 4})


BAD = [{"keep": 0.5, "energy": 0.9}, {"keep": 1.0}, {"keep": 0.0}, {"energy": 1.0}, {"layers": []}]


@pytest.mark.parametrize("bad", BAD)
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match="keep|energy|layers"):
        LowRankConfig(**bad)
    assert LowRankConfig().keep == 0.5
    assert LowRankConfig(energy=0.9).keep is None
