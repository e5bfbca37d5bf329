"""Files: written whole or not at all, what a disk says that does not take them, their modes, locks, checksums."""

import errno
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from easyrlhf.errors import EasyRLHFError, InputError, RunError
from easyrlhf.paths import broken_link

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# How libraries that do not raise OSError repeat what the system said: safetensors, tokenizers, torch's zip files.
SIGNS = ("no space left", "quota exceeded", "file too large", "read-only file system", "os error 5)")
SIGNS += ("pytorchstreamwriter", "inline_container")
BLOCK = 2**22  # bytes read at a time
ROOM = ("no space", "quota", "too large", "streamwriter", "inline_container")


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception, of whatever library, says that a disk is full or takes nothing."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, Exception) and any(sign in str(error).lower() for sign in SIGNS)


def disk_reason(error: BaseException) -> str:
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
        raise RunError(f"{target}: could not be written: {disk_reason(error)}{kept and f'. {kept}'}") from error


@contextmanager
def atomic_write(target: Path, draft: Path | None = None, *, to_disk: bool = False) -> Iterator[Path]:
    """A path beside the target to write to; it takes the target's place when all went well, and is gone when not.

    draft    the path; None for .NAME, where a killed process leaves a file that the next one writes over
    to_disk  whether the bytes are on disk before, so that the rename cannot outrun them
    """
    draft = draft or target.with_name(f".{target.name}")
    try:
        yield draft
        if to_disk:
            sync_to_disk(draft)
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def write_whole(target: Path, text: str, *, to_disk: bool = False) -> None:
    """Write a text in UTF-8, beside its place first: it is never half there."""
    with atomic_write(target, to_disk=to_disk) as draft:
        draft.write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def drafted_in(folder: Path, name: str, kept: str = "", replaced: Iterable[str] = ()) -> Iterator[Path]:
    """A path for a folder of files, which move into `folder` one by one when all went well, and none of them when not.

    name      of the folder that is written, inside the other
    kept      as of written_to
    replaced  patterns of files that none of the new ones may be mixed with: they are removed first
    Raises RunError when the disk does not take them.
    """
    draft = folder / name
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with written_to(folder, kept):
            yield draft
            make_world_readable(draft)
            for old in (path for pattern in replaced for path in folder.glob(pattern)):
                old.unlink()
            for path in sorted(draft.iterdir()):
                target = folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                path.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder and every file below it."""
    windows = os.name == "nt"
    for each in [*(path.rglob("*") if path.is_dir() else ()), path]:
        if windows and each.is_dir():  # which cannot be opened there
            continue
        descriptor = os.open(each, os.O_RDWR if windows else os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def make_world_readable(folder: Path) -> None:
    """Give the files of a folder the mode that new files have: safetensors lets no one else read what it writes."""
    mask = os.umask(0)
    os.umask(mask)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        file.chmod(0o666 & ~mask)


@contextmanager
def hold_file(file: Path, taken: str) -> Iterator[None]:
    """Hold a file for this process alone; the operating system lets go of it when the process ends, however it does.

    Raises InputError, which says `taken`, when another process holds it; OSError when it cannot be written.
    """
    with file.open("a") as handle:
        try:
            lock_file(handle)
        except BlockingIOError as error:
            raise InputError(taken) from error
        try:
            yield
        finally:
            if fcntl:
                file.unlink(missing_ok=True)  # before anyone else can hold it
    if not fcntl:  # Windows deletes no file that is open, and another process may have opened it by now
        with suppress(OSError):
            file.unlink()


def lock_file(handle: TextIO) -> None:
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


def make_folder(folder: Path) -> None:
    """Create the output folder; InputError when that is not possible."""
    if broken := broken_link(folder):
        raise InputError(f"--output_dir {folder}: {broken}; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be created ({error.strerror}); give another folder") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"--output_dir {folder}: is not writable; give another folder")


def checksum(file: Path) -> str:
    """CRC-32 of a file, eight hexadecimal digits."""
    found = 0
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            found = zlib.crc32(block, found)
    return f"{found:08x}"
