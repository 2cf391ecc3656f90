"""Archives of strangers: nothing lands outside, nothing but files and folders, no more than fits, nothing half-unpacked."""

import bz2
import fcntl
import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local import archives
from local.archives import BadArchive, check_archive, unpack
from steps.core.cli import UserError

ROOT = Path(__file__).resolve().parents[2]
FILES = {"an4/etc/words": b"yes\n", "an4/wav/a.wav": bytes(range(256)) * 40, "an4/empty": b""}


def entry(name, content=b"", kind=tarfile.REGTYPE, **facts):
    """A member and its content."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mtime = kind, len(content), 1_000_000_000
    for key, value in facts.items():
        setattr(member, key, value)
    return member, content


def tar_bytes(entries, form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


GOOD = tar_bytes([entry("an4", kind=tarfile.DIRTYPE), *(entry(name, content) for name, content in FILES.items())])


def unpacked(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(tmp_path, content, words=None):
    """Unpack something that must be refused, and look that nothing of it is left."""
    archive, target = tmp_path / "a.tar.gz", tmp_path / "out" / "corpus"
    archive.write_bytes(content)
    with pytest.raises(BadArchive, match=words) as error:
        unpack(archive, target)
    assert "\n" not in str(error.value) and "a.tar.gz: cannot be unpacked: " in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    return str(error.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_usual_form_is_unpacked(tmp_path, pack, form):
    entries = [entry(f"./{name}", content) for name, content in FILES.items()]
    if form != tarfile.USTAR_FORMAT:
        entries.append(entry("an4/" + "long" * 60 + "/é", b"x"))
    (tmp_path / "a").write_bytes(pack(tar_bytes(entries, form)))
    check_archive(tmp_path / "a")
    assert unpack(tmp_path / "a", tmp_path / "out/corpus") == tmp_path / "out/corpus"
    long = {"an4/" + "long" * 60 + "/é": b"x"} if form != tarfile.USTAR_FORMAT else {}
    assert unpacked(tmp_path / "out/corpus") == FILES | long
    assert (tmp_path / "out/corpus/an4/empty").stat().st_mtime == 1_000_000_000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["corpus"]


def test_tar_itself_makes_what_is_read_here(tmp_path):
    (tmp_path / "an4/deep").mkdir(parents=True)
    (tmp_path / "an4/deep/file").write_bytes(b"12345")
    (tmp_path / "an4/deep/file").chmod(0o4777)
    subprocess.run(["tar", "-czf", tmp_path / "a.tgz", "-C", tmp_path, "an4"], check=True)
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert unpacked(tmp_path / "out") == {"an4/deep/file": b"12345"}
    assert not (tmp_path / "out/an4/deep/file").stat().st_mode & 0o7111  # no mode is taken over


def path_longer_than_the_system_allows():
    """CVE-2025-4517: links whose real path is too long to be looked up, and a file written through them."""
    step, entries, path = "d" * 247, [], ""
    for letter in "abcdefghijklmnop":
        entries.append(entry(os.path.join(path, step), kind=tarfile.DIRTYPE))
        entries.append(entry(os.path.join(path, letter), kind=tarfile.SYMTYPE, linkname=step))
        path = os.path.join(path, step)
    through = os.path.join("/".join("abcdefghijklmnop"), "l" * 254)
    entries.append(entry(through, kind=tarfile.SYMTYPE, linkname="../" * 16))
    entries.append(entry("escape", kind=tarfile.SYMTYPE, linkname=through + "/../../.."))
    return [*entries, entry("escape/pwned", b"owned")]


ELSEWHERE = {
    "up": [entry("../../pwned", b"x")],
    "up within": [entry("an4/../../pwned", b"x")],
    "absolute": [entry("/tmp/slim-asr-pwned", b"x")],
    "only dots": [entry("..", kind=tarfile.DIRTYPE)],
    "link": [entry("an4", kind=tarfile.SYMTYPE, linkname="/tmp")],
    "link and file through it": [entry("l", kind=tarfile.SYMTYPE, linkname=".."), entry("l/pwned", b"x")],
    "harmless link": [entry("a", b"x"), entry("b", kind=tarfile.SYMTYPE, linkname="a")],
    "hard link": [entry("a", b"x"), entry("b", kind=tarfile.LNKTYPE, linkname="a")],
    "hard link out": [entry("b", kind=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "long link": [entry("b", kind=tarfile.SYMTYPE, linkname="../" * 80)],
    "device": [entry("zero", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "pipe": [entry("pipe", kind=tarfile.FIFOTYPE)],
    "kind nobody knows": [entry("odd", kind=b"V")],
    "line end in a name": [entry("an4/a\nb", b"x")],
    "escape in a name": [entry("an4/\x1b[2J", b"x")],
    "file under a file": [entry("a", b"x"), entry("a/b", b"x")],
    "file over a folder": [entry("a", kind=tarfile.DIRTYPE), entry("a", b"x")],
    "the same name twice": [entry("a/b", b"x"), entry("./a//b", b"y")],
    "the folder itself": [entry(".", b"x")],
    "40 levels": [entry("a/" * 40 + "b", b"x")],
    "CVE-2025-4517": path_longer_than_the_system_allows(),
}


@pytest.mark.parametrize("case", ELSEWHERE)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_nothing_lands_elsewhere(tmp_path, case, form):
    refused(tmp_path, gzip.compress(tar_bytes([entry("good", b"x"), *ELSEWHERE[case]], form)))
    assert not list(tmp_path.rglob("*pwned*")) and not Path("/tmp/slim-asr-pwned").exists()


def header(**facts):
    """One header with a right checksum, whatever it says."""
    block = bytearray(entry("a")[0].tobuf(tarfile.GNU_FORMAT))
    for (start, end), value in ((PLACES[name], value) for name, value in facts.items()):
        block[start:end] = value.ljust(end - start, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


PLACES = {"name": (0, 100), "size": (124, 136), "type": (156, 157)}
END = bytes(1024)
SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
BOMBS = {
    # a function, as it takes a second, which no other test has to wait for
    "zeros": lambda: gzip.compress(tar_bytes([entry("zeros", bytes(100_000_000))])),
    "many names": gzip.compress(b"".join(header(name=b"%d" % i) for i in range(1000)) + END),
    "a size nobody sends": header(size=b"77777777777") + END,
    "negative size": header(size=b"\xff" * 12) + END,
    "a name of 8 GB": header(type=b"L", size=b"77777777777") + END,
    "facts of 8 GB": header(type=b"x", size=b"77777777777") + END,
    "facts of negative size": header(type=b"x", size=b"\xff" * 12) + END,
    "facts without end": header(type=b"g", size=b"0") * 1000,
    "negative size in facts": header(type=b"x", size=b"%o" % 11) + b"11 size=-9\n".ljust(512, b"\0") + header() + END,
    "a record that is none": header(type=b"x", size=b"6") + b"0 a=b\n".ljust(512, b"\0") + header() + END,
    "endless time": header(type=b"x", size=b"%o" % 13) + b"13 mtime=inf\n".ljust(512, b"\0") + header() + END,
    "sparse": header(type=b"x", size=b"%o" % len(SPARSE))
    + SPARSE.ljust(512, b"\0")
    + header(size=b"1000")
    + bytes(512),
    "old sparse": header(type=b"S") + END,
    "another archive behind": GOOD + GOOD,
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused_before_they_go_off(tmp_path, case, monkeypatch):
    written = []
    monkeypatch.setattr(archives, "MOST_MEMBERS", 300)
    monkeypatch.setattr(archives.shutil, "copyfileobj", lambda *_: written.append(0))
    bomb = BOMBS[case]() if callable(BOMBS[case]) else BOMBS[case]
    refused(tmp_path, bomb)
    assert len(written) <= 300 + len(bomb) // archives.MEMBER_BYTES


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_cut_anywhere_is_refused(tmp_path, pack):
    whole = pack(GOOD)
    content_end = GOOD.rindex(b"\xff") + 1 if pack is bytes else len(whole)  # of a plain one the padding may lack
    for length in {*range(0, content_end, 1 + content_end // 20), content_end - 1}:
        refused(tmp_path, whole[:length])


def test_a_flipped_bit_is_noticed_by_the_checksum_at_the_end(tmp_path):
    content = bytearray(gzip.compress(GOOD))
    content[-6] ^= 1
    refused(tmp_path, bytes(content), "CRC")


def test_damage_between_members_is_no_end(tmp_path):
    content = bytearray(GOOD)
    at = GOOD.index(b"an4/empty")
    content[at] ^= 1
    refused(tmp_path, bytes(content), "bad checksum")


@settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_bytes_an_archive_holds(tmp_path, data):
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 6 * 512))
        content[place : place + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    (tmp_path / "a.tar").write_bytes(content)
    try:
        folder = unpack(tmp_path / "a.tar", tmp_path / "out/corpus")
    except UserError as error:
        assert str(error).strip()
    else:
        assert all(path.is_file() or path.is_dir() for path in folder.rglob("*"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"corpus"}


def test_an_earlier_folder_stays_when_the_new_one_cannot_be_made(tmp_path):
    (tmp_path / "a").write_bytes(GOOD)
    unpack(tmp_path / "a", tmp_path / "corpus")
    (tmp_path / "a").write_bytes(GOOD[:4000])
    with pytest.raises(BadArchive):
        unpack(tmp_path / "a", tmp_path / "corpus")
    assert unpacked(tmp_path / "corpus") == FILES


def test_a_full_disk_does_not_make_the_archive_bad(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(GOOD)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left") as error:
        unpack(tmp_path / "a", tmp_path / "corpus")
    assert not isinstance(error.value, BadArchive)


KILLED = """
import os, signal, sys, shutil
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from local import archives
copy = shutil.copyfileobj
archives.shutil.copyfileobj = lambda *a: (copy(*a), os.kill(os.getpid(), signal.SIGKILL))
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_unpacking_left_is_removed_by_the_next(tmp_path):
    (tmp_path / "a").write_bytes(GOOD)
    target = tmp_path / "out" / "corpus"
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a", target, ROOT])
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".corpus.") and unpacked(left)
    busy = tmp_path / "out" / ".corpus.abcdefgh.tmp"  # of a process that is still at it
    others = tmp_path / "out" / ".other.tmp"
    busy.mkdir()
    others.mkdir()
    handle = os.open(busy, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unpack(tmp_path / "a", target)
    assert sorted((tmp_path / "out").iterdir()) == sorted([busy, others, target])
    os.close(handle)
    archives.discard_leftovers(target)
    assert sorted((tmp_path / "out").iterdir()) == [others, target] and unpacked(target) == FILES
