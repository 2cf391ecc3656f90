"""Model folders: the one way a model is saved, checked and loaded, whatever compression it went through."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from steps.core.cli import MissingInput, UserError
from steps.core.config import from_dict, nearest, show, to_dict
from steps.core.limits import read_limited
from steps.core.outdir import atomic_file, sha256_file, write_json
from steps.core.provenance import VERSION
from steps.models.asr_model import AsrModel
from steps.models.codes import read_formats
from steps.models.encoder import KINDS
from steps.models.fixed_point import give_ranges_, has_ranges
from steps.models.heads import DEFAULT, HEADS
from steps.models.limits import LARGEST_SPEC_BYTES, check_weights
from steps.models.low_rank import LowRankLinear
from steps.models.normalisation import GLOBAL, NORMALISATIONS, OF_UTTERANCES, SLIDING
from steps.models.quant_layers import quantized_like
from steps.models.stored import restored_state, stored_state

FORMAT = 1
CODES = (torch.int8, torch.uint8)
CARRIED = ("tokenizer.model", "tokens.txt", "features.yaml")


def read_spec(folder: Path | str) -> dict[str, Any]:
    """Read and check `model.json` of a model folder. Raises: MissingInput, UserError."""
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise MissingInput(f"{path}: no such file; {folder} is not a (finished) model folder")
    try:
        spec = json.loads(read_limited(path, LARGEST_SPEC_BYTES, "model description"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); make the model again") from None
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise UserError(f"{path}: not a model description of format {FORMAT}; make the model again")
    return spec


def new_spec(
    kind: str,
    model_config: Mapping[str, Any],
    feature_dim: int,
    vocab_size: int,
    step: str,
    where: str = "model",
    head: str = DEFAULT,
    normalisation: str = GLOBAL,
    head_sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Description of an uncompressed model.

    Args: model_config: as under `model:` in the settings.   step: name of the program that makes it.   where: for messages.
          head: a name in HEADS.   normalisation: a name in NORMALISATIONS; GLOBAL is not written.
          head_sizes: as under `head_sizes:` in the settings; not written for a head without sizes.
    """
    if kind not in KINDS:
        raise UserError(f"{where}: unknown type {kind!r}{nearest(kind, KINDS)}")
    if head not in HEADS:
        raise UserError(f"{where}: unknown head {head!r}{nearest(head, HEADS)}")
    if model_config.get("streaming") and "streaming" not in {field.name for field in fields(KINDS[kind].config)}:
        raise UserError(
            f"{where}: streaming: not for type {kind}; conformer streams, rnn with cells_backward: 0, dnn with context: 3"
        )
    config = from_dict(KINDS[kind].config, model_config, where)
    if normalisation in OF_UTTERANCES and getattr(config, "streaming", None):
        raise UserError(f"{where}: streaming: normalisation: {normalisation} hears the whole utterance; set {SLIDING}")
    own = to_dict(from_dict(HEADS[head].sizes, head_sizes or {}, where.replace(": model", ": head_sizes")))
    return (
        {
            "format": FORMAT,
            "step": step,
            "type": kind,
            "head": head,
            "model": describe_config(config),
            "feature_dim": feature_dim,
            "vocab_size": vocab_size,
            "low_rank": {},
            "quantization": None,
            "sparsity": None,
            "parent": None,
        }
        | ({} if normalisation == GLOBAL else {"normalisation": normalisation})
        | ({"head_sizes": own} if own else {})
    )


def describe_config(config: Any) -> dict[str, Any]:
    """A model config as plain values, without the template fields that `blocks` replaces."""
    return {key: value for key, value in to_dict(config).items() if key not in ("block", "num_blocks")}


