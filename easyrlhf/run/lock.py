"""A file that one process at a time can hold, on every system."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a file for this process alone; the operating system lets go of it when the process ends, however it does.

    Raises BlockingIOError when another process holds it, another OSError when it cannot be written.
    """
    with file.open("a") as handle:
        take(handle)
        try:
            yield
        finally:
            if fcntl:
                file.unlink(missing_ok=True)  # before anyone else can hold it
    if not fcntl:  # Windows deletes no file that is open, and another process may have opened it by now
        with suppress(OSError):
            file.unlink()


def take(handle: TextIO) -> None:
    """Lock an open file. Raises BlockingIOError when another process has done so."""
    if fcntl:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    try:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError(error.errno, "another process holds it") from error
