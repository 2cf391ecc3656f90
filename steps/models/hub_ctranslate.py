"""A Whisper folder of CTranslate2, as faster-whisper uses it: its encoder, under the names of transformers.

`model.bin` is no pickle but a list of named arrays, read here by its own rules (ctranslate2, specs/model_spec.py).
"""

import math
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from steps.core.cli import UserError
from steps.models.hub_folder import LARGEST, HubFolder
from steps.models.hub_whisper import open_encoder

FILE = "model.bin"
SPEC = b"WhisperSpec\0"
NEWEST = 6
MOST_VARIABLES, MOST_AXES = 100_000, 8
TYPES = {0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2")}
# below encoder/layer_N; without /weight and /bias, or /gamma and /beta
LAYERS = {
    "self_attention/layer_norm": "self_attn_layer_norm", "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2",
}  # fmt: skip
LAYER = re.compile(r"encoder/layer_(\d+)/")
PARTS = {"gamma": "weight", "beta": "bias"}


def is_ctranslate(folder: Path) -> bool:
    """Whether a folder's model.bin is a Whisper model of CTranslate2."""
    try:
        with open(folder / FILE, "rb") as file:
            head = file.read(6 + len(SPEC))
    except OSError:
        return False
    return head[6:] == SPEC


class CTranslateFolder(HubFolder):
    """See HubFolder. Raises: MissingInput, UserError."""

    has_head, kind = False, "whisper"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.weights = [self.folder / FILE]
        self.arrays = read_encoder(self.weights[0])
        self.tensors, self.elements = len(self.arrays), sum(array.size for array in self.arrays.values())

    def open_settings(self) -> tuple[Any, Any]:
        """Configuration, by the shapes of the weights, and feature extractor. Raises: UserError."""
        layers = len({found[1] for name in self.arrays if (found := LAYER.match(name))})
        width, bins, _ = self.shape("encoder/conv1/weight", 3)
        if bins > LARGEST["feature_size"]:
            raise UserError(f"{self.weights[0]}: {bins} mel bins are more than any model has; convert the model again")
        with self.told("read its settings"):
            import transformers

            config = transformers.WhisperConfig(
                d_model=width, num_mel_bins=bins, encoder_layers=layers,
                encoder_attention_heads=int(self.arrays["encoder/num_heads"]),
                encoder_ffn_dim=self.shape("encoder/layer_0/ffn/linear_0/weight", 2)[0],
                max_source_positions=self.shape("encoder/position_encodings/encodings", 2)[0],
            )  # fmt: skip
            return config, transformers.WhisperFeatureExtractor(feature_size=bins)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Shape of an array. Raises: UserError when it is not there or has other axes."""
        array = self.arrays.get(name)
        if array is None or array.ndim != axes:
            raise UserError(f"{self.weights[0]}: holds no {name} of {axes} axes; convert the model again")
        return array.shape

    def open_model(self) -> nn.Module:
        """See HubFolder."""
        config, _ = self.open_settings()
        state: dict[str, torch.Tensor] = {}
        with self.told("read the model"):
            for name in self.arrays:
                if not name.endswith(("_scale", "num_heads")):
                    state |= named(name, dequantized(self.arrays, name))
            return open_encoder(config, state)


def read_encoder(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the encoder, mapped and not read. Raises: UserError for a file that is not what its headers say."""
    arrays, size = {}, path.stat().st_size
    whole = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    with open(path, "rb") as file:
        try:
            version = _number(file, "I")
            spec, _, count = file.read(_number(file, "H")), _number(file, "I"), _number(file, "I")
            if spec != SPEC or version > NEWEST or count > MOST_VARIABLES:
                raise ValueError
            for _ in range(count):
                name = file.read(_number(file, "H"))[:-1].decode()
                axes = _number(file, "B")
                shape = tuple(_number(file, "I") for _ in range(axes)) if axes <= MOST_AXES else ()
                kind, taken, at = TYPES.get(_number(file, "B")), _number(file, "I"), file.tell()
                if at + taken > size or axes > MOST_AXES:
                    raise ValueError
                if name.startswith("encoder/"):
                    if kind is None:
                        raise UserError(f"{path}: {name}: numbers of a kind that is not read; convert it to float16")
                    if math.prod(shape) * kind.itemsize != taken:
                        raise ValueError
                    arrays[name] = whole[at : at + taken].view(kind).reshape(shape)
                file.seek(taken, 1)
        except (ValueError, struct.error):
            raise UserError(f"{path}: not a Whisper model of CTranslate2, or a damaged one; convert it again") from None
    if "encoder/num_heads" not in arrays or arrays["encoder/num_heads"].ndim:
        raise UserError(f"{path}: does not say how many heads it has; convert it with a newer CTranslate2")
    return arrays


def _number(file: IO[bytes], kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0])


def dequantized(arrays: dict[str, np.ndarray], name: str) -> torch.Tensor:
    """An array as float32; codes of 8 bits are divided by the scale of their row."""
    array = torch.from_numpy(arrays[name].astype(np.float32))
    scale = arrays.get(f"{name}_scale")
    if scale is None:
        return array
    if arrays[name].dtype != np.int8 or scale.size != len(array):
        raise UserError(f"{FILE}: {name}: only weights of 8 bits with a scale a row are known; convert to float16")
    return array / torch.from_numpy(scale.astype(np.float32)).view(-1, *[1] * (array.dim() - 1))


def named(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor under its names in WhisperEncoder; queries, keys and values, one matrix here, come apart."""
    _, *place, part = name.split("/")
    part, where = PARTS.get(part, part), "/".join(place)
    if where == "position_encodings":
        return {"embed_positions.weight": tensor}
    if not where.startswith("layer_") or where == "layer_norm":
        return {f"{where}.{part}": tensor}
    layer, _, inner = where.partition("/")
    block = f"layers.{layer[6:]}"
    if inner != "self_attention/linear_0":
        return {f"{block}.{LAYERS.get(inner, inner)}.{part}": tensor}
    rows = zip("qkv", tensor.chunk(3), strict=True)
    return {f"{block}.self_attn.{letter}_proj.{part}": row for letter, row in rows if (letter, part) != ("k", "bias")}
