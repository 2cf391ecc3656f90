"""Models: padding changes nothing, folders round-trip or are refused, axis groups name every tensor that moves."""

import json

import pytest
import torch

from steps.core.cli import MissingInput, UserError
from steps.models.attention import RotatedHeads, SelfAttention, rotary_angles, rotate
from steps.models.build import build_model, load_model, new_spec, save_model
from steps.models.context import Context
from steps.models.dropout import Dropout
from steps.models.rnn import flip_by_length

DIM = 20
SIZES = {
    "conformer": {
        "d_model": 32,
        "head_dim": 8,
        "kernel_size": 5,
        "subsampling_channels": [8, 16],
        "num_blocks": 2,
        "block": {"heads": 2, "ff1": 48, "ff2": 32, "conv_channels": 24},
    },
    "rnn": {
        "d_model": 24,
        "subsampling_channels": [8, 8],
        "num_blocks": 2,
        "block": {"cells_forward": 24, "cells_backward": 16},
    },
    "dnn": {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 40}},
}
VARIANTS = [("conformer", {}), ("conformer", {"conv_norm": "batch"}), ("rnn", {}), ("dnn", {})]
VARIANTS += [("rnn", {"block": {"cells_forward": 24, "cells_backward": 0}})]
VARIANTS += [("dnn", {"block": {"units": 40, "splice": 0}})]
NAMES = ["conformer", "conformer-batch-norm", "rnn", "dnn", "rnn-one-way", "dnn-no-splice"]


def make(kind, changes, seed=1):
    torch.manual_seed(seed)
    model = build_model(new_spec(kind, SIZES[kind] | changes, DIM, 11, "test"))
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    model.set_cmvn_(torch.randn(DIM), torch.rand(DIM) + 0.5)
    return model.eval()


def test_the_depthwise_convolution_of_training_is_that_of_use():
    module = make("conformer", {}).blocks[0].convolution
    gated = torch.randn(3, 24, 30)  # (N, C, T)
    used = module.convolve(gated)
    assert torch.allclose(module.train().convolve(gated), used, atol=1e-6)
    feats, context = torch.randn(3, 30, 32), Context.of(torch.tensor([30, 20, 0]), 30)
    module.dropout.p = 0.0
    assert torch.allclose(module(feats, context), module.eval()(feats, context), atol=1e-6)


def attention_inputs():
    torch.manual_seed(0)
    module = SelfAttention(24, 3, 8).double()
    lengths = torch.tensor([13, 6, 0])
    return module, torch.randn(3, 13, 24, dtype=torch.float64), torch.arange(13) >= lengths.unsqueeze(1)


def test_attention_is_the_one_written_out_and_so_are_its_gradients():
    module, x, is_pad = attention_inputs()
    angles = rotary_angles(13, 8, "cpu").double()
    results = []
    for attend in (module.attend, module.attend_in_steps):
        module.zero_grad()
        qkv = module.qkv(x).view(3, 13, 3, 3, 8)
        mixed = attend(qkv, angles, Context.of((~is_pad).sum(dim=1), 13))
        (mixed[~is_pad] * torch.arange(8.0)).square().sum().backward()
        results.append((mixed.detach()[~is_pad], module.qkv.weight.grad.clone()))
    assert results[0][0].shape == (19, 3, 8)
    for fused, written in zip(*results, strict=True):
        torch.testing.assert_close(fused, written, rtol=1e-9, atol=1e-9)


def test_attention_of_padding_alone_is_finite_and_its_gradient_too():
    module, x, is_pad = attention_inputs()
    out = module.float()(x.float(), Context.of((~is_pad).sum(dim=1), 13))
    out.sum().backward()
    assert out.isfinite().all() and module.qkv.weight.grad.isfinite().all()


