"""From the web to data folders: bad answers are put aside and told, and nothing is recorded before the counts are right."""

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from unittest import mock

import pytest

from local import prepare_aishell, prepare_an4, prepare_librispeech, prepare_yesno
from tests.local import corpora
from tests.local.readers import good, prepare, refused

SMALL = {"train": (13, 1, None), "dev": (2, 1, None), "test": (15, 1, None)}


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The archive of a yesno of 30 files."""
    folder = corpora.yesno(tmp_path_factory.mktemp("corpus"), count=30)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(folder / "waves_yesno", "waves_yesno")
    return file.getvalue()


@pytest.fixture
def web(tmp_path, corpus):
    """Serve tmp_path/web. Returns: function (content of the archive) -> options of the reader."""
    (tmp_path / "web").mkdir()
    (tmp_path / "options.yaml").write_text("shared_speakers: true\n")
    handler = functools.partial(Silent, directory=tmp_path / "web")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(content):
        (tmp_path / "web/waves_yesno.tar.gz").write_bytes(content)
        return ["--mirror", f"http://127.0.0.1:{server.server_port}", "--options", tmp_path / "options.yaml"]

    with mock.patch("local.prepare_yesno.SHA256", None), mock.patch("local.prepare_yesno.COUNTS", SMALL):
        yield serve
    server.shutdown()
    server.server_close()


def packed(content):
    return gzip.compress(content, 1)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_first_checksum_is_recorded_when_the_counts_were_right(tmp_path, web, corpus):
    options = web(packed(corpus))
    with mock.patch("local.prepare_yesno.COUNTS", {**SMALL, "test": (29, 1, None)}):
        said = refused("yesno", tmp_path, *options)
    assert "to fetch it again, remove" in said and f"{tmp_path}/out/corpus and {tmp_path}/out/download" in said
    assert names(tmp_path / "out/download") == ["waves_yesno.tar.gz"], "recorded though the counts were wrong"
    good("yesno", tmp_path, *options)
    assert names(tmp_path / "out/download") == ["waves_yesno.tar.gz", "waves_yesno.tar.gz.sha256"]


def test_trust_at_first_use_is_said_once(tmp_path, web, corpus):
    told = "nobody publishes its checksum; it is recorded once the counts are right"
    options = web(packed(corpus))
    assert told in prepare("yesno", "--out", tmp_path / "out", *options)[1]
    assert told not in prepare("yesno", "--out", tmp_path / "out", *options)[1]


def test_without_counts_nothing_is_recorded(tmp_path, web, corpus):
    good("yesno", tmp_path, *web(packed(corpus)), "--check-counts", "false")
    assert names(tmp_path / "out/download") == ["waves_yesno.tar.gz"]


BAD = {
    "a page": lambda content: b"<html>Log in</html>" * 50,
    "cut": lambda content: packed(content)[:-9000],
    "cut before it was packed": lambda content: packed(content[:-30_000]),
    "no archive inside": lambda content: packed(b"hello" * 1000),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_told_once_and_the_next_start_fetches_anew(tmp_path, web, corpus, case):
    said = refused("yesno", tmp_path, *web(BAD[case](corpus)))
    assert len(said.splitlines()) == 1 and "waves_yesno.tar.gz.bad" in said
    assert "try again" in said or "run again to fetch it anew" in said
    assert names(tmp_path / "out/download") == ["waves_yesno.tar.gz.bad"]
    assert names(tmp_path / "out") in (["corpus", "download"], ["download"])
    good("yesno", tmp_path, *web(packed(corpus)))


def test_a_published_archive_that_is_refused_stays(tmp_path, web, corpus):
    """Fetching it again would bring the same."""
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as tar:
        link = tarfile.TarInfo("waves_yesno")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with mock.patch("local.prepare_yesno.SHA256", hashlib.sha256(evil.getvalue()).hexdigest()):
        said = refused("yesno", tmp_path, *web(evil.getvalue()))
    assert "neither a regular file nor a folder; if you trust it, unpack it by hand" in said
    assert names(tmp_path / "out/download") == ["waves_yesno.tar.gz"]


def test_what_a_killed_start_left_is_gone_after_the_next(tmp_path, web, corpus):
    left = tmp_path / "out/corpus/.waves_yesno.abcd1234.tmp/waves_yesno"
    left.mkdir(parents=True)
    old = tmp_path / "out/.corpus.abcd1234.tmp"
    old.mkdir()
    good("yesno", tmp_path, *web(packed(corpus)))
    assert not old.exists() and names(tmp_path / "out/corpus") == ["waves_yesno"]


def test_every_archive_that_is_fetched_has_a_pinned_checksum():
    pins = [prepare_an4.SHA256, prepare_yesno.SHA256, *prepare_librispeech.SHA256.values(), prepare_aishell.MD5]
    assert all(len(pin) in (32, 64) and int(pin, 16) for pin in pins)
    parts = {part for sets in prepare_librispeech.PARTS.values() for names in sets.values() for part in names}
    assert parts == set(prepare_librispeech.SHA256)
    mirrors = [prepare_an4.MIRROR, prepare_yesno.MIRROR, prepare_librispeech.MIRROR, prepare_aishell.MIRROR]
    assert all(mirror.startswith("https://") for mirror in mirrors)
