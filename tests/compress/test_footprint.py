"""Footprints agree with sums done by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from steps.compress.footprint import count_nonzero, count_parameters, macs_per_second, predict
from steps.models.build import build_model, new_spec
from steps.models.normalisation import GLOBAL
from tests.compress.conftest import SIZES

FRAMES = 1000  # of 10 s
SECONDS = 10


def front_end_macs(channels, d_model, dim=20):
    """Two 3x3 convolutions of stride 2, then a Linear."""
    time1, time2 = (FRAMES - 1) // 2, ((FRAMES - 1) // 2 - 1) // 2
    bins1, bins2 = (dim - 1) // 2, ((dim - 1) // 2 - 1) // 2
    conv1 = time1 * bins1 * channels[0] * 9
    conv2 = time2 * bins2 * channels[1] * channels[0] * 9
    return time2, conv1 + conv2 + time2 * channels[1] * bins2 * d_model


def conformer_macs():
    frames, macs = front_end_macs((8, 16), 32)
    linear = 32 * 48 * 2 + 32 * 32 * 2 + 32 * 3 * 32 + 32 * 32 + 32 * 2 * 24 + 24 * 32
    depthwise = 24 * 5
    attention = 2 * frames * frames * 4 * 8  # scores and mixing, per block
    return macs + 2 * (frames * (linear + depthwise) + attention) + frames * 32 * 11


def chunk_macs():
    """One chunk of 4 encoder frames that hears 2 ahead and 8 before it."""
    conv1, conv2 = 13 * 9 * 8 * 9, 6 * 4 * 16 * 8 * 9
    linear = 32 * 48 * 2 + 32 * 32 * 2 + 32 * 3 * 32 + 32 * 32 + 32 * 2 * 24 + 24 * 32
    # of 2 frames before the first, what comes out is not used
    depthwise = (2 + 6) * 24 * 5
    attention = 2 * 6 * (8 + 6) * 4 * 8
    return conv1 + conv2 + 6 * 16 * 4 * 32 + 2 * (6 * linear + depthwise + attention) + 4 * 32 * 11


def rnn_macs():
    frames, macs = front_end_macs((8, 8), 24)
    block = sum(4 * cells * (24 + cells) + cells * 24 for cells in (24, 16))
    return macs + frames * (2 * block + 24 * 11)


def dnn_macs():
    frames = ((FRAMES - 1) // 2 - 1) // 2
    return frames * (7 * 20 * 24 + 3 * (3 * 24 * 40 + 40 * 24) + 24 * 11)


BY_HAND = {"conformer": conformer_macs, "rnn": rnn_macs, "dnn": dnn_macs}


@pytest.mark.parametrize("kind", BY_HAND)
def test_macs_equal_the_sum_by_hand(make, kind):
    assert macs_per_second(make(kind)) * SECONDS == pytest.approx(BY_HAND[kind](), rel=1e-12)


def test_macs_of_a_chunk_equal_the_sum_by_hand(make):
    model = make("conformer", streaming={"chunk_ms": 160, "left_chunks": 2, "ahead_ms": 80})
    assert macs_per_second(model) * 0.16 == pytest.approx(chunk_macs(), rel=1e-12)
    assert macs_per_second(model, 60.0) == macs_per_second(model)
    # whole utterances
    model.use_chunk(0)
    assert macs_per_second(model) * SECONDS == pytest.approx(conformer_macs(), rel=1e-12)


@pytest.mark.parametrize("kind", BY_HAND)
def test_counting_changes_nothing(make, kind):
    model, before = make(kind).train(), make(kind).state_dict()
    macs_per_second(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", BY_HAND)
def test_prediction_equals_the_built_model(make, kind):
    model = make(kind)
    footprint = predict(model.spec)
    assert footprint.parameters == count_parameters(model)
    assert footprint.macs_per_second == macs_per_second(model)
    assert predict(model.spec, macs=False).parameters == footprint.parameters


def test_parameters_by_hand(make):
    dnn = 7 * 20 * 24 + 24 + 3 * (2 * 24 + 3 * 24 * 40 + 40 + 40 * 24 + 24) + 2 * 24 + 24 * 11 + 11
    assert count_parameters(make("dnn")) == dnn
    batch_norm, layer_norm = (count_parameters(make("conformer", conv_norm=norm)) for norm in ("batch", "layer"))
    assert batch_norm == layer_norm  # running statistics are not parameters


def test_zeros_are_not_counted_as_nonzero(make):
    model = make("dnn")
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.weight[0, :3] = 1.0
    everything = sum(int((parameter != 0).sum()) for parameter in model.parameters())
    assert count_nonzero(model) == everything <= count_parameters(model) - model.output.weight.numel() + 3


def test_codes_count_as_parameters():
    layer = nn.Module()
    layer.head = SimpleNamespace(training_only=())
    layer.register_buffer("weight_codes", torch.tensor([[0, 1, -1]], dtype=torch.int8))
    layer.register_buffer("weight_scales", torch.ones(1))
    assert (count_parameters(layer), count_nonzero(layer)) == (3, 2)


def test_what_serves_training_only_does_not_count():
    how = (SIZES["conformer"], 20, 11, "test", "model", "transducer", GLOBAL)
    with_ctc, without = (build_model(new_spec("conformer", *how, {"ctc": ctc})) for ctc in (True, False))
    assert hasattr(with_ctc, "ctc_output") and not hasattr(without, "ctc_output")
    assert count_parameters(with_ctc) == count_parameters(without) == predict(with_ctc.spec).parameters
    assert count_nonzero(with_ctc) == sum(
        int(one.count_nonzero()) for name, one in with_ctc.named_parameters() if "ctc" not in name
    )


def test_attention_grows_with_the_utterance(make):
    model = make("conformer")
    assert macs_per_second(model, 20.0) > macs_per_second(model, 10.0)
    assert macs_per_second(make("dnn"), 20.0) == pytest.approx(macs_per_second(make("dnn"), 10.0), rel=0.01)
