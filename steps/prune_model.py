"""Make a model smaller and let it recover: structured pruning, low rank, or unstructured sparsity.

    python3 -m steps.prune_model --model exp/an4/teacher --teacher exp/an4/teacher --data data/an4/train_sp --dev data/an4/dev \\
        --tokenizer data/an4/tokenizer --features conf/features.yaml --config recipes/an4/conf/teacher_prune.yaml \\
        --out exp/an4/teacher_prune

The cut is made in `rounds` portions with training between them; the last training is the recovery.
"""

import copy
import dataclasses
import functools
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from steps.compress import importance, lowrank, plan, sparsity
from steps.compress.footprint import count_nonzero, count_parameters, macs_per_second
from steps.core.cli import MissingInput, UserError, run_main, say
from steps.core.config import check, load_config
from steps.core.outdir import write_json
from steps.models.asr_model import AsrModel
from steps.models.build import load_model, read_spec
from steps.models.codes import check_float
from steps.training import distributed
from steps.training.settings import LearningConfig
from steps.training.setup import Setup, training_parser


@dataclass(kw_only=True)
class PruneConfig(LearningConfig):
    """Settings of a cut and its recovery. method: structured, low_rank or sparse, configured under the key of that name.

    rounds: portions that the cut is made in.  round_epochs: epochs of training after each portion but the last.
    """

    method: str
    structured: plan.StructuredConfig = field(default_factory=plan.StructuredConfig)
    low_rank: lowrank.LowRankConfig = field(default_factory=lowrank.LowRankConfig)
    sparse: sparsity.SparsityConfig = field(default_factory=sparsity.SparsityConfig)
    rounds: int = 1
    round_epochs: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.method in ("structured", "low_rank", "sparse"), "method must be structured, low_rank or sparse")
        cuts = self.structured.keep < 1 or self.structured.drop_blocks > 0
        check(self.method != "structured" or cuts, "structured: keep: 1 without drop_blocks cuts nothing; ask for less")
        check(self.method != "low_rank" or self.rounds == 1, "method low_rank takes one round")
        check(min(self.rounds, self.round_epochs) >= 1, "rounds and round_epochs must be at least 1")


def main() -> None:
    """Cut, recover, save; finished rounds are picked up from disk."""
    parser = training_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder to make smaller")
    text = "what teaches during recovery, as for steps.distill_student (default: none; it learns from the transcripts alone)"
    parser.add_argument("--teacher", metavar="DIR[,DIR...]", help=text)
    args = parser.parse_args()
    config = load_config(PruneConfig, args.config)
    setup = Setup(args, config, "prune_model")
    if setup.already_done(model=args.model, teacher=args.teacher):
        return
    rounds = Path(args.out) / "rounds"
    parent = args.model
    for number in range(1, config.rounds + 1):
        setup.leave_if_asked()
        last = number == config.rounds
        cut = rounds / f"{number}-cut"
        if distributed.rank() == 0 and not (cut / "model.json").is_file():
            report_cut(parent, cut_model(setup, parent, cut, number / config.rounds))
        distributed.barrier()
        out = args.out if last else rounds / str(number)
        if last or not (out / "model.json").is_file():
            recover(setup, cut, out, config.loop.epochs if last else config.round_epochs)
        parent = out
    if distributed.rank() == 0:
        shutil.rmtree(rounds)


def cut_model(setup: Setup, parent: str | Path, out: Path, progress: float) -> AsrModel:
    """Cut `progress` (0..1) of what the settings ask for and write folder `out`. Returns: the cut model."""
    config, model = cast(PruneConfig, setup.config), setup.load(parent)
    check_float(model.spec, str(parent), "prune")
    first = str(parent) == str(setup.args.model)
    if config.method == "sparse":
        # later rounds may have little left to do, and follow trainings
        if first:
            refuse_no_zeros(model, parent, config.sparse)
        sparsity.sparsify_(model, sparsity.cubic_ramp(progress, config.sparse.fraction), config.sparse.scope)
        small = model
    elif config.method == "low_rank":
        ranks, left_out = lowrank.plan_ranks(model, config.low_rank)
        for name in left_out:
            say(f"{name}: left as it is; two factors would not be smaller")
        tell_of_zeros(model, parent)
        small = lowrank.factorise(model, ranks)
    else:
        small = cut_structure(setup, model, config.structured, progress, first, out.parent / "sizes.json")
    setup.save(out, small, setup.args.model)
    return small


