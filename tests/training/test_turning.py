"""A model of whole utterances goes on as a streaming one, and the other way round; what cannot is refused."""

from types import SimpleNamespace

import pytest
import torch

from steps.compress.sparsity import sparsify_
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.core.config import load_config
from steps.data.feature_config import FeatureConfig
from steps.distill_student import start_from_
from steps.models.build import load_model
from steps.models.codes import check_float
from steps.training.settings import TrainConfig
from steps.training.setup import Setup
from steps.training.start import start_from
from tests.deploy.conftest import TOKENS, make_model, save_folder

CHUNKS = {"streaming": {"chunk_ms": 160, "left_chunks": 2}}


def setup(folder, kind, sizes, features=None, **settings):
    """What `start_from` asks of a training with these settings on the tokenizer of `folder`."""
    made = SimpleNamespace(
        config=TrainConfig(type=kind, model=sizes, **settings),
        args=SimpleNamespace(config="x.yaml", features="f.yaml", tokenizer=folder, seed=0),
        features=features or load_config(FeatureConfig, folder / "features.yaml"),
        tokenizer=SimpleNamespace(vocab_size=len(TOKENS)),
    )
    made.check_look_ahead = lambda model: Setup.check_look_ahead(made, model)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("turning") / "whole", make_model("conformer"))


def test_a_model_turns_and_keeps_its_weights(whole):
    before = load_model(whole)
    turned = start_from(setup(whole, "conformer", CHUNKS), whole)
    assert turned.chunk == 4 and turned.spec["model"]["streaming"]["drawn_ms"] == [0, 160, 320, 640]
    assert all(torch.equal(tensor, turned.state_dict()[name]) for name, tensor in before.state_dict().items())
    # what starts from it in steps.distill_student has the same sizes, with or without chunks
    start_from_(make_model("conformer", **CHUNKS), before, "whole")
    start_from_(make_model("conformer"), turned, "turned")
    with pytest.raises(UserError, match="its layers differ"):
        start_from_(make_model("conformer", kernel_size=7, **CHUNKS), before, "whole")


def test_a_student_has_the_layers_of_what_it_starts_from(whole):
    before, other = load_model(whole), make_model("conformer", dropout=0.3)
    start_from_(other, before, "whole")
    assert torch.equal(other.output.weight, before.output.weight) and other.config.dropout == 0.3
    own = make_model("conformer", normalisation="utterance")
    with pytest.raises(
        UserError, match="whole: learnt with normalisation: global, and --config has utterance; set the same"
    ):
        start_from_(own, before, "whole")
    joint = make_model("rnn", head="transducer")
    with pytest.raises(UserError, match="its layers differ"):
        start_from_(joint, shrink(joint, {"joiner": list(range(32))}), "narrow")


def test_a_normalisation_in_the_settings_counts(whole, tmp_path):
    assert "normalisation" not in start_from(setup(whole, "conformer", {}), whole).spec
    centred = save_folder(tmp_path / "centred", make_model("conformer", normalisation="utterance"))
    assert start_from(setup(centred, "conformer", {}), centred).normalisation == "utterance"
    turned = start_from(setup(centred, "conformer", CHUNKS, normalisation="sliding"), centred)
    assert turned.normalisation == turned.spec["normalisation"] == "sliding" and turned.chunk == 4
    with pytest.raises(UserError, match="normalisation: utterance hears the whole utterance; set sliding"):
        start_from(setup(centred, "conformer", CHUNKS), centred)


def test_a_student_does_not_start_from_codes(whole):
    assert check_float({"quantization": None}, "x", "start from") is None
    with pytest.raises(UserError, match="x: is quantized; start from its float parent, teacher$"):
        check_float({"quantization": {"bits": 8}, "parent": {"name": "teacher"}}, "x", "start from")
    with pytest.raises(UserError, match="--init x: is quantized; start from one trained without"):
        start_from_(make_model("conformer"), make_model("conformer", quantized=True), "x")


@pytest.mark.parametrize("sparse", [False, True])
def test_that_zeros_are_not_kept_is_said(whole, tmp_path, capsys, sparse):
    model = make_model("conformer")
    if sparse:
        sparsify_(model, 0.5)
    folder = save_folder(tmp_path / "initial", model)
    start_from(setup(folder, "conformer", {}), folder)
    start_from_(make_model("conformer"), model, "x")
    told = [line for line in capsys.readouterr().out.splitlines() if "is sparse" in line]
    assert [line.split(":")[1].strip() for line in told] == ([str(folder), "x"] if sparse else [])


def test_what_cannot_turn_is_refused(whole, tmp_path):
    both_ways = save_folder(tmp_path / "rnn", make_model("rnn"))
    with pytest.raises(UserError, match="x.yaml: model: streaming needs cells_backward: 0"):
        start_from(setup(both_ways, "rnn", {"streaming": {"chunk_ms": 160}}), both_ways)
    dnn = save_folder(tmp_path / "dnn", make_model("dnn", context=7))
    with pytest.raises(UserError, match="x.yaml: model: streaming needs context: 3"):
        start_from(setup(dnn, "dnn", {"streaming": {"chunk_ms": 160}}), dnn)
    features = FeatureConfig(num_mel_bins=20, level_dbfs=-25.0)
    loud = save_folder(tmp_path / "loud", make_model("conformer"), features)
    with pytest.raises(UserError, match="f.yaml: level_dbfs scales a sound by the whole of it"):
        start_from(setup(loud, "conformer", CHUNKS, features), loud)
    assert start_from(setup(loud, "conformer", {}, features), loud).chunk == 0
