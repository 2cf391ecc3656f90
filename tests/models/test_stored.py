"""Packed model files: as small as they say, the same model when read, and refused where bytes are no codes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.models.build import load_model, read_spec
from steps.models.quant_layers import quantized_layers
from steps.models.stored import stored_state

SETTINGS = {"bits": 2, "layers": {"output": 8}, "convolutions": 8, "rest": "float16"}


def folder_of(make, save, folder, kind="dnn", **changes):
    model = quantize_model(make(kind), QuantizeConfig(**SETTINGS | changes))
    return model, save(folder, model)


CASES = [(8, "float16"), (7, "float16"), (6, "float32"), (5, "float16"), (4, "float32"), (3, "float16"), (2, "float16")]
CASES += [("ternary", "float32"), (1, "float16")]


@pytest.mark.parametrize(("bits", "rest"), CASES)
def test_a_packed_folder_is_the_model_in_few_bytes(make, save, tmp_path, bits, rest):
    kind, group = "conformer" if bits == 2 else "rnn" if bits == 1 else "dnn", 24 if bits == 3 else None
    model, folder = folder_of(make, save, tmp_path / "m", kind, bits=bits, rest=rest, group=group)
    again = load_model(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor) and again.state_dict()[name].dtype == tensor.dtype, name
    tensors = load_file(folder / "model.safetensors")
    for path, layer in quantized_layers(model).items():
        for name, codes in layer.matrices().items():
            stored = tensors[f"{path}.{name}_codes"]
            assert stored.dtype == torch.uint8 and stored.nbytes == codes.format.code_bytes(*codes.codes.shape)
    kinds = {name: tensor.dtype for name, tensor in tensors.items() if tensor.is_floating_point()}
    assert {kind for name, kind in kinds.items() if name.endswith("_scales")} == {torch.float16}
    assert {kind for name, kind in kinds.items() if not name.endswith("_scales")} == {getattr(torch, rest)}


def test_whole_bytes_stay_as_version_0_2_wrote_them(make, save, tmp_path):
    model = make("rnn", quantized=True)
    tensors = load_file(save(tmp_path / "m", model) / "model.safetensors")
    assert model.spec["quantization"].keys() == {"layers"}
    assert {t.dtype for t in tensors.values()} == {torch.int8, torch.float32}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


def rewrite(folder, tensors):
    """Put other tensors into a model folder, with their checksum."""
    save_file(tensors, folder / "model.safetensors")
    spec = read_spec(folder) | {"weights_sha256": sha256_file(folder / "model.safetensors")}
    (folder / "model.json").write_text(json.dumps(spec))


def test_bytes_that_are_no_codes_and_other_types_are_refused_in_one_line(make, save, tmp_path):
    _, folder = folder_of(make, save, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    codes, scales = "output.weight_codes", "output.weight_scales"
    for name, wrong, words in (
        (codes, tensors[codes].clone().fill_(255), "a code above 127"),
        (codes, tensors[codes][:, :-1].contiguous(), "output.weight_codes is U8"),
        (codes, tensors[codes].to(torch.int8), "is I8"),
        (scales, tensors[scales].float(), "is F32"),
    ):
        rewrite(folder, tensors | {name: wrong})
        with pytest.raises(UserError, match=words) as error:
            load_model(folder)
        assert "\n" not in str(error.value)


def test_numbers_that_would_not_be_read_as_they_are_are_not_written(make):
    model = quantize_model(make("dnn"), QuantizeConfig(**SETTINGS))
    with torch.no_grad():
        model.norm.weight[0] = 1.0001
    with pytest.raises(ValueError, match=r"norm.weight: its numbers are not of torch.float16"):
        stored_state(model, model.spec["quantization"])
