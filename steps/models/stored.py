"""How the tensors of a model stand in model.safetensors: as they are in memory or, if model.json says so, packed.

Packed, codes take their format's bits, their scales are float16, and all other float tensors float16 or float32; those of eight
bits (steps/models/blocks.py) are float16 here, and blocks in an exported file. What is written has been rounded before
(`round_rest`, steps/compress): reading gives the very numbers that were written. Fixed scales of activations are float32 in any case.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from steps.models.codes import Codes, is_packed, rest_type
from steps.models.fixed_point import activation_ranges
from steps.models.quant_layers import quantized_layers
from steps.models.ranges import check_range


def stored_state(model: nn.Module, quantization: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    """The tensors of a model as its file holds them.

    Args:   quantization: the entry in model.json.
    Raises: ValueError naming a tensor that would not be read as it is.
    """
    state = {name: _here(tensor.detach()) for name, tensor in model.state_dict().items()}
    if not quantization or not is_packed(quantization):
        return state
    rest = rest_type(quantization)
    scales, ranges = set(), {f"{name}.scale" for name in activation_ranges(model)}
    for name, codes in _matrices(model).items():
        state[f"{name}_codes"] = Codes(state[f"{name}_codes"], codes.scales, codes.format).pack()
        scales.add(f"{name}_scales")
    for name, tensor in state.items():
        if tensor.is_floating_point() and name not in ranges:
            small = tensor.to(torch.float16 if name in scales else rest)
            if not tensor.is_meta and not torch.equal(small.to(tensor.dtype), tensor):
                raise ValueError(f"{name}: its numbers are not of {small.dtype}, which model.json promises")
            state[name] = small
    return state


def restored_state(
    stored: Mapping[str, torch.Tensor], model: nn.Module, quantization: dict[str, Any] | None
) -> dict[str, torch.Tensor]:
    """The inverse of `stored_state`, for a model of the same description.

    Raises: ValueError, RuntimeError when the tensors do not fit.
    """
    state = dict(stored)
    for name in activation_ranges(model):
        check_range(state[f"{name}.scale"], state[f"{name}.zero_point"])
    if not quantization or not is_packed(quantization):
        return state
    for name, codes in _matrices(model).items():
        key = f"{name}_codes"
        state[key] = Codes.unpack(state[key], codes.scales, codes.format, codes.codes.shape[1]).codes
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor.float()
    return state


def _here(tensor):
    """On the CPU, unless it has no numbers at all."""
    return tensor if tensor.is_meta else tensor.cpu()


def _matrices(model):
    layers = quantized_layers(model).items()
    return {f"{path}.{name}": codes for path, layer in layers for name, codes in layer.matrices().items()}
