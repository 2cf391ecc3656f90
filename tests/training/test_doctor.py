"""The doctor names the fault of bad trainings and is silent about good ones. Histories: recorded, thinned out."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from steps.core.datadir import Utterance
from steps.training.doctor import SetFacts, TrainingFacts, correlation, diagnose
from steps.training.examine import look_at

# AN4, 2026-11: losses of a student and a teacher, nats a frame
STUDENT = (
    1.605,
    0.674,
    0.440,
    0.330,
    0.230,
    0.201,
    0.188,
    0.153,
    0.131,
    0.112,
    0.098,
    0.074,
    0.064,
    0.066,
    0.052,
    0.062,
)
TEACHER = (
    2.312,
    0.460,
    0.322,
    0.222,
    0.205,
    0.147,
    0.130,
    0.115,
    0.108,
    0.089,
    0.085,
    0.063,
    0.060,
    0.070,
    0.040,
    0.034,
)
FLAT = (1.9, 1.02, 0.97, 0.96, 0.95, 0.95, 0.94, 0.95)
TOKENS = [5 + i % 23 for i in range(60)]
FRAMES = [90 + 8 * (i % 23) + i % 7 for i in range(60)]


def facts(train=2.7, dev=3.6, updates=3706, losses=STUDENT, **changes):
    """A good training (AN4's student), but for what is given. Keys of SetFacts count for the training set."""
    of_set = {key: changes.pop(key) for key in ("speakers", "empty", "unknown", "dropped", "tokens") if key in changes}
    whole = SetFacts(speakers=74, error=train, tokens=TOKENS, frames=FRAMES)
    base = TrainingFacts(
        train=dataclasses.replace(whole, **of_set),
        dev=SetFacts(speakers=changes.pop("dev_speakers", 8), error=dev, tokens=TOKENS, frames=FRAMES),
        updates=updates, losses=losses, max_batch_frames=2400, peak_lr=5e-3, rates_hz={16000: 10},
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


GOOD = {
    "AN4's student": facts(),
    "AN4's teacher": facts(0.6, 0.2, 7332, TEACHER),
    "a pruned one, whose loss was low from the start": facts(
        0.5, 0.75, 700, (0.05, 0.048, 0.05, 0.052), fresh=False, max_batch_frames=12000
    ),
    "short, and good enough": facts(8.0, 13.0, 900),
    "errors on new voices": facts(14.0, 24.0, 1100),
    "hard speech, as hard in training": facts(24.0, 31.0, 20000),
    "sound at a higher rate than its features": facts(rates_hz={48000: 9, 16000: 1}),
    "a few files at half the rate": facts(rates_hz={16000: 8, 8000: 2}),
    "sentences of one length": facts(tokens=[24 + i % 2 for i in range(60)]),
    "some characters unknown, some utterances short": facts(unknown=0.002, dropped=0.01),
    "a usual first word that is heard": facts(first_word=0.9, spaces_at_ends=False),
    "characters counted, because there are no blanks": facts(9.0, 16.0, rate="CER"),
    "taught, not from the first update on": facts(taught=(0.0, 0.31, 0.12)),
}
BAD = {
    "labels shuffled": (facts(96.0, 97.0, losses=FLAT, tokens=TOKENS[7:] + TOKENS[:7]), ["labels", "not_falling", "underfit"]),
    "learning rate 100 times too high": (
        facts(100.0, 100.0, losses=(2.1, 1.2, 1.9, 3.5, 2.8), empty=1.0, peak_lr=0.5), ["diverged", "blank", "underfit"]),
    "learning rate 100 times too low": (
        facts(100.0, 100.0, losses=(3.4, 1.3, 1.25, 1.24, 1.23), empty=0.97), ["not_falling", "blank", "underfit"]),
    "learning rate 100 times too high, and the schedule brought it down": (
        facts(100.0, 100.0, losses=(1.2, 2.4, 1.4, 2.3, 0.7, 0.5), peak_lr=0.5), ["diverged", "underfit"]),
    "all silence": (facts(100.0, 100.0, losses=FLAT, empty=1.0, deviation=0.02), ["silence", "not_falling", "blank", "underfit"]),
    "sound of 8 kHz, features of 16": (facts(6.0, 9.0, rates_hz={8000: 10}), ["rate"]),
    "two epochs": (facts(88.0, 89.0, 24, (2.5, 1.6, 1.2, 0.9), empty=0.4), ["underfit", "updates"]),
    "learnt by heart": (facts(0.0, 41.0), ["overfit"]),
    "speakers unlike dev's": (facts(2.0, 21.6), ["overfit"]),
    "text in capitals, tokenizer in small letters": (facts(100.0, 100.0, unknown=0.8, losses=FLAT), ["unknown", "not_falling", "underfit"]),
    "transcripts of other recordings": (facts(40.0, 60.0, dropped=0.2), ["too_short", "underfit"]),
    "teachers of blanks alone, and spikes are asked for": (facts(taught=(0.0, 0.0)), ["untaught"]),
    "one speaker": (facts(speakers=1, dev_speakers=1), ["one_speaker"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_trainings_are_left_alone(name):
    assert diagnose(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_trainings_are_named_and_nothing_else_is_said(name):
    found, kinds = diagnose(BAD[name][0]), BAD[name][1]
    assert [one.kind for one in found] == kinds
    assert all(one.serious for one in found) is (kinds != ["one_speaker"])
    # sentences with their numbers, on one line
    assert all(re.fullmatch(r"[^\n]*\d?[^\n]*\.", one.text) and not re.search(r"[{}]facts", one.text) for one in found)


def test_the_texts_name_the_numbers_and_a_remedy():
    (updates,) = [one for one in diagnose(BAD["two epochs"][0]) if one.kind == "updates"]
    assert "Only 24 updates" in updates.text and updates.text.endswith("Raise loop.epochs.")
    (updates,) = [
        one for one in diagnose(dataclasses.replace(BAD["two epochs"][0], updates=700)) if one.kind == "updates"
    ]
    assert updates.text.endswith("or take smaller batches (loop.max_batch_frames: 560 instead of 2400).")
    # masks from the first epoch on are named where a fresh model failed, and only there
    for fresh, early_masks in ((True, True), (True, False), (False, True)):
        failed = dataclasses.replace(BAD["transcripts of other recordings"][0], fresh=fresh, early_masks=early_masks)
        (underfit,) = [one for one in diagnose(failed) if one.kind == "underfit"]
        assert ("augment.masks_from" in underfit.text) is (fresh and early_masks)
    for fresh, rate in ((True, 5e-5), (True, 1e-3), (False, 5e-5)):
        failed = dataclasses.replace(BAD["transcripts of other recordings"][0], fresh=fresh, peak_lr=rate)
        (underfit,) = [one for one in diagnose(failed) if one.kind == "underfit"]
        assert ("optim.peak_lr (5e-05) is low for random weights" in underfit.text) is (fresh and rate < 1e-4)
    (rate,) = diagnose(BAD["sound of 8 kHz, features of 16"][0])
    assert "8000 Hz" in rate.text and "sample_rate_hz: 8000" in rate.text
    (heart,) = diagnose(BAD["learnt by heart"][0])
    assert "41 % WER on dev, 0 % on its own training set" in heart.text and "normalisation: utterance" in heart.text
    (heart,) = diagnose(dataclasses.replace(BAD["learnt by heart"][0], normalisation=""))
    assert "More speakers, a smaller model, or pieces of a few words (run.sh --cut-with) may help." in heart.text
    # of pieces already
    (heart,) = diagnose(dataclasses.replace(BAD["learnt by heart"][0], words=2))
    assert heart.text.endswith("More speakers, normalisation: utterance, or a smaller model may help.")


def test_yesno_as_it_was_is_told_to_give_silence_a_token():
    recorded = json.loads((Path(__file__).parent / "yesno_before.json").read_text())
    recorded["train"], recorded["dev"] = SetFacts(**recorded["train"]), SetFacts(**recorded["dev"])
    recorded["rates_hz"] = {int(rate): count for rate, count in recorded["rates_hz"].items()}
    found = {one.kind: one.text for one in diagnose(TrainingFacts(**recorded))}
    assert list(found) == ["overfit", "first_word", "updates", "one_speaker"]
    assert "100 % of the training utterances begin with the same word" in found["first_word"]
    assert "end_spaces: true" in found["first_word"] and "Only 824 updates" in found["updates"]


def test_correlation_needs_numbers_that_vary_and_enough_of_them():
    assert correlation(TOKENS, FRAMES) > 0.9
    assert correlation(range(60), range(60, 0, -1)) == pytest.approx(-1)
    assert correlation(TOKENS[:20], FRAMES[:20]) is None and correlation([8] * 60, FRAMES) is None
    assert correlation([], []) is None


def test_copies_for_more_weight_are_the_same_speakers():
    class Some:
        """One man, whose utterance counts twice."""

        utterances = [Utterance("copy2-a-1", "copy2-a", "x", "x.wav"), Utterance("a-1", "a", "x", "x.wav")]
        num_frames, dropped = np.array([9, 9]), ()

        def __len__(self):
            return 2

        def sample(self, count):
            return self

        def tokens(self, index):
            return [5]

        def utterance(self, index):
            return self.utterances[index]

    assert look_at(Some(), Some(), 1.0).speakers == 1
