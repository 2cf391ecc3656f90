"""Fetch one file over HTTP, go on where an interrupted download stopped, and check what came.

    python3 local/download.py --url https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz \\
        --out downloads/an4_sphere.tar.gz

What has come so far lies in OUT.part. A file that does not begin as its name says (a web page, say) is put aside as
OUT.bad; tar archives are read to their end, too. Then the SHA-256 of the first complete download is recorded in
OUT.sha256, and later ones must agree with it. Proxies are taken from the environment.
"""

import argparse
import hashlib
import http.client
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.archives import BadArchive, check_archive
from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.outdir import sha256_file, write_text

TIMEOUT_S = 60
PAUSES_S = (1, 4, 15)  # before each new attempt; one that brought data starts the count again
REPORT_EVERY_S = 5.0
MAGIC = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zip": b"PK"}
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def download(url: str, path: str | Path, sha256: str | None = None, pauses_s: Sequence[float] | None = None) -> Path:
    """Fetch `url` to `path` unless it is there already.

    Args:    sha256: published SHA-256, or MD5 where there is no other, in hex digits; None: the SHA-256 in `path`.sha256, or
             none yet: then `record` it as soon as the content has proved right.
             pauses_s: seconds to wait before each new attempt after a broken connection; None: PAUSES_S.
    Returns: Path of the complete file.
    Raises:  UserError when the server cannot be reached, refuses, or sends something else than expected.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: expected an address that starts with http:// or https://")
    if path.is_file():
        _check_kind(path, url, path)
        _check_sum(path, sha256, url, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(f"{path}.part")
    _fetch_all(url, part, PAUSES_S if pauses_s is None else pauses_s)
    _check_kind(part, url, path)
    _check_sum(part, sha256, url, path)
    os.replace(part, path)
    Path(f"{part}.version").unlink(missing_ok=True)
    return path


def recorded(path: str | Path) -> str | None:
    """The SHA-256 that an earlier download of this file had, or None."""
    record = Path(f"{path}.sha256")
    words = record.read_bytes().decode("utf-8", "replace").split() if record.is_file() else []
    return words[0] if words else None


def record(path: str | Path) -> None:
    """Write down the SHA-256 of a download that has proved right; later ones must have the same."""
    if not recorded(path):
        write_text(f"{path}.sha256", f"{sha256_file(path)}  {Path(path).name}\n")


def record_all(folder: Path) -> None:
    """Record every archive in a folder of downloads; without such a folder do nothing."""
    for path in sorted(folder.glob("*")):
        if path.suffix in MAGIC:
            record(path)


def put_aside(file: Path, path: Path | None = None, forget: bool = False) -> Path:
    """Rename what came to `path`.bad, so that the next start fetches anew.

    Args:    file: what came.   path: where it was to go; None: there it is.   forget: also what was recorded of it.
    Returns: Path of the renamed file.
    """
    path = Path(path or file)
    bad = path.with_name(f"{path.name}.bad")
    os.replace(file, bad)
    Path(f"{path}.part.version").unlink(missing_ok=True)
    if forget:
        Path(f"{path}.sha256").unlink(missing_ok=True)
    return bad


def _check_kind(file, url, path):
    """Refuse a file that does not begin as its name says."""
    with open(file, "rb") as content:
        head = content.read(512)
    if head.startswith(MAGIC.get(path.suffix, b"")):
        return
    page = any(mark in head.lower() for mark in (b"<html", b"<!doctype", b"<?xml"))
    what = "a web page" if page else "something else" if head else "an empty file"
    bad = put_aside(file, path, forget=file == path)
    raise UserError(
        f"{url}: the server sent {what}, not a {path.suffix} file; it is kept as {bad}; try again, or fetch it with a browser"
    )


def _check_sum(file, checksum, url, path):
    wanted = checksum or recorded(path)
    if wanted is None:
        return
    kind = "MD5" if len(wanted) == 32 else "SHA-256"
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, kind.replace("-", "").lower()).hexdigest()
    if found != wanted.lower():
        bad = put_aside(file, path)
        first = "" if checksum else f", or remove {path}.sha256, of the first download, if another file is right now"
        raise UserError(f"{url}: {kind} is {found}, expected {wanted}; what came is kept as {bad}; try again{first}")


def _fetch_all(url, part, pauses_s):
    """Bring `part` to its full length, over several connections if need be."""
    attempts = list(pauses_s)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _fetch(url, part)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{url}: the server says {error.code} {error.reason}") from None
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(getattr(error, "reason", None), socket.gaierror):  # no network, or no such server
                attempts = []
        if part.exists() and part.stat().st_size > before:
            attempts = list(pauses_s)
        if not attempts:
            raise UserError(f"{url}: cannot be fetched ({reason}); try again later: what has come so far is kept")
        say(f"connection lost ({reason}); going on in {attempts[0]} s")
        time.sleep(attempts.pop(0))


def _fetch(url, part):
    """One connection: ask for what is missing, append it. Raises: OSError when it breaks off."""
    version = Path(f"{part}.version")  # what the server calls the file's state, to never join two different files
    have = part.stat().st_size if part.exists() and version.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "slim-asr"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version.read_text())
    try:
        response = urllib.request.build_opener(Redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file on the server is now
        raise OSError("the file on the server has changed") from None
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isascii() and length.isdigit() else None
        state = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if state and not state.startswith("W/"):
            write_text(version, state)
        else:
            version.unlink(missing_ok=True)
        _copy(response, part, "ab" if resumed else "wb", have, total)
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes came")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other http(s) addresses only, and says so when the way there is no longer encrypted."""

    def redirect_request(self, request, file, code, message, headers, url):
        if not url.startswith(("http://", "https://")):
            raise urllib.error.HTTPError(request.full_url, code, f"go to {url}", headers, file)
        if request.full_url.startswith("https://") and url.startswith("http://"):
            say(f"{request.full_url} leads to {url}, which is not encrypted: only a published checksum vouches for it")
        return super().redirect_request(request, file, code, message, headers, url)


def _copy(response, part, mode, have, total):
    told_s = time.monotonic()
    with open(part, mode) as file:
        while block := response.read(1 << 16):
            file.write(block)
            have += len(block)
            if time.monotonic() - told_s > REPORT_EVERY_S:
                told_s = time.monotonic()
                say(f"{have / 1e6:.1f} {f'of {total / 1e6:.1f} ' if total else ''}MB")


def parse_sha256(text: str) -> str:
    """Type of --sha256: 64 hex digits."""
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        return text
    raise argparse.ArgumentTypeError(f"expected 64 hex digits, not {text!r}")


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--url", required=True, help="address of the file")
    add_common(parser, out="file to write")
    parser.add_argument("--sha256", type=parse_sha256, help="expected SHA-256, in hex digits")
    args = parser.parse_args()
    path = download(args.url, args.out, args.sha256)
    if path.name.endswith(TARS) and not args.sha256:
        try:
            check_archive(path)
        except BadArchive as error:
            bad = put_aside(path, forget=True)
            raise UserError(f"{error}; what came is kept as {bad}: run again to fetch it anew") from None
    record(path)
    say(f"{path.stat().st_size} bytes, SHA-256 {sha256_file(path)}: {path}")


if __name__ == "__main__":
    sys.exit(run_main(main))
