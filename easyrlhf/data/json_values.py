"""Values of rows in the words of JSON."""

import json
from typing import Any

from easyrlhf.data.row_errors import StructuralFault


def from_json(value: Any, key: str, wanted: str) -> Any:
    """The value, decoded where it is a JSON string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise StructuralFault(
            f"key '{key}': expected {wanted}, found {kind_of_value(value)}, which is not JSON"
        ) from error


def kind_of_value(value: Any) -> str:
    """A value's kind in the words of JSON, with a short look at it."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:40] + "…"
    kind = str if isinstance(value, str) else type(value)
    return f"{names.get(kind, kind.__name__)} ({shown})"


def string_at(value: Any, key: str) -> str:
    """The value of this key, which must be a string."""
    if not isinstance(value, str):
        raise StructuralFault(f"key '{key}': expected a string, found {kind_of_value(value)}")
    return value
