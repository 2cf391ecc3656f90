"""Make codes of 8 to 1 bits of the weights of a model: at once, or by training with rounded weights.

    python3 -m steps.quantize_model --model exp/an4/student --config conf/quantize.yaml --out exp/an4/student_int8

Methods gptq and qat read data, and so does any with activations, target_kb or target_bits; qat learns from it, taught by --teacher:

    python3 -m steps.quantize_model --model exp/an4/teacher --teacher exp/an4/teacher --data data/an4/train_sp --dev data/an4/dev \\
        --tokenizer data/an4/tokenizer --features conf/features.yaml --config conf/quantize_2bit.yaml --out exp/an4/teacher_2bit

Writes a model folder with quantization.json in it: what coding cost each layer, and every tensor that stays float, with its
share of the bytes; with activations, what fixed scales cover and cost, and what multiplies in float; and, with a target,
budget.json: the bits chosen, what was measured, and what other sizes would have got.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from steps.compress import budget
from steps.compress.calibrate import keep_apart_
from steps.compress.cost import report
from steps.compress.gptq import gptq_coder
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, describe, quantize_model, rounding_coder
from steps.compress.rounding import short_scales, shortener
from steps.core.cli import Interrupted, UserError, run_main, say
from steps.core.config import ConfigError, load_config, read_yaml, save_config
from steps.core.outdir import write_json
from steps.core.provenance import write_run_record
from steps.data.batches import Batch
from steps.deploy.export import export_bytes
from steps.models.asr_model import AsrModel
from steps.models.build import CARRIED, load_model, read_spec, save_model
from steps.models.codes import check_float
from steps.models.heads.transducer import JOINER_LAYERS, PREDICTOR_LAYERS
from steps.training import distributed
from steps.training.rounded import fix_scales_, train_rounded
from steps.training.settings import LearningConfig
from steps.training.setup import Setup, training_parser

STEP = "quantize_model"
# sections of settings that only a training reads
OF_TRAINING = ("optim", "augment", "ctc", "transducer", "distill")
# what is known of layers while bits are chosen, in --out
MEASURED = "measured.json"
DATA_OPTIONS = ("data", "dev", "tokenizer", "features")


@dataclass(kw_only=True)
class LearntConfig(LearningConfig, QuantizeConfig):
    """Settings of the methods that read data: those of every quantization and of every training."""

    def __post_init__(self):
        LearningConfig.__post_init__(self)
        QuantizeConfig.__post_init__(self)


def main() -> None:
    """Round, or train and then round; save."""
    parser = training_parser(__doc__, required=False)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder")
    parser.add_argument(
        "--teacher", metavar="DIR[,DIR...]", help="what teaches with method qat, as for steps.distill_student"
    )
    args = parser.parse_args()
    settings = read_yaml(args.config)
    method = settings.get("method")
    reading = [key for key in ("activations", "target_kb", "target_bits") if settings.get(key) is not None]
    check_out(Path(args.out), Path(args.model))
    if method not in ("gptq", "qat") and not reading:
        quantize_at_once(args)
        return
    missing = [f"--{name}" for name in DATA_OPTIONS if getattr(args, name) is None]
    if missing:
        why = "a recipe gives it to settings with a section loop:"
        what = " and ".join([f"method {method}"] * (method in ("gptq", "qat")) + reading)
        raise ConfigError(f"{args.config}: {what} reads data; {', '.join(missing)} missing ({why})")
    config = load_config(LearntConfig, args.config)
    if method != "qat":
        # sound that is only measured stays as it is
        config = dataclasses.replace(config, augment=None)
        if idle := [name for name in OF_TRAINING if name in settings]:
            say(f"{', '.join(idle)}: not used, method {config.method} does not train")
    setup = Setup(args, config, STEP)
    if setup.already_done(model=args.model, teacher=args.teacher if method == "qat" else None):
        return
    check_float(read_spec(args.model), args.model, "quantize")
    config = with_chosen_bits(setup, config)
    model = setup.load(args.model)
    if method == "qat":
        train_rounded(setup, model, args.teacher, config, args.model)
        if distributed.rank() == 0:
            say_sizes(Path(args.model), setup.out)
    else:
        calibrate(setup, model, config)


def quantize_at_once(args: argparse.Namespace) -> None:
    """Methods rtn and mse: nothing but the weights is looked at."""
    config = load_config(QuantizeConfig, args.config)
    given = [f"--{name}" for name in (*DATA_OPTIONS, "teacher") if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{args.config}: method {config.method} reads no data; leave out {', '.join(given)}")
    out, source = Path(args.out), Path(args.model)
    there = read_yaml(out / "conf.yaml") if (out / "conf.yaml").is_file() else {}
    # of a training, finished or not, or of a calibration
    if "step" in there:
        raise UserError(
            f"{out / 'conf.yaml'}: {out} was started with method {there.get('method')}; choose another --out"
        )
    model = load_model(source)
    check_float(model.spec, args.model, "quantize")
    small = quantize_model(model, config)
    small.spec["step"] = STEP
    save_config(out / "conf.yaml", config)
    report(out, model, small, config)
    write_run_record(out, seed=parent_seed(source), device="cpu", torch=torch.__version__)
    save_model(out, small, {name: source / name for name in CARRIED}, parent=source)
    say_sizes(source, out)


def with_chosen_bits(setup: Setup, config: LearntConfig) -> LearntConfig:
    """The settings with bits for each layer, where they have a target; chosen once, and read again by a training that goes on."""
    path, known = setup.out / "budget.json", setup.out / MEASURED
    if not config.has_target:
        return config
    if distributed.rank() == 0 and not path.is_file():
        model = setup.load(setup.args.model)
        found = choose_bits(setup, model, config, known)
        setup.claim_out()
        write_json(path, found)
        known.unlink(missing_ok=True)
    distributed.barrier()
    chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
    say(f"budget: {chosen['bits']} bits a weight, {chosen['code_bytes']:,} bytes of codes, {path}")
    return dataclasses.replace(config, layers=config.layers | chosen["layers"])


def choose_bits(setup: Setup, model: AsrModel, config: LearntConfig, known: Path) -> dict[str, Any]:
    """Measure what few bits cost each layer on dev data, and choose. Returns: the content of budget.json.

    Args: known: keeps what is measured when this is asked to stop, which the next run goes on from.   Raises: Interrupted.
    """
    batches, loss_fn = setup.calibration(model, config.calibration_batches, setup.args.dev)
    asking = Asking(batches, setup)

    @torch.no_grad()
    def loss(tried: AsrModel) -> float:
        return sum(float(loss_fn(tried.eval(), batch)) for batch in asking) / len(batches)

    def export_size(layers: dict[str, int]) -> int:
        asked = dataclasses.replace(config, layers=config.layers | layers, method="rtn")
        small = quantize_model(model, asked)
        keep_apart_(small)
        if config.method == "qat":
            budget.as_if_trained_(small)
        return export_bytes(small, setup.args.model, trained=config.method != "qat")

    formats = budget.candidates(model, config)
    weights = sum(codes_of(model, name) for name in formats)
    smallest = budget.Knapsack(budget.unmeasured(model, formats))
    if config.target_kb is not None:
        budget.smallest_file(smallest, round(1000 * config.target_kb), export_size)
    else:
        budget.within_bits(smallest, cast(float, config.target_bits), weights)
    # as it will be rounded where nothing makes up for it
    coder = rounding_coder("rtn" if config.method == "rtn" else "mse", short_scales)
    say(
        f"dev loss of each layer with fewer bits, {sum(int(batch.lengths.sum()) for batch in batches) / 100:,.0f} s of audio:"
    )
    options = budget.read_options(known) if known.is_file() else {}
    try:
        base = budget.measure_options(model, formats, coder, loss, options)
    except Interrupted:
        setup.claim_out()
        write_json(known, budget.written_options(options))
        raise
    knapsack = budget.Knapsack(options)
    if config.target_kb is not None:
        chosen = budget.within_file(knapsack, round(1000 * config.target_kb), export_size)
    else:
        chosen = budget.within_bits(knapsack, cast(float, config.target_bits), weights)
    return budget.describe_budget(knapsack, chosen, base, weights, export_size(budget.bits_of(chosen)))


class Asking(list[Batch]):
    """Batches; whoever goes through them raises Interrupted when this process, alone, is asked to stop."""

    def __init__(self, batches: list[Batch], setup: Setup):
        super().__init__(batches)
        self.setup = setup

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.setup.leave_if_asked(alone=True)
            yield batch


def codes_of(model: AsrModel, name: str) -> int:
    """How many weights of a layer become codes."""
    return sum(tensor.numel() for key, tensor in model.get_submodule(name).named_parameters() if "weight" in key)


def calibrate(setup: Setup, model: AsrModel, config: LearntConfig) -> None:
    """Method gptq; rtn and mse with activations or a target."""
    if setup.args.teacher:
        say(f"--teacher: not used, method {config.method} learns from the model's own inputs")
    if distributed.rank() == 0:
        formats = choose_formats(model, config)
        shorten = shortener(describe(formats, config))
        coder = rounding_coder(config.method if config.method == "rtn" else "mse", shorten)
        if config.method == "gptq":
            batches, _ = setup.calibration(model, config.calibration_batches)
            say(f"calibration: {sum(int(batch.lengths.sum()) for batch in batches) / 100:,.0f} s of audio")
            behind = () if model.head.frame_wise else (*PREDICTOR_LAYERS, *JOINER_LAYERS)
            if unheard := [name for name in formats if name.split(".")[0] in behind]:
                say(f"rounded as with method mse, because they hear no frames: {', '.join(unheard)}")
            coder = gptq_coder(model, formats, Asking(batches, setup), shorten, coder)
        float_model = setup.load(setup.args.model)
        small = quantize_model(float_model, config, coder)
        ranges = fix_scales_(setup, small, config)
        setup.claim_out()
        report(setup.out, float_model, small, config, ranges)
        setup.save(setup.out, small, parent=setup.args.model)
        say_sizes(Path(setup.args.model), setup.out)
    distributed.barrier()


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


def say_sizes(source: Path, out: Path) -> None:
    """Print the last line: how many layers have codes, and the bytes before and after."""
    before, after = ((folder / "model.safetensors").stat().st_size for folder in (source, out))
    say(f"{len(read_spec(out)['quantization']['layers'])} layers in codes: {before:,} -> {after:,} bytes, {out}")


if __name__ == "__main__":
    sys.exit(run_main(main))
