"""Downloads from a server on this machine: interrupted, resumed, changed meanwhile, damaged, refused."""

import hashlib
import http.server
import io
import random
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from local import download as module
from local.download import download, record
from steps.core.cli import UserError, run_main


def archive(content):
    """A gzipped tar archive with one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=0) as tar:
        member = tarfile.TarInfo("an4/words")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


CONTENT = archive(random.Random(0).randbytes(300_000))
OTHER = archive(random.Random(1).randbytes(300_000))
PAGE = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under any name; `cut_after` breaks each of the next `cuts` replies off after that many bytes."""

    content, etag, cuts, cut_after, ranges_known, status = CONTENT, '"one"', 0, 100_000, True, 200
    length, location = True, None  # whether the length is told: True, False, or a text; where redirected to

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/an4.tar.gz"

    def handle_error(self, request, client_address):
        """Stay silent about broken connections."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.location:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if wanted and server.ranges_known and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start > len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(body)) if server.length is True else server.length)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: server.cut_after]
        self.wfile.write(body)

    def log_message(self, *args):
        """Stay silent."""


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "an4.tar.gz"


def test_whole_file_and_its_checksum(server, target):
    assert download(server.url, target) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["an4.tar.gz"], "recorded before it has proved right"
    record(target)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert Path(f"{target}.sha256").read_text() == f"{digest}  an4.tar.gz\n"
    assert sorted(path.name for path in target.parent.iterdir()) == ["an4.tar.gz", "an4.tar.gz.sha256"]
    download(server.url, target)
    assert len(server.asked) == 1, "a complete file is fetched again"


def test_broken_connections_go_on_where_they_stopped(server, target):
    server.cuts = 2
    download(server.url, target, pauses_s=(0,))
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_an_interrupted_run_is_resumed_by_the_next(server, target):
    server.cuts = 1
    with pytest.raises(UserError, match="cannot be fetched .* what has come so far is kept"):
        download(server.url, target, pauses_s=())
    assert not target.exists() and Path(f"{target}.part").stat().st_size == 100_000
    download(server.url, target, pauses_s=())
    assert target.read_bytes() == CONTENT and server.asked == [None, "bytes=100000-"]


def test_two_states_of_a_file_are_never_joined(server, target):
    server.cuts = 1
    with pytest.raises(UserError):
        download(server.url, target, pauses_s=())
    server.content, server.etag = OTHER, '"two"'
    download(server.url, target, pauses_s=())
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize("length", [50_000, 10])
def test_a_file_that_shrank_is_fetched_anew(server, target, length):
    server.cuts = 1
    with pytest.raises(UserError):
        download(server.url, target, pauses_s=())
    server.content = CONTENT[:length]
    download(server.url, target, pauses_s=(0,))
    assert target.read_bytes() == CONTENT[:length]


def test_a_server_without_ranges_sends_all_again(server, target):
    server.cuts, server.ranges_known = 1, False
    download(server.url, target, pauses_s=(0,))
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_the_file_is_put_aside(server, target):
    with pytest.raises(UserError, match="SHA-256 is .* expected 0000"):
        download(server.url, target, "0" * 64)
    assert not target.exists() and target.with_name("an4.tar.gz.bad").read_bytes() == CONTENT
    assert not Path(f"{target}.sha256").exists()


def test_a_published_md5_is_compared_too(server, target):
    with pytest.raises(UserError, match="MD5 is .* expected 0000"):
        download(server.url, target, "0" * 32)
    download(server.url, target, hashlib.md5(CONTENT).hexdigest().upper())
    assert target.read_bytes() == CONTENT


def test_later_downloads_must_agree_with_the_first(server, target):
    record(download(server.url, target))
    target.unlink()
    server.content, server.etag = OTHER, '"two"'
    with pytest.raises(UserError, match="SHA-256 .* remove .*an4.tar.gz.sha256, of the first download"):
        download(server.url, target)
    assert not target.exists()
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="SHA-256"):
        download(server.url, target)
    assert Path(f"{target}.sha256").exists()


NO_ARCHIVES = {"page": (PAGE, "a web page"), "text": (b"moved", "something else"), "nothing": (b"", "an empty file")}


@pytest.mark.parametrize("case", NO_ARCHIVES)
def test_a_page_in_place_of_an_archive_is_told_and_the_next_start_fetches_anew(server, target, case):
    server.content, what = NO_ARCHIVES[case]
    with pytest.raises(UserError, match=f"the server sent {what}, not a .gz file; it is kept as .*; try again"):
        download(server.url, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["an4.tar.gz.bad"]
    server.content, server.etag = CONTENT, '"two"'
    assert download(server.url, target).read_bytes() == CONTENT


def test_a_page_that_an_older_version_recorded_is_found_out(server, target):
    target.parent.mkdir()
    target.write_bytes(PAGE)
    record(target)
    with pytest.raises(UserError, match="a web page"):
        download(server.url, target)
    download(server.url, target)
    assert target.read_bytes() == CONTENT and not Path(f"{target}.sha256").exists()


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["local/download.py", *map(str, words)])
    return run_main(module.main)


def test_an_answer_of_unknown_length_is_read_to_the_archives_end_before_it_is_recorded(
    server, target, monkeypatch, capsys
):
    """Without Content-Length a broken connection looks like the end of the file."""
    server.length, server.cuts = False, 1
    assert run(monkeypatch, "--url", server.url, "--out", target) == 1
    told = capsys.readouterr().err
    assert "damaged" in told and "run again to fetch it anew" in told and len(told.splitlines()) == 1
    assert [path.name for path in target.parent.iterdir()] == ["an4.tar.gz.bad"]
    assert run(monkeypatch, "--url", server.url, "--out", target) == 0
    assert target.read_bytes() == CONTENT and Path(f"{target}.sha256").exists()


def test_a_checksum_that_is_none_is_refused(server, target, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--url", server.url, "--out", target, "--sha256", "c3f4")
    assert "expected 64 hex digits" in capsys.readouterr().err and not server.asked


@pytest.mark.parametrize("length", ["many", "-5"])
def test_a_length_that_is_none_is_not_believed(server, target, length):
    server.length = length
    download(server.url, target, pauses_s=())
    assert target.read_bytes() == CONTENT


def test_redirects_stay_on_the_web(server, target, tmp_path):
    other = Server()
    threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.location = other.url
    assert download(server.url, target).read_bytes() == CONTENT
    other.shutdown()
    other.server_close()
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/an4.tar.gz"):
        server.location = place
        with pytest.raises(UserError, match="the server says 302"):
            download(server.url, tmp_path / "other.tar.gz")
    assert not (tmp_path / "other.tar.gz").exists()


def test_leaving_encryption_is_said(capsys):
    request = module.urllib.request.Request("https://one.example/a")
    module.Redirects().redirect_request(request, None, 302, "Found", {}, "http://two.example/a")
    assert "https://one.example/a leads to http://two.example/a, which is not encrypted" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 3)])
def test_refusals_are_one_line_and_only_server_trouble_is_tried_again(server, target, status, attempts):
    server.status = status
    with pytest.raises(UserError, match=str(status)):
        download(server.url, target, pauses_s=(0, 0))
    assert len(server.asked) == attempts and not target.exists()


def test_offline_and_other_addresses(server, target):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="cannot be fetched"):
        download(server.url, target, pauses_s=())
    with pytest.raises(UserError, match="starts with http"):
        download("file:///etc/passwd", target)
