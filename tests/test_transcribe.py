"""steps.transcribe: any sound file, one after the other."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from steps import decode, transcribe
from tests.made_up_recogniser import RATE, FakeRecogniser, make_model_folder


def test_transcribe_goes_on_after_a_bad_file(tmp_path, capsys):
    good, bad, short = tmp_path / "a b.flac", tmp_path / "notes.txt", tmp_path / "short.wav"
    soundfile.write(good, np.sin(np.arange(44100)) * 0.1, 44100)
    soundfile.write(short, np.zeros(10), RATE)
    bad.write_text("no audio")
    results = io.StringIO()
    paths = [str(path) for path in (bad, good, tmp_path / "none.wav", short, good)]
    assert transcribe.transcribe(FakeRecogniser(), paths, results) == 3
    lines = results.getvalue().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(good)] * 2 and lines[0] == lines[1]
    told = capsys.readouterr().err
    assert all(name in told for name in ("notes.txt", "none.wav", "short.wav"))


def test_what_would_break_a_result_line_or_is_no_file_is_told(tmp_path, capsys):
    broken = tmp_path / "a\tb\nc.wav"
    soundfile.write(broken, np.sin(np.arange(RATE)) * 0.1, RATE)
    read, write = os.pipe()
    results = io.StringIO()
    assert transcribe.transcribe(FakeRecogniser(), [str(broken), str(tmp_path), f"/dev/fd/{read}"], results) == 3
    os.close(read)
    os.close(write)
    assert not results.getvalue()
    told = capsys.readouterr().err
    assert "a tab or line end in its name" in told
    assert f"{tmp_path}: is a folder; name the sound files in it" in told and "save the sound to one first" in told


def test_any_sample_rate_is_brought_to_the_models(tmp_path):
    """Two seconds stay two seconds, whatever the file's rate."""
    frames = []
    recogniser = FakeRecogniser()
    recogniser.log_probs = lambda features: frames.append(len(features)) or np.log(np.full((1, 8), 0.125))
    for rate in (8000, 16000, 44100, 48000):
        soundfile.write(tmp_path / "a.wav", np.sin(np.arange(2 * rate)) * 0.1, rate)
        transcribe.transcribe(recogniser, [str(tmp_path / "a.wav")], io.StringIO())
    assert frames == [200] * 4


def test_transcribe_takes_the_channel_it_is_told_and_no_damaged_file_unasked(tmp_path, capsys):
    heard, recogniser, path = [], FakeRecogniser(), tmp_path / "a.wav"
    recogniser.log_probs = lambda features: heard.append(features.copy()) or np.log(np.full((1, 8), 0.125))
    sound = 0.1 * np.sin(np.arange(2 * RATE))
    soundfile.write(path, np.stack([np.zeros_like(sound), sound], axis=1), RATE)
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 1 and not heard
    said = capsys.readouterr().err
    assert "2 channels" in said and "--channel 1, 2 or mix" in said and "preparation" not in said
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO(), channel=2) == 0
    soundfile.write(path, sound, RATE)
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 0
    assert np.array_equal(heard[0], heard[1])
    path.write_bytes(path.read_bytes()[:RATE])
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO()) == 1
    assert "cut short or damaged" in capsys.readouterr().err
    assert transcribe.transcribe(recogniser, [str(path)], io.StringIO(), damaged=True) == 0


def test_files_may_come_behind_options(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["transcribe", "m", "--words", "w", "a.wav", "--channel", "mix", "b.wav"])
    args = transcribe.parse_args()
    assert (args.model, args.audio, args.words, args.channel) == ("m", ["a.wav", "b.wav"], "w", "mix")


def test_transcribe_prints_results_and_nothing_else(tmp_path):
    make_model_folder(tmp_path / "m", "char")
    (tmp_path / "words.txt").write_text("AB\nCAD\n")
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 8000), 8000)
    (tmp_path / "b.wav").write_text("no audio")
    command = [sys.executable, "-m", "steps.transcribe", tmp_path / "m", tmp_path / "a.flac", tmp_path / "b.wav"]
    command += ["--words", tmp_path / "words.txt", "--channel", "1", "--damaged", "refuse"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(decode.__file__).resolve().parents[1])
    assert done.returncode == 1, done.stderr
    (line,) = done.stdout.splitlines()
    path, _, text = line.partition("\t")
    assert path == str(tmp_path / "a.flac") and set(text.split()) <= {"AB", "CAD"}
    assert "b.wav: not a readable sound file" in done.stderr and "1 of 2 files" in done.stderr


def test_long_sound_is_recognised_in_pieces_and_joined(monkeypatch, tmp_path):
    """With pauses: every piece is heard once, in order, and the texts are joined."""
    samples = np.random.default_rng(0).standard_normal(33 * RATE) * 0.1
    for second in (6, 12, 19, 26):
        samples[second * RATE : second * RATE + RATE // 2] *= 1e-3
    soundfile.write(tmp_path / "long.wav", samples, RATE)
    heard = []
    recogniser = FakeRecogniser()
    said = iter(["AB", "", "CAD", "BED"] + ["A"] * 9)
    monkeypatch.setattr(recogniser, "recognise", lambda feats, name: heard.append(len(feats)) or {"greedy": next(said)})
    results = io.StringIO()
    assert transcribe.transcribe(recogniser, [str(tmp_path / "long.wav")], results) == 0
    assert max(heard) <= 800 and abs(sum(heard) - 3300) < 5 * len(heard) and len(heard) == 5
    assert results.getvalue().split("\t")[1] == "AB CAD BED A\n"
