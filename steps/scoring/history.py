"""What a finished run left besides error rates: the time of each stage, training curves, settings, sizes of layers."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.cli import UserError
from steps.scoring.sources import read_json

# more points of a curve are thinned out
MOST_POINTS = 300
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "BOOL": 8}


def read_stages(exp: str | Path) -> list[dict[str, Any]]:
    """Tasks of the run, in order. Returns: list of {"stage", "name", "seconds", "finished"}; empty when none is finished."""
    stages = []
    for path in sorted((Path(exp) / ".stages").glob("*.done")):
        mark = read_json(path)
        stages.append({key: mark.get(key) for key in ("stage", "name", "seconds", "finished")})
    return stages


def read_curves(exp: str | Path, models: Iterable[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Scalars that the trainings wrote for TensorBoard. Returns: {tag: {model: [(step, value)]}}, thinned out."""
    # here, because it is slow to import
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for model in models:
        folder = Path(exp) / model / "tensorboard"
        if folder.is_dir():
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                points = [(event.step, event.value) for event in events.Scalars(tag)]
                # none: a training that went on took back all that had been written
                if points:
                    curves.setdefault(tag, {})[model] = points[:: -(-len(points) // MOST_POINTS)]
    return curves


def read_settings(exp: str | Path, models: Iterable[str]) -> dict[str, str]:
    """Resolved settings, as text. Returns: {model: content of its conf.yaml}, for models that have one."""
    files = {model: Path(exp) / model / "conf.yaml" for model in models}
    return {model: file.read_text(encoding="utf-8") for model, file in files.items() if file.is_file()}


def read_layers(path: Path) -> list[dict[str, Any]]:
    """Tensors of a model folder by name, from the header of its safetensors file and, for packed codes, model.json beside it.

    Returns: list of {"name", "shape", "parameters", "bits", "bytes"}; empty when there is no such file. Shapes are those in
             the file: bytes of a row for packed codes. What fills up rows of theirs counts as parameters.
    Raises:  UserError when the file is damaged.
    """
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else path.stat().st_size
        if length >= path.stat().st_size:
            raise UserError(f"{path}: damaged; make the model again")
        try:
            head = json.loads(file.read(length))
        except ValueError:
            raise UserError(f"{path}: damaged; make the model again") from None
    layers, packed = [], packed_bits(path.parent / "model.json")
    for name, entry in sorted(head.items(), key=lambda item: item[0]):
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        size = end - start
        bits: float = BITS.get(entry["dtype"], 32)
        if name.endswith("_codes"):
            bits = packed.get(name.rpartition(".")[0], bits)
        facts = {"shape": entry["shape"], "parameters": int(size * 8 / bits), "bits": bits, "bytes": size}
        layers.append({"name": name, **facts})
    return layers


def mean_bits(folder: Path) -> float | None:
    """Bits of a code on average over the codes of a model folder, to one digit. Returns: None for a float model."""
    quantization = read_json(folder / "model.json").get("quantization") or {}
    layers = quantization.get("layers")
    # version 0.1 wrote one number for all layers
    if not isinstance(layers, dict):
        return quantization.get("bits")
    bits = {name: 8 / 5 if format["grid"] == "ternary" else format["bits"] for name, format in layers.items()}
    rows = [row for row in read_layers(folder / "model.safetensors") if row["name"].endswith("_codes")]
    weights = [(bits[row["name"].rpartition(".")[0]], row["parameters"]) for row in rows]
    return round(sum(each * count for each, count in weights) / sum(count for _, count in weights), 1)


def packed_bits(path: Path) -> dict[str, float]:
    """Bits of a code in each layer whose codes are packed. Args: path: of model.json.  Returns: {layer: bits}."""
    quantization = (read_json(path).get("quantization") or {}) if path.is_file() else {}
    if not quantization.get("packed"):
        return {}
    formats = quantization["layers"].items()
    # five ternary codes in a byte
    return {name: 8 / 5 if format["grid"] == "ternary" else format["bits"] for name, format in formats}
