"""Fetching a gzip file over HTTP: goes on where it broke off, tries again after a while, recognises what is no gzip."""

import errno
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import requests
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError as TransportError

from easyrlhf.errors import RunError

ATTEMPTS = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; it doubles with each attempt
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 16
GZIP = b"\x1f\x8b"
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
QUIET_SECONDS = 30.0


def fetch(url: str, part: Path, say: Callable[[str], None] = print) -> None:
    """Download a gzip file to `part`, which keeps what is there when this fails, for the next call to go on from.

    say  gets a line before each further attempt
    Raises RunError, with the URL and the way out, for an answer that another attempt would not change, and when
    the attempts are used up.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _fetch_rest(url, part)
        except (OSError, TransportError) as error:  # what reading the body raises has not passed through requests
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise RunError(f"{part}: cannot be written ({error.strerror})") from error
            status = _status(error)
            if attempt + 1 == ATTEMPTS or (status is not None and status not in TEMPORARY):
                raise RunError(_explain(url, part, error, attempt + 1)) from error
            pause = _pause(error, attempt)
            say(f"{url}: {_what_happened(error)}; trying again in {pause:g} s")
            time.sleep(pause)


def _explain(url: str, part: Path, error: Exception, attempts: int) -> str:
    file = part.with_name(part.name.removesuffix(".part"))
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    kept = f"; {part.stat().st_size:,} bytes are kept, and the next run goes on from there" if part.exists() else ""
    check = "--base_url and the name" if _status(error) == 404 else "the network or proxy and run the command again"
    failed = f"{url}: cannot be downloaded{tried} ({_what_happened(error)})"
    return f"{failed}{kept}; check {check}, or put the file at {file} by hand"


def _status(error: Exception) -> int | None:
    """The status of an answer that is an error; None where there was no answer."""
    return error.response.status_code if isinstance(error, requests.HTTPError) else None


def _what_happened(error: Exception) -> object:
    """What happened at the bottom, without the errors it passed through."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP Error {error.response.status_code}: {error.response.reason}"
    while isinstance(inner := error.__cause__ or (error.args or (None,))[-1], Exception):
        error = inner
    return error


def _pause(error: Exception, attempt: int) -> float:
    """Seconds to wait: what the server asks for, else twice as long as before."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, requests.HTTPError) else ""
    return min(float(asked) if asked.isdigit() else FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)


def _fetch_rest(url: str, part: Path) -> None:
    """One attempt. Raises OSError when the answer ends before its time."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have:
            return  # nothing is left to send; if the part is of another file, unpacking will tell
        answer.raise_for_status()
        answer.raw.enforce_content_length = False  # what came before the connection broke is kept, and counted below
        total = re.fullmatch(rf"bytes {have}-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or not total:
            have = 0  # a server without ranges sends it all again
        length = answer.headers.get("Content-Length")
        expected = int(total[1]) if total and have else int(length) if length else None
        _save(answer.raw, url, part, have, expected)
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise OSError(f"the connection broke after {size:,} of {expected:,} bytes")


def _save(body: BaseHTTPResponse, url: str, part: Path, have: int, expected: int | None) -> None:
    """Write the body as it was sent, behind what is there. Raises RunError when its first bytes are not gzip's."""
    blocks = body.stream(CHUNK, decode_content=False)
    first = b"" if have else next(blocks, b"")
    if not have and not first.startswith(GZIP[: len(first)]):
        page = "a web page" if first.lstrip()[:1] == b"<" else "something else"
        raise RunError(
            f"{url}: the server sent {page} in place of a gzip file: {first.decode(errors='replace').split()[:12]}; "
            "check --base_url, and whether a proxy or a login page stands between"
        )
    with (
        part.open("ab" if have else "wb") as out,
        download_progress(part.name.removesuffix(".part"), have, expected) as advance,
    ):
        for block in chain([first], blocks):
            out.write(block)
            advance(len(block))


@contextmanager
def download_progress(name: str, done: int, total: int | None, unit: str = "bytes") -> Iterator:
    """A bar in a terminal, else a line every half minute; yields what to call with the number of new units."""
    if not sys.stdout.isatty():
        yield _plain(name, done, total, unit)
        return
    from rich import progress as bars

    amount = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    speed = [bars.TransferSpeedColumn()] if unit == "bytes" else []
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), amount, *speed, bars.TimeRemainingColumn())
    with bars.Progress(*columns, transient=True) as shown:
        task = shown.add_task(name, total=total, completed=done)
        yield lambda new: shown.advance(task, new)


def _plain(name: str, done: int, total: int | None, unit: str):
    spoke = time.monotonic()

    def advance(new: int) -> None:
        nonlocal done, spoke
        done += new
        if time.monotonic() - spoke >= QUIET_SECONDS:
            spoke = time.monotonic()
            print(f"{name}: {done:,}{f' of {total:,}' if total else ''} {unit}", flush=True)

    return advance
