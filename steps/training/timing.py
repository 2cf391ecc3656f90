"""How long an update takes here: a few real ones, in a folder that is thrown away."""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import yaml

from steps.core.cli import say
from steps.core.config import from_dict
from steps.core.datadir import read_data_dir
from steps.core.outdir import write_text
from steps.data.batches import Batch
from steps.data.tokenizer import train_tokenizer
from steps.models.asr_model import AsrModel
from steps.training.data import epoch_groups
from steps.training.loop import Trainer
from steps.training.settings import TrainConfig
from steps.training.setup import Setup

# Updates before the clock runs, and with it; no more of these once they took so long.
WARM, TIMED, LONGEST_S = 2, 10, 20.0


class Timer:
    """Times updates of the nets of one corpus.

    Args: args: of the program: data, dev, features, text, seed, device, num_threads.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args

    def __call__(self, files: dict[str, dict]) -> dict[str, float]:
        """Args: files: settings by file name, of `teacher.yaml` and `student.yaml` those that there are.

        Returns: {"teacher", "student": seconds of an update, "teaching": of the teacher in an update of a taught student}; 0 for
                 what there is no file of.
        """
        found = {"teacher": 0.0, "student": 0.0, "teaching": 0.0}
        with tempfile.TemporaryDirectory(prefix="sizes_") as folder:
            texts = [utt.text for utt in read_data_dir(self.args.text, check_audio=False)]
            train_tokenizer(texts, **files["tokenizer.yaml"]).save(Path(folder) / "tokenizer")
            for role in ("teacher", "student"):
                if f"{role}.yaml" in files:
                    found[role], forward = self.measure(Path(folder), role, files[f"{role}.yaml"])
                    found["teaching"] = forward if role == "teacher" else found["teaching"]
        return found

    def measure(self, folder: Path, role: str, settings: dict) -> tuple[float, float]:
        """Seconds of an update of one net, and of its answer to the same batch without learning."""
        path = folder / f"{role}.yaml"
        write_text(path, yaml.safe_dump(settings))
        config = from_dict(TrainConfig, settings, str(path))
        given = {"config": str(path), "out": str(folder / role), "tokenizer": str(folder / "tokenizer")}
        setup = Setup(argparse.Namespace(**{**vars(self.args), **given}), config, "choose_sizes")
        model = setup.new_model()
        data = setup.dataset(self.args.data, model)
        trainer = Trainer(
            model, setup.objective(model, None), data, data, setup.tokenizer, config.loop, config.optim, config.augment,
            folder / role, self.args.seed, setup.device, setup.stop,
        )  # fmt: skip
        groups = epoch_groups(data, config.loop, self.args.seed, 0)
        took, answers, began_s = [], [], time.perf_counter()
        for batches in trainer.load(groups):
            setup.leave_if_asked()
            trainer.update(batches, progress=0.5)
            took.append(time.perf_counter() - began_s)
            if len(took) == WARM + TIMED or sum(took[WARM:]) > LONGEST_S:
                break
            if len(took) > WARM:
                answers.append(self.answer(model, batches, setup.device))
            began_s = time.perf_counter()
        timed = took[WARM:] or took
        mean_s = sum(timed) / len(timed)
        size = sum(p.numel() for p in model.parameters())
        say(f"{role}: {size:,} parameters, {mean_s:.3f} s an update, mean of {len(timed)} on {setup.device}")
        return mean_s, sum(answers) / max(1, len(answers))

    @staticmethod
    def answer(model: AsrModel, batches: list[Batch], device: torch.device) -> float:
        """Seconds that the net takes to answer the batches as a teacher."""
        began_s = time.perf_counter()
        model.eval()
        with torch.no_grad():
            for batch in batches:
                model(batch.feats.to(device), batch.lengths.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began_s
