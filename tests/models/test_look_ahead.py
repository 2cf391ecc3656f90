"""What a model says it hears ahead is what it hears: frames beyond change nothing, the last one within does."""

import math
from types import SimpleNamespace

import pytest
import torch

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.models.build import build_model, new_spec
from steps.models.context import Context
from steps.training.settings import TrainConfig
from steps.training.setup import Setup

CONVOLUTIONS = {"d_model": 16, "subsampling_channels": [4, 4], "num_blocks": 2}
SHORT = {
    "dnn": ("dnn", {"d_model": 16, "context": 5, "blocks": [{"units": 24, "splice": 2}, {"units": 24, "splice": 1}]}),
    "dnn-in-chunks": (
        "dnn",
        {"d_model": 16, "context": 3, "blocks": [{"units": 24, "splice": 2}, {"units": 24, "splice": 1}]}
        | {"streaming": {"chunk_ms": 120}},
    ),
    "dnn-no-splice": ("dnn", {"d_model": 16, "context": 0, "num_blocks": 1, "block": {"units": 24, "splice": 0}}),
    "rnn-one-way": ("rnn", CONVOLUTIONS | {"block": {"cells_forward": 12, "cells_backward": 0}}),
    "rnn-in-chunks": (
        "rnn",
        CONVOLUTIONS | {"block": {"cells_forward": 12, "cells_backward": 0}, "streaming": {"chunk_ms": 320}},
    ),
    # frame 9 is the first of its chunk of 3
    "conformer-in-chunks": (
        "conformer",
        CONVOLUTIONS
        | {"head_dim": 8, "block": {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}}
        | {"streaming": {"chunk_ms": 120, "left_chunks": 2}},
    ),
}
WHOLE = {
    "conformer": (
        "conformer",
        CONVOLUTIONS | {"head_dim": 8, "block": {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}},
    ),
    "rnn": ("rnn", CONVOLUTIONS | {"block": {"cells_forward": 12, "cells_backward": 12}}),
}


def make(kind, sizes):
    torch.manual_seed(0)
    return build_model(new_spec(kind, sizes, 20, 7, "test")).eval()


@pytest.mark.parametrize("name", SHORT)
def test_frames_beyond_the_look_ahead_change_nothing_and_the_last_within_does(name):
    model = make(*SHORT[name])
    reach, frame, total = model.look_ahead(), 9, 120
    assert reach == int(reach) and not model.whole_utterance_parts()
    feats, lengths = torch.randn(1, total, 20), torch.tensor([total])
    own_last = model.frontend.stride * (frame + 1) - 1
    with torch.no_grad():
        before = model(feats, lengths)[0][0, : frame + 1]
        for first, same in ((own_last + int(reach) + 1, True), (own_last + int(reach), False)):
            other = feats.clone()
            other[:, first:] += 3.0
            assert torch.equal(model(other, lengths)[0][0, : frame + 1], before) is same


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_that_hears_to_the_end_says_so(name):
    model = make(*WHOLE[name])
    assert math.isinf(model.look_ahead()) and model.whole_utterance_parts() == ["blocks.0", "blocks.1"]
    feats, lengths = torch.randn(1, 120, 20), torch.tensor([120])
    other = feats.clone()
    other[:, -4:] += 3.0
    with torch.no_grad():
        assert not torch.equal(model(feats, lengths)[0][0, 0], model(other, lengths)[0][0, 0])


def check(kind, sizes, limit_ms):
    """The look-ahead check of a training."""
    config = TrainConfig(type=kind, model=sizes, max_look_ahead_ms=limit_ms)
    setup = SimpleNamespace(config=config, features=FeatureConfig(), args=SimpleNamespace(config="x.yaml"))
    Setup.check_look_ahead(setup, make(kind, sizes))


def test_settings_refuse_what_hears_too_far():
    # 3 frames of the front end
    check(*SHORT["rnn-one-way"], 30)
    with pytest.raises(UserError, match="x.yaml: max_look_ahead_ms: 29, but the model hears 30 ms ahead"):
        check(*SHORT["rnn-one-way"], 29)
    # 5 frames of context and 4 times 3 of splice
    check(*SHORT["dnn"], 170)
    with pytest.raises(UserError, match="hears 170 ms ahead"):
        check(*SHORT["dnn"], 160)
    with pytest.raises(UserError, match="blocks.0, blocks.1 hear the whole utterance"):
        check(*WHOLE["conformer"], 10_000)
    check(*WHOLE["conformer"], None)
    # 3 frames of the front end and 4 times 2 of the chunk's own
    check(*SHORT["conformer-in-chunks"], 110)
    with pytest.raises(UserError, match="hears 110 ms ahead"):
        check(*SHORT["conformer-in-chunks"], 109)


def test_a_context_knows_the_padding():
    context = Context.of(torch.tensor([3, 0, 5]), 5)
    assert context.is_pad.sum(dim=1).tolist() == [2, 5, 0] and context.is_pad[0].tolist() == [False] * 3 + [True] * 2
