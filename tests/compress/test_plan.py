"""Plans meet their budget and waste little of it."""

import pytest
import torch

from steps.compress.footprint import predict
from steps.compress.importance import magnitude
from steps.compress.plan import (
    StructuredConfig,
    allowed_size,
    blocks_between,
    cost,
    local_sizes,
    plan_kept,
    prune_structured,
)
from steps.compress.surgery import shrink, shrunk_spec
from steps.core.cli import UserError

KINDS = ["conformer", "rnn", "dnn"]


def config(**values):
    return StructuredConfig(**({"importance": "magnitude"} | values))


def sizes_of(groups):
    return {group.name: group.size for group in groups}


def random_scores(model, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=random) for group in model.axis_groups()}


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("target", ["macs", "parameters"])
@pytest.mark.parametrize("kind", KINDS)
def test_budget_is_met_and_one_step_more_would_break_it(make, kind, target, scope):
    model = make(kind)
    scores = random_scores(model)
    kept = plan_kept(model, scores, config(target=target, scope=scope, keep=0.7))
    budget = 0.7 * cost(model.spec, target)
    small = shrink(model, kept)
    assert cost(small.spec, target) <= budget
    groups = {group.name: group for group in model.axis_groups()}
    dearer = []
    for name, indices in kept.items():
        group = groups[name]
        assert len(indices) == group.size or len(indices) % group.multiple == 0
        assert indices
        more = min(group.size, len(indices) + group.multiple)
        if more > len(indices):
            dearer.append(cost(shrunk_spec(model, kept | {name: list(range(more))}), target))
    assert max(dearer) > budget


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_best_parts_of_each_axis_stay(make, scope):
    model = make("dnn")
    scores = random_scores(model)
    kept = plan_kept(model, scores, config(scope=scope, keep=0.6))
    assert any(len(indices) < len(scores[name]) for name, indices in kept.items())
    for name, indices in kept.items():
        assert indices == sorted(scores[name].argsort(descending=True)[: len(indices)].tolist())


def test_local_keeps_about_the_same_share_everywhere(make):
    model = make("conformer")
    for ratio in (0.3, 0.5, 0.8):
        groups = model.axis_groups()
        sizes = local_sizes(groups, ratio, dict.fromkeys(sizes_of(groups), 1))
        assert all(abs(sizes[g.name] - ratio * g.size) <= g.multiple for g in groups)
    assert local_sizes(groups, 2.0, dict.fromkeys(sizes_of(groups), 1)) == sizes_of(groups)


def test_global_takes_from_the_axis_that_matters_least(make):
    model = make("dnn")
    scores = {group.name: torch.ones(group.size) for group in model.axis_groups()}
    scores["blocks.1.units"] = torch.linspace(0.01, 0.5, 40)
    kept = plan_kept(model, scores, config(keep=0.85, importance="taylor", scope="global"))
    assert len(kept["blocks.1.units"]) < 40
    assert len(kept["blocks.0.units"]) == len(kept["blocks.2.units"]) == 40


def test_taylor_weighs_the_loss_against_what_a_part_costs(make):
    blocks = [{"units": 64, "splice": 1}, {"units": 64, "splice": 0}]  # a unit of the first reads three frames
    model = make("dnn", num_blocks=1, block=None, blocks=blocks)
    scores = {f"blocks.{block}.units": torch.linspace(0.5, 1.5, 64) for block in (0, 1)}
    by_cost = plan_kept(model, scores, config(keep=0.7, importance="taylor", scope="global"))
    by_rank = plan_kept(model, scores, config(keep=0.7, importance="magnitude", scope="global"))
    assert len(by_cost["blocks.0.units"]) < len(by_cost["blocks.1.units"])
    assert len(by_rank["blocks.0.units"]) == len(by_rank["blocks.1.units"])


@pytest.mark.parametrize("scope", ["local", "global"])
def test_keep_one_keeps_everything(make, scope):
    model = make("conformer", block={"heads": 3, "ff1": 50, "ff2": 30, "conv_channels": 20})
    kept = plan_kept(model, random_scores(model), config(keep=1.0, scope=scope))
    assert all(kept[group.name] == list(range(group.size)) for group in model.axis_groups())


def test_only_the_kinds_named_shrink(make):
    model = make("conformer")
    kept = plan_kept(model, random_scores(model), config(keep=0.9, kinds=["ff"]))
    assert set(kept) == {g.name for g in model.axis_groups() if g.kind == "ff"}
    with pytest.raises(UserError, match="no axis of kind cells"):
        plan_kept(model, random_scores(model), config(kinds=["cells"]))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_unreachable_budget_names_the_least(make, scope):
    model = make("dnn")
    settings = config(keep=0.1, min_fraction=0.4, scope=scope)
    least = shrink(model, {group.name: list(range(16)) for group in model.axis_groups()})
    share = cost(least.spec, "macs") / cost(model.spec, "macs")
    with pytest.raises(UserError, match=r"0\.\d+ is the least") as error:
        plan_kept(model, random_scores(model), settings)
    told = float(str(error.value).split(" is the least")[0].split()[-1])
    assert share <= told <= share + 0.001
    reachable = config(keep=told, min_fraction=0.4, scope=scope)
    assert all(len(indices) == 16 for indices in plan_kept(model, random_scores(model), reachable).values())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_least_is_a_share_of_the_sizes_that_are_given(make, scope):
    model = make("dnn")
    whole = {name: 2 * size for name, size in sizes_of(model.axis_groups()).items()}
    kept = plan_kept(model, random_scores(model), config(keep=0.95, min_fraction=0.4, scope=scope), whole=whole)
    assert all(len(indices) >= 0.4 * whole[name] for name, indices in kept.items())
    with pytest.raises(UserError, match="is the least"):
        plan_kept(model, random_scores(model), config(keep=0.6, min_fraction=0.4, scope=scope), whole=whole)


