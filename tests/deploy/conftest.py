"""Model folders of tiny random models, float and quantized, and their exports."""

import pytest
import torch

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.core.config import save_config
from steps.data.feature_config import FeatureConfig
from steps.models.build import build_model, new_spec, save_model

DIM = 20
TOKENS = ["<blk>", "<unk>", "\u2581", *"abcdefgh"]
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


def make_model(kind, quantized=False, head="ctc", normalisation="global", **changes):
    """A tiny AsrModel in eval mode whose norms, statistics and CMVN are random."""
    torch.manual_seed(1)
    spec = new_spec(kind, SIZES[kind] | changes, DIM, len(TOKENS), "test", head=head, normalisation=normalisation)
    model = build_model(spec)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    model.set_cmvn_(torch.randn(DIM) - 6.0, torch.rand(DIM) + 2.5)
    return quantize_model(model.eval(), QuantizeConfig()) if quantized else model.eval()


def save_folder(folder, model, features=FeatureConfig(num_mel_bins=DIM)):  # noqa: B008
    """Write a model folder for `model`. Returns: folder."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(b"not read")
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(TOKENS)), encoding="utf-8")
    save_config(folder / "features.yaml", features)
    save_model(folder, model, {name: folder / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    return folder


@pytest.fixture(scope="session")
def make():
    """Function (kind, quantized=False, head="ctc", **changed sizes) -> AsrModel."""
    return make_model


@pytest.fixture(scope="session")
def save():
    """Function (folder, model) -> folder, now a model folder."""
    return save_folder


@pytest.fixture(scope="session")
def streaming_export(tmp_path_factory):
    """An exported folder of a streaming Conformer that emits letters, in its model folder."""
    from steps.deploy.export import export_folder
    from tests.deploy.streams import FEATURES, conformer, emits_letters

    place = save_folder(tmp_path_factory.mktemp("streaming") / "m", emits_letters(conformer()), FEATURES)
    export_folder(place, place / "export")
    return place / "export"


@pytest.fixture(scope="session")
def transducer_export(tmp_path_factory):
    """An exported folder of a streaming Conformer transducer that emits letters, in its model folder."""
    from steps.deploy.export import export_folder
    from tests.deploy.streams import FEATURES, talkative, transducer

    place = save_folder(tmp_path_factory.mktemp("streaming") / "t", talkative(transducer()), FEATURES)
    export_folder(place, place / "export")
    return place / "export"
