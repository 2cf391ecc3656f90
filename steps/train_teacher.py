"""Train a model on labelled data, with CTC or as a transducer.

    python3 -m steps.train_teacher --data data/an4/train_sp --dev data/an4/dev --tokenizer data/an4/tokenizer \\
        --features conf/features.yaml --config recipes/an4/conf/teacher.yaml --out exp/an4/teacher

Stopped at any time, the same command continues from the last checkpoint and ends with the same model. With --init it goes
on from a finished model, such as steps.import_model makes: its encoder, and a new output layer where the tokenizer differs or
`head:` asks for another one. Its sizes stay; `model:` in --config may set `dropout` and `streaming`.
"""

import sys

from steps.core.cli import UserError, run_main, say
from steps.core.config import load_config, read_yaml
from steps.training import distributed
from steps.training.rounded import train_rounded
from steps.training.settings import TrainConfig
from steps.training.setup import Setup, training_parser
from steps.training.start import start_from


def main() -> None:
    """Read, build, train, save."""
    parser = training_parser(__doc__)
    parser.add_argument("--init", metavar="DIR", help="start from this model folder, whose sizes stay")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    setup = Setup(args, config, "train_teacher")
    if config.inherit:
        raise UserError(f"{args.config}: inherit: only a student does (steps.distill_student); leave it out")
    if not setup.already_done(init=args.init):
        if read_yaml(args.config).get("distill") and distributed.rank() == 0:
            say(f"warning: {args.config}: distill: does nothing here; steps.distill_student has teachers")
        model = start_from(setup, args.init) if args.init else setup.new_model()
        if config.quantization:
            train_rounded(setup, model, None, config.quantization, args.init)
        else:
            setup.train(model, setup.objective(model, None), args.out, parent=args.init)


if __name__ == "__main__":
    sys.exit(run_main(main))