def test_allowed_sizes():
    assert [allowed_size(20, count, 8, 1) for count in (0, 7, 8, 15, 16, 19, 20, 30)] == [8, 8, 8, 8, 16, 16, 20, 20]
    assert allowed_size(4, 0, 1, 0) == 1
    assert allowed_size(4, 2, 8, 1) == 4
    assert allowed_size(64, 0, 8, 0.3 * 64) == 24


def test_a_plan_repeats(make):
    model = make("conformer")
    settings = config(keep=0.6, scope="global")
    assert plan_kept(model, magnitude(model), settings) == plan_kept(model, magnitude(model), settings)


@pytest.mark.parametrize(("kind", "target"), [("conformer", "macs"), ("rnn", "parameters")])
def test_whole_pruning(make, batches, loss_fn, kind, target):
    model = make(kind)
    settings = StructuredConfig(target=target, keep=0.45, drop_blocks=1, scope="global", importance="taylor")
    small, record = prune_structured(model, settings, batches, loss_fn)
    before, after = predict(model.spec), predict(small.spec)
    assert record["parameters"] == [before.parameters, after.parameters]
    assert record["macs_per_second"] == [before.macs_per_second, after.macs_per_second]
    assert cost(small.spec, target) <= 0.45 * cost(model.spec, target)
    assert len(record["dropped_blocks"]) == 1 and len(small.blocks) == 1
    assert record["sizes"] == {g.name: [record["sizes"][g.name][0], g.size] for g in small.axis_groups()}


def distance_from(model):
    """Loss that is 0 for this model and larger for any that says something else."""

    def loss_fn(other, batch):
        feats, lengths, _ = batch
        expected, found = (m(feats, lengths)[0] for m in (model, other))
        return (expected.detach().exp() * (expected.detach() - found)).sum(-1).mean()

    return loss_fn


def test_the_blocks_that_matter_least_go_first_and_are_named_as_they_were(make, batches):
    model = make("dnn", num_blocks=4)
    with torch.no_grad():
        for index, scale in enumerate((0.3, 1e-4, 3.0, 1e-2)):
            model.blocks[index].down.weight.mul_(scale)
            model.blocks[index].down.bias.mul_(scale)
    for count, expected in ((1, [1]), (2, [1, 3]), (3, [1, 3, 0])):
        settings = config(keep=1.0, drop_blocks=count)
        small, record = prune_structured(model, settings, batches, distance_from(model))
        assert record["dropped_blocks"] == expected
        stayed = [index for index in range(4) if index not in expected]
        for new, old in enumerate(stayed):
            assert torch.equal(small.blocks[new].up.weight, model.blocks[old].up.weight)


def test_the_budget_is_a_share_of_the_model_before_blocks_went(make, batches):
    model = make("dnn", num_blocks=4)
    settings = config(keep=0.6, drop_blocks=1, target="parameters")
    small, _ = prune_structured(model, settings, batches, distance_from(model))
    assert 0.5 < cost(small.spec, "parameters") / cost(model.spec, "parameters") <= 0.6


def test_dropping_too_many_blocks_is_refused(make, batches, loss_fn):
    with pytest.raises(UserError, match="at least one must stay"):
        prune_structured(make("dnn"), StructuredConfig(drop_blocks=3), batches, loss_fn)
    with pytest.raises(ValueError, match="batches"):
        prune_structured(make("dnn"), StructuredConfig())


@pytest.mark.parametrize(
    "bad",
    [
        {"target": "bytes"},
        {"keep": 0.0},
        {"keep": 1.5},
        {"scope": "x"},
        {"importance": "x"},
        {"kinds": []},
        {"kinds": ["x"]},
        {"min_fraction": 0.0},
        {"drop_blocks": -1},
        {"batches": 0},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        StructuredConfig(**bad)


def test_blocks_that_stay_lie_evenly():
    assert blocks_between(12, 6) == [1, 3, 5, 6, 8, 10] and blocks_between(12, 10) == [*range(1, 11)]
    assert blocks_between(3, 2) == [1, 2] and blocks_between(4, 0) == []
    for total in range(1, 30):
        for count in range(total):
            gone = blocks_between(total, count)
            kept = [i for i in range(total) if i not in gone]
            steps = [b - a for a, b in zip(kept, kept[1:], strict=False)]
            assert len(gone) == count and kept[0] == 0 and (not steps or max(steps) - min(steps) <= 1)
            assert len(kept) == 1 or kept[-1] == total - 1
    with pytest.raises(UserError, match="3 of 3 blocks"):
        blocks_between(3, 3)
