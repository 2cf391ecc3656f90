"""Fixed scales of activations in a model folder: attention with them, and folders that hold what makes no sense."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.compress.calibrate import ActivationConfig
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.models.attention import AttentionRanges
from steps.models.build import build_model, load_model, read_spec


def test_attention_over_a_long_sound_is_not_rounded_away():
    """Of 1,500 frames that are heard alike each has less than half of a step of a softmax in 8 bits."""
    ranges, frames = AttentionRanges(), 1500
    for one in (ranges.query, ranges.key, ranges.scores, ranges.value):
        one.set_(-4.0, 4.0)
    random = torch.Generator().manual_seed(0)
    value = 1.0 + 0.5 * torch.randn(1, 1, frames, 4, generator=random)
    is_pad = torch.zeros(1, frames)
    is_pad[0, 1000:] = 1
    zeros = torch.zeros(1, 1, frames, 4)
    mixed = ranges.mix(zeros, zeros, value, is_pad)
    expected = value[:, :, :1000].mean(dim=2, keepdim=True).expand_as(mixed)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=2e-3)


def test_folders_with_impossible_scales_are_refused_in_one_line(make, save, tmp_path):
    settings = QuantizeConfig(bits=7, rest="float16", activations=ActivationConfig())
    folder = save(tmp_path / "m", quantize_model(make("dnn"), settings))
    spec, tensors = read_spec(folder), load_file(folder / "model.safetensors")
    assert tensors["output.input.scale"].dtype == torch.float32
    scale, zero = "output.input.scale", "output.input.zero_point"
    for name, wrong, words in (
        (scale, torch.tensor(0.0), "a scale of activations is not above 0"),
        (scale, torch.tensor(float("inf")), "a scale of activations is not above 0"),
        (zero, torch.tensor(256, dtype=torch.int32), "a zero point of activations is not 0 to 255"),
        (zero, torch.tensor(-1, dtype=torch.int32), "a zero point of activations is not 0 to 255"),
        (scale, torch.ones(2), "output.input.scale is F32"),
    ):
        save_file(tensors | {name: wrong}, folder / "model.safetensors")
        digest = {"weights_sha256": sha256_file(folder / "model.safetensors")}
        (folder / "model.json").write_text(json.dumps(spec | digest))
        with pytest.raises(UserError, match=words) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
    save_file(tensors, folder / "model.safetensors")
    digest = {"weights_sha256": sha256_file(folder / "model.safetensors")}
    for wrong in ([8], {"bits": 4}, {}, 8):
        (folder / "model.json").write_text(
            json.dumps(spec | digest | {"quantization": spec["quantization"] | {"activations": wrong}})
        )
        with pytest.raises(UserError, match="activations must have bits 8, not"):
            load_model(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streaming": {"chunk_ms": 320}}, "this one streams"),
        ({"head": "transducer"}, "this one is a transducer"),
    ],
)
def test_a_description_of_fixed_scales_that_nothing_would_use_is_refused(make, changes, words):
    """In chunks, attention would go on in float."""
    spec = quantize_model(make("conformer", **changes), QuantizeConfig(bits=7)).spec
    build_model(spec)
    spec = spec | {"quantization": spec["quantization"] | {"activations": {"bits": 8, "static": "minmax"}}}
    with pytest.raises(
        UserError, match=f"^model.json: activations: fixed scales are for .*{words}; make the model again$"
    ):
        build_model(spec)
