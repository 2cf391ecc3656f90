"""Train a small model, alone or taught by one or more larger ones.

    python3 -m steps.distill_student --teacher exp/an4/teacher --data data/an4/train_sp --dev data/an4/dev \\
        --tokenizer data/an4/tokenizer --features conf/features.yaml --config recipes/an4/conf/student.yaml --out exp/an4/student_kd

Without --teacher the same network is trained with CTC alone: the baseline that shows what distillation gains.
"""

import sys

from steps.core.cli import UserError, run_main
from steps.core.config import load_config
from steps.models.asr_model import AsrModel
from steps.training.setup import Setup, TrainConfig, training_parser


def main() -> None:
    """Read, build, teach, save."""
    parser = training_parser(__doc__)
    text = "model folders, exported ones, or stored labels (steps.label_data); of several the first one sets the frames"
    parser.add_argument("--teacher", metavar="DIR[,DIR...]", help=text)
    text = "start from the weights of this model (same sizes) instead of random ones"
    parser.add_argument("--init", metavar="DIR", help=text)
    args = parser.parse_args()
    setup = Setup(args, load_config(TrainConfig, args.config), "distill_student")
    if setup.already_done(teacher=args.teacher, init=args.init):
        return
    model = setup.new_model()
    if args.init:
        start_from_(model, setup.load(args.init), args.init)
    setup.train(model, setup.objective(model, args.teacher), args.out, parent=args.init)


def start_from_(model: AsrModel, initial: AsrModel, folder: str) -> None:
    """Copy all weights of `initial` into `model`; raises UserError when the two are not built alike."""
    if initial.state_dict().keys() != model.state_dict().keys() or initial.spec["model"] != model.spec["model"]:
        raise UserError(f"--init {folder}: its layers differ from those in --config; give a model of the same sizes")
    model.load_state_dict(initial.state_dict())


if __name__ == "__main__":
    sys.exit(run_main(main))
