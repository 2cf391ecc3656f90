"""Fetch one file over HTTP, go on where an interrupted download stopped, and check what came.

    python3 local/download.py --url http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz \\
        --out downloads/an4_sphere.tar.gz

What has come so far lies in OUT.part. The SHA-256 of the first complete download is recorded in OUT.sha256; later ones
must agree with it. Proxies are taken from the environment.
"""

import http.client
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.outdir import sha256_file, write_text

TIMEOUT_S = 60
PAUSES_S = (1, 4, 15)  # before each new attempt; one that brought data starts the count again
REPORT_EVERY_S = 5.0


def download(url, path, sha256=None, pauses_s=None):
    """Fetch `url` to `path` unless it is there already.

    Args:    sha256: expected hex digest; None: the one in `path`.sha256, or none yet (then it is recorded there).
             pauses_s: seconds to wait before each new attempt after a broken connection; None: PAUSES_S.
    Returns: Path of the complete file.
    Raises:  UserError when the server cannot be reached, refuses, or sends something else than expected.
    """
    path, record = Path(path), Path(f"{path}.sha256")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: expected an address that starts with http:// or https://")
    if sha256 is None and record.is_file():
        sha256 = record.read_text().split()[0]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(f"{path}.part")
        _fetch_all(url, part, PAUSES_S if pauses_s is None else pauses_s)
        _check(part, sha256, url, path)
        os.replace(part, path)
        Path(f"{part}.version").unlink(missing_ok=True)
    else:
        _check(path, sha256, url, path)
    if not record.is_file():
        write_text(record, f"{sha256_file(path)}  {path.name}\n")
    return path


def _check(file, sha256, url, path):
    found = sha256_file(file)
    if sha256 is not None and found != sha256.lower():
        bad = path.with_name(f"{path.name}.bad")
        os.replace(file, bad)
        raise UserError(f"{url}: SHA-256 is {found}, expected {sha256}; what came is kept as {bad}; try again")


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
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file on the server is now
        raise OSError("the file on the server has changed") from None
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        state = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if state and not state.startswith("W/"):
            write_text(version, state)
        else:
            version.unlink(missing_ok=True)
        _copy(response, part, "ab" if resumed else "wb", have, total)
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes came")


def _copy(response, part, mode, have, total):
    told_s = time.monotonic()
    with open(part, mode) as file:
        while block := response.read(1 << 16):
            file.write(block)
            have += len(block)
            if time.monotonic() - told_s > REPORT_EVERY_S:
                told_s = time.monotonic()
                say(f"{have / 1e6:.1f} {f'of {total / 1e6:.1f} ' if total else ''}MB")


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--url", required=True, help="address of the file")
    add_common(parser, out="file to write")
    parser.add_argument("--sha256", help="expected SHA-256, in hex digits")
    args = parser.parse_args()
    path = download(args.url, args.out, args.sha256)
    say(f"{path.stat().st_size} bytes, SHA-256 {sha256_file(path)}: {path}")


if __name__ == "__main__":
    sys.exit(run_main(main))
