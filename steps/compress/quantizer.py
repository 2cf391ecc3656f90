"""Post-training quantization: Linear and LSTM weights become int8 codes, everything else stays float."""

from dataclasses import dataclass, field

import torch
from torch import nn

from steps.core.cli import UserError
from steps.core.config import check, nearest
from steps.models.build import build_model
from steps.models.quant_layers import LARGEST_CODE, QuantLinear


@dataclass
class QuantizeConfig:
    """bits: of a weight, 8 or 7. Either takes a byte on disk; with 7 the fastest integer kernels of processors without VNNI
    are exact, and are used.  skip: layers, or modules with all layers in them, that stay float, by name."""

    bits: int = 8
    skip: list[str] = field(default_factory=list)

    def __post_init__(self):
        check(self.bits in LARGEST_CODE, f"bits must be 8 or 7, not {self.bits}")


@dataclass(frozen=True)
class FloatTensor:
    """A tensor that stays float. size_bytes: of it.  share: of the bytes of all tensors, 0..1."""

    name: str
    size_bytes: int
    share: float


def quantize_weight(weight, bits):
    """Round each row to 255 levels (127 with 7 bits) between minus and plus its largest magnitude.

    Args:    weight: (O, I) float, finite.   bits: 8 or 7.
    Returns: codes (O, I) int8 in -127..127 (-63..63), scales (O,) float32; codes * scales is within scales / 2 of weight.
    Raises:  ValueError when a weight is not finite.
    Source:  symmetric per-channel quantization, Krishnamoorthi 2018 (arXiv:1806.08342), section 2.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    weight, largest = weight.detach().float(), LARGEST_CODE[bits]
    scales = weight.abs().amax(dim=1) / largest
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))  # rows of zeros, or of numbers too small
    codes = (weight / scales.unsqueeze(1)).round().clamp(-largest, largest)
    return codes.to(torch.int8), scales


def quantizable_layers(model):
    """Every Linear and LSTM by name, both factors of low-rank layers included. Returns: dict."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.LSTM))}


def quantize_model(model, config):
    """Quantize the weights of Linear and LSTM layers.

    Args:    model: CtcModel with `.spec`, not quantized yet.   config: QuantizeConfig.
    Returns: a new CtcModel in eval mode, on the CPU, with `.spec["quantization"]`.
    Raises:  UserError when `skip` names no layer, nothing is left to quantize, or the model is quantized already.
    """
    if model.spec["quantization"]:
        raise UserError("the model is quantized already; quantize the one it was made from")
    layers = quantizable_layers(model)
    names = select_layers(layers, config.skip)
    small = build_model(model.spec | {"quantization": {"bits": config.bits, "layers": names}})
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name in names:
        taken = {key: state.pop(f"{name}.{key}") for key in layers[name].state_dict()}
        try:
            codes = quantized_tensors(small.get_submodule(name), taken, config.bits)
        except ValueError as error:
            raise UserError(f"{name}: {error}; train the model again") from None
        state |= {f"{name}.{key}": tensor for key, tensor in codes.items()}
    small.load_state_dict(state)
    return small.eval()


def select_layers(layers, skip):
    """Names of layers that no entry of `skip` covers. Raises: UserError when an entry covers none or none is left."""
    parts = {name.rsplit(".", depth)[0] for name in layers for depth in range(name.count(".") + 1)}
    for entry in skip:
        if entry not in parts:
            raise UserError(f"skip: no quantizable layer is called {entry!r}{nearest(entry, sorted(parts))}")
    names = [name for name in layers if not any(f"{name}.".startswith(f"{entry}.") for entry in skip)]
    if not names:
        raise UserError("nothing would be quantized: the model has no Linear or LSTM outside `skip`")
    return names


def quantized_tensors(layer, tensors, bits):
    """State of a quantized layer from that of the float one.

    Args:   layer: QuantLinear or QuantLSTM.   tensors: state dict of the Linear or LSTM.   bits: 8 or 7.   Returns: dict.
    """
    if isinstance(layer, QuantLinear):
        codes, scales = quantize_weight(tensors["weight"], bits)
        state = {"weight_codes": codes, "weight_scales": scales}
        return state | ({"bias": tensors["bias"]} if "bias" in tensors else {})
    state = {}
    for name in ("ih", "hh"):
        codes, scales = quantize_weight(tensors[f"weight_{name}_l0"], bits)
        state |= {f"weight_{name}_codes": codes, f"weight_{name}_scales": scales}
        state[f"bias_{name}"] = tensors[f"bias_{name}_l0"]
    return state


def float_tensors(model):
    """The tensors of a quantized model that are float, largest first. Returns: list of FloatTensor."""
    state = model.state_dict()
    total = sum(tensor.nbytes for tensor in state.values())
    rows = [FloatTensor(name, t.nbytes, t.nbytes / total) for name, t in state.items() if t.is_floating_point()]
    return sorted(rows, key=lambda row: (-row.size_bytes, row.name))