def refuse_no_zeros(model: AsrModel, parent: str | Path, sparse: sparsity.SparsityConfig) -> None:
    """Raise UserError where all rounds together would set no weight to zero: that many are zero already, or none is asked for."""
    whole, zeros = copy.deepcopy(model), sparsity.measured_sparsity(model)
    sparsity.sparsify_(whole, sparse.fraction, sparse.scope)
    if count_nonzero(whole) == count_nonzero(model):
        raise UserError(
            f"sparse: fraction: {sparse.fraction:g}, but {parent} has {zeros:.1%} zeros already; ask for more"
        )


def tell_of_zeros(model: AsrModel, parent: str | Path) -> None:
    """Say that factors do not keep the zeros of a sparse model."""
    if model.spec["sparsity"]:
        say(f"warning: {parent}: is sparse, and two factors of a matrix with zeros have none; make zeros afterwards")


def cut_structure(
    setup: Setup, model: AsrModel, structured: plan.StructuredConfig, progress: float, first: bool, sizes: Path
) -> AsrModel:
    """Shrink to the share of the original model allowed by now; whole blocks are dropped in the first round.

    Args:   sizes: file of the original sizes of the axes that are left, written by the first of several rounds for the others.
    Raises: UserError when all rounds together cannot reach what is to stay.
    """
    original = read_spec(setup.args.model)
    keep = structured.keep**progress * plan.cost(original, structured.target) / plan.cost(model.spec, structured.target)
    wanted = dataclasses.replace(structured, keep=min(keep, 1.0))
    if not first:
        wanted = dataclasses.replace(wanted, drop_blocks=0, drop_order=None)
    whole = None if first else read_sizes(sizes, setup, structured)
    batches, loss_fn = setup.calibration(model, structured.batches) if wanted.needs_batches else ((), None)
    small, record = plan.prune_structured(model, wanted, batches, loss_fn, whole)
    if first and progress < 1:
        whole = {name: before for name, (before, _) in record["sizes"].items()}
        # what the last round could not reach is refused before the trainings
        parent_cost = plan.cost(original, structured.target)
        plan.plan_kept(small, importance.magnitude(small), structured, parent_cost, whole)
        write_json(sizes, whole)
    if record["dropped_blocks"]:
        say(f"dropped blocks: {record['dropped_blocks']}")
    for name, (before, after) in record["sizes"].items():
        say(f"{name}: {before} -> {after}")
    return small


def read_sizes(path: Path, setup: Setup, structured: plan.StructuredConfig) -> dict[str, int]:
    """What the first round wrote about the original model; older versions wrote nothing, which matters where blocks have gone.

    Raises: MissingInput.
    """
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if structured.drop_blocks:
        raise MissingInput(f"{path}: no such file; an older version began this cut: remove {path.parent} and cut again")
    return {group.name: group.size for group in setup.load(setup.args.model).axis_groups()}


def report_cut(parent: str | Path, small: AsrModel) -> None:
    """Report what the cut removed."""
    before = load_model(parent)
    say(
        f"cut: parameters {count_parameters(before):,} -> {count_parameters(small):,}, "
        f"non-zero {count_nonzero(before):,} -> {count_nonzero(small):,}, "
        f"MACs per second {macs_per_second(before) / 1e6:.1f} M -> {macs_per_second(small) / 1e6:.1f} M"
    )


def recover(setup: Setup, cut: Path, out: str | Path, epochs: int) -> None:
    """Train the cut model, taught by the teachers if any; zeros of a sparse model stay zeros."""
    model = setup.load(cut)
    keep_zeros = None
    if model.spec["sparsity"]:
        masks = {name: weight.detach() != 0 for name, weight in sparsity.prunable_weights(model).items()}
        keep_zeros = functools.partial(sparsity.apply_masks_, masks=masks)
    objective = setup.objective(model, setup.args.teacher)
    setup.train(model, objective, out, parent=setup.args.model, after_update=keep_zeros, epochs=epochs)


if __name__ == "__main__":
    sys.exit(run_main(main))
