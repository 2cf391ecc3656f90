"""WAV files that grow: every sample once and as it would be read later, whatever the header promises; others are refused."""

import itertools
import struct

import numpy as np
import pytest
import soundfile

from steps.core.cli import MissingInput, UserError
from steps.core.growing_wav import follow_wav, parse_header
from steps.core.sound import read_sound

RATE = 16000


class Writer:
    """Another program: with every wait it writes the next piece of a file. Time goes on by what is waited for."""

    def __init__(self, path, pieces):
        self.path, self.pieces, self.now = path, list(pieces), 0.0

    def wait(self, seconds):
        self.now += seconds
        if self.pieces:
            piece = self.pieces.pop(0)
            if callable(piece):
                piece(self.path)
            else:
                with open(self.path, "ab") as file:
                    file.write(piece)

    def convert(self, blocks, rate_hz):
        assert rate_hz == RATE
        return blocks

    def follow(self, **options):
        options = {"convert": self.convert, "idle_s": 0.2} | options
        found = list(follow_wav(str(self.path), wait=self.wait, clock=lambda: self.now, **options))
        return np.concatenate([np.empty(0, np.float32), *found])


def promise(size):
    """Something that writes the length of the samples into a header."""

    def write(path):
        with open(path, "r+b") as file:
            file.seek(40)
            file.write(struct.pack("<I", size))

    return write


def sound(tmp_path, subtype="PCM_16", channels=1, samples=3001, **options):
    """Content of a WAV file, and its samples as they are read later."""
    values = np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(tmp_path / "whole.wav", values, RATE, subtype, **options)
    return (tmp_path / "whole.wav").read_bytes(), read_sound(tmp_path / "whole.wav", channel="all")[0]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_it_is_what_is_read_later_wherever_the_pieces_end(tmp_path, subtype):
    content, expected = sound(tmp_path, subtype)
    cuts = [0, 3, 11, 30, 43, 44, 45, 99, 1000, 1001, 5000, len(content)]
    writer = Writer(tmp_path / "a.wav", [content[a:b] for a, b in itertools.pairwise(cuts)])
    # the file comes late, too
    writer.pieces.insert(0, b"")
    assert np.array_equal(writer.follow(), expected[:, 0])


def test_channels_and_an_extensible_header(tmp_path):
    content, expected = sound(tmp_path, channels=2)
    for channel, wanted in ((2, expected[:, 1]), ("mix", expected.mean(axis=1))):
        writer = Writer(tmp_path / f"{channel}.wav", [content[:1000], content[1000:]])
        assert np.array_equal(writer.follow(channel=channel), wanted)
    with pytest.raises(UserError, match="2 channels"):
        Writer(tmp_path / "none.wav", [content]).follow()
    content, expected = sound(tmp_path, format="WAVEX")
    assert np.array_equal(Writer(tmp_path / "x.wav", [content]).follow(), expected[:, 0])


@pytest.mark.parametrize("size", [0, 200, 0x7FFFF000, 0xFFFFFFFF])
def test_headers_of_programs_that_do_not_know_the_length_yet(tmp_path, size):
    """None, that of the first piece, or the largest there is; the true one may come with the end."""
    content, expected = sound(tmp_path)
    for last in ([], [promise(len(content) - 44)]):
        path = tmp_path / f"{len(last)}.wav"
        begun = content[:40] + struct.pack("<I", size) + content[44:244]
        assert np.array_equal(Writer(path, [begun, content[244:], *last]).follow(), expected[:, 0])


def test_what_stands_behind_the_samples_is_no_sound(tmp_path):
    content, expected = sound(tmp_path, samples=3000)
    behind = b"LIST" + struct.pack("<I", 400) + b"INFO" * 100
    (tmp_path / "done.wav").write_bytes(content + behind)
    assert np.array_equal(Writer(tmp_path / "done.wav", []).follow(), expected[:, 0])


def test_it_ends_when_nothing_comes_and_not_before(tmp_path):
    content, expected = sound(tmp_path)
    # waits are 0.05 s: three without growth are too few
    writer = Writer(tmp_path / "a.wav", [content[:500], b"", b"", b"", content[500:900], *[b""] * 5, content[900:]])
    assert np.array_equal(writer.follow(), expected[:428, 0]) and len(writer.pieces) == 1


def test_it_ends_at_once_when_told_with_what_is_there(tmp_path):
    content, expected = sound(tmp_path)
    writer = Writer(tmp_path / "a.wav", [content[:500], content[500:900], content[900:]])
    told = lambda: len(writer.pieces) <= 1  # noqa: E731
    assert np.array_equal(writer.follow(is_stopped=told), expected[:428, 0])


def test_what_cannot_be_followed_is_refused(tmp_path):
    content, _ = sound(tmp_path)
    path = tmp_path / "a.wav"
    cases = [
        (b"fLaC" + content[4:], "not a WAV file; only WAV is read while it grows"),
        (content[:20] + struct.pack("<H", 6) + content[22:], "of format 6 with 16 bits; only PCM and float"),
        (content[:22] + struct.pack("<H", 0) + content[24:], "damaged header"),
        (content[:32] + struct.pack("<H", 3) + content[34:], "damaged header"),
        (content[:12] + content[36:], "samples come before their format"),
        (content[:12] + b"junk" + struct.pack("<I", 1 << 20), "no samples within the first 65536 bytes"),
        (content[:30], "no samples came in 0.2 s"),
    ]
    for data, message in cases:
        path.unlink(missing_ok=True)
        with pytest.raises(UserError, match=message):
            Writer(path, [data]).follow()
    with pytest.raises(MissingInput, match="none.wav: no such file, and none came in 0.2 s"):
        Writer(tmp_path / "none.wav", [lambda path: None]).follow()
    for cut in (300, 20, 0):
        place = tmp_path / f"cut{cut}.wav"
        with pytest.raises(UserError, match="became shorter"):
            Writer(place, [content, lambda path, cut=cut: path.write_bytes(content[:cut])]).follow()
    noisy, _ = sound(tmp_path, "FLOAT")
    with pytest.raises(UserError, match="not finite"):
        Writer(tmp_path / "nan.wav", [noisy[:-4] + struct.pack("<f", np.nan)]).follow()


def test_a_header_is_read_or_refused_wherever_it_is_cut(tmp_path):
    content, _ = sound(tmp_path)
    start = content.index(b"data") + 8
    assert all(parse_header(content[:count], "a") is None for count in range(start))
    header = parse_header(content[: start + 1], "a")
    assert (header.start, header.rate_hz, header.frame, header.promised) == (start, RATE, 2, 6002)


def test_whatever_a_header_holds_it_is_read_refused_or_waited_for(tmp_path):
    content, _ = sound(tmp_path, format="WAVEX")
    random, found = np.random.default_rng(1), set()
    for _ in range(500):
        head = bytearray(content[: random.integers(1, 120)])
        for place in random.integers(0, len(head), 2):
            head[place] = random.integers(256)
        try:
            header = parse_header(bytes(head), "a.wav")
            found.add(type(header).__name__)
            assert header is None or (header.frame > 0 and header.start <= len(head) and header.promised >= 0)
        except UserError as error:
            found.add("refused")
            assert str(error).startswith("a.wav: ")
    assert found == {"NoneType", "WavHeader", "refused"}
