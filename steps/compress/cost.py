"""What coding cost a model: said, and kept in quantization.json."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.compress.calibrate import RangeNoise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import FloatTensor, LayerNoise, float_tensors, layer_noise
from steps.core.cli import say
from steps.core.outdir import write_json
from steps.models.asr_model import AsrModel
from steps.models.fixed_point import float_products


def report(
    out: Path, model: AsrModel, small: AsrModel, config: QuantizeConfig, ranges: Sequence[RangeNoise] = ()
) -> None:
    """Say what coding cost and what stays float, and write it to quantization.json.

    Args: model: what `small` was made from.   ranges: what fixed scales of activations cost.
    """
    rows, noise = float_tensors(small), layer_noise(model, small)
    listed: dict[str, Any] = {
        "float": [dataclasses.asdict(row) for row in rows],
        "layers": [dataclasses.asdict(row) for row in noise],
    }
    if ranges:
        listed["activations"] = [dataclasses.asdict(one) for one in ranges]
        listed["float_products"] = float_products(small)
    write_json(out / "quantization.json", {"bits": config.bits, "method": config.method} | listed)
    say_noise(noise)
    if ranges:
        say_ranges(ranges, listed["float_products"])
    say_float(rows)


def say_ranges(ranges: Sequence[RangeNoise], products: Sequence[str]) -> None:
    """Print what fixed scales cover and cost. Args: products: names of what multiplies in float."""
    width = max(len(one.name) for one in ranges)
    for one in ranges:
        clipped = f"  {one.clipped:.2%} clipped" if one.clipped else ""
        say(f"  {one.name:{width}}  {one.low:8.3g} to {one.high:8.3g}  {one.snr_db:5.1f} dB{clipped}")
    say(f"products in float: {', '.join(products) or 'none'}")


def say_noise(rows: Sequence[LayerNoise]) -> None:
    """Print the signal-to-noise ratio of each matrix's weights."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        groups = f" groups of {row.group}" if row.group else ""
        clipped = f"  {row.clipped:.2%} clipped" if row.clipped else ""
        say(f"  {row.name:{width}}  {row.bits} bits {row.grid}{groups}  {row.snr_db:5.1f} dB{clipped}")


def say_float(rows: Sequence[FloatTensor]) -> None:
    """Print what stays float: tensors of at least 1 % of the bytes one by one, the others together."""
    say(f"float: {sum(row.share for row in rows):.1%} of the bytes")
    large = [row for row in rows if row.share >= 0.01]
    for row in large:
        say(f"  {row.share:6.1%}  {row.size_bytes:9,} bytes  {row.name}")
    rest = rows[len(large) :]
    say(f"  {sum(row.share for row in rest):6.1%}  {sum(row.size_bytes for row in rest):9,} bytes  {len(rest)} others")
