"""Normalisation: what it takes away, under padding, for short sounds, in the export, and in what is written."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict, to_dict
from steps.data.augment import SpecAugmentConfig
from steps.data.batches import BatchLoader
from steps.data.feature_config import FeatureConfig
from steps.deploy.export import describe_look_ahead
from steps.deploy.graphs.ctc import CtcGraphs
from steps.deploy.runtimes.onnx_model import OnnxModel
from steps.models.build import build_model, new_spec
from steps.models.normalisation import BLOCK, HORIZON, NORMALISATIONS, OF_CORPUS, OF_UTTERANCES
from steps.training.examine import other_normalisation
from steps.training.settings import TrainConfig
from steps.training.setup import Setup

DIM = 20
SIZES = {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 40}}


def make(normalisation):
    torch.manual_seed(0)
    model = build_model(new_spec("dnn", SIZES, DIM, 9, "test", normalisation=normalisation)).eval()
    model.set_cmvn_(torch.randn(DIM) - 6, torch.rand(DIM) + 2)
    return model


def batch(*lengths):
    """Features around the corpus mean, with rubbish behind each utterance's end."""
    torch.manual_seed(1)
    return torch.randn(len(lengths), max(lengths), DIM) * 3 - 6, torch.tensor(lengths)


@pytest.mark.parametrize("normalisation", OF_UTTERANCES)
def test_what_is_constant_in_a_recording_is_taken_away(normalisation):
    model, (feats, lengths) = make(normalisation), batch(60, 33)
    channel = torch.randn(2, 1, DIM) * 4
    normed = model.normalise(feats, lengths)
    assert torch.allclose(model.normalise(feats + channel, lengths), normed, atol=1e-5)
    assert not torch.allclose(make("global").normalise(feats + channel, lengths), normed, atol=1)
    louder = model.normalise(feats * 2, lengths)
    assert torch.allclose(louder, normed, atol=1e-5) is (normalisation == "utterance_variance")
    for row, length in zip(normed, lengths, strict=True):
        assert row[:length].mean(dim=0).abs().max() < 1e-5 and not row[length:].any()
        if normalisation == "utterance_variance":
            assert (row[:length].square().mean(dim=0) - 1).abs().max() < 1e-4
    # in units of the corpus's deviation
    wanted = (feats[0] - feats[0].mean(dim=0)) * model.feature_scale
    assert normalisation != "utterance" or torch.allclose(normed[0], wanted, atol=1e-5)


@torch.no_grad()
def test_the_mean_so_far_is_what_a_loop_says():
    model, (feats, lengths) = make("sliding").double(), batch(2 * BLOCK + 90, 33)
    feats = feats.double()
    feats[0, 40:60] = -15.9
    normed, decay = model.normalise(feats, lengths), 1 - 1 / HORIZON
    for utterance, length in enumerate(lengths.tolist()):
        heard, number = torch.zeros(DIM, dtype=torch.float64), 0.0
        for time in range(length):
            x = (feats[utterance, time] - model.feature_mean) * model.feature_scale
            counts = not (utterance == 0 and 40 <= time < 60)
            heard, number = decay * heard + counts * x, decay * number + counts
            torch.testing.assert_close(normed[utterance, time], x - heard / (number + OF_CORPUS), rtol=0, atol=1e-9)
        assert not normed[utterance, length:].any()
    # most of another microphone is gone after three seconds, and it needs to hear nothing ahead
    feats, channel = torch.randn_like(feats), torch.randn(1, 1, DIM, dtype=torch.float64) * 4
    left = model.normalise(feats + channel, lengths) - model.normalise(feats, lengths)
    left = left[0] / (channel[0] * model.feature_scale)
    assert (left[0] > 0.98).all() and (left[300] < 0.4).all() and (left[-1] < 0.3).all()
    assert not math.isinf(model.look_ahead())


