"""The training loop: resume to the bit, accumulation, early stopping, masks, and refusals."""

import dataclasses
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from steps.core.checkpoint import save_checkpoint
from steps.core.cli import Interrupted, UserError
from steps.core.config import load_config
from steps.data.augment import SpecAugmentConfig
from steps.data.batches import BatchLoader
from steps.data.cmvn import read_cmvn
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import Tokenizer
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.models.heads.transducer import TransducerConfig
from steps.training import loop
from steps.training.data import epoch_groups
from steps.training.distill_config import DistillConfig
from steps.training.loop import LoopConfig, Trainer
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.optim import OptimConfig
from steps.training.teachers import ModelTeacher
from tests import kill_resume

SIZES = {
    "d_model": 16,
    "head_dim": 8,
    "kernel_size": 3,
    "subsampling_channels": [4, 4],
    "num_blocks": 1,
    "block": {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16},
}
needs_amx = pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="the processor has no AMX")
LOOP = LoopConfig(epochs=3, max_batch_frames=700, average_last=2, dev_every=1, save_every_s=1000.0)


@pytest.fixture(scope="module")
def data(corpus):
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(corpus.tokenizer)
    features = load_config(FeatureConfig, corpus.features)
    train = SpeechDataset(corpus.train, tokenizer, features)
    dev = SpeechDataset(corpus.dev, tokenizer, features)
    return tokenizer, features, train, dev, read_cmvn(corpus.train / "cmvn.json", features.dim)


def make_model(data, seed=0, head="ctc"):
    tokenizer, features, _, _, cmvn = data
    torch.manual_seed(seed)
    model = build_model(new_spec("conformer", SIZES, features.dim, tokenizer.vocab_size, "test", head=head))
    model.set_cmvn_(cmvn["mean"], cmvn["std"])
    return model


def make_trainer(
    data, out, loop=LOOP, teacher=None, after_update=None, view="augmented", optimizer="adamw", head="ctc"
):
    tokenizer, features, train, dev, _ = data
    model, settings = make_model(data, head=head), {"ctc": CtcConfig, "transducer": TransducerConfig}[head]()
    kd = DistillConfig(hidden_weight=0.5 if view == "augmented" else 0.0, frames="window", teacher_view=view)
    objective = TranscriptObjective(settings, model)
    if teacher is not None:
        face = ModelTeacher(teacher, features, tokenizer.pieces)
        objective = DistillObjective(kd, model, [face], settings)
    optim = OptimConfig(optimizer=optimizer, peak_lr=3e-3)
    augment = SpecAugmentConfig(freq_width=4, time_width=4)
    cpu, never = torch.device("cpu"), SimpleNamespace(poll=lambda: 0)
    return Trainer(model, objective, train, dev, tokenizer, loop, optim, augment, out, 0, cpu, never, after_update)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class StopAt:
    """A stop request at a given update."""

    def __init__(self, trainer, step):
        self.trainer, self.step = trainer, step

    def poll(self):
        return 75 if self.trainer.step == self.step else 0


def train_interrupted(data, out, stops, **options):
    for step in stops:
        trainer = make_trainer(data, out, **options)
        trainer.stop = StopAt(trainer, step)
        with pytest.raises(Interrupted) as left:
            trainer.train()
        assert left.value.status == 75
    trainer = make_trainer(data, out, **options)
    trainer.train()
    return trainer


RUNS = [
    ("adamw", None, "ctc"),
    ("adamw", "augmented", "ctc"),
    ("muon", "clean", "ctc"),
    ("muon", "augmented", "transducer"),
]


@pytest.mark.parametrize("optimizer, view, head", RUNS)
def test_resume_is_exact_to_the_bit(data, tmp_path, optimizer, view, head):
    options = {"teacher": make_model(data, seed=1), "view": view} if view else {}
    options |= {"optimizer": optimizer, "head": head}
    whole = make_trainer(data, tmp_path / "whole", **options)
    whole.train()
    per_epoch = len(epoch_groups(data[2], LOOP, 0, 0))
    stops = [1, per_epoch, 2 * per_epoch + 1]
    pieces = train_interrupted(data, tmp_path / "pieces", stops, **options)
    assert pieces.step == whole.step
    assert torch.equal(weights(pieces.model), weights(whole.model))
    assert pieces.dev == whole.dev


