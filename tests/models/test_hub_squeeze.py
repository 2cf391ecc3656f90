"""Blocks at a fraction of the output's frame rate: whoever reads the model sees the output's rate alone."""

import pytest
import torch

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.training.distill_config import DistillConfig
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.teachers import ModelTeacher

WAVE = {"channels": [8] * 7, "position_groups": 2}
SIZES = {"d_model": 32, "head_dim": 8, "num_blocks": 2, "block": {"heads": 4, "ff": 24}}
# in 10 ms, two of which are a frame of the output
LENGTHS = [*range(0, 19, 2), 36, 37, 39, 41, 50]


def make(squeeze=2, kernel=4):
    torch.manual_seed(0)
    sizes = SIZES | {"squeeze": squeeze, "wave": WAVE | {"position_kernel": kernel}}
    return build_model(new_spec("hub", sizes, 160, 11, "test")).eval()


def heard(lengths):
    feats = torch.randn(len(lengths), max(lengths), 160, generator=torch.Generator().manual_seed(1))
    return feats, torch.tensor(lengths)


@pytest.mark.parametrize(("squeeze", "kernel"), [(2, 4), (2, 5), (3, 4), (3, 1), (2, 0)])
@torch.no_grad()
def test_a_batch_gives_what_its_utterances_give_alone(squeeze, kernel):
    model, (feats, lengths) = make(squeeze, kernel), heard(LENGTHS)
    together, frames = model.encode(feats, lengths)
    assert {int(count) % squeeze for count in frames} == set(range(squeeze)) and {0, 1, 2} <= set(frames.tolist())
    for row, length in enumerate(LENGTHS):
        if not frames[row]:
            continue
        alone, own = model.encode(feats[row : row + 1, :length], lengths[row : row + 1])
        assert int(own) == int(frames[row]) and len(alone) == len(together) == 3
        for one, many in zip(alone, together, strict=True):
            assert one.shape == (1, int(own), 32)
            torch.testing.assert_close(one[0], many[row, : int(own)], rtol=0, atol=1e-5)


@torch.no_grad()
def test_frames_that_fill_none_of_the_blocks_have_the_bias_of_the_output_layer():
    model, (feats, lengths) = make(), heard([50])
    outputs, frames = model(feats[:, :48], lengths - 2)
    assert int(frames) % 2 == 1
    torch.testing.assert_close(outputs[0, -1], model.output.bias.log_softmax(dim=0))
    assert (outputs[0, -2] - outputs[0, -1]).abs().max() > 0.01
    even, frames = model(feats, lengths)
    assert int(frames) % 2 == 0 and (even[0, -1] - outputs[0, -1]).abs().max() > 0.01


@torch.no_grad()
def test_states_of_the_blocks_come_twice():
    hidden, frames = make().encode(*heard([50]))
    for states in hidden[:-1]:
        assert torch.equal(states[:, 0::2], states[:, 1::2]) and not torch.equal(states[:, 0], states[:, 2])
    assert int(frames) == hidden[-1].shape[1] and not torch.equal(hidden[-1][:, 0::2], hidden[-1][:, 1::2])


def test_only_models_that_have_it_say_so():
    assert make().spec["model"]["squeeze"] == 2 and make().frontend.stride == 2
    plain = new_spec("hub", SIZES | {"wave": WAVE}, 160, 11, "test")
    assert "squeeze" not in plain["model"] and build_model(plain).widening is None
    for sizes, said in (
        ({"squeeze": 9, "wave": WAVE}, "squeeze must be 1 to 8"),
        ({"squeeze": 2, "mel": {}}, "squeeze needs wave"),
        ({"squeeze": 2, "wave": WAVE | {"position_layers": 2}}, "squeeze needs wave with position_layers 0"),
    ):
        with pytest.raises(UserError, match=said):
            new_spec("hub", SIZES | sizes, 160, 11, "test")


def test_an_output_layer_on_inner_blocks_is_refused():
    """It takes what the widening layer gives, which no inner block has."""
    model, said = make(), "intermediate blocks have fewer frames than the output"
    with pytest.raises(UserError, match=f"ctc: {said}"):
        TranscriptObjective(CtcConfig(intermediate_weight=0.3), model)
    teacher = ModelTeacher(make(), FeatureConfig(kind="samples"), [])
    with pytest.raises(UserError, match=f"distill: {said}"):
        DistillObjective(DistillConfig(intermediate_weight=0.3), model, [teacher], CtcConfig())
