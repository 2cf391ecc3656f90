"""Quantization of a model: which layers become codes, of which format, and the model that has them."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steps.compress import rounding
from steps.compress.quantize_config import QuantizeConfig
from steps.core.cli import UserError
from steps.core.config import nearest
from steps.models.asr_model import AsrModel
from steps.models.blocks import MARK, round_to_blocks
from steps.models.build import build_model
from steps.models.codes import (
    WHOLE_BYTE_BITS,
    CodeFormat,
    Codes,
    check_float,
    describe_formats,
    describe_packed,
)
from steps.models.conformer import ConvolutionModule
from steps.models.fixed_point import activation_ranges, check_static, describe_activations
from steps.models.quant_layers import QuantConv, Quantized, QuantLinear, QuantLSTM, quantized_layers
from steps.models.stored import stored_state

# name of a layer and of a matrix in it, the matrix (O, I), its format -> codes
Coder = Callable[[str, str, torch.Tensor, CodeFormat], Codes]


@dataclass(frozen=True)
class FloatTensor:
    """A tensor that stays float. share: its part of the bytes of all tensors, 0..1."""

    name: str
    size_bytes: int
    share: float


@dataclass(frozen=True)
class LayerNoise:
    """What coding cost a layer's matrix. bits, grid, group: its format.   snr_db, clipped: see rounding.Noise."""

    name: str
    bits: int
    grid: str
    group: int | None
    snr_db: float
    clipped: float


def quantizable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every Linear and LSTM by name, both factors of low-rank layers included."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.LSTM))}


def quantizable_convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """Every convolution by name but those that a batch norm is folded into at export."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d))}
    folded = folded_convolutions(model)
    return {name: layer for name, layer in layers.items() if name not in folded}


def folded_convolutions(model: nn.Module) -> set[str]:
    """Names of the convolutions that a batch norm is folded into at export."""
    return {
        f"{name}.depthwise"
        for name, module in model.named_modules()
        if isinstance(module, ConvolutionModule) and isinstance(module.conv_norm, nn.BatchNorm1d)
    }


def choose_formats(model: AsrModel, config: QuantizeConfig) -> dict[str, CodeFormat]:
    """The format of every layer that is to be coded.

    Raises: UserError when a name in the settings is none, nothing is left, or zeros of a sparse model could not be kept.
    """
    check_float(model.spec, "the model", "quantize")
    dense, sparse = quantizable_layers(model), bool(model.spec["sparsity"])
    dense = {name: layer for name, layer in dense.items() if name.split(".")[0] not in model.head.training_only}
    if config.activations is not None:
        try:
            check_static(model)
        except ValueError as error:
            raise UserError(str(error)) from None
    kernels = quantizable_convolutions(model) if config.kernel_bits is not None else {}
    every = [*dense, *kernels]
    check_names(every, config.layers, "layers")
    formats = {}
    for name in select_layers(every, config.skip):
        covering = [entry for entry in config.layers if covers(entry, name)]
        entry = config.layers[max(covering, key=len)] if covering else None
        try:
            formats[name] = config.format(entry, sparse, kernel=name in kernels)
        except ValueError as error:
            raise UserError(f"layers: {name}: {error}") from None
    if not dense.keys() & formats.keys():
        raise UserError("nothing would be quantized: the model has no Linear or LSTM outside `skip`")
    if config.activations is not None and all(format.group is not None for format in formats.values()):
        raise UserError(
            "activations: no layer would multiply integers, because all have scales for groups; leave out group, or activations"
        )
    without_zero = [name for name, format in formats.items() if sparse and format.grid == "half"]
    if without_zero:
        raise UserError(
            f"{without_zero[0]}: the model is sparse, and a code of {formats[without_zero[0]].bits} bits on grid half "
            "cannot be zero; use bits: ternary, or more"
        )
    return formats


def describe(formats: dict[str, CodeFormat], config: QuantizeConfig) -> dict[str, Any]:
    """The entry of model.json: packed unless nothing differs from whole bytes."""
    static = {} if config.activations is None else {"activations": describe_activations(config.activations.static)}
    plain = all(format in map(CodeFormat, WHOLE_BYTE_BITS) for format in formats.values())
    if plain and config.rest == "float32" and (config.convolutions is None or static):
        return describe_formats(formats) | static
    return describe_packed(formats, config.rest) | static


def covers(entry: str, name: str) -> bool:
    """Whether a name in the settings is that of a layer, or of a module around it."""
    return f"{name}.".startswith(f"{entry}.")


def check_names(layers: Iterable[str], entries: Iterable[str], where: str) -> None:
    """Raise UserError for an entry of the settings that names neither a layer nor a module with layers in it."""
    parts = {name.rsplit(".", depth)[0] for name in layers for depth in range(name.count(".") + 1)}
    for entry in entries:
        if entry not in parts:
            raise UserError(f"{where}: no quantizable layer is called {entry!r}{nearest(entry, sorted(parts))}")


def select_layers(layers: Iterable[str], skip: Sequence[str]) -> list[str]:
    """Names of layers that no entry of `skip` covers. Raises: UserError when an entry covers none or none is left."""
    layers = list(layers)
    check_names(layers, skip, "skip")
    names = [name for name in layers if not any(covers(entry, name) for entry in skip)]
    if not names:
        raise UserError("nothing would be quantized: the model has no Linear or LSTM outside `skip`")
    return names


def rounding_coder(method: str, shorten: rounding.Shorten | None) -> Coder:
    """A coder that looks at nothing but the weights. Args: method: rtn or mse.   shorten: of scales, see rounding.shortener."""
    scales_of = rounding.largest_scales if method == "rtn" else rounding.least_squares_scales

    def code(_: str, matrix: str, weight: torch.Tensor, format: CodeFormat) -> Codes:
        own, scales = rounding.of_matrix(shorten, matrix), scales_of(weight, format)
        return rounding.round_to_codes(weight, scales if own is None else own(scales), format)

    return code


def quantize_model(model: AsrModel, config: QuantizeConfig, coder: Coder | None = None) -> AsrModel:
    """Replace layers by such with codes.

    Args:    model: not quantized yet.   coder: default: as the settings say, of methods rtn and mse.
    Returns: a new model in eval mode, on the CPU, with `.spec["quantization"]`; fixed scales are all 1.
    Raises:  UserError when settings do not fit, or the model is already quantized.
    """
    formats = choose_formats(model, config)
    quantization = describe(formats, config)
    return coded_model(
        model, quantization, formats, coder or rounding_coder(config.method, rounding.shortener(quantization))
    )


def coded_model(
    model: AsrModel, quantization: dict[str, Any], formats: Mapping[str, CodeFormat], coder: Coder
) -> AsrModel:
    """The model with codes for the weights of some layers. Args: quantization: the entry of model.json for these formats."""
    small = build_model(model.spec | {"quantization": quantization})
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name in formats:
        layer = small.get_submodule(name)
        taken = {key: state.pop(f"{name}.{key}") for key in model.get_submodule(name).state_dict()}
        try:
            codes = quantized_tensors(name, layer, taken, coder)
        except ValueError as error:
            raise UserError(f"{name}: {error}; train the model again") from None
        state |= {f"{name}.{key}": tensor for key, tensor in codes.items()}
    state = round_rest(state, quantization.get("rest"), block_tensors(small))
    for name, one in activation_ranges(small).items():
        state |= {f"{name}.{key}": tensor for key, tensor in one.state_dict().items()}
    small.load_state_dict(state)
    return small.eval()


def quantized_tensors(
    name: str, layer: Quantized, tensors: dict[str, torch.Tensor], coder: Coder
) -> dict[str, torch.Tensor]:
    """State of a quantized layer from that of the float one.

    Args: name: of the layer.   tensors: state dict of the Linear, LSTM or convolution; more in it is left out.
    """
    suffix = layer_suffix(layer)
    state = {key.removesuffix(suffix): tensor for key, tensor in tensors.items() if key.startswith("bias")}
    for key in layer.matrices():
        coded = coder(name, key, tensors[key + suffix].flatten(1), layer.format)
        state |= {f"{key}_codes": coded.codes, f"{key}_scales": rounding.scales_in_use(coded)}
    return state


def layer_suffix(layer: nn.Module) -> str:
    """What an LSTM's tensors end in, the number of its layer; nothing for others."""
    return "_l0" if isinstance(layer, (QuantLSTM, nn.LSTM)) else ""


