"""Sound as it arrives: the texts are those of the whole sound, and each chunk's cost and time are what they were."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from steps import decode
from steps.core.cli import UserError
from steps.core.datadir import write_data_dir
from steps.data.feature_config import FeatureConfig
from steps.deploy.realtime import Chunk, Pace, RealTime, Run, simulate, streaming
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.sherpa import SherpaProcess
from tests.deploy.conftest import make_model, save_folder
from tests.deploy.streams import FEATURES, VARIANTS, emits_letters, noise, utterance

# chunks of 4 frames of 40 ms; 19 feature frames are read, and a 20th is waited for
PACE = Pace(FeatureConfig(), width=19, shift=16, stride=4, cache_bytes=100, silence=19)


class Dictated:
    """A stream that computes a chunk for every 100 samples; hearing takes 1 s, a chunk 10 s, and reading it 3 s."""

    def __init__(self, *words):
        self.now, self.heard, self.computed, self.words = 0.0, 0, 0, words

    def hear(self, samples):
        self.now += 1.0
        self.heard += len(samples)

    def end(self):
        self.now += 1.0
        self.heard += 200

    def advance(self):
        self.now += 10.0 * (self.heard >= 100 * (self.computed + 1))
        self.computed, before = min(self.computed + 1, self.heard // 100), self.computed
        return self.computed > before

    @property
    def text(self):
        self.now += 3.0 * (self.computed > 0)
        return " ".join(filter(None, self.words[: self.computed]))


def test_a_chunk_costs_what_was_done_since_the_one_before():
    stream = Dictated("a", "", "b", "")
    chunks = simulate(stream, np.zeros(240), 4000, clock=lambda: stream.now)
    # pieces of 40 samples: three are there before the first chunk, two more before the second; the end makes two
    assert chunks == [Chunk(16.0, True), Chunk(15.0, False), Chunk(15.0, True), Chunk(13.0, False)]


def test_when_the_last_word_is_out_by_hand():
    # feature frames of 25 ms every 10 ms, the first around 5 ms: 20 of them end at 207.5 ms
    assert PACE.arrivals_s(3) == pytest.approx([0.2075, 0.3675, 0.5275])
    assert PACE.chunk_s == 0.16
    run = Run(0.4, [Chunk(0.01, True), Chunk(0.02, True), Chunk(0.5, False)])
    assert run.last_word_s(PACE.arrivals_s(3)) == pytest.approx(0.3675 + 0.02 - 0.4)
    # one that takes longer than it lasts makes the next ones late
    run = Run(0.4, [Chunk(0.3, True), Chunk(0.02, True)])
    assert run.last_word_s(PACE.arrivals_s(2)) == pytest.approx(0.2075 + 0.3 + 0.02 - 0.4)
    assert Run(0.4, [Chunk(0.3, False)]).last_word_s(PACE.arrivals_s(1)) is None


def test_the_summary_by_hand():
    recogniser = SimpleNamespace(features=FeatureConfig(), kinds=("greedy",), pace=lambda: PACE)
    live = RealTime(recogniser)
    live.runs = [Run(0.3, [Chunk(0.016, True), Chunk(0.032, True)]), Run(0.3, [Chunk(0.016, True)])]
    found = live.summary()
    lengths = {"chunk_ms": 160, "reads_ms": 190, "look_ahead_ms": 150, "silence_ms": 190, "cache_bytes": 100}
    assert {name: found[name] for name in lengths} == lengths and found["chunks"] == 3
    assert found["rtf"]["mean"] == pytest.approx(0.4 / 3, abs=1e-6) and 0.15 < found["rtf"]["p95"] <= 0.2
    # the second chunk is there at 367.5 ms; told that the sound has ended, it is computed at 300
    assert found["last_word_ms"]["p50"] == pytest.approx((99.5 - 76.5) / 2)
    assert found["last_word_told_ms"]["p50"] == pytest.approx((32.0 - 76.5) / 2, abs=0.1)
    live.runs = [Run(0.1, [])]
    assert live.summary()["rtf"] == {"mean": None, "p95": None} and live.summary()["last_word_ms"]["p95"] is None


@pytest.mark.parametrize(
    "variant", ["ahead", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conformer", "rnn", "dnn"))]
)
def test_torch_in_chunks_says_what_the_masked_forward_pass_says(variant, tmp_path):
    """To the last frame, with no silence behind it."""
    place = save_folder(tmp_path / "m", emits_letters(VARIANTS[variant]()), FEATURES)
    recogniser = load_recogniser(place)
    live, texts = streaming(recogniser, str(place)), set()
    from steps.data.features import piece_features

    for samples in (400, 560, 1200, 3039, 3040, 3200, 16000, 20320):
        sound = noise(samples, seed=samples)
        expected = recogniser.log_probs(piece_features(sound, FEATURES))
        stream = live.stream()
        chunks = simulate(stream, sound, 16000)
        assert stream.log_probs.shape == expected.shape and len(chunks) == -(-len(expected) // 4)
        np.testing.assert_allclose(stream.log_probs, expected, atol=2e-4)
        assert stream.text == live.recognise(sound, "u")["greedy"]
        texts.add(stream.text)
    assert max(map(len, texts)) > 5
    own = sum(state.nbytes for state in live.network.first_states())
    assert live.pace().facts()["cache_bytes"] == own > 0 and live.pace().silence == 0


def decoded(tmp_path, place, *options):
    with pytest.MonkeyPatch.context() as patch:
        words = ["--model", place, "--data", tmp_path / "data", "--out", tmp_path / "out", "--num-threads", 1, *options]
        patch.setattr(sys, "argv", ["program", *map(str, words)])
        decode.main()
    return (tmp_path / "out/greedy.txt").read_text()


def test_the_program_writes_texts_of_the_usual_decoding_and_what_it_measured(streaming_export, tmp_path, capsys):
    write_data_dir(tmp_path / "data", [utterance(streaming_export)])
    place, out = streaming_export.parent, tmp_path / "out"
    found = {}
    for folder, options in ((streaming_export, ()), (place, ()), (place, ("--chunk-ms", 80))):
        usual = decoded(tmp_path, folder, *options)
        assert not (out / "streaming.json").exists() and len(usual) > 5
        assert decoded(tmp_path, folder, *options, "--streaming") == usual
        found[folder, options] = json.loads((out / "streaming.json").read_text())
        facts = json.loads((out / "decode.json").read_text())
        assert facts["streaming"] is True and facts["files"] == found[folder, options]["files"]
    exported, own, short = found.values()
    assert (exported["runtime"], own["runtime"]) == ("onnxruntime", "torch")
    assert [row["chunk_ms"] for row in found.values()] == [160, 160, 80]
    assert [row["look_ahead_ms"] for row in found.values()] == [150, 150, 70]
    # torch keeps what the model needs, the export whatever sherpa-onnx's layout has
    assert exported["cache_bytes"] > own["cache_bytes"] == short["cache_bytes"] > 0
    assert all(0 < row["rtf"]["mean"] < 10 and row["audio_seconds"] == 1.0 for row in found.values())
    assert (exported["chunks"], own["chunks"], short["chunks"]) == (7, 6, 12)
    told = capsys.readouterr().out
    assert "look-ahead 150 ms" in told and "real-time factor of a chunk" in told and "last word out" in told
    for options, words in (
        (("--num-shards", 2, "--shard", 1), "leave --num-shards out"),
        (("--chunk-ms", 0), "leave one of them out"),
        (("--num-threads", 2), "leave --num-threads out"),
    ):
        with pytest.raises(SystemExit):
            decoded(tmp_path, place, "--streaming", *options)
        assert words in capsys.readouterr().err


def test_what_hears_whole_utterances_is_refused(tmp_path):
    place = save_folder(tmp_path / "plain", make_model("dnn"), FEATURES)
    with pytest.raises(UserError, match="plain: hears whole utterances"):
        streaming(load_recogniser(place), str(place))


def test_numbers_that_are_none_are_no_text(streaming_export, monkeypatch):
    recogniser = load_recogniser(streaming_export)
    states = recogniser.network.first_states()
    monkeypatch.setattr(recogniser.network, "step", lambda feats, _: (np.full((1, 4, 11), np.nan, np.float32), states))
    with pytest.raises(UserError, match="log-probabilities that are not finite"):
        simulate(recogniser.stream(), noise(8000), 16000)


def test_sherpa_is_timed_in_its_own_process(streaming_export):
    pytest.importorskip("sherpa_onnx")
    sound, own = noise(16000), load_recogniser(streaming_export)
    texts, chunks = own.in_real_time(sound, "u")
    with SherpaProcess(streaming_export) as process:
        assert process.pace() == own.pace()
        found, theirs = process.in_real_time(sound, "u")
        assert found == texts == process.recognise(sound, "u")
    # chunks of silence alone may be computed by one and not by the other
    grown = [[chunk.grew for chunk in those][:6] for those in (chunks, theirs)]
    assert grown[0] == grown[1] and any(grown[0]) and all(chunk.cpu_s > 0 for chunk in theirs)
