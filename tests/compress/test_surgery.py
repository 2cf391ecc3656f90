"""Surgery is exact: the small model computes what the large one computes with the removed parts zeroed."""

import pytest
import torch

from steps.compress.footprint import count_parameters, predict
from steps.compress.lowrank import factorise
from steps.compress.sparsity import measured_sparsity, sparsify_
from steps.compress.surgery import drop_blocks, shrink, shrunk_spec
from steps.core.cli import UserError
from steps.models.build import build_model

CASES = [("conformer", kind) for kind in ("heads", "ff", "conv", "subsampling")]
CASES += [("rnn", "cells"), ("rnn", "subsampling"), ("dnn", "units")]


def outputs(model):
    feats = torch.randn(2, 70, 20, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(feats, torch.tensor([70, 50]))[0]


def kept_parts(model, kinds, seed=0):
    """About half of every axis of these kinds, at random."""
    random = torch.Generator().manual_seed(seed)
    groups = [group for group in model.axis_groups() if group.kind in kinds]
    return {g.name: sorted(torch.randperm(g.size, generator=random)[: g.size // 2].tolist()) for g in groups}


@torch.no_grad()
def zeroed(model, kept):
    """A copy with the removed parts' weights zeroed on every member axis."""
    masked = build_model(model.spec).eval()
    masked.load_state_dict(model.state_dict())
    state = masked.state_dict()
    for group in model.axis_groups():
        if group.name in kept:
            gone = sorted(set(range(group.size)) - set(kept[group.name]))
            for member in group.members:
                if "running_" not in member.parameter:
                    state[member.parameter].index_fill_(member.axis, member.rows(gone, group.size), 0.0)
    return masked


def low_rank_everywhere(model):
    layers = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]
    return factorise(model, {name: 5 for name in layers if name != "output"}).eval()


@pytest.mark.parametrize("low_rank", [False, True], ids=["dense", "low-rank"])
@pytest.mark.parametrize(("kind", "axis"), CASES)
def test_small_equals_masked(make, kind, axis, low_rank):
    model = low_rank_everywhere(make(kind)) if low_rank else make(kind)
    kept = kept_parts(model, [axis])
    small = shrink(model, kept)
    assert kept
    assert torch.allclose(outputs(small), outputs(zeroed(model, kept)), atol=1e-5)
    assert not torch.allclose(outputs(small), outputs(model), atol=1e-3)  # what was removed mattered


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_all_kinds_at_once(make, kind):
    model = make(kind)
    kept = kept_parts(model, {group.kind for group in model.axis_groups()}, seed=7)
    small = shrink(model, kept)
    assert torch.allclose(outputs(small), outputs(zeroed(model, kept)), atol=1e-5)
    assert {group.name: group.size for group in small.axis_groups()} == {name: len(k) for name, k in kept.items()}


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_counted_parameters_equal_predicted(make, kind):
    model = make(kind)
    kept = kept_parts(model, {group.kind for group in model.axis_groups()})
    small = shrink(model, kept)
    assert count_parameters(small) == predict(shrunk_spec(model, kept)).parameters < count_parameters(model)


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_keeping_all_is_the_identity(make, kind):
    model = make(kind)
    same = shrink(model, {group.name: list(range(group.size)) for group in model.axis_groups()})
    assert same is not model
    assert same.spec == model.spec
    assert torch.equal(outputs(same), outputs(model))


def test_layer_norm_channels_shrink_but_are_not_equal(make):
    model = make("conformer", conv_norm="layer")
    kept = kept_parts(model, ["conv"])
    small = shrink(model, kept)
    assert [block.convolution.conv_norm.normalized_shape for block in small.blocks] == [(12,), (12,)]
    assert outputs(small).isfinite().all()
    assert not torch.allclose(outputs(small), outputs(zeroed(model, kept)), atol=1e-5)


def test_the_model_given_is_left_alone(make):
    model, reference = make("rnn"), make("rnn")
    small = shrink(model, kept_parts(model, ["cells"]))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert model.spec == reference.spec
    assert torch.equal(outputs(model), outputs(reference))


def test_surgery_twice_equals_once(make):
    model = make("dnn")
    name = "blocks.1.units"
    once = shrink(model, {name: [3, 9, 20]})
    twice = shrink(shrink(model, {name: [1, 3, 9, 15, 20]}), {name: [1, 2, 4]})
    assert once.spec == twice.spec
    assert torch.equal(outputs(once), outputs(twice))


def test_dropped_blocks(make):
    model = shrink(make("dnn"), {"blocks.2.units": list(range(16))})
    model = factorise(model, {"blocks.2.up": 4, "blocks.0.up": 4}).eval()
    small = drop_blocks(model, [0])
    assert [block["units"] for block in small.spec["model"]["blocks"]] == [40, 16]
    assert small.spec["low_rank"] == {"blocks.1.up": 4}
    model.blocks = model.blocks[1:]
    assert torch.equal(outputs(small), outputs(model))


def test_dropping_every_block_is_refused(make):
    with pytest.raises(UserError, match="at least one must stay"):
        drop_blocks(make("dnn"), [0, 1, 2])
    with pytest.raises(ValueError, match="within"):
        drop_blocks(make("dnn"), [3])


@pytest.mark.parametrize(
    "operation", [lambda m: shrink(m, {}), lambda m: drop_blocks(m, [0]), lambda m: factorise(m, {})]
)
def test_quantized_models_are_refused(make, operation):
    model = make("dnn")
    model.spec = model.spec | {"quantization": {"layers": {"output": {"bits": 8}}}}
    with pytest.raises(UserError, match="quantized"):
        operation(model)


@pytest.mark.parametrize("indices", [[], [3, 1], [1, 1], [40], [-1, 2]])
def test_bad_indices_are_refused(make, indices):
    with pytest.raises(ValueError, match="ascending within"):
        shrink(make("dnn"), {"blocks.0.units": indices})
    with pytest.raises(ValueError, match="no axis group"):
        shrink(make("dnn"), {"blocks.9.units": [0]})


def test_mode_and_sparsity_follow(make):
    model = make("dnn").train()
    sparsify_(model, 0.5)
    small = shrink(model, kept_parts(model, ["units"]))
    assert small.training
    assert small.spec["sparsity"] == measured_sparsity(small) > 0.3