def block_tensors(model: AsrModel) -> set[str]:
    """Names of what `rest: int8` rounds to eight bits: norms, biases, scales of codes. Not what an export computes with before it
    stores it, batch norms and the convolutions before them, nor the gates of LSTMs, which change places."""
    kinds = (nn.LayerNorm, nn.Linear, nn.Conv1d, nn.Conv2d, QuantLinear, QuantConv)
    folded = folded_convolutions(model)
    names = set()
    for name, layer in model.named_modules():
        if isinstance(layer, kinds) and name not in folded:
            parts = ("weight", "bias") if isinstance(layer, nn.LayerNorm) else ("bias", "weight_scales")
            names |= {f"{name}.{part}" for part in parts if getattr(layer, part, None) is not None}
    return names


def round_rest(
    state: dict[str, torch.Tensor], rest: str | None, blocks: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Round every float tensor to float16, or to eight bits.

    Args:   rest: as in QuantizeConfig; None: as float32, nothing is rounded.   blocks: names of those that int8 rounds to eight bits,
            scales of codes to more than 0; the others, and those with a number beyond MARK, become float16.
    Raises: UserError when a number is too large.
    """
    if rest not in ("float16", "int8"):
        return state
    rounded = {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in rounded.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name}: a number is too large for float16; set rest: float32")
    for name in state.keys() & set(blocks) if rest == "int8" else ():
        if state[name].abs().max() > MARK:
            continue
        try:
            rounded[name] = round_to_blocks(state[name], above_zero=name.endswith("_scales"))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    return rounded


def layer_noise(model: AsrModel, small: AsrModel) -> list[LayerNoise]:
    """What coding cost every matrix, in the model's order. Args: model: the float one, on any device.   small: made from it."""
    rows = []
    for name, layer in quantized_layers(small).items():
        tensors = model.get_submodule(name).state_dict()
        for key, codes in layer.matrices().items():
            cost = rounding.noise(tensors[key + layer_suffix(layer)].cpu().flatten(1), codes)
            whole = f"{name}.{key.removeprefix('weight_')}" if isinstance(layer, QuantLSTM) else name
            rows.append(LayerNoise(whole, **dataclasses.asdict(codes.format), **dataclasses.asdict(cost)))
    return rows


def float_tensors(model: AsrModel) -> list[FloatTensor]:
    """The tensors of a quantized model that are float, largest first, by their bytes in the model's file."""
    state = stored_state(model, model.spec["quantization"])
    total = sum(tensor.nbytes for tensor in state.values())
    rows = [FloatTensor(name, t.nbytes, t.nbytes / total) for name, t in state.items() if t.is_floating_point()]
    return sorted(rows, key=lambda row: (-row.size_bytes, row.name))
