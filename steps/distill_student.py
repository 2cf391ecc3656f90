"""Train a small model, alone or taught by one or more larger ones.

    python3 -m steps.distill_student --teacher exp/an4/teacher --data data/an4/train_sp --dev data/an4/dev \\
        --tokenizer data/an4/tokenizer --features conf/features.yaml --config recipes/an4/conf/student.yaml --out exp/an4/student_kd

Without --teacher the same network learns from the transcripts alone: the baseline that shows what distillation gains. With a
section `inherit:` in its settings the student begins with blocks of --init, or of the first teacher; with a section
`quantization:` it is trained with rounded weights from the first update on, and has codes.
"""

import sys
from pathlib import Path

from steps.compress.surgery import drop_blocks
from steps.core.cli import UserError, run_main, say
from steps.core.config import load_config
from steps.models.asr_model import AsrModel
from steps.models.codes import check_float
from steps.training import distributed
from steps.training.rounded import train_rounded
from steps.training.settings import TrainConfig
from steps.training.setup import Setup, training_parser
from steps.training.start import start_from, tell_of_zeros


def main() -> None:
    """Read, build, teach, save."""
    parser = training_parser(__doc__)
    text = "model folders, exported ones, or stored labels (steps.label_data); of several the first one sets the frames"
    parser.add_argument("--teacher", metavar="DIR[,DIR...]", help=text)
    text = (
        "start from the weights of this model (same sizes, or by `inherit:` some of its blocks) instead of random ones"
    )
    parser.add_argument("--init", metavar="DIR", help=text)
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    setup = Setup(args, config, "distill_student")
    if setup.already_done(teacher=args.teacher, init=args.init):
        return
    if config.freeze:
        raise UserError(f"{args.config}: freeze: only steps.train_teacher with --init freezes a part; leave it out")
    model, parent = first_model(setup, config)
    if config.quantization:
        train_rounded(setup, model, args.teacher, config.quantization, parent)
    else:
        setup.train(model, setup.objective(model, args.teacher), args.out, parent=parent)


def first_model(setup: Setup, config: TrainConfig) -> tuple[AsrModel, str | None]:
    """The student before its training, and the folder that its weights are from, if any. Raises: MissingInput, UserError."""
    folder = setup.args.init
    if config.inherit is None:
        model = setup.new_model()
        if folder:
            start_from_(model, setup.load(folder), folder)
        return model, folder
    where = f"{setup.args.config}: inherit"
    if not folder:
        folder = (setup.args.teacher or "").split(",")[0]
        if not (Path(folder) / "model.json").is_file() or not folder:
            what = f"{folder} holds no weights" if folder else "from nothing"
            raise UserError(f"{where}: {what}; name the model folder with --init")
    whole = start_from(setup, folder)
    kept = config.inherit.kept(len(whole.blocks), folder)
    if distributed.rank() == 0:
        say(f"the student begins with blocks {', '.join(map(str, kept))} of the {len(whole.blocks)} of {folder}")
    return drop_blocks(whole, set(range(len(whole.blocks))) - set(kept)), folder


def start_from_(model: AsrModel, initial: AsrModel, folder: str) -> None:
    """Copy all weights of `initial` into `model`; raises UserError when the two are not built alike. Chunks and dropout are no matter."""
    check_float(initial.spec, f"--init {folder}", "start from")
    free = dict.fromkeys(("streaming", "dropout"))
    sizes, wanted = ((spec["model"] | free, spec.get("head_sizes")) for spec in (initial.spec, model.spec))
    if initial.state_dict().keys() != model.state_dict().keys() or sizes != wanted:
        raise UserError(f"--init {folder}: its layers differ from those in --config; give a model of the same sizes")
    if initial.normalisation != model.normalisation:
        learnt = f"learnt with normalisation: {initial.normalisation}"
        raise UserError(f"--init {folder}: {learnt}, and --config has {model.normalisation}; set the same in --config")
    tell_of_zeros(initial, folder)
    model.load_state_dict(initial.state_dict())


if __name__ == "__main__":
    sys.exit(run_main(main))