def test_heads_are_turned_by_the_formula_in_both_directions():
    torch.manual_seed(0)
    qkv = torch.randn(2, 5, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    angles = rotary_angles(5, 6, "cpu").double().unsqueeze(1)
    assert torch.autograd.gradcheck(RotatedHeads.apply, (qkv, angles.cos(), angles.sin()))
    query, key, value = RotatedHeads.apply(qkv, angles.cos(), angles.sin())
    torch.testing.assert_close(query, rotate(qkv[:, :, 0], angles))
    torch.testing.assert_close(key, rotate(qkv[:, :, 1], angles))
    assert torch.equal(value, qkv[:, :, 2])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_dropout_drops_its_share_of_anything_and_keeps_the_mean(share):
    torch.manual_seed(0)
    layer, x = Dropout(share), torch.ones(301, 1001, requires_grad=True)
    dropped = layer(x)
    kept = dropped > 0
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.003)
    torch.testing.assert_close(dropped[kept], torch.full((int(kept.sum()),), 1 / (1 - share)), atol=1e-4, rtol=0)
    for shift in (1, 2, 3, 4, 1001):  # neighbours, of one draw too, are dropped independently
        both = (~kept.flatten()[:-shift] & ~kept.flatten()[shift:]).float().mean().item()
        assert both == pytest.approx(share**2, abs=0.003)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach()), "the gradient passes where the number did"
    torch.manual_seed(0)
    assert torch.equal(layer(x), dropped), "the seed decides"
    assert not torch.equal(layer(x), dropped)


def test_dropout_leaves_everything_alone_in_use_and_at_zero():
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
    assert Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=NAMES)
def test_batched_equals_single_whatever_the_padding_holds(kind, changes):
    model = make(kind, changes)
    lengths = torch.tensor([90, 47, 33, 8])
    feats = torch.randn(4, 90, DIM, generator=torch.Generator().manual_seed(0))  # padding is noise, not zeros
    with torch.no_grad():
        batched, out_lengths = model(feats, lengths)
        assert out_lengths.tolist() == model.output_lengths(lengths).tolist()
        for row, length in enumerate(lengths.tolist()):
            single, (frames,) = model(feats[row : row + 1, :length], torch.tensor([length]))
            assert frames == out_lengths[row] == single.shape[1]
            assert torch.allclose(batched[row, :frames], single[0], atol=1e-5)


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=NAMES)
def test_outputs_are_log_probabilities_of_the_lengths_promised(kind, changes):
    model = make(kind, changes)
    for frames in (8, 9, 10, 11, 64, 101):
        with torch.no_grad():
            log_probs, lengths = model(torch.randn(1, frames, DIM), torch.tensor([frames]))
        assert log_probs.shape == (1, int(lengths), 11)
        assert log_probs.dtype == torch.float32
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(1, int(lengths)), atol=1e-5)
        assert abs(int(lengths) - frames / 4) <= 2


@pytest.mark.parametrize("kind", SIZES)
def test_fewest_frames_give_one_frame_and_fewer_give_none(kind):
    model = make(kind, {})
    least = 7
    assert model.output_lengths(torch.tensor([0, 1, least - 1, least])).tolist() == [0, 0, 0, 1]
    with torch.no_grad():
        log_probs, lengths = model(torch.randn(2, 40, DIM), torch.tensor([40, 1]))
    assert lengths.tolist()[1] == 0
    assert log_probs.isfinite().all()


@pytest.mark.parametrize("kind", SIZES)
def test_normalisation_is_inside(kind):
    model, plain = make(kind, {}), make(kind, {})
    mean, std = torch.randn(DIM), torch.rand(DIM) + 0.5
    model.set_cmvn_(mean, std)
    plain.set_cmvn_(torch.zeros(DIM), torch.ones(DIM))
    feats, lengths = torch.randn(1, 50, DIM), torch.tensor([50])
    with torch.no_grad():
        assert torch.allclose(model(feats * std + mean, lengths)[0], plain(feats, lengths)[0], atol=1e-4)


def test_flip_by_length_is_its_own_inverse_and_leaves_padding():
    x, lengths = torch.randn(3, 7, 2), torch.tensor([7, 4, 0])
    flipped = flip_by_length(x, lengths)
    assert torch.equal(flip_by_length(flipped, lengths), x)
    assert torch.equal(flipped[1, :4], x[1, :4].flip(0))
    assert torch.equal(flipped[1, 4:], x[1, 4:]) and torch.equal(flipped[2], x[2])


