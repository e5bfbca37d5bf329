"""Single values of a request, of the kind and within the limits that their key has."""

from typing import Any

from easyrlhf.web.refusals import Refusal


def flag_value(body: dict, name: str, default: bool = False) -> bool:
    """A key that is true or false. Raises Refusal."""
    found = default if body.get(name) is None else body[name]
    if not isinstance(found, bool):
        raise Refusal(f"{name} {shown_value(found)}: must be true or false", param=name)
    return found


def whole_or_none(body: dict, name: str) -> int | None:
    """A key that is a whole number; None where it is not given. Raises Refusal."""
    found = body.get(name)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if found is not None and type(found) is not int:
        raise Refusal(f"{name} {shown_value(found)}: must be a whole number", param=name)
    return found


def whole_within(body: dict, name: str, low: int, high: int | None, default: int | None) -> int | None:
    """A whole number within limits. Raises Refusal."""
    found = whole_or_none(body, name)
    if found is None:
        return default
    if found < low or (high is not None and found > high):
        limits = f"{low} or more" if high is None else f"from {low} to {high}"
        raise Refusal(f"{name} {shown_value(found)}: must be {limits}", param=name)
    return found


def number_within(body: dict, name: str, default: float, low: float, high: float) -> float:
    """A number within limits. Raises Refusal."""
    found = default if body.get(name) is None else body[name]
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
        raise Refusal(f"{name} {shown_value(found)}: must be a number", param=name)
    if not low <= found <= high:
        raise Refusal(f"{name} {shown_value(found)}: must be from {low:g} to {high:g}", param=name)
    return float(found)


def shown_value(value: Any) -> str:
    """A value, for a message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
