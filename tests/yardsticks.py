"""The same nets through other people's quantizers, as folders that `steps.decode` and `steps.benchmark` take like ours.

    python3 -m tests.yardsticks --model exp/an4/teacher --data data/an4/dev --out exp/yardsticks

Writes, for each way that is installed, OUT/NAME: an exported folder (onnxruntime's quantizers, of the float export) or a model
folder whose weights are what its codes stand for (torchao: float on disk; its size is that of codes and scales, printed).

onnxruntime:  dynamic8, dynamic8_products (quantize_dynamic, of all it can and without convolutions), static8
              (quantize_static: QDQ, min-max over 32 utterances of --data), nbits2, nbits4, nbits8 (MatMulNBits, blocks of 32,
              round to nearest); the last three need `onnx_ir` and `sympy`.
torchao:      torchao8, torchao4, torchao2 (a scale for each row), torchao4_group, torchao2_group (of 32 weights). Needs `torchao`.
"""

import argparse
import copy
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization

from steps.core.exports import SUMS
from steps.data.archives import load_feature_matrix, read_feats_scp
from steps.deploy.export import export_folder
from steps.models.build import CARRIED, load_model, save_model

CALIBRATION_UTTERANCES = 32
GROUP = 32
# torchao's types of codes
KINDS = {torch.int8: 8, torch.int4: 4, torch.int2: 2}


class Utterances(quantization.CalibrationDataReader):
    """Features of the first utterances of a data folder, one by one. Args: data: with feats.scp."""

    def __init__(self, data: Path):
        table = read_feats_scp(data / "feats.scp")
        self.left = iter([load_feature_matrix(table[name]) for name in sorted(table)[:CALIBRATION_UTTERANCES]])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one, as the graph takes it; None at the end."""
        feats = next(self.left, None)
        return None if feats is None else {"x": feats[None].astype(np.float32), "x_lens": np.array([len(feats)])}


def onnxruntime_ways(model: Path, data: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Name of each way, and what writes its ONNX file. Args: model: a float ONNX file."""
    # 7 bits, as these kernels saturate with 8 where there is no VNNI
    common: dict[str, Any] = {"reduce_range": True, "weight_type": quantization.QuantType.QInt8, "per_channel": True}
    for name, extra in (("dynamic8", {}), ("dynamic8_products", {"op_types_to_quantize": ["MatMul"]})):
        yield name, lambda out, extra=extra: quantization.quantize_dynamic(model, out, **common, **extra)
    yield "static8", lambda out: quantization.quantize_static(model, out, Utterances(data), **common)
    if importlib.util.find_spec("onnx_ir"):
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        def nbits(out: Path, bits: int) -> None:
            way = MatMulNBitsQuantizer(as_products(onnx.load(model)), bits=bits, block_size=GROUP, is_symmetric=True)
            way.process()
            way.model.save_model_to_file(str(out))

        for bits in (2, 4, 8):
            yield f"nbits{bits}", lambda out, bits=bits: nbits(out, bits)
    else:
        print("nbits2, nbits4, nbits8: left out, onnx_ir is not installed")


def as_products(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with a MatMul and an Add for each Gemm."""
    with_products = quantization.onnx_model.ONNXModel(graph)
    with_products.replace_gemm_with_matmul()
    return with_products.model


def write_export(export: Path, out: Path, write: Callable[[Path], None]) -> None:
    """An exported folder with another ONNX file. Args: export: ours, in float."""
    out.mkdir(parents=True, exist_ok=True)
    write(out / "model.onnx")
    for name in ("tokens.txt", "features.yaml"):
        shutil.copy(export / name, out / name)
    names = ("tokens.txt", "features.yaml", "model.onnx")
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    (out / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    print(f"{out}: {sum((out / name).stat().st_size for name in names):,} bytes")


def torchao_ways(source: Path, out: Path) -> None:
    """Model folders with the weights that torchao's codes stand for."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    ways = {f"torchao{bits}": (kind, bits, PerAxis(0)) for kind, bits in KINDS.items()}
    ways |= {f"torchao{bits}_group": (kind, bits, PerGroup(GROUP)) for kind, bits in KINDS.items() if bits < 8}
    for name, (kind, bits, granularity) in ways.items():
        model = load_model(source)
        coded, size = copy.deepcopy(model), 0
        fits = {
            path
            for path, layer in coded.named_modules()
            if isinstance(layer, torch.nn.Linear)
            and (not isinstance(granularity, PerGroup) or layer.in_features % GROUP == 0)
        }
        quantize_(
            coded,
            IntxWeightOnlyConfig(weight_dtype=kind, granularity=granularity),
            filter_fn=lambda _, path, fits=fits: path in fits,
        )
        for path in fits:
            weight = model.get_submodule(path).weight
            weight.data.copy_(coded.get_submodule(path).weight.dequantize())
            groups = weight.shape[1] // GROUP if isinstance(granularity, PerGroup) else 1
            size += weight.numel() * bits // 8 + 2 * weight.shape[0] * groups
        left = sum(tensor.numel() for tensor in model.state_dict().values())
        left -= sum(model.get_submodule(path).weight.numel() for path in fits)
        save_model(out / name, model, {carried: source / carried for carried in CARRIED}, parent=source)
        print(f"{out / name}: {size:,} bytes of codes and float16 scales, {2 * left:,} of the rest in float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("model", "float model folder"), ("data", "data folder with feats.scp"), ("out", "folder")):
        parser.add_argument(f"--{name}", required=True, type=Path, help=text)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temp:
        export = Path(temp)
        export_folder(args.model, export)
        for name, write in onnxruntime_ways(export / "model.onnx", args.data):
            write_export(export, args.out / name, write)
    if importlib.util.find_spec("torchao"):
        torchao_ways(args.model, args.out)
    else:
        print("torchao8 and others: left out, torchao is not installed")


if __name__ == "__main__":
    main()
