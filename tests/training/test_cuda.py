"""What a GPU is held to. Without one these tests are skipped, with the reason; tests/gpu.sh runs them where there is one."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

from steps import train_teacher
from steps.data.batches import Batch
from steps.losses.ctc import ctc_loss_sum
from steps.models.build import build_model, load_model, new_spec
from steps.training import setup
from steps.training.loop import Trainer
from steps.training.muon import descend_
from tests import kill_resume

pytestmark = pytest.mark.gpu
GPU = "cuda"
SIZES = {
    "conformer": {"d_model": 64, "num_blocks": 2, "subsampling_channels": [8, 16]},
    "rnn": {"d_model": 64, "num_blocks": 2, "subsampling_channels": [8, 16]},
    "dnn": {"d_model": 64, "num_blocks": 2},
}
LOOP = "loop: {epochs: 2, max_batch_frames: 1500, average_last: 2, dev_every: 2, deterministic: true}\n"
REPEATED = {
    "conformer": "optim: {optimizer: muon}\nctc: {intermediate_weight: 0.3}\n",
    "rnn": "type: rnn\n",
    "dnn": "type: dnn\n",
}


@pytest.fixture(autouse=True)
def afterwards():
    """What a training changes for its process is as before after each test."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="module")
def fixed_work_space():
    """cuBLAS looks for it once in a process, so the tests that need none have it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        yield


def make_model(kind):
    torch.manual_seed(0)
    return build_model(new_spec(kind, SIZES[kind], 40, 30, "test")).eval()


def make_batch():
    draw = torch.Generator().manual_seed(1)
    lengths, token_lengths = torch.tensor([310, 200, 120]), torch.tensor([25, 12, 7])
    feats = torch.randn(3, 310, 40, generator=draw)
    tokens = torch.randint(1, 30, (3, 25), generator=draw)
    return Batch(["a", "b", "c"], feats, lengths, tokens, token_lengths)


def loss(model, batch):
    outputs, lengths = model(batch.feats, batch.lengths)
    return model.head.loss_sum(model, outputs, lengths, batch).item()


def train(corpus, out, conf, monkeypatch):
    """Run steps.train_teacher here, on the GPU. Returns: folder of the model."""
    out.mkdir(exist_ok=True)
    (out / "conf.yaml").write_text(conf)
    words = ["--data", corpus.train, "--dev", corpus.dev, "--tokenizer", corpus.tokenizer, "--num-threads", 1]
    words += ["--features", corpus.features, "--config", out / "conf.yaml", "--out", out / "model", "--device", GPU]
    monkeypatch.setattr(sys, "argv", ["train_teacher", *map(str, words)])
    train_teacher.main()
    return out / "model"


@pytest.mark.parametrize("kind", SIZES)
def test_log_probs_are_those_of_the_cpu(kind):
    model, batch = make_model(kind), make_batch()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected, lengths = model(batch.feats, batch.lengths)
        on_gpu = batch.to(GPU)
        found, found_lengths = model.to(GPU)(on_gpu.feats, on_gpu.lengths)
    assert found_lengths.tolist() == lengths.tolist()
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :length].cpu(), expected[row, :length], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_ctc_and_its_gradient_are_those_of_the_cpu(deterministic):
    batch = make_batch()
    log_probs = torch.randn(3, 77, 30, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    lengths = torch.tensor([77, 50, 30])
    values, gradients = [], []
    torch.use_deterministic_algorithms(deterministic)
    for device in ("cpu", GPU):
        own = log_probs.to(device, copy=True).requires_grad_()
        target = (lengths.to(device), batch.tokens.to(device), batch.token_lengths.to(device))
        loss = ctc_loss_sum(own, *target)
        assert loss.device.type == device
        loss.backward()
        values.append(loss.item())
        gradients.append(own.grad.cpu())
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", SIZES)
def test_bfloat16_changes_the_loss_little(kind):
    model, batch = make_model(kind).to(GPU), make_batch().to(GPU)
    with torch.no_grad():
        whole = loss(model, batch)
        with torch.autocast(GPU, dtype=torch.bfloat16):
            half = loss(model, batch)
    assert half != whole
    assert half == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("shape", [(96, 80), (96, 40), (40, 96)])
def test_muon_moves_matrices_as_on_the_cpu(shape):
    drawn = torch.randn(6, *shape, generator=torch.Generator().manual_seed(3))
    moved = []
    for device in ("cpu", GPU):
        matrices, directions = (list(half.to(device).clone().unbind()) for half in drawn.chunk(2))
        descend_(matrices, directions, 0.9, 0.1)
        moved.append(torch.stack(matrices).cpu())
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-3, atol=1e-3)


def test_a_training_in_bfloat16_learns_and_its_model_works_on_the_cpu(corpus, tmp_path, monkeypatch):
    base = kill_resume.ROOT / kill_resume.RECIPE / "conf/teacher.yaml"
    loop = "loop: {epochs: 60, max_batch_frames: 700, dev_every: 60, loader_workers: 1}\n"
    model = train(corpus, tmp_path, f"base: {base}\n{loop}", monkeypatch)
    # On a CPU 0.005 to 0.022 with four seeds; 0.58 before anything is learnt.
    assert json.loads((model / "run.json").read_text())["dev_loss"] < 0.2
    batch, found = make_batch(), []
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        for device in ("cpu", GPU):
            on_device = batch.to(device)
            found.append(load_model(model, device)(on_device.feats, on_device.lengths)[0][0].cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", REPEATED)
def test_a_deterministic_training_repeats_to_the_bit(kind, corpus, tmp_path, monkeypatch):
    conf = f"model: {json.dumps(SIZES[kind])}\n" + LOOP + REPEATED[kind]
    models = [train(corpus, tmp_path / name, conf, monkeypatch) for name in ("one", "two")]
    assert torch.are_deterministic_algorithms_enabled()
    assert len({Path(model / "model.safetensors").read_bytes() for model in models}) == 1


def test_an_update_looks_at_the_device_once(corpus, tmp_path, monkeypatch):
    """Of the two batches with two loss terms each that make an update, no number is fetched by itself."""
    looks = []

    class Watched(Trainer):
        def update(self, batches, progress):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                super().update(batches, progress)
                torch.cuda.set_sync_debug_mode("default")
            waits = [warning for warning in caught if "synchronizing" in str(warning.message)]
            looks.append(sum(Path(wait.filename).parts[-2:] == ("training", "loop.py") for wait in waits))

    monkeypatch.setattr(setup, "Trainer", Watched)
    loop = (
        "loop: {epochs: 1, max_batch_frames: 1500, accumulate: 2, average_last: 1}\nctc: {intermediate_weight: 0.3}\n"
    )
    train(corpus, tmp_path, f"model: {json.dumps(SIZES['conformer'])}\n" + loop, monkeypatch)
    assert set(looks) == {1}
