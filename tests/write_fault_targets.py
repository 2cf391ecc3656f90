"""What tests/write_faults.py lets fail: the writers of the chain, each in two versions, and how their work is read."""

import argparse
import contextlib
import io
import os
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import soundfile
import torch

from steps import combine_features, extract_features
from steps.core.checkpoint import load_checkpoint, save_checkpoint
from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import atomic_file, write_json, write_text
from steps.core.tables import read_table
from steps.data.archives import load_feature_matrix, read_feats_scp
from steps.data.feature_config import FeatureConfig
from steps.data.features import utterance_features
from steps.deploy.recognition import write_hypotheses
from steps.models.build import build_model, load_model, new_spec, save_model
from steps.score import score
from steps.scoring.collect import read_json, read_scores
from tests.kill_resume import ROOT

sys.path.insert(0, str(ROOT / "utils"))

import stage  # noqa: E402
from plan import StageError, read_plan  # noqa: E402

FEATURES = ROOT / "conf" / "features.yaml"


class BadLoad(Exception):
    """Something half-made was taken for whole."""


def quiet(function, *args, **options):
    """Call a function without its chatter."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args, **options)


class Checkpoints:
    """Two checkpoints in a row; the first stays until the second is whole."""

    name, keeps_old = "checkpoint", True

    def write(self, folder, version):
        save_checkpoint(folder, version, {"version": version, "w": torch.full((50, 50), float(version))})

    def read(self, folder):
        state = quiet(load_checkpoint, folder)
        if state is not None and not bool((state["w"] == state["version"]).all()):
            raise BadLoad("a checkpoint of mixed content")
        return state and state["version"]


class ModelFolder:
    """Other weights and other features under the same name."""

    name, keeps_old = "model folder", False

    def write(self, folder, version):
        torch.manual_seed(version)
        sizes = {"d_model": 16, "context": 1, "num_blocks": 1, "block": {"units": 16}}
        model = build_model(new_spec("dnn", sizes, 8, 5, "test")).eval()
        for name in ("tokenizer.model", "tokens.txt", "features.yaml"):
            write_text(folder.parent / f"from-{version}" / name, f"{name} {version}\n")
        carried = {name: folder.parent / f"from-{version}" / name for name in ("tokenizer.model", "tokens.txt")}
        save_model(folder, model, carried | {"features.yaml": folder.parent / f"from-{version}/features.yaml"})

    def read(self, folder):
        try:
            model = load_model(folder)
        except UserError:
            return None
        versions = {
            (folder / name).read_text().split()[-1] for name in ("tokenizer.model", "tokens.txt", "features.yaml")
        }
        for version in (1, 2):
            torch.manual_seed(version)
            fresh = build_model(new_spec("dnn", model.spec["model"], 8, 5, "test"))
            same = zip(fresh.parameters(), model.parameters(), strict=True)
            if all(torch.equal(a, b) for a, b in same) and versions == {str(version)}:
                return version
        raise BadLoad(f"a model folder of mixed content: {versions}")


class Archives:
    """Features of other sound files under the same ids: data folder, archive, tables."""

    name, keeps_old = "ark", False

    def utterances(self, folder, version):
        rows = []
        for number in range(3):
            path = folder.parent / f"{number}-{version}.wav"
            if not path.is_file():
                seconds = 0.2 + 0.1 * ((number * version) % 3)
                samples = np.random.default_rng([number, version]).normal(size=round(16000 * seconds)) * 0.1
                soundfile.write(path, samples.clip(-1, 1), 16000)
            rows.append(Utterance(f"s-{number}", "s", f"text {version}", str(path)))
        return rows

    def write(self, folder, version):
        write_data_dir(folder, self.utterances(folder, version))
        out = ["--data", str(folder), "--num-shards", "1"]
        self.program(extract_features, *out, "--config", str(FEATURES), "--out", str(folder / "feats"))
        self.program(combine_features, *out, "--feats", str(folder / "feats"), "--cmvn", str(folder / "cmvn.json"))

    def program(self, module, *words):
        with mock.patch.object(sys, "argv", [module.__name__, *words]):
            quiet(module.main)

    def read(self, folder):
        try:
            utterances = read_data_dir(folder)
            places, frames = read_feats_scp(folder / "feats.scp"), read_table(folder / "utt2num_frames")
            matrices = {utt.utt_id: load_feature_matrix(places[utt.utt_id]) for utt in utterances}
        except UserError:
            return None
        config = load_config(FeatureConfig, FEATURES)
        for utt in utterances:
            matrix = matrices[utt.utt_id]
            if len(matrix) != int(frames[utt.utt_id]) or not np.array_equal(matrix, utterance_features(utt, config)):
                raise BadLoad(f"features of {utt.utt_id} are not those of {utt.audio}")
        versions = {utt.audio[-5] for utt in utterances}
        if len(versions) > 1 or (folder / "cmvn.json").is_file() and not read_json(folder / "cmvn.json")["mean"]:
            raise BadLoad("data of mixed content")
        return int(versions.pop())


class Stages:
    """Two tasks under marks, a training that goes on from what it finds, and a score of its model; other settings."""

    name, keeps_old = "mark", True

    def experiment(self, folder, version):
        model, words = folder / "model", ["-", "-"]
        plan = [
            "::",
            "3",
            "model",
            "--makes",
            f"{model}/model.json",
            "--replaces",
            str(model),
            "--",
            "train",
            str(version),
        ]
        plan += [
            "::",
            "8",
            "score",
            "--needs",
            f"{model}/model.json",
            "--makes",
            f"{folder}/score",
            "--",
            "score",
            *words,
        ]
        options = argparse.Namespace(
            exp=str(folder),
            workdir="",
            cmd="utils/run.py",
            nj=1,
            stage=0,
            stop_stage=9,
            force=False,
            verbatim=[],
            show="",
        )
        return Work(options, *read_plan(plan), folder)

    def write(self, folder, version):
        experiment = self.experiment(folder, version)
        try:
            quiet(experiment.run)
        except StageError as error:
            raise UserError(str(error)) from None
        finally:
            if experiment.lock is not None:
                os.close(experiment.lock)

    def read(self, folder):
        """Versions of which the marks say that all is done, checked against the files; else what model there is."""
        found = [path.read_text() for path in sorted(folder.glob("model*/model.json"))]
        if any(text not in ("1", "2") for text in found):
            raise BadLoad(f"models {found}")
        for version in (1, 2):
            experiment = self.experiment(folder, version)
            if not any(experiment.judge.verdict(task).redo for task in experiment.tasks):
                texts = [(folder / name).read_text() for name in ("model/model.json", "score")]
                if texts != [str(version)] * 2:
                    raise BadLoad(f"version {version} is taken for done, but the files hold {texts}")
                return version
        return int(found[0]) if found else None


class Work(stage.Experiment):
    """An experiment whose commands run in this process."""

    def __init__(self, options, tasks, makers, folder):
        super().__init__(options, tasks, makers)
        self.folder = folder

    def launch(self, job):
        word, version = job["task"].commands[0][:2]
        if word == "train":
            model = self.folder / "model"
            begun = (model / "conf.yaml").read_text() if (model / "conf.yaml").is_file() else version
            if begun != version:
                raise StageError(1, f"{model} was started with other settings")
            write_text(model / "conf.yaml", version)
            write_text(model / "model.json", version)
        else:
            with atomic_file(self.folder / "score") as file:
                file.write((self.folder / "model/model.json").read_text())
        job["process"] = SimpleNamespace(returncode=0, stderr=None, poll=lambda: 0)


class Scores:
    """Other hypotheses in a folder that was decoded and scored."""

    name, keeps_old = "score", False
    utterances = [Utterance(f"s-{number}", "s", "one two", "x.wav") for number in range(6)]

    def write(self, folder, version):
        texts = {utt.utt_id: "one two" if version == 1 else "one" for utt in self.utterances}
        write_hypotheses(folder, {"greedy": texts}, {"utterances": 6})
        quiet(score, folder, "greedy", self.utterances, "test")

    def read(self, folder):
        try:
            scores = read_scores(folder)
        except UserError:
            return None
        if not scores:
            return None
        errors = {0: 1, 6: 2}
        if scores["greedy"].errors not in errors:
            raise BadLoad(f"{scores['greedy'].errors} errors")
        return errors[scores["greedy"].errors]


class Report:
    """One JSON file of results."""

    name, keeps_old = "report", True

    def write(self, folder, version):
        write_json(folder / "results.json", {"version": version, "rows": [version] * 5000})

    def read(self, folder):
        if not (folder / "results.json").exists():
            return None
        content = read_json(folder / "results.json")
        if set(content["rows"]) != {content["version"]}:
            raise BadLoad("rows of both versions")
        return content["version"]


TARGETS = [Checkpoints(), ModelFolder(), Archives(), Stages(), Scores(), Report()]
