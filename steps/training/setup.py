"""What the training programs share: their options, reading the inputs, and finishing a model folder."""

import argparse
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from steps.core.cli import Interrupted, MissingInput, UserError, add_common, make_parser, say
from steps.core.config import load_config, read_yaml, save_config, to_dict
from steps.core.outdir import sha256_file, write_json, write_text
from steps.core.provenance import write_run_record
from steps.data.batches import Batch, BatchLoader, plan_batches
from steps.data.cmvn import read_cmvn
from steps.data.dataset import SpeechDataset, end_tokens, report_dataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.models.asr_model import AsrModel
from steps.models.build import build_model, load_model, new_spec, read_spec, save_model
from steps.models.heads import HEADS
from steps.training import distributed
from steps.training.examine import examine
from steps.training.interrupt import StopRequest
from steps.training.loop import Trainer
from steps.training.objectives import DistillObjective, Objective, TranscriptObjective
from steps.training.settings import LearningConfig, TrainConfig
from steps.training.teachers import check_fit, identity, open_teachers, weigh

# may change between an interruption and the next run
NO_RESULT = ("loader_workers", "save_every_s")


def training_parser(description: str | None, required: bool = True) -> argparse.ArgumentParser:
    """Parser with the options of every program that trains. Args: required: whether it always does, and so needs data."""
    parser = make_parser(description)
    parser.add_argument("--data", required=required, metavar="DIR", help="training data folder (also holds cmvn.json)")
    parser.add_argument("--dev", required=required, metavar="DIR", help="data folder to measure progress on")
    parser.add_argument("--tokenizer", required=required, metavar="DIR", help="folder made by steps.train_tokenizer")
    text = "feature settings the data was extracted with"
    parser.add_argument("--features", required=required, metavar="YAML", help=text)
    add_common(parser, config=True, out="model folder to write", seed=True, device=True)
    return parser


