"""Round the Linear and LSTM weights of a model to int8, one scale per output channel.

    python3 -m steps.quantize_model --model exp/an4/student --config conf/quantize.yaml --out exp/an4/student_int8

Writes a model folder with quantization.json in it: every tensor that stays float, with its share of the bytes.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from steps.compress.quantizer import FloatTensor, QuantizeConfig, float_tensors, quantize_model
from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, save_config
from steps.core.outdir import write_json
from steps.core.provenance import write_run_record
from steps.models.build import CARRIED, load_model, read_spec, save_model

STEP = "quantize_model"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder")
    add_common(parser, config=True, out="model folder to write")
    args = parser.parse_args()
    config = load_config(QuantizeConfig, args.config)
    out, source = Path(args.out), Path(args.model)
    check_out(out, source)
    model = load_model(source)
    small = quantize_model(model, config)
    small.spec["step"] = STEP
    save_config(out / "conf.yaml", config)
    rows = float_tensors(small)
    write_json(out / "quantization.json", {"bits": config.bits, "float": [dataclasses.asdict(row) for row in rows]})
    write_run_record(out, seed=parent_seed(source), device="cpu", torch=torch.__version__)
    save_model(out, small, {name: source / name for name in CARRIED}, parent=source)
    report(rows)
    before, after = ((folder / "model.safetensors").stat().st_size for folder in (source, out))
    say(f"{len(small.spec['quantization']['layers'])} layers in int8: {before:,} -> {after:,} bytes, {out}")


def check_out(out: Path, source: Path) -> None:
    """Raise UserError when writing to `out` would replace the input model, or one that another step made."""
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: --out is the same folder as --model; choose another --out")
    if (out / "model.json").is_file() and (step := read_spec(out).get("step")) != STEP:
        raise UserError(f"{out}: holds a finished model of {step}; choose another --out")


def parent_seed(source: Path) -> int | None:
    """Seed that the input model was made with, from its run.json; None where that does not say."""
    try:
        return json.loads((source / "run.json").read_text(encoding="utf-8")).get("seed")
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def report(rows: Sequence[FloatTensor], smallest_share: float = 0.01) -> None:
    """Print what stays float: tensors of at least `smallest_share` of the bytes one by one, the others together."""
    say(f"float: {sum(row.share for row in rows):.1%} of the bytes")
    large = [row for row in rows if row.share >= smallest_share]
    for row in large:
        say(f"  {row.share:6.1%}  {row.size_bytes:9,} bytes  {row.name}")
    rest = rows[len(large) :]
    say(f"  {sum(row.share for row in rest):6.1%}  {sum(row.size_bytes for row in rest):9,} bytes  {len(rest)} others")


if __name__ == "__main__":
    sys.exit(run_main(main))
