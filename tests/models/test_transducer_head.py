"""The transducer head: what its predictor sees, what padding changes, which axes shrink, which settings are refused."""

import json
from types import SimpleNamespace

import pytest
import torch

from steps.compress.lowrank import factorise
from steps.compress.surgery import shrink
from steps.core.cli import UserError
from steps.core.config import to_dict
from steps.models.build import build_model, load_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.models.heads.transducer import TransducerConfig, TransducerSizes
from steps.training.settings import TrainConfig
from steps.training.setup import Setup

SIZES = {"embedding": 16, "predictor": 24, "joiner": 32, "context": 2}
BATCH = SimpleNamespace(
    tokens=torch.tensor([[3, 4, 4, 5], [6, 7, 0, 0], [8, 0, 0, 0]]), token_lengths=torch.tensor([4, 2, 1])
)
LENGTHS = torch.tensor([90, 47, 33])


def transducer(**sizes):
    torch.manual_seed(1)
    dnn = {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 40}}
    model = build_model(new_spec("dnn", dnn, 20, 11, "test", head="transducer", head_sizes=SIZES | sizes)).eval()
    with torch.no_grad():
        # so that units are emitted
        model.output.weight *= 8
    return model


@pytest.fixture(scope="module")
def feats():
    # padding is noise, not zeros
    return torch.randn(3, 90, 20, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_batch_gives_what_its_utterances_give_alone_whatever_padding_holds(feats):
    model = transducer()
    outputs, lengths = model(feats, LENGTHS)
    together, alone, texts = model.head.loss_sum(model, outputs, lengths, BATCH), 0.0, []
    noisy = SimpleNamespace(tokens=torch.where(BATCH.tokens == 0, 9, BATCH.tokens), token_lengths=BATCH.token_lengths)
    torch.testing.assert_close(model.head.loss_sum(model, outputs, lengths, noisy), together)
    for row, length in enumerate(LENGTHS.tolist()):
        single, frames = model(feats[row : row + 1, :length], torch.tensor([length]))
        units = BATCH.token_lengths[row : row + 1]
        own = SimpleNamespace(tokens=BATCH.tokens[row : row + 1, : int(units)], token_lengths=units)
        alone += model.head.loss_sum(model, single, frames, own)
        texts += model.head.best_tokens(model, single, frames)
    torch.testing.assert_close(together, alone)
    assert model.head.best_tokens(model, outputs, lengths) == texts and all(texts)


@torch.no_grad()
def test_the_predictor_sees_the_last_units_in_their_order_and_nothing_before_the_first():
    model = transducer()
    assert model.head.last_units(model, torch.tensor([[5, 6]])).tolist() == [[[-1, 0], [0, 5], [5, 6]]]
    predicted = model.head.predict(model, torch.tensor([[-1, 0], [5, 6], [6, 5]]))
    assert not torch.equal(predicted[1], predicted[2])
    embedding = model.embedding.weight.T
    expected = torch.stack([torch.cat([0 * embedding[0], embedding[0]]), torch.cat([embedding[5], embedding[6]])])
    torch.testing.assert_close(predicted[:2], model.predictor_to_joiner(model.predictor(expected).relu()))


def test_the_terms_of_the_loss_have_their_shares(feats):
    model = transducer()
    hidden, lengths = model.encode(feats, LENGTHS)
    outputs = model.classify(hidden[-1])
    settings = TransducerConfig(ctc_weight=0.25, intermediate_weight=0.5, intermediate_blocks=[0])
    terms = model.head.loss_terms(model, hidden, outputs, lengths, BATCH, settings)
    whole = model.head.loss_sum(model, outputs, lengths, BATCH)
    torch.testing.assert_close(terms["transducer"], 0.75 * whole)
    ctc = [
        torch.nn.functional.ctc_loss(
            model.head.posteriors(model, hidden[place]).transpose(0, 1),
            BATCH.tokens, lengths, BATCH.token_lengths, reduction="sum",
        )
        for place in (-1, 1)
    ]  # fmt: skip
    torch.testing.assert_close(terms["ctc"], 0.125 * ctc[0])
    torch.testing.assert_close(terms["inner"], 0.125 * ctc[1])
    early = model.head.loss_terms(model, hidden, outputs, lengths, BATCH, TransducerConfig(delay_penalty=0.1))
    assert early["transducer"] != 0.7 * whole
    pruned, wide = (
        model.head.loss_terms(model, hidden, outputs, lengths, BATCH, TransducerConfig(prune_range=nodes))
        for nodes in (2, BATCH.tokens.shape[1] + 1)
    )
    assert pruned["transducer"] > 0.7 * whole and pruned["ctc"] == early["ctc"]
    torch.testing.assert_close(wide["transducer"], 0.7 * whole)
    sum(terms.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_axis_groups_cover_what_they_claim():
    model = transducer()
    groups = [group for group in model.axis_groups() if group.section == "head_sizes"]
    assert [group.name for group in groups] == ["embedding", "predictor", "joiner"]
    for group in groups:
        spec = json.loads(json.dumps(model.spec))
        assert spec["head_sizes"][group.config_path[0]] == group.size
        spec["head_sizes"][group.config_path[0]] -= 1
        smaller = build_model(spec).state_dict()
        changed = {
            (name, axis): before - after
            for name, tensor in model.state_dict().items()
            for axis, (before, after) in enumerate(zip(tensor.shape, smaller[name].shape, strict=True))
            if before != after
        }
        assert {(m.parameter, m.axis): m.chunks * m.unit for m in group.members} == changed, group.name


@torch.no_grad()
@pytest.mark.parametrize("name", ["embedding", "predictor", "joiner"])
@pytest.mark.parametrize("thin", [False, True], ids=["dense", "low-rank"])
def test_after_surgery_it_computes_what_it_did_with_those_parts_at_zero(feats, name, thin):
    model = transducer()
    if thin:
        model = factorise(model, {"embedding": 4, "predictor": 8, "predictor_to_joiner": 8, "output": 4})
    group = next(group for group in model.axis_groups() if group.name == name)
    kept = list(range(0, group.size, 3))
    small = shrink(model, {name: kept})
    assert small.spec["head_sizes"][name] == len(kept) == getattr(small.head_sizes, name)
    for member in group.members:
        gone = torch.ones(model.get_parameter(member.parameter).shape[member.axis], dtype=torch.bool)
        gone[member.rows(kept, group.size)] = False
        model.get_parameter(member.parameter).index_fill_(member.axis, gone.nonzero().flatten(), 0.0)
    probes = [one.head.probe(one, one(feats, LENGTHS)[0]) for one in (model, small)]
    torch.testing.assert_close(*probes, rtol=1e-4, atol=1e-5)


def test_folder_round_trip_and_sizes_that_do_not_fit(save, tmp_path):
    folder = save(tmp_path / "m", transducer(context=3))
    model = load_model(folder)
    assert model.head_sizes == TransducerSizes(16, 24, 32, 3) and model.head.name == "transducer"
    spec = json.loads((folder / "model.json").read_text())
    for sizes, message in (
        ({"joiner": 8}, "do not fit"),
        ({"context": 99}, "context must be"),
        ({"j": 1}, "unknown key"),
    ):
        (folder / "model.json").write_text(json.dumps(spec | {"head_sizes": spec["head_sizes"] | sizes}))
        with pytest.raises(UserError, match=message):
            load_model(folder)


def objective(config, model):
    """As a training program makes it."""
    setup = SimpleNamespace(args=SimpleNamespace(seed=0, config="c.yaml"), config=config)
    return Setup.objective(setup, model, None)


def test_settings_without_effect_and_ctc_without_a_layer_are_refused():
    assert objective(TrainConfig(transducer=TransducerConfig(ctc_weight=0.5)), transducer()).settings.ctc_weight == 0.5
    with pytest.raises(UserError, match="c.yaml: ctc: has no effect on a transducer model"):
        objective(TrainConfig(ctc=CtcConfig(intermediate_weight=0.3)), transducer())
    ctc = build_model(new_spec("dnn", {"num_blocks": 1}, 20, 11, "test"))
    with pytest.raises(UserError, match="transducer: has no effect on a ctc model"):
        objective(TrainConfig(transducer=TransducerConfig(ctc_weight=0.5)), ctc)
    with pytest.raises(UserError, match="ctc_weight 0.3, but the model has no CTC layer"):
        objective(TrainConfig(), transducer(ctc=False))
    with pytest.raises(UserError, match="ctc_weight 0, but the model has a CTC layer"):
        objective(TrainConfig(transducer=TransducerConfig(ctc_weight=0.0)), transducer())
    with pytest.raises(UserError, match="head_sizes: unknown key 'joint'"):
        new_spec("dnn", {}, 20, 11, "test", "c.yaml: model", "transducer", head_sizes={"joint": 3})
    with pytest.raises(UserError, match="unknown key 'joiner'"):
        new_spec("dnn", {}, 20, 11, "test", "c.yaml: model", head_sizes={"joiner": 3})


def test_settings_of_trainings_made_before_a_setting_came_are_as_they_were():
    assert "prune_range" not in to_dict(TransducerConfig(intermediate_weight=0.3))
    assert to_dict(TransducerConfig(prune_range=5))["prune_range"] == 5
