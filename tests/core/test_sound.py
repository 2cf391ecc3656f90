"""The one reader of sound files: all of it is read, of one channel, or it is refused."""

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps.core import sound, sound_files
from steps.core.cli import MissingInput, UserError
from steps.core.sound import Damaged, ManyChannels, OutOfRange, read_sound, sound_info
from tests.core.sound_formats import (
    AV,
    RATE_HZ,
    SECONDS,
    SNDFILE,
    chords,
    table,
    without_xing,
    write_av,
    write_sndfile,
)

ROOT = Path(__file__).resolve().parents[2]
needs_av = pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="PyAV is not installed: requirements-av.txt"
)


def strength(samples, rate_hz, hertz):
    """How much of the energy lies within 30 Hz of a frequency, 0 to 1."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    at = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    return power[np.abs(at - hertz) < 30].sum() / power.sum()


def check_whole(path, longer_s=0.15):
    """The file holds both chords, the second one up to its end; its length is told as it is read."""
    samples, rate_hz = read_sound(path)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert SECONDS - 0.02 <= len(samples) / rate_hz <= SECONDS + longer_s
    at = lambda part: samples[round(part[0] * rate_hz) : round(part[1] * rate_hz)]  # noqa: E731
    assert strength(at((0.2, 0.7)), rate_hz, 440) > 0.9
    assert strength(at((0.95, 1.15)), rate_hz, 1000) > 0.9
    assert sound_info(path) == sound.SoundInfo(len(samples) / rate_hz, rate_hz, 1)
    middle, _ = read_sound(path, 0.5, 0.75)
    first = round(0.5 * rate_hz)
    assert np.abs(middle - samples[first : first + len(middle)]).max() < 1e-6 and len(middle) == round(0.25 * rate_hz)


@pytest.mark.parametrize(
    ("suffix", "kind", "subtype"), [case[1:] for case in SNDFILE], ids=[case[0] for case in SNDFILE]
)
def test_formats_of_libsndfile(tmp_path, suffix, kind, subtype):
    path = tmp_path / f"a.{suffix}"
    write_sndfile(path, kind, subtype)
    check_whole(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cut short|malformed"):
        read_sound(path)
    if kind not in ("CAF", "OGG"):
        part, rate_hz = read_sound(path, damaged=True)
        assert 0.3 * SECONDS < len(part) / rate_hz < 0.7 * SECONDS and strength(part, rate_hz, 440) > 0.8
        assert sound_info(path, damaged=True).seconds == len(part) / rate_hz


@needs_av
@pytest.mark.parametrize(
    ("suffix", "kind", "codec", "rate_hz", "bits"), [case[1:] for case in AV], ids=[case[0] for case in AV]
)
def test_formats_of_ffmpeg(tmp_path, suffix, kind, codec, rate_hz, bits):
    path = tmp_path / f"a: b?%20.{suffix}"
    write_av(path, kind, codec, rate_hz, bits)
    check_whole(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cut short|not a readable sound file"):
        read_sound(path)


@needs_av
@pytest.mark.parametrize("suffix", ["mp3", "wav", "raw", "au", "gsm"])
def test_suffixes_tell_nothing(tmp_path, suffix):
    """libsndfile, given a name, finds MP3 in MP4 and AAC that are called .mp3, and samples without a header in .gsm."""
    path = tmp_path / f"a.{suffix}"
    for case in (("ipod", "aac", 16000, None), ("adts", "aac", 16000, None), ("webm", "libopus", 48000, None)):
        write_av(path, *case)
        check_whole(path)
    for case in (("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("WAV", "ULAW")):
        write_sndfile(path, *case)
        check_whole(path)


def test_a_file_without_one_whole_frame_is_not_said_to_be_missing(tmp_path):
    path = tmp_path / "a.mp3"
    write_sndfile(path, "MP3", "MPEG_LAYER_III")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a readable sound file .no sound can be decoded"):
        read_sound(path)


def test_the_table_of_formats_is_that_of_the_tests():
    lines = (ROOT / "local/README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| format | suffix | read by |")
    assert lines[start : start + len(table()) + 1] == [*table(), ""]


LOUD = 0.3 * np.random.default_rng(0).standard_normal(3 * RATE_HZ).clip(-1, 1)


def piped_mp3(path, *parts):
    """An MP3 file as an encoder writes it to a pipe. Returns: path, for how many seconds libsndfile takes it."""
    soundfile.write(path, np.concatenate(parts), RATE_HZ)
    without_xing(path)
    with soundfile.SoundFile(path) as file:
        return path, file.frames / RATE_HZ


@pytest.mark.parametrize("silence_first", [False, True])
def test_mp3_without_a_length_is_whole_and_does_not_lose_its_end(tmp_path, silence_first):
    """The length that libsndfile guesses from the first frame is too short with much sound first, else too long."""
    parts = [np.zeros(6 * RATE_HZ), LOUD] if silence_first else [LOUD, np.zeros(6 * RATE_HZ)]
    path, guess_s = piped_mp3(tmp_path / "a.mp3", *parts, chords(seconds=1))
    assert guess_s > 15 if silence_first else guess_s < 5
    samples, _ = read_sound(path)
    assert 9.95 * RATE_HZ < len(samples) < 10.2 * RATE_HZ
    end = round((9.75 + 0.05) * RATE_HZ), round(9.95 * RATE_HZ)
    assert strength(samples[slice(*end)], RATE_HZ, 1000) > 0.9
    told, guess = sound_info(path), sound_info(path, guess=True)
    assert (told.seconds, told.exact) == (len(samples) / RATE_HZ, True)
    assert (guess.seconds, guess.exact) == (guess_s, False)
    for limits in ((0.5, 1.5), (3.1, 3.2), (6.5, 7.0), (8.0, 8.9), (8.0, None), (9.0, 10.4)):
        part, _ = read_sound(path, *limits)
        first = round(limits[0] * RATE_HZ)
        assert np.abs(part - samples[first : first + len(part)]).max() < 1e-6


def test_reading_the_start_of_an_mp3_survives_a_default_sigpipe(tmp_path):
    """Programs here die of SIGPIPE; the pipe that this reader uses must not send one."""
    code = "import signal,sys; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nfrom steps.core.sound import read_sound\n"
    code += "for i in range(5): read_sound(sys.argv[1], 0, 0.1)\nprint('alive')"
    path, _ = piped_mp3(tmp_path / "a.mp3", LOUD)
    path.write_bytes(path.read_bytes() * 20)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "alive\n", (done.returncode, done.stderr)


def wav(path, samples, data_size=None, riff_size=None, behind=b""):
    """A plain WAV of 16 bits with sizes as told."""
    body = (samples * 32767).astype("<i2").tobytes()
    data_size = len(body) if data_size is None else data_size
    riff_size = 36 + len(body) + len(behind) if riff_size is None else riff_size
    head = b"RIFF" + struct.pack("<I", riff_size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", data_size) + body + behind)
    return path


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000], ids=hex)
def test_wav_written_to_a_pipe_has_no_size_and_is_read(tmp_path, size):
    samples, _ = read_sound(wav(tmp_path / "a.wav", chords(), size, 0xFFFFFFFF))
    assert len(samples) == len(chords())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"data_size": 0}, "header tells of 0 bytes of sound"),
        ({"data_size": 1000}, "header tells of 1000 bytes of sound"),
        ({"data_size": 80000}, "38400 of 80000 bytes"),
    ],
)
def test_wav_whose_header_and_content_disagree_is_refused(tmp_path, kind, words):
    with pytest.raises(Damaged, match=words):
        read_sound(wav(tmp_path / "a.wav", chords(), **kind))


@pytest.mark.parametrize("kind", [{"data_size": 38436}, {"riff_size": 99}, {"behind": b"LIST\x04\0\0\0INFO" * 5000},
                                  {"behind": bytes(30000)}, {"behind": b"\x01\x02\x03"}])  # fmt: skip
def test_wav_with_small_lies_or_other_chunks_is_read(tmp_path, kind):
    samples, _ = read_sound(wav(tmp_path / "a.wav", chords(), **kind))
    assert len(samples) == len(chords())


def test_a_long_text_before_the_samples_does_not_hide_that_they_are_cut_short(tmp_path):
    path = wav(tmp_path / "a.wav", chords())
    data, text = path.read_bytes(), b"IART" + struct.pack("<I", 9000) + b"a" * 9000
    text = b"LIST" + struct.pack("<I", 4 + len(text)) + b"INFO" + text
    path.write_bytes(data[:4] + struct.pack("<I", len(data) + len(text) - 8) + data[8:36] + text + data[36:-5000])
    with pytest.raises(Damaged, match="33400 of 38400 bytes"):
        read_sound(path)


def flac(path, told, samples=None, rate_hz=RATE_HZ, subtype="PCM_16"):
    """A FLAC file whose header tells of another count of samples, 0 for none."""
    write = chords() if samples is None else samples
    soundfile.write(path, write, rate_hz, format="FLAC", subtype=subtype)
    data = bytearray(path.read_bytes())
    data[18:26] = (int.from_bytes(data[18:26]) >> 36 << 36 | told).to_bytes(8)
    path.write_bytes(data)
    return path


def test_flac_without_a_length_is_read_to_its_end(tmp_path):
    check_whole(flac(tmp_path / "a.flac", 0))


@pytest.mark.parametrize(
    ("rate_hz", "subtype", "count"),
    [(8000, "PCM_16", 5000), (11025, "PCM_24", 4096), (16000, "PCM_S8", 70000), (44100, "PCM_16", 9_000_000)],
)
def test_flac_that_goes_on_behind_the_count_of_its_header_is_refused(tmp_path, rate_hz, subtype, count):
    noise = np.random.default_rng(0).integers(-20, 20, count) / 128
    path = flac(tmp_path / "a.flac", count, noise, rate_hz, subtype)
    assert sound_info(path).seconds == count / rate_hz
    told = count - rate_hz // 20
    with pytest.raises(Damaged, match=f"its header tells of {told} samples, {count} are there"):
        read_sound(flac(path, told, noise, rate_hz, subtype))
    data = path.read_bytes()
    path.write_bytes(data + b"TAG" + bytes(125))
    assert sound_files.find_trouble(str(path), soundfile.SoundFile(path)), "a tag behind the last frame"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not sound_files.find_trouble(str(path), soundfile.SoundFile(path)), "what ends in bytes of no frame"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_its_last_page_is_refused(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    noise = 0.05 * np.random.default_rng(0).standard_normal(12 * RATE_HZ)
    write_sndfile(path, "OGG", subtype, chords(seconds=12) + noise)
    data = path.read_bytes()
    for end in (data.rindex(b"OggS"), len(data) // 2):
        path.write_bytes(data[:end])
        with pytest.raises(Damaged, match="its last page is not"):
            read_sound(path)
        part, _ = read_sound(path, damaged=True)
        assert 0 < len(part) < 12 * RATE_HZ and strength(part, RATE_HZ, 440) > 0.5


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_files_joined_behind_each_other_are_refused_where_one_would_be_read(tmp_path, kind, subtype):
    for name in "ab":
        write_sndfile(tmp_path / name, kind, subtype)
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with pytest.raises(Damaged, match="several streams|more sound follows"):
        read_sound(tmp_path / "c")


def test_tags_behind_an_mp3_are_no_sound(tmp_path):
    path = tmp_path / "a.mp3"
    write_sndfile(path, "MP3", "MPEG_LAYER_III")
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + path.read_bytes() + b"TAG" + bytes(125))
    check_whole(path)


def test_one_of_several_channels_is_chosen_never_assumed(tmp_path):
    left, right = chords(), chords()[::-1]
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE_HZ, "FLOAT")
    with pytest.raises(ManyChannels, match=r"2 channels; .*: 1}`, 2 or mix in the preparation options$") as caught:
        read_sound(tmp_path / "a.wav")
    assert caught.value.by_option.endswith("or their mean: --channel 1, 2 or mix")
    for channel, wanted in ((1, left), (2, right), ("mix", (left + right) / 2)):
        samples, _ = read_sound(tmp_path / "a.wav", channel=channel)
        assert np.abs(samples - wanted).max() < 1e-7
    assert read_sound(tmp_path / "a.wav", channel="all")[0].shape == (len(left), 2)
    soundfile.write(tmp_path / "m.wav", left, RATE_HZ, "FLOAT")
    for channel in (None, 1, "mix"):
        assert np.array_equal(read_sound(tmp_path / "m.wav", channel=channel)[0], left)
    with pytest.raises(UserError, match="channel 2 is asked for, of 1"):
        read_sound(tmp_path / "m.wav", channel=2)


def test_limits_beyond_the_file_are_refused_also_where_damage_is_accepted(tmp_path):
    path = wav(tmp_path / "a.wav", chords())
    assert len(read_sound(path, 1.0, 1.6)[0]) == round(0.2 * RATE_HZ)
    for limits in ((0.0, 1.8), (1.2, 1.3), (0.5, 0.5), (0.9, 0.2)):
        with pytest.raises(OutOfRange, match="the sound file has 1.20 s"):
            read_sound(path, *limits)
    path.write_bytes(path.read_bytes()[:12000])
    with pytest.raises(OutOfRange, match="the sound file has 0.37 s"):
        read_sound(path, 0.2, 1.0, damaged=True)


def test_what_is_too_much_or_odd_is_refused(tmp_path, monkeypatch):
    path = wav(tmp_path / "a.wav", chords())
    monkeypatch.setattr(sound, "LONGEST_S", 1.0)
    with pytest.raises(UserError, match="longer than .* hours"):
        read_sound(path)
    path.write_bytes(path.read_bytes()[:24] + struct.pack("<I", 900) + path.read_bytes()[28:])
    with pytest.raises(UserError, match="a rate of"):
        read_sound(path)
    soundfile.write(tmp_path / "a.pvf", chords(), RATE_HZ, format="PVF")
    with pytest.raises(UserError, match="is not read here; make WAV or FLAC of it"):
        read_sound(tmp_path / "a.pvf")
    os.mkfifo(tmp_path / "fifo")
    for place in ("fifo", "nothing"):
        with pytest.raises(MissingInput):
            read_sound(tmp_path / place)


def test_without_pyav_its_requirements_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2" + bytes(100))
    with pytest.raises(UserError, match="need PyAV.*requirements-av.txt"):
        read_sound(tmp_path / "a.m4a")


PLAYLISTS = ["#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile secret.wav\n"]


@needs_av
@pytest.mark.parametrize("text", PLAYLISTS)
def test_a_file_cannot_name_others_to_be_read(tmp_path, text):
    write_sndfile(tmp_path / "secret.wav", "WAV", "PCM_16")
    for name in ("a.m3u8", "a.m4a", "a.ffconcat"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="not a readable sound file"):
            read_sound(tmp_path / name)


@needs_av
@pytest.mark.skipif("MSC_DIR" not in os.environ, reason="MSC_DIR does not name a copy of the Malayalam Speech Corpus")
def test_recordings_of_browsers(tmp_path):
    seconds = [sound_info(path).seconds for path in sorted(Path(os.environ["MSC_DIR"], "audio").iterdir())[:20]]
    assert len(seconds) == 20 and all(0.5 < value < 60 for value in seconds)
