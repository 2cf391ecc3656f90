"""Quantization of a model: which layers become codes, of which format, and the model that has them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from steps.compress import rounding
from steps.compress.calibrate import ActivationConfig
from steps.core.cli import UserError
from steps.core.config import LATER, check, nearest
from steps.models.asr_model import AsrModel
from steps.models.build import build_model
from steps.models.codes import WHOLE_BYTE_BITS, CodeFormat, Codes, describe_formats, describe_packed, is_packed
from steps.models.conformer import ConvolutionModule
from steps.models.fixed_point import activation_ranges, check_static, describe_activations
from steps.models.quant_layers import Quantized, QuantLSTM, quantized_layers
from steps.models.stored import stored_state

METHODS = ("rtn", "mse", "gptq", "qat")
TERNARY = "ternary"
# name of a layer and of a matrix in it, the matrix (O, I), its format -> codes
Coder = Callable[[str, str, torch.Tensor, CodeFormat], Codes]


@dataclass(kw_only=True)
class QuantizeConfig:
    """How weights become codes.

    bits: per weight of Linear and LSTM layers, 8 to 1, or ternary. 8 and 7 take a byte on disk, as they are when they run;
    with 7 the fastest integer kernels of processors without VNNI are exact, and are used. With fewer, codes are packed.
    method: rtn, round to nearest; mse, clip so that the squared error is least; gptq, mse and then make up for each rounding
    error in the weights that are not rounded yet, by what the layer hears in training data; qat, train with rounded weights.
    grid: symmetric, half (no zero, no unused code) or auto: half for 2 bits and 1, symmetric for more.
    group: neighbours in a row that share a scale; null: the whole row. A layer with groups multiplies in float.
    layers: other formats, by names of layers or modules: bits, a mapping of bits, grid and group, or null, like all others; the
    longest name decides.
    skip: names of layers, or of modules with all their layers, that stay float whatever `layers` says.
    convolutions: bits of their kernels, 8 to 2, which are packed but multiply in float; null: float. With `activations` they
    multiply in integers, and null means 7, or 8 where `bits` is 8.
    activations: fixed scales for activations, by calibration data; null: each input gets its own when the file runs.
    rest: float32 or float16, for what stays float in a packed file.
    calibration_batches: of training data, for gptq and activations; of dev data, for a target.
    target_kb: size of the whole export in 1000 bytes, or target_bits: of a weight on average. Then `bits` is the most that a
    layer may get; each layer's are chosen by what fewer bits do to its dev loss. Neither: all layers have `bits`.
    """

    bits: int | str = 8
    method: str = "rtn"
    grid: str = "auto"
    group: int | None = None
    layers: dict = field(default_factory=dict)
    skip: list[str] = field(default_factory=list)
    convolutions: int | None = None
    rest: str = "float32"
    activations: ActivationConfig | None = field(default=None, metadata=LATER)
    calibration_batches: int = 8
    target_kb: float | None = None
    target_bits: float | None = None

    def __post_init__(self):
        check(self.method in METHODS, f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        check(self.rest in ("float32", "float16"), "rest must be float32 or float16")
        check(self.calibration_batches >= 1, "calibration_batches must be at least 1")
        self.format()
        self.check_target()
        reads = self.method == "gptq" or self.activations is not None or self.has_target
        own = self.calibration_batches != type(self).calibration_batches
        check(
            reads or not own,
            "calibration_batches: of method gptq, activations, target_kb and target_bits; leave it out",
        )
        for name, entry in self.layers.items():
            try:
                self.format(entry)
            except (TypeError, ValueError) as error:
                raise ValueError(f"layers: {name}: {error}") from None
        check(self.convolutions != 1, "convolutions must be 2 to 8 bits")
        if self.convolutions is not None:
            CodeFormat(self.convolutions)

    @property
    def kernel_bits(self) -> int | None:
        """Bits of the kernels of convolutions; None: they stay float."""
        if self.convolutions is None and self.activations is not None:
            return 8 if self.bits == 8 else 7
        return self.convolutions

    @property
    def has_target(self) -> bool:
        """Whether bits are chosen layer by layer."""
        return self.target_kb is not None or self.target_bits is not None

    def check_target(self) -> None:
        """Raise ValueError where a target does not fit the other settings."""
        check(self.target_kb is None or self.target_bits is None, "give target_kb or target_bits, not both")
        check(self.target_kb is None or self.target_kb > 0, "target_kb must be above 0")
        check(self.target_bits is None or self.target_bits > 0, "target_bits must be above 0")
        if self.has_target:
            check(self.grid == "auto", "with a target, grid must be auto")
            check(type(self.bits) is int and self.bits > 1, "with a target, bits is the most a layer may get, 2 to 8")

    def format(self, entry: Any = None, sparse: bool = False) -> CodeFormat:
        """The format that the settings, or an entry of `layers`, ask for.

        Args:   sparse: whether the model has zeros to keep, which decides what auto means at few bits.
        Raises: ValueError, TypeError when there is no such format.
        """
        wanted: dict[str, Any] = {"bits": self.bits, "grid": self.grid, "group": self.group}
        if entry is not None:
            # another number of bits leaves the grid to auto
            wanted = wanted | {"grid": "auto"} | (entry if isinstance(entry, dict) else {"bits": entry})
        unknown = sorted(wanted.keys() - {"bits", "grid", "group"})
        check(not unknown, f"unknown key {unknown[0] if unknown else ''!r}; known: bits, grid, group")
        bits, grid = wanted["bits"], wanted["grid"]
        if bits == TERNARY:
            check(grid in ("auto", TERNARY), "bits ternary has grid auto")
            bits, grid = 2, TERNARY
        check(type(bits) is int and 1 <= bits <= 8, f"bits must be 1 to 8 or ternary, not {bits!r}")
        check(grid in ("auto", "symmetric", "half", TERNARY), f"grid must be auto, symmetric or half, not {grid!r}")
        if grid == "auto":
            grid = "symmetric" if bits > 2 else TERNARY if sparse and bits == 2 else "half"
        return CodeFormat(bits, grid, wanted["group"])


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
    folded = {
        f"{name}.depthwise"
        for name, module in model.named_modules()
        if isinstance(module, ConvolutionModule) and isinstance(module.conv_norm, nn.BatchNorm1d)
    }
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d))}
    return {name: layer for name, layer in layers.items() if name not in folded}


def choose_formats(model: AsrModel, config: QuantizeConfig) -> dict[str, CodeFormat]:
    """The format of every layer that is to be coded.

    Raises: UserError when a name in the settings is none, nothing is left, or zeros of a sparse model could not be kept.
    """
    if model.spec["quantization"]:
        raise UserError("the model is already quantized; quantize the one it was made from")
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
        entry = config.layers[max(covering, key=len)] if covering else config.kernel_bits if name in kernels else None
        formats[name] = config.format(entry, sparse)
    if not dense.keys() & formats.keys():
        raise UserError("nothing would be quantized: the model has no Linear or LSTM outside `skip`")
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


def rounding_coder(method: str, packed: bool) -> Coder:
    """A coder that looks at nothing but the weights. Args: method: rtn or mse.   packed: scales are float16 in the file."""
    scales_of = rounding.largest_scales if method == "rtn" else rounding.least_squares_scales

    def code(_: str, __: str, weight: torch.Tensor, format: CodeFormat) -> Codes:
        scales = scales_of(weight, format)
        return rounding.round_to_codes(weight, rounding.short_scales(scales) if packed else scales, format)

    return code


def quantize_model(model: AsrModel, config: QuantizeConfig, coder: Coder | None = None) -> AsrModel:
    """Replace layers by such with codes.

    Args:    model: not quantized yet.   coder: default: as the settings say, of methods rtn and mse.
    Returns: a new model in eval mode, on the CPU, with `.spec["quantization"]`; fixed scales are all 1.
    Raises:  UserError when settings do not fit, or the model is already quantized.
    """
    formats = choose_formats(model, config)
    quantization = describe(formats, config)
    return coded_model(model, quantization, formats, coder or rounding_coder(config.method, is_packed(quantization)))


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
    if quantization.get("rest") == "float16":
        state = round_rest(state)
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
        state |= {f"{key}_codes": coded.codes, f"{key}_scales": coded.scales}
    return state


def layer_suffix(layer: nn.Module) -> str:
    """What an LSTM's tensors end in, the number of its layer; nothing for others."""
    return "_l0" if isinstance(layer, (QuantLSTM, nn.LSTM)) else ""


def round_rest(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round every float tensor to float16. Raises: UserError when a number is too large for it."""
    rounded = {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in rounded.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name}: a number is too large for float16; set rest: float32")
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
