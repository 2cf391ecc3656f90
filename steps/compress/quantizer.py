"""Post-training quantization: Linear and LSTM weights become int8 codes, everything else stays float."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import check, nearest
from steps.models.asr_model import AsrModel
from steps.models.build import build_model
from steps.models.codes import WHOLE_BYTE_BITS, CodeFormat, Codes, describe_formats
from steps.models.quant_layers import QuantLinear


@dataclass
class QuantizeConfig:
    """bits: per weight, 8 or 7. Either takes a byte on disk; with 7 the fastest integer kernels of processors without VNNI
    are exact, and are used.  skip: names of layers, or of modules with all their layers, that stay float."""

    bits: int = 8
    skip: list[str] = field(default_factory=list)

    def __post_init__(self):
        check(self.bits in WHOLE_BYTE_BITS, f"bits must be 8 or 7, not {self.bits}")


@dataclass(frozen=True)
class FloatTensor:
    """A tensor that stays float. share: its part of the bytes of all tensors, 0..1."""

    name: str
    size_bytes: int
    share: float


def quantize_weight(weight: torch.Tensor, format: CodeFormat) -> Codes:
    """Round each row to the levels between minus and plus its largest magnitude.

    Args:    weight: (O, I) float, finite.   format: grid symmetric, one scale per row.
    Returns: Codes with scales (O,) float32; what they stand for is within scales / 2 of weight.
    Raises:  ValueError when a weight is not finite.
    Source:  symmetric per-channel quantization, Krishnamoorthi 2018 (arXiv:1806.08342), section 2.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    weight, largest = weight.detach().float(), format.largest
    scales = weight.abs().amax(dim=1) / largest
    # rows of zeros, or of numbers so small that the division gave zero
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = (weight / scales.unsqueeze(1)).round().clamp(-largest, largest)
    return Codes(codes.to(torch.int8), scales, format)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every Linear and LSTM by name, both factors of low-rank layers included."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.LSTM))}


def quantize_model(model: AsrModel, config: QuantizeConfig) -> AsrModel:
    """Quantize the weights of Linear and LSTM layers.

    Args:    model: not quantized yet.
    Returns: a new model in eval mode, on the CPU, with `.spec["quantization"]`.
    Raises:  UserError when `skip` names no layer, nothing is left to quantize, or the model is already quantized.
    """
    if model.spec["quantization"]:
        raise UserError("the model is already quantized; quantize the one it was made from")
    layers = quantizable_layers(model)
    names = select_layers(layers, config.skip)
    format = CodeFormat(config.bits)
    small = build_model(model.spec | {"quantization": describe_formats(dict.fromkeys(names, format))})
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name in names:
        taken = {key: state.pop(f"{name}.{key}") for key in layers[name].state_dict()}
        try:
            codes = quantized_tensors(small.get_submodule(name), taken)
        except ValueError as error:
            raise UserError(f"{name}: {error}; train the model again") from None
        state |= {f"{name}.{key}": tensor for key, tensor in codes.items()}
    small.load_state_dict(state)
    return small.eval()


def select_layers(layers: Iterable[str], skip: Sequence[str]) -> list[str]:
    """Names of layers that no entry of `skip` covers. Raises: UserError when an entry covers none or none is left."""
    parts = {name.rsplit(".", depth)[0] for name in layers for depth in range(name.count(".") + 1)}
    for entry in skip:
        if entry not in parts:
            raise UserError(f"skip: no quantizable layer is called {entry!r}{nearest(entry, sorted(parts))}")
    names = [name for name in layers if not any(f"{name}.".startswith(f"{entry}.") for entry in skip)]
    if not names:
        raise UserError("nothing would be quantized: the model has no Linear or LSTM outside `skip`")
    return names


def quantized_tensors(layer: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of a quantized layer from that of the float one.

    Args: layer: QuantLinear or QuantLSTM.   tensors: state dict of the Linear or LSTM.
    """
    # an LSTM's tensors end in the number of its layer
    suffix = "" if isinstance(layer, QuantLinear) else "_l0"
    state = {name.removesuffix(suffix): tensor for name, tensor in tensors.items() if name.startswith("bias")}
    for name in layer.matrices():
        coded = quantize_weight(tensors[name + suffix], layer.format)
        state |= {f"{name}_codes": coded.codes, f"{name}_scales": coded.scales}
    return state


def float_tensors(model: AsrModel) -> list[FloatTensor]:
    """The tensors of a quantized model that are float, largest first."""
    state = model.state_dict()
    total = sum(tensor.nbytes for tensor in state.values())
    rows = [FloatTensor(name, t.nbytes, t.nbytes / total) for name, t in state.items() if t.is_floating_point()]
    return sorted(rows, key=lambda row: (-row.size_bytes, row.name))
