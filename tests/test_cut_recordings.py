"""Long recordings are cut between words, in pauses, and every piece says what its text says."""

import itertools
import sys

import numpy as np
import pytest
import soundfile

from steps import cut_recordings as program
from steps.core.cli import UserError
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.data.feature_config import FeatureConfig
from steps.data.features import load_audio
from steps.data.tokenizer import train_tokenizer
from steps.search.alignment import CannotAlign, Unit, align_units, best_path, choose_cuts, spoken_tokens
from steps.search.lexicon import SPACE

RATE, LETTER_S = 16000, 0.16
TONES = {"a": 400.0, "b": 1100.0, "c": 2600.0}  # what the letters of this language sound like


def sound(words, pauses_s):
    """Samples of these words, and where each begins and ends, in seconds."""
    parts, limits, now_s = [], [], 0.0
    for word, pause_s in zip(words, pauses_s, strict=True):
        parts.append(np.zeros(int(RATE * pause_s)))
        now_s += pause_s
        begin_s = now_s
        for letter in word:
            time_s = np.arange(int(RATE * LETTER_S)) / RATE
            parts.append(np.sin(2 * np.pi * TONES[letter] * time_s) * np.hanning(len(time_s)))
            now_s += LETTER_S
        limits.append((begin_s, now_s))
    parts.append(np.zeros(RATE // 2))
    return 0.5 * np.concatenate(parts) + 1e-4 * np.random.default_rng(0).standard_normal(sum(map(len, parts))), limits


class ToneRecogniser:
    """Hears the letters of the language above, at a quarter of the feature rate; a space is never sure."""

    def __init__(self, tokens):
        self.tokens, self.blank_id, self.features = tokens, 0, FeatureConfig()
        centres_hz = np.asarray(self.features.centres_hz)
        self.bins = {tokens.index(c): int(np.abs(centres_hz - f).argmin()) for c, f in TONES.items()}
        self.heard = []

    def log_probs(self, feats):
        self.heard.append(len(feats))
        frames = feats[: len(feats) // 4 * 4].reshape(-1, 4, feats.shape[1]).mean(axis=1)
        levels = np.full((len(frames), len(self.tokens)), -20.0, np.float32)
        for token, place in self.bins.items():
            levels[:, token] = frames[:, max(0, place - 1) : place + 2].mean(axis=1)
        levels[:, 0], levels[:, self.tokens.index("\u2581")] = -6.0, -8.0
        return levels - np.log(np.exp(levels).sum(axis=1, keepdims=True))


def test_what_does_not_fill_a_frame_is_listed_and_ends_nothing(bench, tmp_path):
    words = ["abc", "ab", "ca"] * 4
    bench(words, [0.4] * 12, "--max-s", 3)
    soundfile.write(tmp_path / "click.wav", np.ones(160), RATE)
    utterances = read_data_dir(tmp_path / "in")
    utterances.append(Utterance("s-0", "s", "ab", str(tmp_path / "click.wav"), end_s=0.01, duration_s=0.01))
    write_data_dir(tmp_path / "in", utterances)
    before = read_data_dir(tmp_path / "out")
    program.main()
    assert read_data_dir(tmp_path / "out") == before
    assert (tmp_path / "out/dropped.tsv").read_text() == "s-0\tless than one frame of sound\n"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Function (words, pauses, options) -> folder written; limits of the words; the recogniser."""
    tokenizer = train_tokenizer(["abc ab ca"])
    tokenizer.save(tmp_path / "model")
    recogniser = ToneRecogniser(tokenizer.pieces)
    monkeypatch.setattr(program, "frame_recogniser", lambda folder, num_threads: recogniser)

    def run(words, pauses_s, *options, text=None, start_s=0.0):
        samples, limits = sound(words, pauses_s)
        soundfile.write(tmp_path / "long.wav", np.concatenate([np.zeros(int(RATE * start_s)), samples]), RATE)
        end_s = round(start_s + len(samples) / RATE, 2)
        limit = {"start_s": start_s, "end_s": end_s, "duration_s": round(end_s - start_s, 2)}
        write_data_dir(
            tmp_path / "in", [Utterance("s-1", "s", text or " ".join(words), str(tmp_path / "long.wav"), **limit)]
        )
        words = ["cut", "--model", tmp_path / "model", "--data", tmp_path / "in", "--out", tmp_path / "out", *options]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        program.main()
        return tmp_path / "out", limits, recogniser

    return run


def test_pieces_hold_whole_words_and_their_own_text(bench):
    words = ["abc", "ca", "b", "acb", "bab", "cb"] * 5
    pauses = [0.6 if i % 6 == 0 else 0.15 for i in range(len(words))]
    out, limits, _ = bench(words, pauses, "--max-s", 7, "--min-s", 1, start_s=1.5)
    pieces = read_data_dir(out)
    assert len(pieces) > 2 and " ".join(piece.text for piece in pieces).split() == words
    done = 0
    for piece in pieces:
        count = len(piece.text.split())
        assert piece.duration_s <= 7 and piece.speaker == "s"
        first, last = limits[done], limits[done + count - 1]
        assert piece.start_s - 1.5 <= first[0] + 0.05 and piece.end_s - 1.5 >= last[1] - 0.05
        if done + count < len(words):  # a cut takes nothing of the next word
            assert piece.end_s - 1.5 <= limits[done + count][0] + 0.05
            assert (done + count) % 6 == 0  # and lies in one of the long pauses
        done += count
    scores = dict(line.split("\t") for line in (out / "scores.tsv").read_text().splitlines())
    assert set(scores) == {piece.utt_id for piece in pieces} and all(float(score) > 0.5 for score in scores.values())
    assert (out / "dropped.tsv").read_text() == ""


def test_what_is_cut_can_stay_whole_too(bench):
    words = ["abc", "ca", "b", "acb"]
    out, _, _ = bench(words, [0.4] * 4, "--max-s", 1.5, "--whole", "true")
    whole, *pieces = read_data_dir(out)
    assert (
        whole.utt_id == "s-1" and whole.text == " ".join(words) and whole.end_s == read_data_dir(out / "../in")[0].end_s
    )
    assert len(pieces) > 1 and " ".join(piece.text for piece in pieces).split() == words
    assert (out / "dropped.tsv").read_text() == ""
    with pytest.raises(UserError, match="no utterance has a pause to be cut in"):
        bench(["abcabcabc"], [0.4], "--max-s", 1.5, "--whole", "true")
    with pytest.raises(UserError, match="no utterance has a pause to be cut in"):
        bench(words, [0.4] * 4, "--whole", "true")


def test_long_silence_is_left_out_but_for_the_padding(bench):
    out, limits, _ = bench(["abc", "cab"], [3.0, 4.0], "--max-s", 5, "--pad-s", 0.2)
    pieces = read_data_dir(out)
    assert [piece.text for piece in pieces] == ["abc", "cab"]
    for piece, (begin_s, end_s) in zip(pieces, limits, strict=True):
        assert piece.start_s == pytest.approx(begin_s - 0.2, abs=0.1)
        assert piece.end_s == pytest.approx(end_s + 0.2, abs=0.1)


def test_a_recording_is_heard_in_windows_that_give_what_the_whole_gives(bench):
    words = ["abc", "cab"] * 30
    out, _, recogniser = bench(words, [0.7] * len(words), "--max-s", 5)
    assert max(recogniser.heard) <= program.WINDOW + 2 * program.CONTEXT and len(recogniser.heard) > 2
    feats = np.random.default_rng(0).normal(size=(7003, 80)).astype(np.float32)
    assert program.output_factor(recogniser) == 4
    assert np.array_equal(program.log_probs_of(recogniser, 4, feats), recogniser.log_probs(feats))


def test_what_is_short_stays_and_what_does_not_fit_is_listed(bench):
    out, _, _ = bench(["abc", "ca"], [0.2, 0.2])
    (piece,) = read_data_dir(out)
    assert piece.utt_id == "s-1" and piece.text == "abc ca"
    assert load_audio(piece.audio, RATE, piece.start_s, piece.end_s).shape[0] > RATE
    with pytest.raises(UserError, match="nothing is left .s-1: characters that the tokenizer lacks"):
        bench(["abc"] * 9, [2.0] * 9, text="abc xyz")
    with pytest.raises(UserError, match="s-1-.*: below --min-score"):
        bench(["ab"] * 9, [2.0] * 9, "--min-score", 0.6, text=" ".join(["c"] * 9))
    with pytest.raises(UserError, match="s-1-.*: no pause within --max-s"):
        bench(["abc" * 9, "abc" * 9], [0.2, 0.2], "--max-s", 3)
    with pytest.raises(UserError, match="is the input folder"):
        bench(["abc"], [0.2], "--out", sys.argv[sys.argv.index("--data") + 1])


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    log_probs, ids = random.normal(size=(7, 3)).cumsum(axis=0), [1, 1, 2]

    def collapsed(path):
        return [unit for unit, before in zip(path, [None, *path], strict=False) if unit not in (0, before)]

    paths = [path for path in itertools.product(range(3), repeat=7) if collapsed(path) == ids]
    scores = [sum(log_probs[frame, unit] for frame, unit in enumerate(path)) for path in paths]
    states = best_path(log_probs, ids, 0)
    assert tuple(np.array([0, 1, 0, 1, 0, 2, 0])[states]) == paths[int(np.argmax(scores))]


def test_a_transcript_with_more_tokens_than_frames_cannot_be_aligned():
    log_probs = np.log(np.full((4, 3), 1 / 3, np.float32))
    with pytest.raises(CannotAlign, match="too short for its transcript"):
        align_units(log_probs, [1, 2, 1, 2, 1], ["<blk>", "a", "b"], 0)
    with pytest.raises(CannotAlign, match="too long"):
        align_units(np.broadcast_to(log_probs[:1], (2_000_000, 3)), [1] * 600, ["<blk>", "a", "b"], 0)


def test_without_blanks_every_token_is_a_unit():
    ids, peak = [1, 2, 2, 1], [1, 3, 6, 9]
    log_probs = np.full((12, 3), np.log(0.05), np.float32)
    log_probs[:, 0] = np.log(0.9)
    for token, frame in zip(ids, peak, strict=True):
        log_probs[frame], log_probs[frame, token] = np.log(0.05), np.log(0.9)
    units = align_units(log_probs, ids, ["<blk>", "\u4f60", "\u597d"], 0)
    assert [(unit.start, unit.end) for unit in units] == [(frame, frame + 1) for frame in peak]
    assert all(unit.score == pytest.approx(0.9) for unit in units)


def test_a_single_word_is_one_unit_where_the_script_has_spaces():
    assert spoken_tokens([1, 2, 1], ["<blk>", "a", "b"]) == [(0, 3, [0, 1, 2])]
    assert spoken_tokens([3, 1, 2], ["<blk>", "\u0d28", "\u0d40", SPACE]) == [(0, 3, [1, 2])]
    assert spoken_tokens([1, 2], ["<blk>", "\u0e01", "\u0e02"]) == [(0, 1, [0]), (1, 2, [1])]


def test_the_longest_pause_within_the_limits_is_taken():
    units = [Unit(i, i + 1, start, start + 5, 1.0, start) for i, start in enumerate((0, 10, 40, 50, 60, 95))]
    assert choose_cuts(units, 100, 10, 75) == [2]  # of 25 frames, and what is left fits
    assert choose_cuts(units, 100, 10, 60) == [2, 5]
    assert choose_cuts(units, 100, 30, 45) == [3, 5]  # the longest comes too early now
    assert choose_cuts(units, 100, 10, 100) == []
