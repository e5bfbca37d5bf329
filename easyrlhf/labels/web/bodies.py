"""What a page may send: each value of its kind and within its limits, or a refusal that names it."""

import math
import re
from typing import Any

from easyrlhf.labels.rows import NewLabel
from easyrlhf.web.refusals import Refusal

ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
FLAG = re.compile(r"[a-z][a-z0-9_]{0,39}")
LONGEST_LOOK = 7 * 24 * 3600  # seconds


def label_of_body(body: Any, annotator: int, **more: Any) -> NewLabel:
    """The label that a page sends. Raises Refusal; the store looks at the value itself."""
    known = ("id", "item", "value", "scale", "flags", "note", "edit", "seconds")
    check_body(body, known)
    if "value" not in body:
        raise wrong("value", None, "what the label says")
    flags = body.get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) and FLAG.fullmatch(flag) for flag in flags):
        raise wrong("flags", flags, "a list of names of flags")
    seconds = body.get("seconds", 0)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not number or not 0 <= seconds <= LONGEST_LOOK:
        raise wrong("seconds", seconds, f"a number from 0 to {LONGEST_LOOK}")
    return NewLabel(
        id=id_of_body(body),
        item=item_of_body(body),
        annotator=annotator,
        value=body["value"],
        scale=text_of_body(body, "scale"),
        flags=tuple(sorted(set(flags))),
        note=text_of_body(body, "note", ""),
        edit=text_of_body(body, "edit", ""),
        seconds=float(seconds),
        **more,
    )


def check_body(body: Any, known: tuple[str, ...]) -> None:
    """Raise Refusal for what is no object of these keys."""
    if not isinstance(body, dict):
        raise Refusal("the request must be a JSON object", status=422)
    if strange := next((key for key in body if key not in known), None):
        raise Refusal(f"{strange}: is not known here; known are {', '.join(known) or 'no keys'}", status=422)


def id_of_body(body: dict) -> str:
    """The label's id, which the page has made. Raises Refusal."""
    found = body.get("id")
    if not isinstance(found, str) or not ID.fullmatch(found):
        raise wrong("id", found, "8 to 64 letters and digits")
    return found


def item_of_body(body: dict) -> int:
    """The number of an item. Raises Refusal."""
    found = body.get("item")
    if type(found) is not int or not 0 < found < 2**63:
        raise wrong("item", found, "the number of an item")
    return found


def text_of_body(body: dict, name: str, default: str | None = None) -> str:
    """A text. Raises Refusal."""
    found = body.get(name, default)
    if not isinstance(found, str):
        raise wrong(name, found, "a text")
    return found


def wrong(name: str, value: Any, expected: str) -> Refusal:
    """What is told of a value that cannot be."""
    shown = repr(value)
    return Refusal(f"{name} {shown[:40]}{'…' * (len(shown) > 40)}: must be {expected}", status=422, param=name)
