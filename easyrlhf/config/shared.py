"""What several files of settings share: patterns of values, and settings that are the same everywhere."""

import re
from typing import Any

from easyrlhf.settings import DATA, OPTIMISATION, RUN, opt

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
REWARD_FUNC = re.compile(r"[^,:]+\.py:[A-Za-z_]\w*")


def file_form(function: str) -> str:
    """The end of a message about a function that was named as python imports it: "; write a/b.py:fn" for a.b.fn."""
    module, _, name = function.replace(":", ".").rpartition(".")
    if name == "py" or not DOTTED.fullmatch(f"{module}.{name}"):
        return ""
    return f"; write {module.replace('.', '/')}.py:{name}"


def row_format(help: str = "Row format, when recognising it is not wanted.") -> Any:
    """The setting `format`."""
    return opt(None, help, group=DATA, metavar="NAME", shown="recognised")


def row_field() -> Any:
    """The setting `field`."""
    return opt(
        None,
        "Keys under other names: prompt=question,chosen=good moves them; name='a text with {key}' builds a string. "
        "Done before the format is recognised.",
        group=DATA,
        metavar="NAME=KEY[,…]",
        many=True,
    )


def row_transform() -> Any:
    """The setting `transform`."""
    return opt(
        None,
        "Your own python function for rows in any other layout: fn(row) gives a row, a list of rows, or None to drop "
        "it; --field comes after it.",
        group=DATA,
        metavar="FILE.py:FN",
    )


def on_bad_row() -> Any:
    """The setting `on_bad_row` of commands that keep no file of dropped rows."""
    return opt(
        "stop",
        "A malformed row (not JSON, missing key): stop names file and line; skip counts it.",
        group=DATA,
        choices=("stop", "skip"),
    )


def trust_remote_code() -> Any:
    """The setting `trust_remote_code`."""
    return opt(False, "Run Python code that comes with a hub model. Only for authors you trust.", group=RUN)


def examine_rows(help: str, low: int) -> Any:
    """The setting `examine_rows`."""
    return opt(64, f"Held-out pairs, spread over valid_data, that {help}", group=RUN, low=low)


def share_prefix() -> Any:
    """The setting `share_prefix`."""
    return opt(
        "auto",
        "Compute a prompt once for all of its answers: auto where that is faster, on always. The numbers are the same.",
        group=OPTIMISATION,
        choices=("auto", "on", "off"),
    )
