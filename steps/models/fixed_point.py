"""Models whose products take 8-bit activations with fixed scales: where they are rounded, and which products stay float.

A layer in codes rounds what it takes and what it gives, attention also what it multiplies by itself. In torch the rounded
numbers are float; in an exported file runtimes multiply integers between the QuantizeLinear and DequantizeLinear that stand in
the same places. `give_ranges_` puts the rounding in; steps/compress/calibrate.py finds the scales.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from steps.core.config import check, show
from steps.models.attention import AttentionRanges, SelfAttention
from steps.models.low_rank import LowRankLinear
from steps.models.quant_layers import QuantConv, Quantized, QuantLinear, quantized_layers
from steps.models.ranges import ActivationRange

if TYPE_CHECKING:
    from steps.models.asr_model import AsrModel

BITS = 8
# what multiplies outside of attention
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, *Quantized.__args__)


def describe_activations(how: str) -> dict[str, Any]:
    """The entry of model.json. Args: how: ranges were chosen."""
    return {"bits": BITS, "static": how}


def has_ranges(quantization: dict[str, Any] | None) -> bool:
    """Whether activations have fixed scales. Args: the entry in model.json.  Raises: ValueError."""
    entry = (quantization or {}).get("activations")
    check(entry is None or (isinstance(entry, dict) and entry.get("bits") == BITS),
          f"quantization: activations must have bits {BITS}, not {show(entry)}")  # fmt: skip
    return entry is not None


def check_static(model: "AsrModel") -> None:
    """Raise ValueError for a model whose activations cannot have fixed scales."""
    where = "activations: fixed scales are for CTC models of whole utterances on type conformer or dnn; this one"
    check(model.kind in ("conformer", "dnn"), f"{where} is of type {model.kind}")
    check(not model.streaming, f"{where} streams")
    check(model.head.name == "ctc", f"{where} is a {model.head.name}")


def give_ranges_(model: "AsrModel") -> None:
    """Let every layer in codes that can round its activations, and attention around such. Scales are still to be set.

    Raises: ValueError for a model that would go on without them.
    """
    check_static(model)
    layers = {name: layer for name, layer in quantized_layers(model).items() if can_round(layer)}
    for layer in layers.values():
        layer.input = ActivationRange()
    for name, layer in layers.items():
        if not _is_static(_reader(model, name)):
            layer.output = ActivationRange()
    for module in model.modules():
        if isinstance(module, SelfAttention) and _is_static(_first(module.out)) and _is_static(_last(module.qkv)):
            module.ranges = AttentionRanges()


def can_round(layer: Quantized) -> bool:
    """Whether its product is one of integers: no LSTM, and no scales for groups within a row."""
    return isinstance(layer, (QuantLinear, QuantConv)) and layer.format.group is None


def activation_ranges(model: nn.Module) -> dict[str, ActivationRange]:
    """Every place where activations are rounded, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationRange)}


def float_products(model: nn.Module) -> list[str]:
    """Names of what multiplies in float: layers, and attention by itself. Args: a model with ranges or without."""
    modules = dict(model.named_modules())
    layers = [name for name, layer in modules.items() if isinstance(layer, PRODUCTS) and not _is_static(layer)]
    attention = [name for name, module in modules.items() if isinstance(module, SelfAttention) and not module.ranges]
    return layers + [f"{name}.{what}" for name in attention for what in ("scores", "mixed")]


def _is_static(layer):
    return isinstance(getattr(layer, "input", None), ActivationRange)


def _reader(model, name):
    """The layer that rounds what this one gives, or its ReLU; None where more is done to it."""
    around, _, own = name.rpartition(".")
    module = model.get_submodule(around)
    if isinstance(module, LowRankLinear) and own == "second":
        # it gives what the two factors together give
        return _reader(model, around)
    reader = getattr(module, "passes_on", {}).get(own)
    return _first(module.get_submodule(reader)) if reader else None


def _first(layer):
    return layer.first if isinstance(layer, LowRankLinear) else layer


def _last(layer):
    return layer.second if isinstance(layer, LowRankLinear) else layer
