"""Models born with few bits: trained with rounded weights from the first update on, stopped anywhere, shipped like any other."""

import sys
from types import SimpleNamespace

import pytest
import torch

from steps import distill_student, train_teacher
from steps.compress.oscillation import Oscillation
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, describe
from steps.core.cli import Interrupted, UserError
from steps.core.config import ConfigError, from_dict, to_dict
from steps.deploy.export import export_folder
from steps.models.build import load_model, read_spec
from steps.models.quant_layers import quantized_layers
from steps.scoring.history import mean_bits
from steps.training import setup as training_setup
from steps.training.settings import TrainConfig

SIZES = """
model: {d_model: 16, head_dim: 8, kernel_size: 3, subsampling_channels: [4, 4], num_blocks: 2,
        block: {heads: 2, ff1: 16, ff2: 16, conv_channels: 16}}
loop: {epochs: 2, max_batch_frames: 700, average_last: 2, dev_every: 1, save_every_s: 1000}
optim: {peak_lr: 2.0e-3, optimizer: muon}
"""
BITS = "quantization: {bits: 2, layers: {output: 8}, convolutions: 8, rest: float16}\n"


@pytest.fixture
def train(corpus, tmp_path, monkeypatch):
    """Function (name, settings, program, stop_at=None, **options) -> its folder; stops at that update as if asked to."""
    torch.set_num_threads(1)

    def run(name, settings, program=distill_student, stop_at=None, **options):
        (tmp_path / f"{name}.yaml").write_text(SIZES + settings)
        polls = iter(range(1, 10_000))
        stop = SimpleNamespace(poll=lambda: 75 if next(polls) == stop_at else 0)
        monkeypatch.setattr(training_setup, "StopRequest", lambda: stop)
        options |= {"data": corpus.train, "dev": corpus.dev, "tokenizer": corpus.tokenizer}
        options |= {"features": corpus.features, "config": tmp_path / f"{name}.yaml", "out": tmp_path / name}
        options |= {"device": "cpu", "num-threads": 1}
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["program", *words])
        program.main()
        return tmp_path / name

    return run


def test_a_student_born_with_two_bits(train, capsys, monkeypatch):
    monkeypatch.setattr(Oscillation, "WINDOW", 3)
    born = train("born", BITS)
    said = capsys.readouterr().out
    spec = read_spec(born)
    assert spec["step"] == "distill_student" and spec["parent"] is None
    config = QuantizeConfig(bits=2, layers={"output": 8}, convolutions=8, rest="float16")
    assert spec["quantization"] == describe(choose_formats(float_twin(spec), config), config)
    assert (born / "quantization.json").is_file() and 2 < mean_bits(born) < 3
    # behind each of the two epochs
    assert said.count("\ncodes: ") == said.count("of the codes turned back within 3 updates") == 2
    with pytest.raises(Interrupted):
        train("pieces", BITS, stop_at=3)
    pieces = train("pieces", BITS)
    for name in ("model.safetensors", "model.json", "quantization.json"):
        assert (pieces / name).read_bytes() == (born / name).read_bytes()
    with pytest.raises(UserError, match=r"other settings \(quantization\)"):
        train("born", BITS.replace("bits: 2", "bits: 3"))


@pytest.mark.slow
def test_a_born_teacher_teaches_a_born_student_that_is_exported(train, capsys):
    teacher = train("teacher", BITS, train_teacher)
    assert read_spec(teacher)["quantization"] and read_spec(teacher)["step"] == "train_teacher"
    born = train("born", BITS.replace("bits: 2", "bits: 1"), teacher=teacher)
    assert " kl " in capsys.readouterr().out
    layers = quantized_layers(load_model(born))
    assert {layer.format.bits for layer in layers.values()} == {1, 8}
    report = export_folder(born, born / "export")
    assert report.integer_layers == len(layers) > 10


def float_twin(spec):
    """The float model of the same sizes."""
    return training_setup.build_model(spec | {"quantization": None})


def test_a_float_training_is_described_as_before():
    assert "quantization" not in to_dict(TrainConfig())
    assert to_dict(from_dict(TrainConfig, {"quantization": {"bits": 2}}, "x"))["quantization"]["method"] == "qat"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("quantization: {bits: 2, method: gptq}", "a training rounds by qat"),
        ("quantization: {target_bits: 2.5}", "chosen by a finished model's loss"),
        ("quantization: {bits: 9}", "bits must be 1 to 8"),
        ("quantization: {bit: 2}", "bits"),
        ("quantization: {bits: 2}\nfreeze: encoder", "rounding leaves no weight as it is"),
    ],
)
def test_settings_that_do_not_fit_are_refused(train, settings, why):
    with pytest.raises(ConfigError, match=why):
        train("none", settings)


def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(train, tmp_path):
    with pytest.raises(UserError, match="no quantizable layer is called 'outputs'"):
        train("none", "quantization: {bits: 2, layers: {outputs: 8}}")
    assert not (tmp_path / "none").exists()
