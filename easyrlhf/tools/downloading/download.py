"""easyrlhf data download: hh-rlhf file by file, other data sets through the hub's own library."""

import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from easyrlhf.errors import InputError, RunError
from easyrlhf.files import atomic_write, make_folder
from easyrlhf.tools.downloading.fetch import CHUNK, download_progress, fetch

HH_RLHF = "hh-rlhf"
HH_RLHF_URL = "https://huggingface.co/datasets/Anthropic/hh-rlhf/resolve/main"
# subset -> rows of its train and test file, as published
HH_RLHF_ROWS: dict[str, dict[str, int]] = {
    "helpful-base": {"train": 43_835, "test": 2_354},
    "helpful-online": {"train": 22_007, "test": 1_137},
    "helpful-rejection-sampled": {"train": 52_421, "test": 2_749},
    "harmless-base": {"train": 42_537, "test": 2_312},
}
SHORT_NAMES = {"slimorca-dedup": "Open-Orca/SlimOrca-Dedup"}
Say = Callable[[str], None]


class Damaged(RunError):
    """A packed file that cannot be unpacked."""


def download(
    dataset: str,
    output_dir: str | Path | None = None,
    subsets: Iterable[str] | None = None,
    base_url: str | None = None,
    say: Say = print,
) -> list[Path]:
    """Fetch a data set and write it as .jsonl files, which every stage reads; returns them.

    dataset     hh-rlhf, slimorca-dedup, or a hub id, `name[:config][@split]`
    output_dir  None for data/NAME
    subsets     of hh-rlhf; None for all
    base_url    of hh-rlhf: where `SUBSET/SPLIT.jsonl.gz` lies; of others: a mirror of the hub
    say         gets one line a file
    Raises InputError for a wrong name, RunError when a file cannot be fetched or is damaged.
    """
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise InputError(f"--base_url {base_url}: must begin with http:// or https://")
    if dataset == HH_RLHF:
        return download_hh_rlhf(output_dir or "data/hh-rlhf", subsets, base_url, say)
    if subsets:
        raise InputError(f"--subset: {dataset} has none; a configuration is chosen as {dataset}:NAME")
    names = [HH_RLHF, *SHORT_NAMES]
    full_id = SHORT_NAMES.get(dataset, dataset)
    if "/" not in full_id:
        near = difflib.get_close_matches(dataset, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(names)} or the id of one of the hub, OWNER/NAME"
        raise InputError(f"{dataset}: no such data set; {hint}")
    folder = Path(output_dir or Path("data", full_id.split("/")[-1].split(":")[0].split("@")[0].lower()))
    return download_hub(full_id, folder, base_url, say)


def download_hh_rlhf(
    output_dir: str | Path, subsets: Iterable[str] | None = None, base_url: str | None = None, say: Say = print
) -> list[Path]:
    """Fetch and unpack hh-rlhf into `output_dir/SUBSET/{train,test}.jsonl`; returns these files.

    A file that is there is kept. A `.jsonl.gz` that is there is unpacked without the network, and kept.
    Raises as `download`.
    """
    chosen = tuple(subsets or HH_RLHF_ROWS)
    unknown = [subset for subset in chosen if subset not in HH_RLHF_ROWS]
    if unknown:
        raise InputError(f"--subset {unknown[0]}: no such part of hh-rlhf; use {', '.join(HH_RLHF_ROWS)}")
    own = base_url is not None  # a mirror of the user's may hold parts of the files
    base_url = (base_url or HH_RLHF_URL).rstrip("/")
    rows = {Path(output_dir, name, f"{split}.jsonl"): n for name in chosen for split, n in HH_RLHF_ROWS[name].items()}
    missing = {file: count for file, count in rows.items() if not file.exists()}
    for file in rows:
        if file not in missing:
            say(f"{file}: is there")
    for file, count in missing.items():
        packed = _packed(file)
        if packed.exists():
            say(_unpack(packed, file, count, f"delete {packed} and run again", own=True))
    for file, count in missing.items():
        if not file.exists():
            say(f"{file}: downloading")
            say(_download_packed(f"{base_url}/{file.parent.name}/{_packed(file).name}", file, count, say, own))
    return list(rows)


def _packed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _download_packed(url: str, file: Path, count: int, say: Say, own: bool) -> str:
    """Fetch and unpack one file; one that arrives damaged is fetched once more, from its beginning."""
    part = file.with_name(file.name + ".gz.part")
    make_folder(file.parent)
    remedy = f"check that {url} is the published file, and run again"
    fetch(url, part, say)
    try:
        said = _unpack(part, file, count, remedy, own)
    except Damaged:  # a part of another version of the file, perhaps
        part.unlink()
        fetch(url, part, say)
        said = _unpack(part, file, count, remedy, own)
    part.unlink()
    return said


def _unpack(packed: Path, file: Path, count: int, remedy: str, own: bool) -> str:
    """Unpack beside and rename; the line to say. Raises RunError for a damaged file.

    own  whether the user put the file there: another number of rows than was published is said then, and an error else
    """
    rows, last = 0, b"\n"
    try:
        with atomic_write(file) as draft:
            with gzip.open(packed) as source, draft.open("wb") as out:
                while block := source.read(CHUNK):
                    out.write(block)
                    rows += block.count(b"\n")
                    last = block[-1:]
            rows += last != b"\n"
            if rows != count and not own:
                raise Damaged(f"{packed}: has {rows:,} rows, but {count:,} were published; {remedy}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Damaged(f"{packed}: damaged ({error}); {remedy}") from error
    except OSError as error:
        raise RunError(
            f"{file}: cannot be written ({error.strerror}); make room or give another --output_dir"
        ) from error
    other = "" if rows == count else f" (published were {count:,})"
    return f"{file}: {rows:,} rows{other}, {file.stat().st_size / 1e6:.1f} MB"


def download_hub(full_id: str, folder: Path, endpoint: str | None, say: Say = print) -> list[Path]:
    """Fetch a hub data set with the hub's own library, which resumes and verifies; a `.jsonl` file for each split.

    full_id   `name[:config][@split]`; all splits unless one is named
    endpoint  a mirror of the hub; None for HF_ENDPOINT, or the hub
    """
    from easyrlhf.data.hub import fetch_hub_dataset

    written = []
    for split, rows in fetch_hub_dataset(full_id, endpoint).items():
        file = folder / f"{split}.jsonl"
        written.append(file)
        if file.exists():
            say(f"{file}: is there")
            continue
        make_folder(folder)
        with (
            atomic_write(file) as draft,
            draft.open("w", encoding="utf-8") as out,
            download_progress(file.name, 0, len(rows), "rows") as advance,
        ):
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                advance(1)
        say(f"{file}: {len(rows):,} rows, {file.stat().st_size / 1e6:.1f} MB")
    return written
