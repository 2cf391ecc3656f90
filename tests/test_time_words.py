"""When words come out of a streaming model, by hand and through the program."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from steps import time_words
from steps.core.cli import UserError
from steps.core.datadir import Utterance, write_data_dir
from steps.core.exports import model_hashes
from steps.data.feature_config import FeatureConfig
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.transducer import TransducerRecogniser
from steps.time_words import Clock, delays, percentiles
from tests.deploy.conftest import TOKENS, make_model, save_folder
from tests.deploy.streams import CHUNKS, FEATURES, emits_letters, noise, talkative, transducer

SPACE, A, B = (TOKENS.index(token) for token in ("\u2581", "a", "b"))


def spoken(path):
    """Log-probabilities of a path of ids. Returns: (T, V)."""
    probs = np.full((len(path), len(TOKENS)), 1e-3)
    probs[np.arange(len(path)), path] = 1.0
    return np.log(probs / probs.sum(axis=1, keepdims=True))


def reader():
    """What `delays` asks of a recogniser."""
    texts = {SPACE: " ", A: "a", B: "b"}
    return SimpleNamespace(tokens=TOKENS, blank_id=0, text=lambda ids: "".join(texts[i] for i in ids).strip())


def test_delays_by_hand():
    """Chunks of 4 frames; feature frames of 25 ms every 10 ms, the first around 5 ms; a frame reads 7 of them."""
    clock = Clock(FeatureConfig(), 4, 3)
    assert clock.middle_ms(0) == 35.0 and clock.middle_ms(2) == 115.0
    # the last of 19 feature frames is around 185 ms and ends 12.5 ms later
    assert [clock.out_ms(frame) for frame in (0, 3, 4)] == [197.5, 197.5, 357.5]
    assert Clock(FeatureConfig(snip_edges=True), 4, 3).out_ms(0) == 205.0
    # two frames ahead of the chunk are eight feature frames
    assert Clock(FeatureConfig(), 4, 3 + 8).out_ms(0) == 277.5
    #               0  1  2  3  4  5  6  7  8  9
    true = spoken([0, A, B, B, 0, SPACE, A, 0, 0, 0])
    said = spoken([0, A, 0, 0, B, B, SPACE, 0, A, 0])
    # "ab" ends with frame 3 and is complete with frame 4, "a" ends with 6 and is complete with 8
    found = delays(said, true, [A, B, SPACE, A], reader(), clock)
    assert found == [(40.0, 357.5 - 155.0), (80.0, 517.5 - 275.0)]
    # another text, or none
    assert delays(said, true, [A, SPACE, A], reader(), clock) == [] and delays(said, true, [], reader(), clock) == []
    assert percentiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9}


def test_a_word_is_out_with_the_unit_that_spells_it_not_with_those_of_the_transcript():
    clock, letters = Clock(FeatureConfig(), 4, 3), reader()
    both = TOKENS.index("c")
    letters.text = lambda ids: "".join({A: "a", B: "b", both: "ab", SPACE: " "}[i] for i in ids)
    #               0  1  2  3  4  5  6  7  8  9
    true = spoken([0, A, B, 0, 0, SPACE, A, 0, 0, 0])
    said = spoken([0, 0, 0, 0, 0, both, SPACE, 0, A, 0])
    # what greedy search does not emit
    said[[2, 3, 5], [A, B, B]] += [5.0, 5.0, -9.0]
    found = delays(said, true, [A, B, SPACE, A], letters, clock)
    assert found == [(120.0, 357.5 - 115.0), (80.0, 517.5 - 275.0)]


class Emits(TransducerRecogniser):
    """A transducer that emits `b` with every frame of 1, `a` with those of 2, a space with those of 3."""

    tokens, blank_id = TOKENS, 0

    def __init__(self):
        pass

    def text(self, ids):
        return reader().text(ids)

    def emissions(self, encoded):
        frames = np.flatnonzero(encoded).tolist()
        return [{1: B, 2: A, 3: SPACE}[int(encoded[frame])] for frame in frames], frames


def test_delays_of_a_transducer_by_hand():
    """Its units come out with one frame each, equal ones behind each other, too, and with a space before the first word."""
    clock = Clock(FeatureConfig(), 4, 3)
    #               0  1  2  3  4  5  6  7  8  9
    true = spoken([0, A, B, 0, B, SPACE, A, 0, 0, 0])
    found = delays(np.array([3, 2, 0, 0, 1, 1, 3, 0, 2, 0]), true, [A, B, B, SPACE, A], Emits(), clock)
    # "abb" ends with frame 4 and is complete with 5, "a" ends with 6 and is complete with 8
    assert found == [(40.0, 357.5 - 195.0), (80.0, 517.5 - 275.0)]
    assert delays(np.array([2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), true, [A, B, B, SPACE, A], Emits(), clock) == []


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            time_words, "load_tokenizer", lambda _: SimpleNamespace(encode=lambda t: [TOKENS.index(c) for c in t])
        )
        patch.setattr(sys, "argv", ["program", *map(str, words)])
        time_words.main()


def test_the_program_times_a_transducer(tmp_path):
    folder = save_folder(tmp_path / "m", talkative(transducer()), FEATURES)
    plain = save_folder(tmp_path / "plain", make_model("conformer"), FEATURES)
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000, "FLOAT")
    recogniser, sound = load_recogniser(folder), Utterance("s-a", "s", "", str(tmp_path / "a.wav"), duration_s=1.0)
    (feats,) = time_words.open_inputs(recogniser, tmp_path, [sound], folder)(sound)
    text = recogniser.recognise(feats, "s-a")["greedy"]
    write_data_dir(tmp_path / "data", [Utterance("s-a", "s", text, str(tmp_path / "a.wav"), duration_s=1.0)])
    run("--model", folder, "--reference", plain, "--data", tmp_path / "data", "--out", tmp_path / "d.json")
    facts = json.loads((tmp_path / "d.json").read_text())
    assert facts["utterances"] == 1 and facts["chunk_ms"] == 160 and facts["words"] == 1 and len(text) > 5
    assert 0 < facts["out_ms"]["p50"] - facts["peak_ms"]["p50"] <= 162.5


def test_the_program(tmp_path):
    folder = save_folder(tmp_path / "m", emits_letters(make_model("conformer", **CHUNKS)), FEATURES)
    plain = save_folder(tmp_path / "plain", make_model("dnn"), FEATURES)
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000, "FLOAT")
    recogniser, sound = load_recogniser(folder), Utterance("s-a", "s", "", str(tmp_path / "a.wav"), duration_s=1.0)
    (feats,) = time_words.open_inputs(recogniser, tmp_path, [sound], folder)(sound)
    text = recogniser.recognise(feats, "s-a")["greedy"]
    assert len(text) > 2
    write_data_dir(tmp_path / "data", [Utterance("s-a", "s", text, str(tmp_path / "a.wav"), duration_s=1.0)])
    words = ("--data", tmp_path / "data", "--out", tmp_path / "d.json")
    run("--model", folder, "--reference", folder, *words)
    facts = json.loads((tmp_path / "d.json").read_text())
    # a reference that streams tells what the same weights tell on whole utterances
    same = save_folder(tmp_path / "same", emits_letters(make_model("conformer", **CHUNKS)), FEATURES)
    spec = json.loads((same / "model.json").read_text())
    del spec["model"]["streaming"]
    (same / "model.json").write_text(json.dumps(spec))
    run("--model", folder, "--reference", same, *words)
    assert json.loads((tmp_path / "d.json").read_text()) == facts | {
        "reference": "same",
        "reference_files": model_hashes(same),
    }
    assert facts["utterances"] == facts["of"] == 1 and facts["chunk_ms"] == 160
    assert facts["files"] == model_hashes(folder) and facts["reference"] == "m"
    assert facts["reference_files"] == model_hashes(folder)
    # a model is not late against itself but where a unit lasts; it is out at the end of a chunk, at most one later
    assert -200 <= facts["peak_ms"]["p50"] <= 0 and facts["out_ms"]["p50"] - facts["peak_ms"]["p50"] <= 162.5
    write_data_dir(tmp_path / "data", [Utterance("s-a", "s", f"{text}h", str(tmp_path / "a.wav"), duration_s=1.0)])
    run("--model", folder, "--reference", folder, *words)
    facts = json.loads((tmp_path / "d.json").read_text())
    assert (facts["utterances"], facts["of"], facts["out_ms"]) == (0, 1, {"p50": None, "p95": None})
    for model, message in (
        (plain, "hears whole utterances; give --chunk-ms"),
        (folder.parent / "x", "neither model.json nor"),
    ):
        with pytest.raises(UserError, match=message):
            run("--model", model, "--reference", folder, *words)
