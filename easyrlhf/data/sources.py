"""Where rows come from: files, folders and hub data sets, all read lazily and with places."""

import difflib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from easyrlhf.config.common_fields import STANDARD_INPUT
from easyrlhf.data import standard_input
from easyrlhf.data.files import check_file, other_kind, reader_of
from easyrlhf.data.folders import is_in_folder, is_shard, open_folder
from easyrlhf.data.hub import HUB_ID, load_hub_dataset
from easyrlhf.data.raw import RawRow, numbered
from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.data.row_transform import MISSING, RowTransform, lookup
from easyrlhf.errors import InputError
from easyrlhf.paths import broken_link, split_paths
from easyrlhf.shipped import how_to_get

BY_TRANSFORM = "dropped by --transform"
BLOCK = 20  # rows among which a weight is kept exactly


@dataclass(frozen=True)
class Source:
    """One file or hub data set; every call of `read` starts again from its first row.

    weight  how often a usable row is used: 0.3 takes three rows of ten, 2.5 takes all twice and half of them once more
    notes   what is to be said of the folder it lies in -> of how many files
    """

    name: str
    read: Callable[[], Iterator[RawRow]]
    weight: float = 1.0
    notes: Counter = field(default_factory=Counter)

    def copies(self, seed: int) -> Iterator[int]:
        """How often each usable row is used, in turn: chosen at random by the seed, and without end.

        Of every 20 rows as many are chosen as the weight says, so that the share holds for small files as well.
        """
        whole, part = divmod(self.weight, 1)
        choice, owed = random.Random(seed), 0.0
        while True:
            owed += part * BLOCK
            number = math.floor(owed + 1e-9)
            owed -= number
            chosen = set(choice.sample(range(BLOCK), number))
            yield from (int(whole) + (row in chosen) for row in range(BLOCK))


def open_sources(
    spec: str, *, field: str | None = None, transform: str | None = None, local: bool = False
) -> list[Source]:
    """The sources that a comma list of files, folders and hub ids names; nothing is read yet.

    Each may end with a weight, `path=0.3`. field and transform are the settings of these names (data/changes.py).
    local  leave out what would have to be loaded from the hub
    Raises InputError when one of them does not exist or is of an unknown kind.
    """
    names = split_paths(spec)
    if not names:
        raise InputError(f"no data: {spec!r} names no file, folder or hub data set")
    changes = RowTransform.parse(field, transform)
    sources = [replace(one, weight=weight) for path, weight in map(_weighed, names) for one in _open_one(path, local)]
    return [replace(one, read=partial(_changed, one.read, changes)) for one in sources] if changes else sources


def _weighed(name: str) -> tuple[str, float]:
    """The path or id and its weight. An equals sign belongs to a path that exists, and to what no number follows."""
    path, equals, tail = name.rpartition("=")
    if not equals or Path(name).expanduser().exists():
        return name, 1.0
    try:
        weight = float(tail)
    except ValueError:
        if not Path(path).expanduser().exists():
            return name, 1.0
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"{name}: the weight {tail!r} is no number above 0; write {path}=0.3 to use 30 % of its rows")
    return path, weight


def _changed(read: Callable[[], Iterator[RawRow]], changes: RowTransform) -> Iterator[RawRow]:
    """The rows after --transform and --field; all that are made of one row have its place."""

    @cache
    def optional(key: str) -> bool:
        return any(lookup(row, key) is not MISSING for row in _transformed(read, changes))

    for raw in read():
        if raw.fault or not isinstance(raw.value, dict):
            yield raw
            continue
        try:
            rows = changes.apply(raw.value, optional)
        except StructuralFault as fault:
            yield RawRow(raw.place, raw.value, str(fault))
            continue
        yield from (RawRow(raw.place, row) for row in rows)
        if not rows:
            yield RawRow(raw.place, raw.value, dropped=BY_TRANSFORM)


def _transformed(read: Callable[[], Iterator[RawRow]], changes: RowTransform) -> Iterator[dict]:
    """All rows after --transform alone; a row that --field cannot read a key of may stand among others that have it."""
    for raw in read():
        if not raw.fault and isinstance(raw.value, dict):
            with suppress(StructuralFault):
                yield from changes.transformed(raw.value)


def _open_one(name: str, local: bool) -> list[Source]:
    if name in STANDARD_INPUT:
        return [Source(standard_input.NAME, standard_input.open_rows())]
    path = Path(name).expanduser()
    if is_in_folder(name):
        folder = open_folder(name)
        opened = [_open_file(file) for file in folder.splits]
        opened = [one for one in opened if not _is_empty_shard(one)] or opened[:1]
        return [replace(opened[0], notes=folder.notes), *opened[1:]]
    if path.is_file():
        return [_open_file(path)]
    if path.exists():
        raise InputError(f"{name}: is a pipe or a device, and rows are read more than once; pipe them in and name -")
    if broken := broken_link(path):
        raise InputError(f"{name}: {broken}")
    hub_id = HUB_ID.fullmatch(name)
    if reader_of(path) or other_kind(path) or name.startswith((".", "/", "~")) or not hub_id:
        raise InputError(f"{name}: no such file or folder{_close_name(path)}")
    if local:
        return []
    rows = load_hub_dataset(name, **hub_id.groupdict(), hint=_close_name(path))
    return [Source(name, partial(numbered, name, rows))]


def _is_empty_shard(source: Source) -> bool:
    """Whether a shard got no row, as some do where there are more shards than rows."""
    return is_shard(Path(source.name)) and next(source.read(), None) is None


def _open_file(path: Path) -> Source:
    return Source(str(path), partial(check_file(path), path))


def _close_name(path: Path) -> str:
    """A hint at the closest name, when some folder on the way exists."""
    folder = path.parent
    if brought := how_to_get(path):
        return brought
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    close = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], 1)
    if path.name.partition("@")[0] != path.name and (folder / path.name.partition("@")[0]).is_file():
        return "; a split (@) can be chosen of a folder or a hub data set, not of a file"
    return f"; did you mean {folder / close[0]}?" if close else ""
