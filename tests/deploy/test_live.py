"""Speech while it is spoken: a growing file, a made-up microphone, and a terminal on which text only grows."""

import io
import os
import signal
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from steps import transcribe
from steps.core.cli import UserError
from steps.data.online_resample import resampled
from steps.deploy import live
from steps.deploy.realtime import streaming
from steps.deploy.runtimes import load_recogniser
from tests.deploy.conftest import make_model, save_folder
from tests.deploy.streams import FEATURES, noise

RATE = 16000


class Terminal(io.StringIO):
    """A terminal that remembers every write."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def isatty(self):
        return True

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


def run(monkeypatch, *words, terminal=None):
    """What the program writes to standard output."""
    results = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["transcribe", *map(str, words)])
    if terminal is not None:
        monkeypatch.setattr(sys, "stderr", terminal)
    transcribe.main(results)
    return results.getvalue()


@pytest.mark.parametrize("by", ["export", "model"])
def test_text_grows_while_sound_comes_and_ends_as_that_of_the_whole(streaming_export, by):
    folder = streaming_export if by == "export" else streaming_export.parent
    recogniser, sound, terminal = streaming(load_recogniser(folder), str(folder)), noise(20000), Terminal()
    text = live.listen(recogniser, np.split(sound, range(300, 20000, 700)), terminal)
    assert text == recogniser.recognise(sound, "u")["greedy"] and len(text) > 8
    # what was written stays: the writes add up to the text, the last is the end of the line
    assert "".join(terminal.writes) == text + "\n" and len(terminal.writes) > 4
    assert live.listen(recogniser, [sound], None) == text


def test_sound_without_end_needs_no_memory_without_end(streaming_export):
    recogniser, kept = load_recogniser(streaming_export), []
    stream = recogniser.stream()
    made = SimpleNamespace(stream=lambda: stream)

    def endless():
        for piece in np.split(noise(48000), 30):
            kept.append((len(stream.parts), len(stream.features.samples), len(stream.features.frames)))
            yield piece

    text = live.listen(made, endless(), None)
    assert max(parts for parts, _, _ in kept) == 0 and max(samples for _, samples, _ in kept) < 4000
    assert text == recogniser.recognise(noise(48000), "u")["greedy"]


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_a_growing_file_gives_the_line_of_the_whole_file(streaming_export, tmp_path, monkeypatch, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.repeat(noise(20000), rate // RATE), rate)
    expected = run(monkeypatch, streaming_export, path)
    content, pieces = path.read_bytes(), []
    path.write_bytes(content[:1000])

    def write(_seconds):
        pieces.append(1)
        if len(pieces) < 5:
            path.write_bytes(content[: len(content) // 5 * len(pieces)])
        elif len(pieces) == 5:
            path.write_bytes(content)

    follow = transcribe.follow_wav
    timed = {"wait": write, "clock": lambda: len(pieces) / 10}
    monkeypatch.setattr(transcribe, "follow_wav", lambda *args: follow(*args, **timed))
    terminal = Terminal()
    found = run(monkeypatch, streaming_export, "--follow", path, "--idle-s", "0.4", terminal=terminal)
    assert found == expected and len(expected.split("\t")[1]) > 8
    assert "".join(terminal.writes) == expected.split("\t")[1] and len(terminal.writes) > 3


def made_up(blocks, status=None, error=None, own_hz=None):
    """A module sounddevice whose microphone delivers blocks, then Ctrl-C. Args: own_hz: the only rate that it has; 0: there is none."""
    module, opened = ModuleType("sounddevice"), []

    class PortAudioError(Exception):
        pass

    class InputStream:
        def __init__(self, callback, **options):
            opened.append(options)
            if error:
                raise PortAudioError(error)
            self.callback = callback

        def __enter__(self):
            for block in blocks:
                # one buffer for all, as PortAudio has it
                self.buffer = np.array(block, np.float32)[:, None]
                self.callback(self.buffer, len(block), None, status)
                self.buffer[:] = 9.0
            os.kill(os.getpid(), signal.SIGINT)

        def __exit__(self, *_):
            pass

    def check_input_settings(samplerate, **_):
        if own_hz is not None and samplerate != own_hz:
            raise PortAudioError("Invalid sample rate")

    def query_devices(kind):
        if not own_hz:
            raise PortAudioError("Error querying device -1")
        return {"default_samplerate": float(own_hz), "name": kind}

    module.PortAudioError, module.InputStream, module.opened = PortAudioError, InputStream, opened
    module.check_input_settings, module.query_devices = check_input_settings, query_devices
    return module


def test_a_microphone_until_ctrl_c(streaming_export, monkeypatch, capsys):
    sound = noise(20000)
    module = made_up(np.split(sound, 25))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    before = signal.getsignal(signal.SIGINT)
    found = run(monkeypatch, streaming_export, "--microphone")
    text = load_recogniser(streaming_export).recognise(sound, "u")["greedy"]
    assert found == f"microphone\t{text}\n" and len(text) > 8
    assert module.opened == [{"samplerate": RATE, "channels": 1, "dtype": "float32", "blocksize": 800}]
    assert signal.getsignal(signal.SIGINT) is before
    # no terminal: nothing grows there
    assert "Ctrl-C ends" in capsys.readouterr().err


def test_a_microphone_of_another_rate(streaming_export, tmp_path, monkeypatch):
    sound = np.repeat(noise(20000), 3)
    soundfile.write(tmp_path / "a.wav", sound, 48000, "FLOAT")
    module = made_up(np.split(sound, 25), own_hz=48000)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    found = run(monkeypatch, streaming_export, "--microphone")
    assert module.opened[0]["samplerate"] == 48000 and module.opened[0]["blocksize"] == 2400
    assert (
        found.split("\t")[1] == run(monkeypatch, streaming_export, tmp_path / "a.wav").split("\t")[1]
        and len(found) > 20
    )


def test_lost_sound_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", made_up([np.zeros(8)] * 3, status="input overflow"))
    with live.until_interrupt() as came:
        assert len(list(live.microphone(RATE, came, resampled))) == 3 and came()
    assert "some of the sound was lost, 3 times" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sounddevice", made_up([np.zeros(8)] * 1203))
    with live.until_interrupt() as came:
        assert len(list(live.microphone(RATE, came, resampled))) == 1200
    assert "lost, 3 times" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_the_program():
    with pytest.raises(KeyboardInterrupt), live.until_interrupt() as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert came()
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_missing_is_one_line(streaming_export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="needs sounddevice; pip install -r requirements-microphone.txt"):
        run(monkeypatch, streaming_export, "--microphone")
    monkeypatch.setitem(sys.modules, "sounddevice", made_up([], error="Invalid sample rate"))
    with pytest.raises(UserError, match=r"cannot be opened at 16000 Hz \(Invalid sample rate\)"):
        run(monkeypatch, streaming_export, "--microphone")
    monkeypatch.setitem(sys.modules, "sounddevice", made_up([], own_hz=0))
    with pytest.raises(UserError, match=r"there is no microphone \(Error querying device -1\)"):
        run(monkeypatch, streaming_export, "--microphone")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"does not work here \(PortAudio library not found\); install PortAudio"):
        run(monkeypatch, streaming_export, "--microphone")
    plain = save_folder(tmp_path / "plain", make_model("dnn"), FEATURES)
    with pytest.raises(UserError, match="plain: hears whole utterances"):
        run(monkeypatch, plain, "--follow", tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name audio files, or --follow FILE, or --microphone"),
        (("a.wav", "--microphone"), "name audio files, or"),
        (("--follow", "a.wav", "--microphone"), "name audio files, or"),
        (("--follow", "a.wav", "--words", "w"), "take words back"),
        (("--microphone", "--graph", "g"), "take words back"),
        (("--follow", "a.wav", "--idle-s", "0"), "expected a number above 0"),
        (("--microphone", "--idle-s", "2"), "--idle-s is for --follow"),
        (("--microphone", "--channel", "2"), "--channel is for files"),
        (("--follow", "a.wav", "--damaged", "accept"), "--damaged is for whole files"),
        (("--labels", "l", "--word-score", "1", "a.wav"), "--word-score is for --words"),
    ],
)
def test_options_that_do_not_fit(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, "m", *words)
    assert message in capsys.readouterr().err