def test_template_and_block_list_describe_the_same_model():
    template, explicit = SIZES["dnn"], {"d_model": 24, "context": 3, "blocks": [{"units": 40}, {"units": 40}]}
    assert new_spec("dnn", template, DIM, 11, "t") == new_spec("dnn", explicit, DIM, 11, "t")
    with pytest.raises(UserError, match="not both"):
        new_spec("dnn", template | explicit, DIM, 11, "t")
    with pytest.raises(UserError, match="conformer"):
        new_spec("conforner", {}, DIM, 11, "t")


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=NAMES)
def test_axis_groups_cover_what_they_claim(kind, changes):
    """Building with one size changed moves exactly the members' axes, by chunks x unit per index removed."""
    model = make(kind, changes)
    state = model.state_dict()
    groups = model.axis_groups()
    assert len({group.name for group in groups}) == len(groups) >= 2
    for group in groups:
        spec = json.loads(json.dumps(model.spec))
        *path, last = group.config_path
        place = spec["model"]
        for key in path:
            place = place[key]
        assert place[last] == group.size
        place[last] -= 1
        smaller = build_model(spec).state_dict()
        changed = {
            (name, axis): before - after
            for name, tensor in state.items()
            for axis, (before, after) in enumerate(zip(tensor.shape, smaller[name].shape, strict=True))
            if before != after
        }
        claimed = {(member.parameter, member.axis): member.chunks * member.unit for member in group.members}
        assert claimed == changed, group.name


def test_member_rows():
    group = make("rnn", {}).axis_groups()[2]
    rows = {(m.parameter.rpartition(".")[2], m.axis): m.rows([1, 3], group.size).tolist() for m in group.members}
    gates = [chunk * group.size + index for chunk in range(4) for index in (1, 3)]
    assert rows["weight_ih_l0", 0] == rows["bias_hh_l0", 0] == gates
    assert rows["weight_hh_l0", 1] == [1, 3]


@pytest.fixture
def carried(tmp_path):
    """Files that travel with a model."""
    paths = {name: tmp_path / "carried" / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")}
    for name, path in paths.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return paths


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=NAMES)
def test_folder_round_trip(tmp_path, carried, kind, changes):
    model = make(kind, changes)
    save_model(tmp_path / "m", model, carried)
    loaded = load_model(tmp_path / "m")
    assert loaded.spec == json.loads((tmp_path / "m" / "model.json").read_text()) == model.spec
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (tmp_path / "m" / "tokens.txt").read_text() == "tokens.txt"


def test_saving_again_gives_the_same_bytes_and_names_the_parent(tmp_path, carried):
    for name in ("a", "b"):
        save_model(tmp_path / name, make("dnn", {}), carried)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "model.json").read_bytes() == (tmp_path / "b" / "model.json").read_bytes()
    save_model(tmp_path / "c", make("dnn", {}), carried, parent=tmp_path / "a")
    spec = json.loads((tmp_path / "c" / "model.json").read_text())
    assert spec["parent"] == {"name": "a", "weights_sha256": spec["weights_sha256"]}


def edit_spec(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_last_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-10])


def other_sizes(folder):
    spec = json.loads((folder / "model.json").read_text())
    spec["model"]["blocks"][0]["units"] -= 1
    edit_spec(folder, model=spec["model"])


DAMAGE = {
    "no-description": (lambda folder: (folder / "model.json").unlink(), MissingInput, "model.json: no such file"),
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), MissingInput, "no such file"),
    "weights-flipped": (flip_last_bit, UserError, "does not match"),
    "weights-cut": (lambda folder: cut(folder, "model.safetensors"), UserError, "does not match"),
    "description-cut": (lambda folder: cut(folder, "model.json"), UserError, "not valid JSON"),
    "description-empty": (lambda folder: (folder / "model.json").write_text(""), UserError, "not valid JSON"),
    "description-a-list": (lambda folder: (folder / "model.json").write_text("[1]"), UserError, "not a model"),
    "other-format": (lambda folder: edit_spec(folder, format=99), UserError, "format 1"),
    "other-kind": (lambda folder: edit_spec(folder, type="gru"), UserError, "does not describe"),
    "other-sizes": (other_sizes, UserError, "do not fit"),
    "unknown-size": (lambda folder: edit_spec(folder, model={"widths": 3}), UserError, "unknown key 'widths'"),
    "unknown-layer": (lambda folder: edit_spec(folder, low_rank={"blocks.7.up": 3}), UserError, "does not describe"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_refused(tmp_path, carried, damage):
    save_model(tmp_path / "m", make("dnn", {}), carried)
    harm, error, words = DAMAGE[damage]
    harm(tmp_path / "m")
    with pytest.raises(error, match=words):
        load_model(tmp_path / "m")


def test_missing_companion_file_leaves_no_finished_folder(tmp_path, carried):
    carried["tokens.txt"].unlink()
    with pytest.raises(OSError, match="tokens.txt"):
        save_model(tmp_path / "m", make("dnn", {}), carried)
    assert not (tmp_path / "m" / "model.json").exists()
