"""Downloads from a server on this machine: interrupted, resumed, changed meanwhile, damaged, refused."""

import hashlib
import http.server
import random
import threading
from pathlib import Path

import pytest

from local.download import download
from steps.core.cli import UserError

CONTENT = random.Random(0).randbytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under any name; `cut_after` breaks each of the next `cuts` replies off after that many bytes."""

    content, etag, cuts, cut_after, ranges_known, status = CONTENT, '"one"', 0, 100_000, True, 200

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
        self.send_header("Content-Length", str(len(body)))
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
    server.content, server.etag = CONTENT[::-1], '"two"'
    download(server.url, target, pauses_s=())
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("length", [50_000, 0])
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
        download(server.url, target, sha256="0" * 64)
    assert not target.exists() and target.with_name("an4.tar.gz.bad").read_bytes() == CONTENT
    assert not Path(f"{target}.sha256").exists()


def test_later_downloads_must_agree_with_the_first(server, target):
    download(server.url, target)
    target.unlink()
    server.content, server.etag = CONTENT[::-1], '"two"'
    with pytest.raises(UserError, match="SHA-256"):
        download(server.url, target)
    assert not target.exists()
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="SHA-256"):
        download(server.url, target)


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
