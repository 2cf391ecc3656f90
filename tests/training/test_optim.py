"""Learning rate, weight decay groups, averaging."""

import copy

import pytest
import torch

from steps.models.build import build_model, new_spec
from steps.models.low_rank import LowRankLinear
from steps.training.averaging import WeightAverage
from steps.training.muon import ROUNDS, A, B, C, Muon, OptimizerGroup, descend_
from steps.training.optim import OptimConfig, clip_gradient_, learning_rate, make_optimizer, row_chunks


class Net(torch.nn.ModuleDict):
    """Modules under names, nothing of which can be removed; those of a CTC head are called as in models."""

    head_layers = ("norm", "output")

    def axis_groups(self):
        return []


def orthogonalised(matrices):
    """What Muon makes of directions. Args, Returns: (K, M, N)."""
    result = torch.zeros_like(matrices)
    descend_(result.unbind(), matrices.unbind(), keep=0.0, rate=-1.0)
    return result


def test_the_rate_climbs_to_the_peak_and_falls_to_its_end():
    config = OptimConfig(peak_lr=1e-3, warmup=0.2, final_lr=0.1)
    rates = [learning_rate(i / 100, config) for i in range(101)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 20
    assert rates[1:21] == pytest.approx([1e-3 * i / 20 for i in range(1, 21)]), "a line"
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)
    assert 0 < rates[0] < rates[1]


def test_only_matrices_decay():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, spared = make_optimizer(layer, [], OptimConfig(weight_decay=0.1)).param_groups
    assert [p.dim() for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert {p.dim() for p in spared["params"]} == {1} and spared["weight_decay"] == 0.0


def test_muon_takes_the_matrices_of_blocks_and_front_end_and_adamw_the_rest():
    model = Net(
        {
            "frontend": torch.nn.ModuleDict({"conv": torch.nn.Conv2d(1, 2, 3), "linear": torch.nn.Linear(6, 4)}),
            "blocks": torch.nn.ModuleList([torch.nn.Linear(4, 4)]),
            "norm": torch.nn.LayerNorm(4),
            "output": torch.nn.Linear(4, 5),
        }
    )
    projection = torch.nn.Linear(4, 3)
    both = make_optimizer(model, projection.parameters(), OptimConfig(optimizer="muon", weight_decay=0.1))
    assert isinstance(both, OptimizerGroup)
    muon, matrices, vectors = both.param_groups
    assert list(map(id, muon["params"])) == [id(model["frontend"]["linear"].weight), id(model["blocks"][0].weight)]
    expected = [model["frontend"]["conv"].weight, model["output"].weight, projection.weight]
    assert list(map(id, matrices["params"])) == list(map(id, expected))
    assert (muon["weight_decay"], matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.1, 0.0)
    everything = {*map(id, model.parameters()), *map(id, projection.parameters())}
    assert {id(p) for group in both.param_groups for p in group["params"]} == everything


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="adamw or muon"):
        OptimConfig(optimizer="sgd")


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 30, 30), (2, 30, 36), (2, 36, 30)], ids=str)
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_scales(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.05, 1.0, min(shape[1:])).expand(shape[0], -1)
    result = orthogonalised(7.0 * u @ torch.diag_embed(values) @ v)
    rotated = u.mT @ result @ v.mT  # diagonal when the singular vectors are kept
    found = rotated.diagonal(dim1=1, dim2=2)
    assert (rotated - torch.diag_embed(found)).abs().max() < 1e-4
    expected = values / values.norm(dim=1, keepdim=True)
    for _ in range(ROUNDS):
        expected = A * expected + B * expected**3 + C * expected**5
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.min() > 0.6 and found.max() < 1.3


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 9)], ids=str)
def test_zeros_stay_zeros_when_orthogonalised(shape):
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 30, 30)], ids=str)
def test_a_step_keeps_its_share_of_the_weights_and_goes_against_the_direction(shape):
    torch.manual_seed(0)
    weights, directions = torch.randn(shape), torch.randn(shape)
    moved = weights.clone()
    descend_(moved.unbind(), directions.unbind(), keep=0.9, rate=0.3)
    torch.testing.assert_close(moved, 0.9 * weights - 0.3 * orthogonalised(directions), atol=1e-5, rtol=1e-5)


