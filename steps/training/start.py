"""Where a training starts that goes on from a finished model: its encoder, and its head where that and the units are the same."""

from pathlib import Path
from typing import cast

import torch

from steps.core.cli import UserError, say
from steps.core.config import load_config
from steps.data.feature_config import FeatureConfig
from steps.models.asr_model import AsrModel
from steps.models.build import build_model, load_model, new_spec
from steps.models.codes import check_float
from steps.models.normalisation import GLOBAL
from steps.training import distributed
from steps.training.settings import TrainConfig
from steps.training.setup import Setup

# of model.json, true of the saved file only
OF_A_FILE = ("parameters", "nonzero_parameters", "weights_sha256", "files_sha256", "origin")
# not written where there is nothing to say
REPLACED = ("head_sizes", "normalisation")


def start_from(setup: Setup, folder: str | Path) -> AsrModel:
    """The model of a folder, to be trained further.

    Its sizes are kept; of the settings only `type`, which must be its own, `model: {dropout: ..., streaming: ...}`, `freeze` and a
    `normalisation` that is not global count. With another tokenizer than its own, or with another `head`, of `head_sizes`, the
    layers of the head are new, drawn from the seed.

    Returns: AsrModel whose frozen part takes no gradient.   Raises: MissingInput, UserError.
    """
    config = cast(TrainConfig, setup.config)
    initial, where = load_model(folder), setup.args.config
    own_head = initial.head.name == config.head
    refuse_settings(config, initial, folder, where)
    tell_of_zeros(initial, folder)
    normalisation = initial.normalisation if config.normalisation == GLOBAL else config.normalisation
    # checked as for a new model, and refused with the name of the settings
    sizes, own = initial.spec["model"] | config.model, initial.spec.get("head_sizes") if own_head else config.head_sizes
    how = (config.head, normalisation, own)
    checked = new_spec(initial.kind, sizes, 0, 0, "", f"{where}: model", *how)
    if load_config(FeatureConfig, Path(folder) / "features.yaml") != setup.features:
        raise UserError(f"{folder}/features.yaml differs from --features {setup.args.features}; use the same for both")
    spec = {name: value for name, value in initial.spec.items() if name not in (*OF_A_FILE, *REPLACED)}
    spec |= {"vocab_size": setup.tokenizer.vocab_size, "model": checked["model"], "sparsity": None}
    spec |= {name: checked[name] for name in ("head", *REPLACED) if name in checked}
    if not own_head:
        kept = {name: rank for name, rank in spec["low_rank"].items() if name.split(".")[0] not in initial.head_layers}
        spec["low_rank"] = kept
        say(f"{folder}: its encoder is taken over, its {initial.head.name} head is not")
    torch.manual_seed(setup.args.seed)
    model = build_model(spec)
    own_units = (Path(folder) / "tokens.txt").read_bytes() == (Path(setup.args.tokenizer) / "tokens.txt").read_bytes()
    model.load_state_dict(initial.state_dict() if own_units and own_head else encoder_of(initial, model))
    setup.check_look_ahead(model)
    model.frontend.requires_grad_(config.freeze is None)
    for part in (model.blocks, model.widening, *(model.get_submodule(name) for name in norms_of_encoder(model))):
        if part is not None:
            part.requires_grad_(config.freeze != "encoder")
    return model


def norms_of_encoder(model: AsrModel) -> tuple[str, ...]:
    """Layers before the output layer that are the encoder's: behind the last block of one from a hub lies a norm of its own, where
    ours have the head's."""
    return ("norm",) if model.kind == "hub" else ()


def refuse_settings(config: TrainConfig, initial: AsrModel, folder: str | Path, where: str) -> None:
    """Refuse settings that would contradict the model that a training starts from. Args: where: file of the settings."""
    if initial.kind != config.type:
        raise UserError(f"{where}: type {config.type}, but {folder} is {initial.kind}")
    check_float(initial.spec, str(folder), "start from")
    unused = sorted(config.model.keys() - {"dropout", "streaming"})
    sizes = [f"model: {', '.join(unused)}"] if unused else []
    if initial.head.name == config.head and config.head_sizes:
        sizes.append("head_sizes")
    if sizes:
        raise UserError(f"{where}: {sizes[0]}: with --init the sizes are those of {folder}; leave it out")
    if initial.kind == "hub" and config.normalisation != GLOBAL:
        raise UserError(f"{where}: normalisation: {config.normalisation}: a model from a hub has its own; leave it out")


def encoder_of(initial: AsrModel, model: AsrModel) -> dict[str, torch.Tensor]:
    """State of `initial` with the layers of the head from `model`."""
    encoders = norms_of_encoder(initial)
    of_head, of_theirs = (
        tuple(f"{name}." for name in one.head_layers if name not in encoders) for one in (model, initial)
    )
    state = {name: tensor for name, tensor in initial.state_dict().items() if not name.startswith(of_theirs)}
    return state | {name: tensor for name, tensor in model.state_dict().items() if name.startswith(of_head)}


def tell_of_zeros(initial: AsrModel, folder: str | Path) -> None:
    """Say that the zeros of a sparse model are not kept."""
    if initial.spec["sparsity"] and distributed.rank() == 0:
        say(
            f"warning: {folder}: is sparse, and its zeros are trained as all weights; steps.prune_model makes zeros again"
        )
