"""What every model from a hub has to pass: the same text from its exported file, smaller in every way."""

import torch

from steps.compress.lowrank import LowRankConfig, factorise, plan_ranks
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.compress.surgery import drop_blocks, shrink
from steps.core.config import save_config
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.models.build import CARRIED, load_model, save_model


def save(out, model, tokenizer, features):
    tokenizer.save(out)
    save_config(out / "features.yaml", features)
    save_model(out, model, {name: out / name for name in CARRIED})
    return out


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def check_text(folder):
    """The exported file says what torch says."""
    export_folder(folder, folder / "export")
    ours, shipped = (load_recogniser(place) for place in (folder, folder / "export"))
    for seed, frames in enumerate((150, 61)):
        heard = noise(frames, 160, seed=seed).numpy()
        text = ours.recognise(heard, "u")["greedy"]
        assert text and shipped.recognise(heard, "u")["greedy"] == text


def check_smaller(ours, tmp_path):
    """Cut by index, without a layer, in two factors, in int8: each is saved, loaded, exported, and says what it says in torch."""
    model, carried = load_model(ours), {name: ours / name for name in CARRIED}
    halved = {group.name: list(range(0, group.size, 2)) for group in model.axis_groups()}
    ranks, _ = plan_ranks(model, LowRankConfig(keep=0.9, layers=["blocks.*"]))
    variants = {"cut": shrink(model, halved), "short": drop_blocks(model, [1]), "thin": factorise(model, ranks)}
    for name, small in variants.items():
        save_model(tmp_path / name, small, carried, parent=ours)
        assert load_model(tmp_path / name).spec["parameters"] < model.spec["parameters"]
        check_text(tmp_path / name)
    small = quantize_model(variants["cut"], QuantizeConfig())
    save_model(tmp_path / "int8", small, carried, parent=ours)
    report = export_folder(tmp_path / "int8", tmp_path / "int8/export")
    assert report.integer_layers == len(small.spec["quantization"]["layers"]) and report.snr_db > 20
