"""A description that does not fit its weights is refused before anything of its size is made."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.models import limits
from steps.models.build import build_model, load_model, new_spec, read_spec, save_model
from steps.models.limits import check_weights, count_blocks, tensor_heads

SIZES = {"d_model": 16, "context": 1, "num_blocks": 1, "block": {"units": 16}}
BLOCK = {"units": 16, "splice": 1}


@pytest.fixture
def folder(tmp_path):
    carried = {}
    for name in ("tokenizer.model", "tokens.txt", "features.yaml"):
        (tmp_path / name).write_text(name)
        carried[name] = tmp_path / name
    torch.manual_seed(0)
    save_model(tmp_path / "m", build_model(new_spec("dnn", SIZES, 8, 5, "test")), carried)
    return tmp_path / "m"


def change(folder, change):
    """Other tensors, with the right checksum. Args: change: function that alters the dict of them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    spec = read_spec(folder) | {"weights_sha256": sha256_file(folder / "model.safetensors")}
    (folder / "model.json").write_text(json.dumps(spec))


def test_every_kind_of_model_fits_its_own_weights(folder):
    spec, weights = read_spec(folder), folder / "model.safetensors"
    check_weights(weights, spec, build_model)
    model = load_model(folder)
    heads = tensor_heads(weights)
    assert {name: shape for name, (_, shape) in heads.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


def test_nothing_is_allocated_to_compare(folder):
    """Nor is a random number drawn, which would change what a training makes."""
    spec = read_spec(folder)
    spec["model"] |= {"blocks": [{"units": 10**9, "splice": 1}]}
    state, built = torch.get_rng_state(), []

    def build(spec):
        built.append(build_model(spec))
        return built[-1]

    with pytest.raises(UserError, match=r"blocks.0.down.weight is F32 \[16, 16\], not F32 \[16, 1000000000\]"):
        check_weights(folder / "model.safetensors", spec, build)
    assert all(tensor.is_meta for tensor in built[0].state_dict().values())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sizes", [{"blocks": [BLOCK] * 50_000}, {"blocks": [], "num_blocks": 10**9, "block": BLOCK}])
def test_more_blocks_than_tensors_are_not_built(folder, sizes):
    spec = read_spec(folder)
    spec["model"] |= sizes
    (folder / "model.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="tensors do not fit model.json: .* tensors for (50000|1000000000) blocks"):
        check_weights(folder / "model.safetensors", spec, lambda _: pytest.fail("built"))
    with pytest.raises(UserError, match="tensors do not fit"):
        load_model(folder)


def test_a_description_of_no_sizes_is_left_to_the_builder():
    assert count_blocks({}) == count_blocks({"model": 3}) == count_blocks({"model": {"blocks": 7}}) == 0
    with pytest.raises(UserError, match="num_blocks must be 1 to 1000"):
        new_spec("dnn", SIZES | {"num_blocks": 10**9}, 8, 5, "test")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_tensors_of_another_type_are_refused_not_converted(folder, dtype):
    change(folder, lambda tensors: tensors.update({"output.bias": tensors["output.bias"].to(dtype)}))
    with pytest.raises(UserError, match=rf"output.bias is {limits.DTYPES[dtype]} \[5\], not F32 \[5\]"):
        load_model(folder)


def test_a_tensor_too_many_or_too_few_is_named(folder):
    change(folder, lambda tensors: tensors.update(extra=torch.zeros(3)))
    with pytest.raises(UserError, match=r"extra is F32 \[3\], not missing"):
        load_model(folder)
    change(folder, lambda tensors: (tensors.pop("extra"), tensors.pop("norm.bias")))
    with pytest.raises(UserError, match=r"norm.bias is missing, not F32 \[16\]"):
        load_model(folder)


def test_a_description_of_many_megabytes_is_not_read(folder):
    with open(folder / "model.json", "a") as file:
        file.write(" " * limits.LARGEST_SPEC_BYTES)
    with pytest.raises(UserError, match="more than 4,194,304 bytes, which no model description has"):
        read_spec(folder)
