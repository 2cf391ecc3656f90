"""Output files are whole or absent."""

import hashlib
import os
import stat

import pytest

from steps.core.outdir import atomic_file, sha256_file, write_json, write_text


def test_content_appears_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / "folder" / "a.txt"
    with atomic_file(path) as file:
        file.write("ä\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path, stop):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(stop), atomic_file(path, "wb") as file:
        file.write(b"new")
        raise stop
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_same_text_is_not_written_again(tmp_path):
    path = tmp_path / "a"
    write_text(path, "x")
    os.utime(path, (1, 1))
    write_text(path, "x")
    assert path.stat().st_mtime == 1
    write_text(path, "y")
    assert path.stat().st_mtime != 1


def test_line_ends_are_written_as_given(tmp_path):
    write_text(tmp_path / "a", "one\ntwo\n")
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_json_keeps_order_and_refuses_what_json_has_not(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": ["ä", None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "ä",\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert '"b": 1' in path.read_text(encoding="utf-8")


def test_sha256_of_a_file_longer_than_a_block(tmp_path):
    content = bytes(range(256)) * 8192 + b"x"
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
