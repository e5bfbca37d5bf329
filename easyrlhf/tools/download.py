"""easyrlhf data download: Anthropic's hh-rlhf, fetched and unpacked."""

import gzip
import os
import shutil
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from easyrlhf.errors import InputError, RunError

HH_RLHF_URL = "https://huggingface.co/datasets/Anthropic/hh-rlhf/resolve/main"
HH_RLHF_SUBSETS = (
    "helpful-base",
    "helpful-online",
    "helpful-rejection-sampled",
    "harmless-base",
)
SPLITS = ("train", "test")
TIMEOUT = 60  # seconds without a byte


def download_hh_rlhf(
    output_dir: str | Path,
    subsets: Iterable[str] | None = None,
    base_url: str | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Fetch and unpack hh-rlhf into `output_dir/SUBSET/{train,test}.jsonl`; returns these files.

    A file that is there is kept. A `.jsonl.gz` that is there is unpacked without the network.
    subsets   names out of HH_RLHF_SUBSETS; None for all of them
    base_url  where `SUBSET/SPLIT.jsonl.gz` lies, for mirrors; None for the Hugging Face hub
    say       gets one line a file
    Raises InputError for an unknown subset, RunError when a file cannot be fetched or unpacked.
    """
    chosen = tuple(subsets or HH_RLHF_SUBSETS)
    unknown = [subset for subset in chosen if subset not in HH_RLHF_SUBSETS]
    if unknown:
        raise InputError(f"--subset {unknown[0]}: no such part of hh-rlhf; use {', '.join(HH_RLHF_SUBSETS)}")
    base_url = (base_url or HH_RLHF_URL).rstrip("/")
    return [
        _provide(Path(output_dir) / subset / f"{split}.jsonl", f"{base_url}/{subset}", say)
        for subset in chosen
        for split in SPLITS
    ]


def _provide(file: Path, url: str, say: Callable[[str], None]) -> Path:
    """Make sure one unpacked file is there."""
    packed = file.with_name(file.name + ".gz")
    if file.exists():
        say(f"{file}: is there")
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    if not packed.exists():
        say(f"{file}: downloading")
        _fetch(f"{url}/{packed.name}", packed)
    _unpack(packed, file)
    packed.unlink(missing_ok=True)
    say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return file


def _fetch(url: str, file: Path) -> None:
    """Download to a file beside, then rename: a broken download leaves nothing behind."""
    unfinished = file.with_name(file.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, unfinished.open("wb") as out:
            shutil.copyfileobj(answer, out)
            expected = answer.headers.get("Content-Length")
        size = unfinished.stat().st_size
        if expected is not None and size != int(expected):
            raise OSError(f"the connection broke after {size:,} of {int(expected):,} bytes")
        os.replace(unfinished, file)
    except OSError as error:  # urllib's errors, timeouts and a full disk are all of this kind
        unfinished.unlink(missing_ok=True)
        reason = error if hasattr(error, "code") else getattr(error, "reason", error)
        raise RunError(
            f"{url}: cannot be downloaded ({reason}); check the network or proxy and run the same "
            f"command again, or put the file at {file} by hand and run it again"
        ) from error


def _unpack(packed: Path, file: Path) -> None:
    unfinished = file.with_name(file.name + ".part")
    try:
        with gzip.open(packed) as source, unfinished.open("wb") as out:
            shutil.copyfileobj(source, out)
        os.replace(unfinished, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"{packed}: damaged ({error}); delete it and run again") from error