@pytest.mark.parametrize("normalisation", NORMALISATIONS[1:])
def test_digital_silence_is_no_part_of_a_mean(normalisation):
    model, (feats, lengths) = make(normalisation), batch(60)
    silence = torch.full((1, 90, DIM), -15.9424)
    found = model.normalise(torch.cat([silence, feats], dim=1), lengths + 90)[:, 90:]
    torch.testing.assert_close(found, model.normalise(feats, lengths), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalisation", NORMALISATIONS[1:])
def test_padding_and_neighbours_change_nothing(normalisation):
    model, (feats, lengths) = make(normalisation), batch(90, 41, 8)
    feats[2, 8:] = 1e4
    together = model(feats, lengths)[0]
    for index, length in enumerate(lengths.tolist()):
        alone, (frames,) = model(feats[index : index + 1, :length], lengths[index : index + 1])
        torch.testing.assert_close(together[index, :frames], alone[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("normalisation", OF_UTTERANCES)
def test_short_and_silent_sounds_stay_finite(normalisation):
    model = make(normalisation)
    silence = torch.full((4, 12, DIM), -15.9)
    normed = model.normalise(silence + torch.randn_like(silence) * 1e-4, torch.tensor([0, 1, 2, 12]))
    # rounding noise is not blown up to the size of speech
    assert torch.isfinite(normed).all() and normed.abs().max() < 0.01
    assert torch.isfinite(model(silence, torch.tensor([12] * 4))[0]).all()


@pytest.mark.parametrize("normalisation", NORMALISATIONS[1:])
def test_the_exported_graph_normalises_alike_also_short_and_padded(normalisation):
    model, (feats, lengths) = make(normalisation), batch(BLOCK + 90, 57, 8)
    feats[0, :20] = -15.9
    exported = OnnxModel(CtcGraphs().build(model)["model.onnx"].SerializeToString())
    theirs, frames = exported.log_probs(feats.numpy(), lengths.numpy())
    with torch.no_grad():
        mine = model(feats, lengths)[0].numpy()
    for row, other, count in zip(mine, theirs, frames, strict=True):
        assert (
            np.abs(row[:count] - other[:count]).max() < 1e-4
            and (row[:count].argmax(1) == other[:count].argmax(1)).all()
        )


def test_a_model_that_hears_the_whole_utterance_says_so_and_is_refused_where_that_is_too_far():
    for normalisation in OF_UTTERANCES:
        model = make(normalisation)
        assert math.isinf(model.look_ahead()) and describe_look_ahead(model, 10.0) == "the whole utterance"
        setup = SimpleNamespace(config=TrainConfig(max_look_ahead_ms=500), features=FeatureConfig(),
                                args=SimpleNamespace(config="c.yaml"))  # fmt: skip
        with pytest.raises(UserError, match=f"normalisation: {normalisation} hear the whole utterance"):
            Setup.check_look_ahead(setup, model)
    assert not math.isinf(make("global").look_ahead())


def test_the_doctor_advises_one_that_the_model_can_have_and_has_not():
    streaming = {"streaming": {"chunk_ms": 160}, "block": {"units": 40, "splice": 1}}
    model = build_model(new_spec("dnn", SIZES | streaming, DIM, 9, "test"))
    assert other_normalisation(model) == "sliding" and other_normalisation(make("global")) == "utterance"
    assert {other_normalisation(make(name)) for name in NORMALISATIONS[1:]} == {""}


def test_the_description_names_it_only_where_it_is_not_the_old_one():
    spec = json.loads(json.dumps(new_spec("dnn", SIZES, DIM, 9, "test")))
    assert "normalisation" not in spec and build_model(spec).normalisation == "global"
    spec = json.loads(json.dumps(new_spec("dnn", SIZES, DIM, 9, "test", normalisation="utterance")))
    assert build_model(spec).normalisation == "utterance"
    with pytest.raises(UserError, match="model.json: normalisation must be one of"):
        build_model(spec | {"normalisation": ["utterance"]})
    with pytest.raises(ConfigError, match="normalisation must be one of"):
        from_dict(TrainConfig, {"normalisation": "speaker"}, "c.yaml")
    assert "normalisation" not in to_dict(TrainConfig())
    assert to_dict(TrainConfig(normalisation="utterance"))["normalisation"] == "utterance"


def test_masks_hold_the_mean_that_will_be_taken_away():
    feats = np.random.default_rng(0).standard_normal((80, DIM)).astype(np.float32) + 7
    dataset = SimpleNamespace(features=lambda index: feats, utt_id=lambda index: "u", feature_config=FeatureConfig())
    masks = SpecAugmentConfig(freq_masks=0, time_masks=4, time_width=12, time_share=0.5)
    for fill, wanted in ((None, feats.mean(axis=0)), (np.zeros(DIM, np.float32), np.zeros(DIM))):
        masked = BatchLoader(dataset, [([0], 1.0)], masks, fill, 0, 0).augmented(0, feats)
        changed = (masked != feats).any(axis=1)
        assert changed.any() and np.allclose(masked[changed], wanted)
