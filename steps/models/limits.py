"""Checks a model folder's description against its weights before a model of that size is built."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from steps.core.cli import UserError
from steps.models.stored import stored_state

# of model.json
LARGEST_SPEC_BYTES = 4 << 20
MOST_BLOCKS = 1000
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def check_weights(path: Path, spec: dict, build: Callable[[dict], torch.nn.Module]) -> None:
    """Compare names, types and shapes of the tensors in a safetensors file with those of the model `spec` describes.

    Takes memory for neither the tensors nor the model.

    Args:   spec: content of model.json.   build: makes a model of it.
    Raises: UserError naming the first tensor that differs.
    """
    there = tensor_heads(path)
    if (blocks := count_blocks(spec)) > len(there):
        raise UserError(f"{path}: tensors do not fit model.json: {len(there)} tensors for {blocks} blocks")
    with torch.device("meta"):
        state = stored_state(build(spec), spec["quantization"])
    wanted = {name: (DTYPES.get(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            difference = f"{name} is {_show(there.get(name))}, not {_show(wanted.get(name))}; make the model again"
            raise UserError(f"{path}: tensors do not fit model.json: {difference}")


def tensor_heads(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (F32, I8, ...) and shape of every tensor of a safetensors file, from its header. Raises: UserError."""
    try:
        with safe_open(path, "pt") as file:
            # the file is no mapping: it cannot be iterated over
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OverflowError) as error:
        raise UserError(f"{path}: tensors do not fit model.json: {' '.join(str(error).split())}") from None


def count_blocks(spec: dict) -> int:
    """Encoder blocks in a description, counted before anything is built from it."""
    sizes = spec.get("model")
    if not isinstance(sizes, dict):
        return 0
    listed, number = sizes.get("blocks"), sizes.get("num_blocks")
    return max(len(listed) if isinstance(listed, list) else 0, number if isinstance(number, int) else 0)


def _show(head):
    return "missing" if head is None else f"{head[0]} {list(head[1])}"
