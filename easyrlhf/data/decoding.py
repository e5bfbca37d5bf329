"""From bytes to JSON values, with what is wrong with them."""

import json
from collections.abc import Callable
from typing import Any

from easyrlhf.data.raw import RawRow

BOM = b"\xef\xbb\xbf"
SHOWN = 60  # characters of a broken line


class KeyTwice(ValueError):
    """An object has a key twice: JSON readers keep the last value and lose the other."""

    def __init__(self, key: str):
        super().__init__(f"key '{key}' stands twice in one object, so that one of its values would be lost; keep one")


class Doubled(dict):
    """An object that has a key twice, where the others of its file are to be read."""

    key = ""


def decode_line(place: str, line: bytes) -> RawRow:
    """One line of a file that has a JSON object a line; what is wrong with it is the row's fault."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        broken = line.decode("utf-8", errors="backslashreplace").strip()
        return RawRow(place, broken, not_utf8(line[error.start], error.start))
    try:
        value = _STRICT.decode(text)
    except KeyTwice as error:
        return RawRow(place, text, str(error))
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "…"
        what = f"{error.msg} at column {error.colno}" if hasattr(error, "colno") else error
        expected = "expected one JSON object a line"
        if text[0] == "[":
            expected += "; a file that is one JSON list of rows is to be named .json"
        return RawRow(place, text, f"not JSON ({what}): {shown}; {expected}")
    if isinstance(value, list):
        fault = "expected a JSON object, found list; a file that is one JSON list of rows is to be named .json"
        return RawRow(place, value, fault)
    return RawRow(place, value, surrogate_fault(text))


def decode_all(text: str) -> tuple[Any, Callable[[Any], str | None]]:
    """A whole JSON text, and a function that tells the fault of one of its rows. Raises ValueError, RecursionError."""
    try:
        return _STRICT.decode(text), lambda row: None
    except KeyTwice:
        return _MARKING.decode(text), _doubled_inside


def read_json(body: bytes) -> Any:
    """The JSON of a message from elsewhere. Raises ValueError, which says what it is or holds that it should not."""
    try:
        text = body.decode("utf-8")
        value, fault = _MESSAGES.decode(text), surrogate_fault(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {body[error.start]:#04x} at position {error.start})") from error
    except KeyTwice as error:
        raise ValueError(f"is not clear: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if fault:
        raise ValueError(f"holds {fault}")
    return value


def not_utf8(byte: int, position: int) -> str:
    """The fault of a line that holds this byte."""
    return f"not UTF-8 (byte {byte:#04x} at position {position}); save the file as UTF-8"


def surrogate_fault(text: str) -> str | None:
    r"""JSON can write half a surrogate pair as \ud83d, which no tokenizer and no file can take."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    decoded = json.dumps(json.loads(text), ensure_ascii=False)
    half = next((c for c in decoded if "\ud800" <= c <= "\udfff"), None)
    return half and f"half a surrogate pair (\\u{ord(half):x}), which is not text; remove it"


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyTwice(_twice(pairs))
    return found


def _marked(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = Doubled(found)
        found.key = _twice(pairs)
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _twice(pairs: list[tuple[str, Any]]) -> str:
    """The first key that is there a second time."""
    seen = set()
    return next(key for key, _ in pairs if key in seen or seen.add(key))


def _doubled_inside(value: Any) -> str | None:
    """The fault of a value that is or holds an object with a key twice."""
    if isinstance(value, Doubled):
        return str(KeyTwice(value.key))
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_doubled_inside, inside)), None)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique)
_MESSAGES = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
_MARKING = json.JSONDecoder(object_pairs_hook=_marked)