@pytest.mark.parametrize("head", ["ctc", pytest.param("transducer", marks=pytest.mark.slow)])
def test_resume_is_exact_where_chunks_are_drawn(data, tmp_path, monkeypatch, capsys, head):
    monkeypatch.setitem(SIZES, "streaming", {"chunk_ms": 80, "drawn_ms": [0, 40, 80, 160]})
    brief = dataclasses.replace(LOOP, epochs=2)
    whole = make_trainer(data, tmp_path / "whole", brief, head=head)
    drawn, draw = [], type(whole.model).draw_chunk
    monkeypatch.setattr(type(whole.model), "draw_chunk", lambda model: drawn.append(draw(model)) or drawn[-1])
    whole.train()
    assert set(drawn) == {0, 1, 2, 4} and "dev epoch 1/2, chunks of 80 ms: loss" in capsys.readouterr().out
    pieces = train_interrupted(data, tmp_path / "pieces", [whole.step // 2], loop=brief, head=head)
    assert torch.equal(weights(pieces.model), weights(whole.model)) and pieces.dev == whole.dev


def test_clean_features_are_read_until_the_teacher_has_labelled_all(data, tmp_path, monkeypatch):
    asked, load_groups = [], loop.load_groups
    monkeypatch.setattr(loop, "load_groups", lambda *args: asked.append(args[-1]) or load_groups(*args))
    make_trainer(data, tmp_path, teacher=make_model(data, seed=1), view="clean").train()
    assert asked == [True, False, False]


@pytest.mark.parametrize("workers", [(0, 1, 2, 0), (1, 1, 1, 1), (2, 0, 1, 2)], ids=str)
def test_resume_is_exact_for_any_number_of_loader_workers(data, tmp_path, workers):
    """The number of loader workers differs from run to run; stopped within, at the end of and between epochs."""
    whole = make_trainer(data, tmp_path / "whole")
    whole.train()
    per_epoch = len(epoch_groups(data[2], LOOP, 0, 0))
    for step, number in zip([2, per_epoch, 2 * per_epoch - 1, None], workers, strict=True):
        trainer = make_trainer(data, tmp_path / "pieces", loop=dataclasses.replace(LOOP, loader_workers=number))
        if step is not None:
            trainer.stop = StopAt(trainer, step)
            with pytest.raises(Interrupted):
                trainer.train()
    trainer.train()
    assert torch.equal(weights(trainer.model), weights(whole.model))
    assert trainer.dev == whole.dev


def test_a_checkpoint_of_another_model_is_refused(data, tmp_path):
    for step, state in enumerate(({"seed": 0}, {"seed": 0, "position": [1, 0, 1], "model": {}}, [1, 2])):
        save_checkpoint(tmp_path / f"{step}/checkpoints", 1, state)
        with pytest.raises(UserError, match="belongs to another training"):
            make_trainer(data, tmp_path / str(step)).train()


def test_a_damaged_newest_checkpoint_costs_no_exactness(data, tmp_path, capsys):
    whole = make_trainer(data, tmp_path / "whole")
    whole.train()
    trainer = make_trainer(data, tmp_path / "pieces", loop=dataclasses.replace(LOOP, save_every_s=0.0))
    trainer.stop = StopAt(trainer, 4)
    with pytest.raises(Interrupted):
        trainer.train()
    newest = sorted((tmp_path / "pieces/checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    again = make_trainer(data, tmp_path / "pieces")
    again.train()
    said = capsys.readouterr().out
    assert "does not match its checksum" in said
    assert "resumed at step 3" in said
    assert torch.equal(weights(again.model), weights(whole.model))


def test_accumulation_gives_the_gradient_of_the_whole_group(data, tmp_path):
    """The mean over frames of a group is the same however it is cut into micro-batches (dropout off)."""
    gradients = []
    for cut in (1, 2):
        trainer = make_trainer(data, tmp_path / str(cut))
        trainer.optim.clip_norm = 1e9
        for layer in trainer.model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        indices = list(range(8))
        size = len(indices) // cut
        plan = [(indices[start : start + size], 1.0) for start in range(0, len(indices), size)]
        loader = BatchLoader(data[2], plan, None, None, 0, 0)
        kept = {}
        trainer.optimizer.step = lambda kept=kept, trainer=trainer: kept.update(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
        )
        trainer.update([loader[i] for i in range(len(loader))], progress=0.5)
        gradients.append(kept)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_of_weight_zero_adds_nothing(data, tmp_path):
    results = []
    for extra in ([], [([5], 0.0)]):
        trainer = make_trainer(data, tmp_path / str(len(extra)))
        loader = BatchLoader(data[2], [([0, 1, 2], 1.0), *extra], None, None, 0, 0)
        trainer.update([loader[i] for i in range(len(loader))], progress=0.5)
        results.append(weights(trainer.model))
    assert torch.equal(*results)


def test_learning_happens(data, tmp_path):
    trainer = make_trainer(data, tmp_path, loop=dataclasses.replace(LOOP, epochs=4))
    before = trainer.evaluate_dev("before")["loss"]
    assert trainer.train()["loss"] < 0.5 * before


def test_after_update_keeps_zeros(data, tmp_path):
    def zero(model):
        with torch.no_grad():
            model.output.weight[3].zero_()

    trainer = make_trainer(data, tmp_path, loop=dataclasses.replace(LOOP, epochs=1), after_update=zero)
    trainer.train()
    assert trainer.model.output.weight[3].abs().max() == 0
    assert trainer.model.output.weight[2].abs().min() > 0


def test_a_gradient_that_is_not_finite_is_refused_and_not_saved(data, tmp_path):
    def spoil(model, batch, lesson, share):
        terms = TranscriptObjective(CtcConfig(), model)(model, batch)
        return {"ctc": terms["ctc"] * (float("nan") if trainer.step == 2 else 1.0)}

    trainer = make_trainer(data, tmp_path, loop=dataclasses.replace(LOOP, save_every_s=0.0))
    trainer.objective.forward = spoil
    with pytest.raises(UserError, match=r"step 2: the gradient is not finite .*; lower optim.peak_lr"):
        trainer.train()
    states = [torch.load(path, weights_only=True) for path in (tmp_path / "checkpoints").glob("*.pt")]
    assert [state["position"][0] for state in states] and max(state["position"][0] for state in states) == 2
    assert all(torch.isfinite(tensor).all() for state in states for tensor in state["model"].values())


def test_early_stopping_ships_the_best_epoch(data, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.0])
    trainer = make_trainer(data, tmp_path, loop=dataclasses.replace(LOOP, epochs=50, patience=2))
    seen = []

    def look(*_args):
        seen.append(weights(trainer.model))
        return {"loss": next(losses), "wer": 0.0, "cer": 0.0, "example": ""}

    monkeypatch.setattr("steps.training.loop.score_dev", look)
    trainer.train()
    assert trainer.epoch == 4
    assert trainer.best["epoch"] == 2
    assert torch.equal(weights(trainer.model), seen[1])


@pytest.mark.parametrize("bf16", [False, pytest.param("amx", marks=needs_amx)])
def test_a_cpu_multiplies_in_bfloat16_only_where_asked_to(data, tmp_path, bf16):
    """One update: the default is float32 to the bit; in bfloat16 numbers differ, and not by much."""
    moved = []
    for setting in (True, bf16):
        trainer = make_trainer(data, tmp_path / str(setting), loop=dataclasses.replace(LOOP, bf16=setting))
        before = weights(trainer.model)
        loader = BatchLoader(data[2], [([0, 1, 2], 1.0)], None, None, 0, 0)
        trainer.optimizer.step = lambda trainer=trainer: moved.append(
            torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        )
        trainer.update([loader[0]], progress=0.5)
        assert torch.equal(weights(trainer.model), before) and moved[-1].dtype == torch.float32
    distance = (moved[0] - moved[1]).norm() / moved[0].norm()
    assert distance == 0 if not bf16 else 1e-4 < distance < 0.1


def test_bfloat16_on_a_cpu_that_would_emulate_it_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    with pytest.raises(UserError, match="no AMX; set bf16: true"):
        LoopConfig(bf16="amx").bf16_on("cpu")
    assert LoopConfig(bf16="amx").bf16_on("cuda") and LoopConfig().bf16_on("cuda")
    assert not LoopConfig().bf16_on("cpu") and not LoopConfig(bf16=False).bf16_on("cuda")
    with pytest.raises(ValueError, match="true, false or amx"):
        LoopConfig(bf16="yes")


def test_a_checkpoint_of_another_seed_is_refused(data, tmp_path):
    trainer = make_trainer(data, tmp_path)
    trainer.stop = StopAt(trainer, 1)
    with pytest.raises(Interrupted):
        trainer.train()
    other = make_trainer(data, tmp_path)
    other.seed = 1
    with pytest.raises(UserError, match="made with seed 0, not 1"):
        other.train()


def test_every_utterance_is_in_one_group_once(data):
    train = data[2]
    for epoch in range(3):
        groups = epoch_groups(train, dataclasses.replace(LOOP, accumulate=2), 0, epoch)
        assert sorted(i for group in groups for indices, _ in group for i in indices) == list(range(len(train)))
        assert all(len(group) == 2 for group in groups[:-1])


def test_no_loader_worker_outlives_a_killed_runner(corpus, tmp_path):
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"base: {kill_resume.ROOT}/{kill_resume.RECIPE}/conf/teacher.yaml\n"
        "loop: {epochs: 1000, loader_workers: 2, save_every_s: 0.2, max_batch_frames: 700}\n"
    )
    words = [sys.executable, "-m", "steps.train_teacher", "--data", corpus.train, "--dev", corpus.dev]
    words += ["--tokenizer", corpus.tokenizer, "--features", corpus.features, "--config", conf, "--device", "cpu"]
    words = [sys.executable, "-I", "-S", "utils/run.py", tmp_path / "log", *words, "--out", tmp_path / "model"]
    runner = subprocess.Popen([*map(str, words)], cwd=kill_resume.ROOT, start_new_session=True)
    try:
        end_s = time.monotonic() + 120
        while not list(tmp_path.glob("model/checkpoints/step-*.pt")) or len(kill_resume.living(runner.pid)) < 5:
            assert runner.poll() is None and time.monotonic() < end_s, (tmp_path / "log").read_text()
            time.sleep(0.05)
        kill_resume.kill_alone(runner)
    finally:
        kill_resume.end_session(runner.pid)
