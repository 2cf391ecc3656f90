"""Every compression step works on a transducer, its predictor and joiner included, and on one in chunks."""

import dataclasses

import pytest
import torch

from steps.compress import fake_quant
from steps.compress.gptq import gptq_coder
from steps.compress.lowrank import LowRankConfig, factorise, plan_ranks
from steps.compress.plan import StructuredConfig, cost, prune_structured
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, describe, quantize_model, rounding_coder
from steps.compress.rounding import shortener
from steps.compress.sparsity import prunable_weights, sparsify_
from steps.core.cli import UserError
from steps.data.batches import Batch
from steps.models.build import build_model, new_spec
from tests.deploy.conftest import SIZES

HEAD = {"embedding", "predictor", "predictor_to_joiner", "encoder_to_joiner", "output"}


CHUNKS = {"streaming": {"chunk_ms": 160, "left_chunks": 2}}
ENCODERS = {
    "dnn": {"d_model": 32, "context": 3, "num_blocks": 2, "block": {"units": 48}},
    "conformer": SIZES["conformer"] | CHUNKS,
}


@pytest.fixture(params=["dnn", pytest.param("conformer", marks=pytest.mark.slow)])
def model(request):
    torch.manual_seed(1)
    return build_model(new_spec(request.param, ENCODERS[request.param], 20, 11, "test", head="transducer")).eval()


@pytest.fixture
def batch():
    feats = torch.randn(2, 60, 20, generator=torch.Generator().manual_seed(1))
    return Batch(["a", "b"], feats, torch.tensor([60, 45]), torch.tensor([[3, 4, 4], [5, 6, 0]]), torch.tensor([3, 2]))


def loss(model, batch):
    outputs, lengths = model(batch.feats, batch.lengths)
    return model.head.loss_sum(model, outputs, lengths, batch) / lengths.sum()


def probed(model, batch):
    with torch.no_grad():
        return model.head.probe(model, model(batch.feats, batch.lengths)[0])


@pytest.mark.parametrize("target", ["macs", "parameters"])
def test_structured_pruning_keeps_to_its_budget(model, batch, target):
    small, record = prune_structured(model, StructuredConfig(target=target, keep=0.5), [batch], loss)
    assert 0.35 < cost(small.spec, target) / cost(model.spec, target) <= 0.5
    before, after = zip(*(record["sizes"][name] for name in ("embedding", "predictor", "joiner")), strict=True)
    assert before == (32, 96, 96) and sum(after) < sum(before)
    assert loss(small, batch).isfinite()


def test_predictor_and_joiner_count_once_a_frame(model):
    smaller = cost(model.spec | {"vocab_size": 10}, "macs")
    # of a chunk, or of ten seconds, whose last frames are missing
    frames = 25 if model.chunk else ((1000 - 1) // 2 - 1) // 2 / 10
    assert cost(model.spec, "macs") - smaller == pytest.approx(frames * (2 * 32 + 96))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_layer_that_only_trains_is_not_among_the_zeros(model, scope):
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = sparsify_(model, 0.6, scope)
    assert torch.equal(model.ctc_output.weight, whole["ctc_output.weight"])
    zeros, total = sum(int((~stays).sum()) for stays in masks.values()), sum(stays.numel() for stays in masks.values())
    assert model.spec["sparsity"] == pytest.approx(0.6, abs=5e-3) == zeros / total


def test_zeros_low_rank_and_codes(model, batch):
    sparsify_(model, 0.5, "local")
    assert all(0.4 < 1 - w.count_nonzero() / w.numel() < 0.6 for w in prunable_weights(model).values())
    model.spec = model.spec | {"sparsity": None}
    ranks, _ = plan_ranks(model, LowRankConfig(layers=["predictor", "predictor_to_joiner", "encoder_to_joiner"]))
    thin = factorise(model, ranks)
    assert {"predictor", "predictor_to_joiner"} <= ranks.keys() and probed(thin, batch).isfinite().all()
    small = quantize_model(thin, QuantizeConfig(bits=8))
    names = {name.split(".")[0] for name in small.spec["quantization"]["layers"]}
    assert names >= HEAD and "ctc_output" not in names
    assert (probed(small, batch) - probed(thin, batch)).abs().max() < 0.1
    with pytest.raises(UserError, match="no quantizable layer is called 'ctc_output'"):
        quantize_model(model, QuantizeConfig(layers={"ctc_output": 4}))


def test_gptq_rounds_what_hears_frames_and_the_rest_as_mse_does(model, batch):
    config = QuantizeConfig(bits=4, method="gptq", skip=["frontend", "blocks"])
    formats = choose_formats(model, config)
    shorten = shortener(describe(formats, config))
    heard = build_model(model.spec)
    heard.load_state_dict(model.state_dict())
    small = quantize_model(model, config, gptq_coder(heard, formats, [batch], shorten, rounding_coder("mse", shorten)))
    plain = quantize_model(model, dataclasses.replace(config, method="mse"))
    differ = {n for n in formats if not torch.equal(*(m.get_submodule(n).weight_codes for m in (small, plain)))}
    assert "encoder_to_joiner" in differ and not differ & (HEAD - {"encoder_to_joiner"})


def test_training_with_rounded_weights_ends_with_the_codes_that_were_trained(model, batch):
    config = QuantizeConfig(bits=2, skip=["frontend", "blocks"])
    formats = choose_formats(model, config)
    quantization = describe(formats, config)
    shorten = shortener(quantization)
    fake_quant.prepare_(model, formats, shorten)
    loss(model, batch).backward()
    assert all(model.get_submodule(name).weight.grad.abs().sum() > 0 for name in HEAD)
    small = fake_quant.convert(model, quantization, formats, rounding_coder("mse", shorten))
    torch.testing.assert_close(probed(small, batch), probed(model, batch), rtol=1e-4, atol=1e-5)
