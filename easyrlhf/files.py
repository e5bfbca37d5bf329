"""Files that a disk does not take: what every library says of it, as one message; and the modes of those it takes."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from easyrlhf.errors import EasyRLHFError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# How libraries that do not raise OSError repeat what the system said: safetensors, tokenizers, torch's zip files.
SIGNS = ("no space left", "quota exceeded", "file too large", "read-only file system", "os error 5)")
SIGNS += ("pytorchstreamwriter", "inline_container")
ROOM = ("no space", "quota", "too large", "streamwriter", "inline_container")


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception, of whatever library, says that a disk is full or takes nothing."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, Exception) and any(sign in str(error).lower() for sign in SIGNS)


def reason_of(error: BaseException) -> str:
    """What the system said of a file it did not take, without numbers and names, and the way out."""
    said = (getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)[:200]
    remedy = "make room there" if any(sign in said.lower() for sign in ROOM) else "see that it can be written"
    return f"{said}; {remedy}"


@contextmanager
def written_to(target: Path, kept: str = "") -> Iterator[None]:
    """Turn every error of writing in here into a RunError about the target.

    kept  what is safe all the same and what to do, the end of the message
    """
    try:
        yield
    except EasyRLHFError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__name__ == "SafetensorError" or is_full_disk(error)):
            raise
        raise RunError(f"{target}: could not be written: {reason_of(error)}{kept and f'. {kept}'}") from error


def readable(folder: Path) -> None:
    """Give the files of a folder the mode that new files have: safetensors lets no one else read what it writes."""
    mask = os.umask(0)
    os.umask(mask)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        file.chmod(0o666 & ~mask)
