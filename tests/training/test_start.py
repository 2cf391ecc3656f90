"""A training that goes on from a finished model: its encoder, its units or new ones, a part of it frozen."""

import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from steps import decode, distill_student, import_model, label_data, quantize_model, train_teacher, train_tokenizer
from steps.core.cli import UserError
from steps.core.datadir import Utterance, write_data_dir
from steps.models.build import build_model, load_model, new_spec
from steps.training import distributed
from steps.training.inherit import InheritConfig
from steps.training.start import encoder_of
from tests.models.hub_folders import make_folder

pytest.importorskip("transformers", reason="transformers is not installed: requirements-hub.txt")
TEXTS = ["ab ba", "ba b", "a", "abba"]
SETTINGS = "type: hub\nsource: on_the_fly\naugment: {freq_masks: 0, time_masks: 1, time_width: 5}\n"
SETTINGS += "loop: {epochs: 2, max_batch_frames: 500, dev_every: 1, average_last: 1}\noptim: {peak_lr: 1.0e-2}\n"


def run(program, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, words)])
        program.main()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data of four sounds, a tokenizer of its own, and an imported model. Returns: folder."""
    root = tmp_path_factory.mktemp("start")
    for number in range(len(TEXTS)):
        soundfile.write(
            root / f"{number}.wav", np.random.default_rng(number).normal(size=32000).clip(-3, 3) * 0.1, 16000
        )
    rows = [Utterance(f"s-{n}", "s", text, str(root / f"{n}.wav"), duration_s=2.0) for n, text in enumerate(TEXTS)]
    write_data_dir(root / "data", rows)
    (root / "char.yaml").write_text("kind: char\n")
    (root / "features.yaml").write_text("kind: samples\n")
    (root / "train.yaml").write_text(SETTINGS)
    run(train_tokenizer, "--data", root / "data", "--config", root / "char.yaml", "--out", root / "tokenizer")
    run(import_model, "--hub", make_folder(root / "hub", "wav2vec2"), "--out", root / "big")
    return root


def train(world, out, settings="", tokenizer="tokenizer", init="big", program=train_teacher, teacher=None):
    own = yaml.safe_load(settings) or {}
    (world / f"{out}.yaml").write_text(yaml.safe_dump(yaml.safe_load(SETTINGS) | own))
    words = [
        "--data",
        world / "data",
        "--dev",
        world / "data",
        "--tokenizer",
        world / tokenizer,
        "--features",
        world / "features.yaml",
    ]
    words += ["--config", world / f"{out}.yaml", "--out", world / out, "--device", "cpu", "--num-threads", "1"]
    words += ["--teacher", teacher] if teacher else []
    run(program, *words, *(["--init", world / init] if init else []))
    return load_model(world / out)


def moved(model, before, prefix):
    """Whether any tensor whose name starts so differs."""
    old = before.state_dict()
    return any(
        not torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items() if name.startswith(prefix)
    )


def test_a_new_output_layer_on_a_frozen_front_end(world, capsys):
    before, model = load_model(world / "big"), train(world, "tuned", "freeze: frontend\n")
    assert model.spec["vocab_size"] == 5 and model.spec["parent"]["name"] == "big" and "origin" not in model.spec
    assert not moved(model, before, "frontend.") and moved(model, before, "blocks.")
    lines = [line for line in capsys.readouterr().out.splitlines() if "dev" in line and "loss " in line]
    losses = [float(line.split("loss ")[1].split()[0].rstrip(",")) for line in lines]
    assert losses[-1] < losses[0]
    # samples always come from the sound: these would be what other models of a chain hear
    (world / "data/feats.scp").write_text("".join(f"s-{n} nowhere.ark:5\n" for n in range(len(TEXTS))))
    run(decode, "--model", world / "tuned", "--data", world / "data", "--out", world / "said", "--device", "cpu")
    assert len((world / "said/greedy.txt").read_text().splitlines()) == len(TEXTS)


def test_its_own_units_keep_its_output_layer(world):
    before, model = (
        load_model(world / "big"),
        train(world, "head", "freeze: encoder\nmodel: {dropout: 0.0}\n", tokenizer="big"),
    )
    assert not moved(model, before, ("frontend.", "blocks.")) and moved(model, before, "output.")
    assert model.spec["vocab_size"] == before.spec["vocab_size"] and model.config.dropout == 0.0
    # moved by two epochs, not drawn anew
    assert (model.output.weight - before.output.weight).abs().max() < 0.1


def test_a_frozen_encoder_has_its_last_norm_frozen(world):
    run(import_model, "--hub", make_folder(world / "hub_pre", "wavlm-large"), "--out", world / "pre")
    before, model = load_model(world / "pre"), train(world, "pre_head", "freeze: encoder\n", init="pre")
    assert "norm.weight" in before.state_dict()
    assert not moved(model, before, ("frontend.", "blocks.", "norm."))


@pytest.mark.parametrize("kind", ["hub", "conformer"])
@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_the_last_norm_is_the_encoders_where_it_came_from_a_hub(kind, head):
    sizes = {"d_model": 16, "head_dim": 8, "num_blocks": 1, "block": {"heads": 2, "ff": 16}}
    sizes |= {"style": "pre", "end_norm": True, "mel": {}}
    dim = 160
    if kind == "conformer":
        sizes, dim = {"d_model": 16, "head_dim": 8, "num_blocks": 1, "subsampling_channels": [4, 4]}, 20
    theirs, ours = (build_model(new_spec(kind, sizes, dim, *rest)) for rest in ((7, "t"), (5, "t", "t", head)))
    for model in (theirs, ours):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    state = encoder_of(theirs, ours)
    taken = theirs if kind == "hub" else ours
    assert torch.equal(state["norm.weight"], taken.norm.weight) and torch.equal(state["norm.bias"], taken.norm.bias)
    assert torch.equal(state["output.weight"], ours.output.weight) and len(ours.output.weight) == 5
    ours.load_state_dict(state)


def test_a_student_begins_with_blocks_of_its_teacher(world):
    settings = "inherit: {layers: spread, count: 2}\nloop: {epochs: 1, max_batch_frames: 500, average_last: 1}\n"
    settings += "optim: {peak_lr: 1.0e-9}\n"
    student = train(world, "short", settings, "big", None, distill_student, world / "big")
    teacher = load_model(world / "big")
    assert len(teacher.blocks) == 3 and len(student.blocks) == 2 and student.spec["parent"]["name"] == "big"
    wanted = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name.replace("blocks.1.", "blocks.2.")], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_blocks_at_half_the_rate_of_the_output_are_trained(world):
    """A new output layer, alone and with the rest; a student that begins with blocks, taught by posteriors and states; codes."""
    run(import_model, "--hub", make_folder(world / "hub_sew", "sew"), "--out", world / "sew")
    before, model = load_model(world / "sew"), train(world, "sew_head", "freeze: encoder\n", init="sew")
    assert model.spec["vocab_size"] == 5 and model.spec["model"]["squeeze"] == 2
    assert not moved(model, before, ("frontend.", "blocks.", "widening."))
    tuned = train(world, "sew_tuned", init="sew_head")
    assert all(moved(tuned, model, part) for part in ("frontend.convs.", "blocks.", "widening.", "output."))
    (world / "label.yaml").write_text("hidden_layers: [0, -1]\n")
    words = ["--data", world / "data", "--config", world / "label.yaml", "--device", "cpu"]
    run(label_data, "--teacher", world / "sew_tuned", *words, "--out", world / "sew_labels")
    settings = (
        "inherit: {count: 2}\ndistill: {hidden_weight: 1.0, hidden_layers: [[0, 0], [-1, -1]], teacher_view: clean}\n"
    )
    for number, teacher in enumerate(("sew_tuned", "sew_labels")):
        student = train(
            world, f"sew_short{number}", settings, init="sew_tuned", program=distill_student, teacher=world / teacher
        )
        assert len(student.blocks) == 2 and moved(student, tuned, "widening.")
    (world / "gptq_sew.yaml").write_text("bits: 4\nmethod: gptq\nsource: on_the_fly\nloop: {max_batch_frames: 500}\n")
    options = {
        "model": "sew_tuned",
        "data": "data",
        "dev": "data",
        "tokenizer": "tokenizer",
        "features": "features.yaml",
    }
    words = [word for key, name in options.items() for word in (f"--{key}", world / name)]
    run(quantize_model, *words, "--config", world / "gptq_sew.yaml", "--device", "cpu", "--out", world / "sew_coded")
    assert "widening.linear" in load_model(world / "sew_coded").spec["quantization"]["layers"]
    run(
        decode, "--model", world / "sew_coded", "--data", world / "data", "--out", world / "sew_said", "--device", "cpu"
    )
    assert len((world / "sew_said/greedy.txt").read_text().splitlines()) == len(TEXTS)


def test_which_blocks_a_student_begins_with():
    assert [InheritConfig(count=count).kept(12, "it") for count in (1, 2, 3, 4)] == [
        [0],
        [0, 11],
        [0, 6, 11],
        [0, 4, 7, 11],
    ]
    assert InheritConfig(layers="first", count=3).kept(12, "it") == [0, 1, 2]
    assert InheritConfig(blocks=[1, -1]).kept(4, "it") == [1, 3]
    with pytest.raises(UserError, match="13 blocks, but it has 12"):
        InheritConfig(count=13).kept(12, "it")
    with pytest.raises(UserError, match="no block 4; it has 4"):
        InheritConfig(blocks=[0, 4]).kept(4, "it")
    with pytest.raises(UserError, match="do not rise"):
        InheritConfig(blocks=[3, -1]).kept(4, "it")


def test_what_a_student_cannot_begin_with_is_refused(world):
    cases = [
        ("inherit: {count: 2}\n", {"init": None}, "inherit: from nothing; name the model folder with --init"),
        ("inherit: {count: 2}\nmodel: {d_model: 8}\n", {}, "model: d_model: with --init the sizes are those of"),
        ("inherit: {count: 4}\n", {}, "inherit: count: 4 blocks, but .*big has 3"),
        ("inherit: {count: 2}\n", {"program": train_teacher}, "inherit: only a student does"),
    ]
    for number, (settings, options, words) in enumerate(cases):
        with pytest.raises(UserError, match=words):
            train(world, f"student{number}", settings, **{"program": distill_student} | options)
        assert not (world / f"student{number}/model.json").exists()


def test_a_frozen_part_gets_no_gradient_from_other_processes(monkeypatch):
    """Not even zeros: weight decay would shrink it."""
    frozen, free = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    frozen.requires_grad_(False)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(1.0))
    distributed.sum_gradients_([frozen, free])
    assert frozen.grad is None and free.grad.tolist() == [1.0, 1.0]


def test_what_has_no_effect_is_refused(world):
    cases = [
        ("model: {d_model: 32}\n", "big", "model: d_model: with --init the sizes are those of"),
        ("", None, "need a model to start from: steps.train_teacher with --init FOLDER"),
        ("normalisation: utterance\n", "big", "normalisation: utterance: a model from a hub has its own"),
        ("max_look_ahead_ms: 100\n", "big", "blocks.0, .* hear the whole utterance"),
    ]
    for number, (settings, init, words) in enumerate(cases):
        with pytest.raises(UserError, match=words):
            train(world, f"refused{number}", settings, init=init)
        assert not (world / f"refused{number}/model.json").exists()


def test_what_measures_samples_asks_for_no_change_of_masks(world):
    (world / "gptq.yaml").write_text("bits: 4\nmethod: gptq\nsource: on_the_fly\nloop: {max_batch_frames: 500}\n")
    options = {"model": "big", "data": "data", "dev": "data", "tokenizer": "big", "features": "features.yaml"}
    words = [word for key, name in options.items() for word in (f"--{key}", world / name)]
    run(quantize_model, *words, "--config", world / "gptq.yaml", "--device", "cpu", "--out", world / "coded")
    assert load_model(world / "coded").spec["parent"]["name"] == "big"
