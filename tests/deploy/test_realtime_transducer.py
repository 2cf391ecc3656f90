"""A transducer's sound as it arrives: by torch to the last frame, in sherpa-onnx's process, and without end."""

import io

import numpy as np
import pytest

from steps.data.features import piece_features
from steps.deploy.live import listen
from steps.deploy.realtime import simulate, streaming
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.sherpa import SherpaProcess
from tests.deploy.streams import FEATURES, noise


@pytest.fixture
def folder(transducer_export):
    return transducer_export


def test_torch_in_chunks_says_what_the_masked_forward_pass_says(folder):
    """To the last frame, with no silence behind it."""
    recogniser = load_recogniser(folder.parent)
    live = streaming(recogniser, str(folder.parent))
    for samples in (400, 560, 3039, 3040, 20320):
        sound = noise(samples, seed=samples)
        feats = piece_features(sound, FEATURES)
        expected, stream = recogniser.encode(feats), live.stream()
        chunks = simulate(stream, sound, 16000)
        assert stream.encoded.shape == expected.shape and len(chunks) == -(-len(expected) // 4)
        np.testing.assert_allclose(stream.encoded, expected, atol=2e-4)
        said = recogniser.recognise(feats, "u")["greedy"]
        assert stream.text == live.recognise(sound, "u")["greedy"] == said
    assert len(said) > 5 and live.pace().silence == 0


def test_it_is_timed_by_onnxruntime_and_by_sherpa(folder):
    pytest.importorskip("sherpa_onnx")
    sound, own = noise(16000), load_recogniser(folder)
    own.use_beam(4)
    texts, chunks = own.in_real_time(sound, "u")
    assert texts == own.recognise(sound, "u") and set(texts) == {"greedy", "beam"}
    with SherpaProcess(folder) as process:
        assert process.pace() == own.pace() and own.pace().stride == 4
        found, theirs = process.in_real_time(sound, "u")
        assert found["greedy"] == texts["greedy"] == process.recognise(sound, "u")["greedy"]
    # chunks of silence alone may be computed by one and not by the other
    grown = [[chunk.grew for chunk in those][:6] for those in (chunks, theirs)]
    assert grown[0] == grown[1] and any(grown[0]) and not own.pace().facts()["cache_bytes"] % 4


def test_what_was_said_stays_when_what_was_heard_is_forgotten(folder):
    recogniser, sound, terminal = load_recogniser(folder), noise(20000), io.StringIO()
    text = listen(recogniser, np.split(sound, 10), terminal)
    assert text == recogniser.recognise(sound, "u")["greedy"] and terminal.getvalue() == text + "\n"
