"""What a finished run left besides numbers: the time of each stage, training curves, settings, sizes of layers."""

import json
import struct
from pathlib import Path

from steps.core.cli import UserError
from steps.scoring.sources import read_json

MOST_POINTS = 300  # of a curve
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "BOOL": 8}


def read_stages(exp):
    """Tasks of the run, in order. Returns: list of {"stage", "name", "seconds", "finished"}; empty without marks."""
    stages = []
    for path in sorted((Path(exp) / ".stages").glob("*.done")):
        mark = read_json(path)
        stages.append({key: mark.get(key) for key in ("stage", "name", "seconds", "finished")})
    return stages


def read_curves(exp, models):
    """Scalars that the trainings wrote for TensorBoard. Returns: {tag: {model: [(step, value)]}}, thinned out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    curves = {}
    for model in models:
        folder = Path(exp) / model / "tensorboard"
        if folder.is_dir():
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                points = [(event.step, event.value) for event in events.Scalars(tag)]
                curves.setdefault(tag, {})[model] = points[:: -(-len(points) // MOST_POINTS)]
    return curves


def read_settings(exp, models):
    """Resolved settings, as text. Returns: {model: content of conf.yaml}, for those that have one."""
    files = {model: Path(exp) / model / "conf.yaml" for model in models}
    return {model: file.read_text(encoding="utf-8") for model, file in files.items() if file.is_file()}


def read_layers(path):
    """Tensors of a model folder by name, from the head of its safetensors file.

    Returns: list of {"name", "shape", "parameters", "bits", "bytes"}; empty when there is no such file.
    Raises:  UserError when the file is damaged.
    """
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else path.stat().st_size
        if length >= path.stat().st_size:
            raise UserError(f"{path}: damaged; make the model again")
        try:
            head = json.loads(file.read(length))
        except ValueError:
            raise UserError(f"{path}: damaged; make the model again") from None
    layers = []
    for name, entry in sorted(head.items(), key=lambda item: item[0]):
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        bits = BITS.get(entry["dtype"], 32)
        shape = entry["shape"]
        layers.append({"name": name, "shape": shape, "parameters": (end - start) * 8 // bits, "bits": bits,
                       "bytes": end - start})  # fmt: skip
    return layers
