"""Say in words what is wrong with a finished training: nothing learnt, learnt by heart, too short, labels, sound.

    python3 -m steps.diagnose --model exp/an4/student --data data/an4/train_sp --dev data/an4/dev

Every training ends with this by itself; the program repeats it for one that ended before there was a diagnosis. It
recognises a sample of the training set, reads the curves, and writes diagnosis.json into the model folder, from where
steps.report puts it on top of its page. Findings are no failures: the exit status is 0.
"""

import dataclasses
import sys
from pathlib import Path

import torch

from steps.core.cli import UserError, make_parser, run_main
from steps.core.config import from_dict, load_config, read_yaml
from steps.core.exports import is_exported
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.models.build import load_model, read_spec
from steps.scoring.sources import read_json
from steps.training.examine import examine
from steps.training.settings import LearningConfig


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="finished model folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="the data folder it was trained on")
    parser.add_argument("--dev", required=True, metavar="DIR", help="the data folder progress was measured on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.model)
    if is_exported(folder):
        raise UserError(
            f"{folder}: an exported folder does not tell how it was trained; name the model folder above it"
        )
    spec, config = read_spec(folder), read_settings(folder)
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    features = load_config(FeatureConfig, folder / "features.yaml")
    fit = (model.output_lengths, model.head.frames_needed, config.end_spaces)
    train, dev = (SpeechDataset(data, tokenizer, features, config.source, *fit) for data in (args.data, args.dev))
    examine(folder, model, train, dev, tokenizer, config, fresh=spec["parent"] is None)


def read_settings(folder: Path) -> LearningConfig:
    """What conf.yaml of a model folder tells of its training. Raises: UserError for a model that was not trained."""
    path = folder / "conf.yaml"
    settings = read_yaml(path)
    # a calibration has the section, too, for its batches
    if "loop" not in settings or "steps" not in read_json(folder / "run.json"):
        raise UserError(f"{path}: this model was not trained; diagnose the one that it was made from")
    known = {field.name for field in dataclasses.fields(LearningConfig)}
    return from_dict(LearningConfig, {key: value for key, value in settings.items() if key in known}, str(path))


if __name__ == "__main__":
    sys.exit(run_main(main))