def test_matrices_in_one_parameter_move_as_if_they_were_apart():
    torch.manual_seed(0)
    for count, rows, columns in ((3, 8, 24), (2, 40, 24), (4, 10, 10)):
        joint = torch.nn.Parameter(torch.randn(count * rows, columns))
        apart = [torch.nn.Parameter(part.clone()) for part in joint.detach().chunk(count)]
        one, several = Muon([joint], 0.01, 0.1, chunks=[count]), Muon(apart, 0.01, 0.1)
        for _ in range(3):
            joint.grad = torch.randn_like(joint)
            for part, grad in zip(apart, joint.grad.chunk(count), strict=True):
                part.grad = grad.clone()
            one.step()
            several.step()
        torch.testing.assert_close(joint.detach(), torch.cat([*apart]).detach(), atol=1e-6, rtol=1e-5)


def test_the_modules_say_which_of_their_matrices_are_several():
    sizes = {"d_model": 8, "subsampling_channels": [2, 2], "num_blocks": 1}
    model = build_model(new_spec("conformer", sizes | {"head_dim": 2, "kernel_size": 3}, 10, 5, "test"))
    name = "blocks.0.attention.qkv"
    expected = {f"{name}.weight": 3, f"{name}.bias": 3}
    expected |= {f"blocks.0.convolution.pointwise1.{kind}": 2 for kind in ("weight", "bias")}
    assert row_chunks(model) == expected
    thin = build_model(model.spec | {"low_rank": {name: 4}})
    assert isinstance(thin.get_submodule(name), LowRankLinear)
    assert row_chunks(thin).keys() - expected.keys() == {f"{name}.second.weight", f"{name}.second.bias"}
    gates = row_chunks(build_model(new_spec("rnn", sizes, 10, 5, "test")))
    lstms = [f"blocks.0.{way}.lstm" for way in ("forwards", "backwards")]
    matrices = [f"{lstm}.{kind}_l0" for lstm in lstms for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    assert gates == dict.fromkeys(matrices, 4)


def test_muon_is_told_which_matrices_are_several():
    sizes = {"d_model": 8, "subsampling_channels": [2, 2], "num_blocks": 1, "head_dim": 2, "kernel_size": 3}
    model = build_model(new_spec("conformer", sizes, 10, 5, "test"))
    muon = make_optimizer(model, [], OptimConfig(optimizer="muon")).optimizers[0]
    block = model.blocks[0]
    assert muon.chunks[block.attention.qkv.weight] == 3
    assert muon.chunks[block.convolution.pointwise1.weight] == 2
    assert muon.chunks[block.attention.out.weight] == muon.chunks[block.ff1.up.weight] == 1


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_a_gradient_is_only_ever_shortened(limit):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 4, 5)]
    grads = [torch.randn(3), torch.randn(4)]
    for parameter, grad in zip(parameters, grads, strict=False):
        parameter.grad = grad.clone()
    norm = torch.cat(grads).norm().item()
    assert clip_gradient_(parameters, limit) == pytest.approx(norm)
    for parameter, grad in zip(parameters, grads, strict=False):
        torch.testing.assert_close(parameter.grad, grad * min(1.0, limit / norm))
    assert parameters[2].grad is None


def test_muon_moves_as_far_as_its_rate_says_and_against_the_gradient():
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(40, 60))
    before, matrix.grad = matrix.detach().clone(), torch.randn(40, 60)
    Muon([matrix], lr=1e-2, weight_decay=0.0).step()
    move = matrix.detach() - before
    assert (move * matrix.grad).sum() < 0
    # as large as AdamW's usual steps, a fifth of the rate: orthogonal rows of 60 have entries of 60**-0.5
    assert move.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)


def test_muon_goes_on_from_its_state():
    def make(seed):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(6, 6)
        return layer, make_optimizer(Net({"layer": layer}), [], OptimConfig(optimizer="muon", peak_lr=0.01))

    def step(layer, optimizer, x):
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(9)
    inputs = torch.randn(4, 5, 6)
    (whole, optimizer), (resumed, other) = make(0), make(1)
    for x in inputs[:2]:
        step(whole, optimizer, x)
    resumed.load_state_dict(whole.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x in inputs[2:]:
        step(whole, optimizer, x)
        step(resumed, other, x)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)


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
