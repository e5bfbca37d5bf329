"""Paths as people write them: in lists with commas, and as links that lead nowhere. Light to import."""

import os
from pathlib import Path


def split_paths(value: str | None) -> tuple[str, ...]:
    """The items of a comma list of paths; () for None. A comma in the name of what exists separates nothing.

    An item may go on behind the path: `folder:config@split`, `file.py:function`, `file=0.3`.
    """
    pieces, found = (value or "").split(","), []
    while pieces:
        ends = (end for end in range(len(pieces), 1, -1) if is_there(",".join(pieces[:end]).strip()))
        end = next(ends, 1)
        found.append(",".join(pieces[:end]).strip())
        pieces = pieces[end:]
    return tuple(item for item in found if item)


def is_there(item: str) -> bool:
    """Whether an item of a list names something that exists, with or without what may stand behind a path."""
    forms = [item]
    for sign in "=@:":
        head, _, tail = forms[-1].rpartition(sign)
        forms.append(head if head and "," not in tail else forms[-1])
    return any(os.path.lexists(os.path.expanduser(form)) for form in forms)


def broken_link(path: str | Path) -> str:
    """`is a link to x, which is not there`: of a path, or of a folder on the way to it; "" for any other path."""
    given = Path(path).expanduser()
    for place in (given, *given.parents):
        if place.is_symlink() and not place.exists():
            what = "is a link" if place == given else f"leads over {place}, a link"
            return f"{what} to {place.readlink()}, which is not there"
    return ""
