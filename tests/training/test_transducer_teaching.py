"""Teaching transducers: by posteriors through the CTC layer, by another transducer's lattice, from the encoder of a CTC model."""

from types import SimpleNamespace

import pytest
import torch

from steps.core.cli import UserError
from steps.core.config import save_config
from steps.data.batches import Batch
from steps.data.feature_config import FeatureConfig
from steps.losses.distill import frame_kl_sum
from steps.losses.transducer import lattice_kl_sum
from steps.models.build import build_model, new_spec, save_model
from steps.models.heads.ctc import CtcConfig
from steps.models.heads.transducer import TransducerConfig
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective
from steps.training.settings import TrainConfig
from steps.training.start import start_from
from steps.training.teachers import ModelTeacher

TOKENS = ["<blk>", "<unk>", "\u2581", *"abcd"]
FEATURES = FeatureConfig(num_mel_bins=20)
DNN = {"d_model": 16, "context": 3, "num_blocks": 2, "block": {"units": 24}}


def make(head, seed=0, **sizes):
    torch.manual_seed(seed)
    return build_model(new_spec("dnn", DNN, FEATURES.dim, len(TOKENS), "test", head=head, head_sizes=sizes)).eval()


@pytest.fixture
def batch():
    feats = torch.randn(2, 60, FEATURES.dim, generator=torch.Generator().manual_seed(1))
    return Batch(["a", "b"], feats, torch.tensor([60, 45]), torch.tensor([[3, 4, 4], [5, 6, 0]]), torch.tensor([3, 2]))


def objective(student, teacher, **config):
    settings = {"ctc": CtcConfig, "transducer": TransducerConfig}[student.head.name]()
    return DistillObjective(DistillConfig(**config), student, [ModelTeacher(teacher, FEATURES, TOKENS)], settings)


@pytest.mark.parametrize("heads", [("ctc", "transducer"), ("transducer", "transducer"), ("transducer", "ctc")])
def test_posteriors_teach_the_layer_that_has_them(batch, heads):
    teacher, student = make(heads[0], 1), make(heads[1], 2)
    terms = objective(student, teacher, kl_weight=0.25)(student, batch)
    said, own = (
        model.head.posteriors(model, model.encode(batch.feats, batch.lengths)[0][-1]) for model in (teacher, student)
    )
    frames = student.output_lengths(batch.lengths)
    selected = torch.arange(own.shape[1]) < frames.unsqueeze(1)
    torch.testing.assert_close(terms["kl"], 0.25 * frame_kl_sum(own, said.detach(), selected, 1.0))
    if student.head.name == "transducer":
        outputs, lengths = student(batch.feats, batch.lengths)
        whole = student.head.loss_sum(student, outputs, lengths, batch)
        torch.testing.assert_close(terms["transducer"], 0.75 * 0.7 * whole)


def test_a_lattice_teaches_all_that_recognises(batch):
    teacher, student = make("transducer", 1, joiner=40), make("transducer", 2)
    terms = objective(student, teacher, kl_weight=0.0, lattice_weight=0.5)(student, batch)
    assert set(terms) == {"transducer", "ctc", "lattice"}
    sides = [
        model.head.collapsed(model, model(batch.feats, batch.lengths)[0], batch).detach()
        for model in (student, teacher)
    ]
    lengths = student.output_lengths(batch.lengths)
    torch.testing.assert_close(terms["lattice"], 0.5 * lattice_kl_sum(*sides, lengths, batch.token_lengths))
    terms["lattice"].backward()
    learning = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert learning == {name for name in student.state_dict() if "ctc_output" not in name and "feature" not in name}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    same = make("transducer", 1, joiner=40)
    assert abs(objective(same, teacher, lattice_weight=0.5)(same, batch)["lattice"].item()) < 1e-5


def test_what_cannot_be_taught_is_refused():
    transducer, ctc = make("transducer"), make("ctc")
    with pytest.raises(UserError, match="kl_weight: 1, but parts of a transducer model learn from transcripts alone"):
        objective(transducer, ctc, kl_weight=1.0)
    without = make("transducer", ctc=False)
    settings = TransducerConfig(ctc_weight=0.0)
    teacher = [ModelTeacher(ctc, FEATURES, TOKENS)]
    with pytest.raises(UserError, match="no frame-wise posteriors to teach; set kl_weight to 0"):
        DistillObjective(DistillConfig(), without, teacher, settings)
    DistillObjective(DistillConfig(kl_weight=0.0, hidden_weight=1.0), without, teacher, settings)
    with pytest.raises(UserError, match="a ctc student has no lattice"):
        objective(ctc, transducer, lattice_weight=1.0)
    with pytest.raises(UserError, match="not the model folder of a transducer"):
        objective(transducer, ctc, lattice_weight=1.0)
    with pytest.raises(ValueError, match="lattice_weight needs teacher_view: augmented"):
        DistillConfig(lattice_weight=1.0, teacher_view="clean")


def save(folder, model):
    """Write a model folder. Returns: it."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"not read")
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(TOKENS)), encoding="utf-8")
    save_config(folder / "features.yaml", FEATURES)
    save_model(folder, model, {name: folder / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    return folder


def start(folder, **config):
    """As train_teacher --init does, with the tokenizer of the folder."""
    args = SimpleNamespace(config="c.yaml", features="f.yaml", tokenizer=str(folder), seed=3)
    tokenizer = SimpleNamespace(vocab_size=len(TOKENS))
    setup = SimpleNamespace(
        args=args, config=TrainConfig(type="dnn", **config), features=FEATURES, tokenizer=tokenizer, step="train_teacher",
        check_look_ahead=lambda model: None,
    )  # fmt: skip
    return start_from(setup, folder)


def test_a_transducer_starts_from_the_encoder_of_a_ctc_model(tmp_path, capsys):
    ctc = make("ctc", 5)
    folder = save(tmp_path / "ctc", ctc)
    model = start(folder, head="transducer", head_sizes={"joiner": 40})
    assert model.head.name == "transducer" and model.head_sizes.joiner == 40 and model.spec["head"] == "transducer"
    mine = model.state_dict()
    assert all(
        torch.equal(mine[name], t) for name, t in ctc.state_dict().items() if name.startswith(("blocks", "front"))
    )
    assert "its encoder is taken over, its ctc head is not" in capsys.readouterr().out
    assert build_model(model.spec).state_dict().keys() == mine.keys()
    again = save(tmp_path / "transducer", model)
    assert torch.equal(start(again, head="transducer").output.weight, model.output.weight)
    with pytest.raises(UserError, match="head_sizes: with --init the sizes are those of"):
        start(again, head="transducer", head_sizes={"joiner": 40})
    back = start(again)
    assert back.head.name == "ctc" and "head_sizes" not in back.spec and back.output.weight.shape == (7, 16)