def build_model(spec: dict[str, Any]) -> AsrModel:
    """Build the model that `spec` (the content of model.json) describes, with fresh weights. Raises: UserError."""
    try:
        kind, sizes = spec["type"], spec["model"]
        config = from_dict(KINDS[kind].config, sizes, "model.json: model")
        normalisation = spec.get("normalisation", GLOBAL)
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, not {show(normalisation)}")
        head, vocab_size = spec.get("head", DEFAULT), spec["vocab_size"]
        own = from_dict(HEADS[head].sizes, spec.get("head_sizes", {}), "model.json: head_sizes")
        model = AsrModel(kind, config, spec["feature_dim"], head, vocab_size, normalisation, own)
        for name, rank in spec["low_rank"].items():
            dense = model.get_submodule(name)
            thin = LowRankLinear(dense.in_features, dense.out_features, rank, dense.bias is not None)
            model.set_submodule(name, thin)
        if spec["quantization"]:
            for name, format in read_formats(spec["quantization"]).items():
                model.set_submodule(name, quantized_like(model.get_submodule(name), format))
            if has_ranges(spec["quantization"]):
                give_ranges_(model)
    except ValueError as error:
        raise UserError(f"model.json: {error}; make the model again") from None
    # impossible sizes
    except (KeyError, AttributeError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"model.json: does not describe a model ({reason}); make the model again") from None
    model.spec = spec
    return model


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> AsrModel:
    """Load a finished model folder, weights checked against the description.

    Returns: the model in eval mode.   Raises: MissingInput, UserError.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MissingInput(f"{weights}: no such file; make the model again")
    if sha256_file(weights) != spec.get("weights_sha256"):
        raise UserError(
            f"{weights}: content does not match model.json (damaged or from another model); make the model again"
        )
    for name, expected in carried_hashes(spec).items():
        if not (folder / name).is_file():
            raise MissingInput(f"{folder / name}: no such file; make the model again")
        if sha256_file(folder / name) != expected:
            raise UserError(
                f"{folder / name}: content does not match model.json (damaged or replaced); make the model again"
            )
    check_weights(weights, spec, build_model)
    model = build_model(spec)
    try:
        model.load_state_dict(restored_state(load_file(weights), model, spec["quantization"]))
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{weights}: tensors do not fit model.json: {' '.join(str(error).split())}") from None
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: {name}: contains values that are not finite; make the model again")
    return model.to(device).eval()


def carried_hashes(spec: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files beside the weights, {name: hex digest}; names not in CARRIED are ignored."""
    hashes = spec.get("files_sha256")
    return {name: hashes[name] for name in CARRIED if name in hashes} if isinstance(hashes, dict) else {}


def save_model(
    folder: Path | str, model: AsrModel, carried_from: Mapping[str, Path | str], parent: Path | str | None = None
) -> None:
    """Write a model folder: the description last, so that a folder with model.json is complete.

    Args: folder: created if missing.   model: its `.spec` must be up to date.
          carried_from: where to copy tokenizer.model, tokens.txt and features.yaml from; identical files are left alone.
          parent: model folder this one was made from.
    The folder is loaded again and one forward pass compared bit for bit. Raises: UserError when they differ.
    """
    folder = Path(folder)
    tensors = {name: tensor.contiguous() for name, tensor in stored_state(model, model.spec["quantization"]).items()}
    with atomic_file(folder / "model.safetensors", "wb") as file:
        file.write(save(tensors))
    for name in CARRIED:
        content = Path(carried_from[name]).read_bytes()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            with atomic_file(folder / name, "wb") as file:
                file.write(content)
    model.spec = model.spec | {
        "slim_asr": VERSION,
        "parent": parent and {"name": Path(parent).name, "weights_sha256": read_spec(parent)["weights_sha256"]},
        "parameters": sum(tensor.numel() for tensor in weights_of(model)),
        "nonzero_parameters": sum(int(tensor.count_nonzero()) for tensor in weights_of(model)),
        "weights_sha256": sha256_file(folder / "model.safetensors"),
        "files_sha256": {name: sha256_file(folder / name) for name in CARRIED},
    }
    write_json(folder / "model.json", model.spec)
    _check_reload(folder, model)


def weights_of(model: AsrModel) -> Iterator[torch.Tensor]:
    """What counts as parameters: trainable tensors and integer codes of what ships; not running statistics, scales, CMVN, or layers
    that serve training only."""
    codes = ((name, buffer) for name, buffer in model.named_buffers() if buffer.dtype in CODES)
    for name, tensor in (*model.named_parameters(), *codes):
        if name.split(".")[0] not in model.head.training_only:
            yield tensor


def _check_reload(folder, model):
    device = model.feature_mean.device
    was_training = model.training
    model.eval()
    frames = 50
    feats = torch.linspace(-8.0, 4.0, frames * model.spec["feature_dim"], device=device).view(1, frames, -1)
    lengths = torch.tensor([frames], device=device)
    try:
        with torch.no_grad():
            said = [one.head.probe(one, one(feats, lengths)[0]) for one in (model, load_model(folder, device))]
    except UserError:
        (folder / "model.json").unlink()
        raise
    model.train(was_training)
    if not torch.equal(*said):
        (folder / "model.json").unlink()
        raise UserError(f"{folder}: the saved model does not compute what the model in memory does; do not use it")