class Setup:
    """Inputs of one training program, checked before anything is computed. Args: step: its name, recorded in the model."""

    def __init__(self, args: argparse.Namespace, config: LearningConfig, step: str):
        self.args, self.config, self.step = args, config, step
        self.out = Path(args.out)
        self.device = distributed.start(args.device, args.num_threads, config.loop.deterministic)
        # refused before anything is read
        config.loop.bf16_on(self.device.type)
        self.tokenizer = Tokenizer.load(args.tokenizer)
        if config.end_spaces:
            end_tokens(self.tokenizer)
        self.features = load_config(FeatureConfig, args.features)
        if config.augment:
            config.augment.check_features(self.features, args.config, args.features)
        # a model from a hub normalises samples itself
        self.scaled = self.features.kind != "samples"
        self.cmvn = read_cmvn(Path(args.data) / "cmvn.json", self.features.dim) if self.scaled else None
        self.stop = StopRequest()

    def already_done(self, **inputs: str | None) -> bool:
        """Check whether --out is free for these settings. Returns: True when the finished model is already there.

        Args: inputs: option name -> comma-separated folders, or None; they are recorded by their content.
        Raises: UserError when --out holds a finished or unfinished model made with other settings.
        """
        args = self.args
        read = {"cmvn": Path(args.data) / "cmvn.json"} if self.scaled else {}
        read |= {"text": Path(args.data) / "text"}
        read |= {"dev": Path(args.dev) / "text", "tokens": Path(args.tokenizer) / "tokens.txt"}
        claim = {"step": self.step, "seed": args.seed, "num_threads": args.num_threads} | to_dict(self.config)
        for name, folders in inputs.items():
            claim[name] = [identity(folder) for folder in folders.split(",")] if folders else None
        claim |= {
            "features": to_dict(self.features),
            "inputs": {name: sha256_file(path) for name, path in read.items()},
        }
        path = self.out / "conf.yaml"
        if path.is_file():
            there = read_yaml(path)
            changed = sorted(key for key in {*claim, *there} if _decisive(claim, key) != _decisive(there, key))
            if changed:
                raise UserError(
                    f"{path}: {self.out} was started with other settings ({', '.join(changed)}); choose another --out"
                )
            if (self.out / "model.json").is_file():
                say(f"{self.out} is already finished")
                for leftover in ("checkpoints", "rounds"):
                    shutil.rmtree(self.out / leftover, ignore_errors=True)
                return True
        elif (self.out / "model.json").is_file():
            raise UserError(f"{self.out}: holds a model that this program did not make; choose another --out")
        self.claim = claim
        return False

    def claim_out(self) -> None:
        """Write conf.yaml, the settings that --out is made with; called after all checks."""
        path = self.out / "conf.yaml"
        if distributed.rank() == 0 and not path.is_file():
            write_text(path, yaml.safe_dump(self.claim, sort_keys=False, allow_unicode=True))

    def leave_if_asked(self, alone: bool = False) -> None:
        """Where no training runs: raise Interrupted when a signal or the deadline asks to stop, in all processes alike.

        Args: alone: only this process is asked; the others wait for it.
        """
        status = self.stop.poll()
        if not alone:
            (status,) = map(int, distributed.max_over_processes([status], self.device))
        if status:
            self.write_state(0, status)
            raise Interrupted(status, "what is finished is kept; the same command continues from there")

    def write_state(self, step: int, status: int) -> None:
        """Write train_state.json for utils/launch.py, which does not see our exit status; only process 0 writes it.

        Args: step: updates done.   status: exit status of a training that has saved its state.
        """
        if distributed.rank() == 0:
            write_json(self.out / "train_state.json", {"step": step, "finished": False, "stopped_for": status})

    def new_model(self) -> AsrModel:
        """A model with fresh weights drawn from the seed, and with the corpus mean and deviation."""
        torch.manual_seed(self.args.seed)
        config = cast(TrainConfig, self.config)
        if self.cmvn is None or config.type == "hub" or config.freeze:
            what = "type hub, features of kind samples and freeze need a model to start from"
            raise UserError(f"{self.args.config}: {what}: steps.train_teacher with --init FOLDER")
        where = f"{self.args.config}: model"
        sizes = (self.features.dim, self.tokenizer.vocab_size)
        spec = new_spec(
            config.type, config.model, *sizes, self.step, where, config.head, config.normalisation, config.head_sizes
        )
        model = build_model(spec)
        self.check_look_ahead(model)
        model.set_cmvn_(self.cmvn["mean"], self.cmvn["std"])
        return model

    def check_look_ahead(self, model: AsrModel) -> None:
        """Raise UserError when a model hears further ahead than the settings allow, or streams features that cannot."""
        if model.streaming and self.features.level_dbfs is not None:
            what = "level_dbfs scales a sound by the whole of it, which a streaming model does not wait for"
            raise UserError(f"{self.args.features}: {what}; leave it out")
        limit_ms = cast(TrainConfig, self.config).max_look_ahead_ms
        reach_ms = model.look_ahead() * self.features.frame_shift_ms
        if limit_ms is None or reach_ms <= limit_ms:
            return
        whole = model.whole_utterance_parts()
        why = f"{', '.join(whole)} hear the whole utterance" if whole else f"the model hears {reach_ms:g} ms ahead"
        raise UserError(
            f"{self.args.config}: max_look_ahead_ms: {limit_ms:g}, but {why}; "
            "streaming: {chunk_ms: 320}, rnn with cells_backward: 0 and dnn with little splice have a short look-ahead"
        )

    def load(self, folder: Path | str) -> AsrModel:
        """A finished model for --init or --model, its vocabulary checked against the tokenizer."""
        tokens = Path(folder) / "tokens.txt"
        if not tokens.is_file():
            raise MissingInput(f"{tokens}: no such file; {folder} is not a (finished) model folder")
        if tokens.read_bytes() != (Path(self.args.tokenizer) / "tokens.txt").read_bytes():
            raise UserError(
                f"{tokens}: differs from {self.args.tokenizer}/tokens.txt; all models of a chain share one tokenizer"
            )
        if load_config(FeatureConfig, Path(folder) / "features.yaml") != self.features:
            raise UserError(
                f"{folder}/features.yaml differs from --features {self.args.features}; use the same for both"
            )
        return load_model(folder, self.device)

    def objective(self, model: AsrModel, teachers: str | None) -> Objective:
        """The head's own loss, with distillation if there are teachers. Args: teachers: comma-separated folders, or None."""
        # so that the projections of hidden matching do not depend on what was drawn before
        torch.manual_seed(self.args.seed)
        settings, distill = getattr(self.config, model.head.name), self.config.distill
        for other in HEADS.keys() - {model.head.name}:
            if (unused := getattr(self.config, other, None)) and unused != type(unused)():
                raise UserError(f"{self.args.config}: {other}: has no effect on a {model.head.name} model; remove it")
        if not teachers:
            return TranscriptObjective(settings, model)
        opened = open_teachers(teachers.split(","), self.device, self.args.num_threads)
        speakers, matched = (opened[:-1], opened[-1]) if distill.hidden_only else (opened, opened[0])
        if not speakers:
            raise UserError(
                f"{self.args.config}: hidden_only: the last of several teachers shows its states; name another, too"
            )
        for teacher in opened:
            speaks, shows = (
                max(distill.kl_weight, distill.lattice_weight) > 0 and teacher in speakers,
                distill.hidden_weight > 0 and teacher is matched,
            )
            check_fit(teacher, self.tokenizer.pieces, self.features, match_units=speaks, match_hidden=shows)
        weights = weigh(speakers, distill.weighting)
        return DistillObjective(distill, model.to(self.device), opened, settings, weights)

    def dataset(self, folder: Path | str, model: AsrModel) -> SpeechDataset:
        """A data folder without the utterances that are too short for their transcript."""
        fit = (model.output_lengths, model.head.frames_needed)
        return SpeechDataset(folder, self.tokenizer, self.features, self.config.source, *fit, self.config.end_spaces)

    def calibration(
        self, model: AsrModel, count: int, folder: str | None = None
    ) -> tuple[list[Batch], Callable[[AsrModel, Batch], torch.Tensor]]:
        """The first `count` batches of a data folder in a fixed order, and the model's loss on them.

        Args:    folder: default: the training data.
        Returns: batches on the device; loss function, nats per encoder frame.
        """
        data = self.dataset(folder or self.args.data, model)
        plan = plan_batches(data.num_frames, self.config.loop.max_batch_frames, self.args.seed, 0)[:count]
        loader = BatchLoader(data, [(indices, 1.0) for indices in plan], None, None, 0, 0)

        def loss_fn(model, batch):
            outputs, lengths = model(batch.feats, batch.lengths)
            return model.head.loss_sum(model, outputs, lengths, batch) / lengths.sum()

        return [loader[i].to(self.device) for i in range(len(loader))], loss_fn

    def train(
        self, model: AsrModel, objective: Objective, out: Path | str, parent: Path | str | None = None,
        after_update: Callable[[AsrModel], None] | None = None, epochs: int | None = None,
        after_epoch: Callable[[AsrModel], None] | None = None, convert: Callable[[AsrModel], AsrModel] | None = None,
    ) -> None:  # fmt: skip
        """Train (or continue training), write the finished folder `out` and remove its checkpoints.

        Args: parent: folder of the model this one was made from.   epochs: instead of loop.epochs.   others: see Trainer.
        """
        args, config = self.args, self.config
        loop = dataclasses.replace(config.loop, epochs=epochs or config.loop.epochs)
        # so that the index of a large folder is built only once
        with distributed.first_process_first():
            train_data, dev_data = self.dataset(args.data, model), self.dataset(args.dev, model)
        lines = objective.check_data(train_data)
        self.claim_out()
        if distributed.rank() == 0:
            report_dataset("train", train_data)
            report_dataset("dev", dev_data)
            say(f"model: {model.kind}, {sum(p.numel() for p in model.parameters()):,} parameters, on {self.device}")
            for line in lines:
                say(line)
        trainer = Trainer(
            model, objective, train_data, dev_data, self.tokenizer, loop, config.optim, config.augment,
            out, args.seed, self.device, self.stop, after_update, after_epoch, convert,
        )  # fmt: skip
        try:
            dev = trainer.train()
        except Interrupted as stop:
            self.write_state(trainer.step, stop.status)
            raise
        if distributed.rank() == 0:
            facts = {"seconds": round(trainer.seconds(), 1), "steps": trainer.step}
            self.save(out, trainer.model, parent, dev_loss=dev["loss"], dev_wer=dev["wer"], dev_cer=dev["cer"], **facts)
            if Path(out) == self.out:
                examine(self.out, trainer.model, train_data, dev_data, self.tokenizer, config, fresh=parent is None)
            shutil.rmtree(trainer.checkpoints, ignore_errors=True)
        distributed.barrier()

    def save(self, out: Path | str, model: AsrModel, parent: Path | str | None = None, **facts: Any) -> None:
        """Write a model folder with its feature definition and tokenizer, and report its size."""
        out = Path(out)
        self.claim_out()
        save_config(out / "features.yaml", self.features)
        carried = {name: Path(self.args.tokenizer) / name for name in ("tokenizer.model", "tokens.txt")}
        model.spec = model.spec | {"step": self.step}
        write_run_record(out, seed=self.args.seed, device=str(self.device), torch=torch.__version__, **facts)
        save_model(out, model, carried | {"features.yaml": out / "features.yaml"}, parent)
        (self.out / "train_state.json").unlink(missing_ok=True)
        say(summary(out))


def _decisive(claim, key):
    """A value of conf.yaml, without the settings that no result depends on; one that is null is as if it were not there."""
    value = claim.get(key)
    return (
        {k: v for k, v in value.items() if k not in NO_RESULT and v is not None} if isinstance(value, dict) else value
    )


def summary(folder: Path | str) -> str:
    """One line about a finished model folder."""
    spec = read_spec(folder)
    size = (Path(folder) / "model.safetensors").stat().st_size
    return f"{folder}: {spec['type']}, {spec['parameters']:,} parameters, {size:,} bytes"
