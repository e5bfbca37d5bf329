"""What several files of settings share: patterns of values, and settings that are the same everywhere."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from easyrlhf.config.base import DATA, FREE, OPTIMISATION, ROWS, RUN, Settings, opt
from easyrlhf.errors import SettingError

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
DEFAULT_LENGTH = 1024  # tokens
STANDARD_INPUT = ("-", "/dev/stdin")  # names of it among files of rows
FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")
# rewards.fn, pkg.rewards.fn, rewards:fn, rewards.py::fn, rewards.py:fn()
OTHER_FORMS = re.compile(r"(?P<file>[\w./~-]*?[\w~-])(\.py)?(\.|::?)(?P<name>(?!py$)[A-Za-z_]\w*)(\(\))?")

TRL = "trl:"  # before the name of a reward function that trl brings
REASONING_GYM = "reasoning_gym:"  # before the name of one that scores its tasks
BROUGHT = (TRL, REASONING_GYM)  # what names of reward functions that are in no file begin with
BROUGHT_FUNCTION = re.compile(REASONING_GYM + r"[A-Za-z_]\w*")
TRL_FUNCTION = re.compile(TRL + r"[A-Za-z_]\w*")
# trl.rewards.fn, trl.rewards.module.fn, trl.rewards:fn, trl.fn, and a bare name that ends as trl's do
OTHER_TRL_FORMS = re.compile(r"(trl(\.\w+)*[.:]+(?P<in_trl>[A-Za-z_]\w*)|(?P<bare>[a-z]\w*_reward))(\(\))?")


def wrong_function(function: str) -> str | None:
    """What is wrong with the name of a python function, and the right form where it can be guessed; None if nothing."""
    if FUNCTION.fullmatch(function):
        return None
    meant = OTHER_FORMS.fullmatch(function)
    file = meant and (meant["file"] if "/" in meant["file"] else meant["file"].replace(".", "/"))
    return "must look like file.py:function" + (f"; write {file}.py:{meant['name']}" if meant else "")


def wrong_reward_function(function: str) -> str | None:
    """As wrong_function; `trl:name` is one of trl's, whose names trl alone knows, `reasoning_gym:name` one of ours."""
    if TRL_FUNCTION.fullmatch(function) or BROUGHT_FUNCTION.fullmatch(function):
        return None
    if meant := OTHER_TRL_FORMS.fullmatch(function):
        name = meant["in_trl"] or meant["bare"]
        return f"must look like file.py:function, or trl:name for one of trl's; write {TRL}{name}"
    if function.startswith(TRL):
        return (
            f"must be the name of a reward function, as in {TRL}think_format_reward; one that is made from numbers is "
            "made in a file of yours (easyrlhf docs rewards)"
        )
    return wrong_function(function)


def filled_lengths(config: Any, places: int | None, taken: int = 0) -> dict[str, int]:
    """max_length and max_prompt_length as they are given, or as they follow.

    places  tokens that the model was made for: a length that was not given is no longer; None where it has no limit
    taken   tokens that no prompt can have, as a completion may need them
    """
    longest = config.max_length or min(DEFAULT_LENGTH, places or DEFAULT_LENGTH)
    prompt = config.max_prompt_length or max(1, min(longest // 2, longest - taken))
    return {"max_length": longest, "max_prompt_length": prompt}


@dataclass(kw_only=True, frozen=True)
class RowLayout(Settings):
    """How the rows of a file become rows that the package knows."""

    group: ClassVar[str] = DATA

    format: str | None = opt(
        None, "Row format, when recognising it is not wanted.", metavar="NAME", shown="recognised", on_resume=ROWS
    )
    field: str | None = opt(
        None,
        "Keys under other names: prompt=question,chosen=good moves them (data.question and turns.0.text lead into "
        "objects and lists); name='a text with {key}' builds a string; name= takes a key out. Done before the format "
        "is recognised.",
        metavar="NAME=KEY[,…]",
        many=True,
        on_resume=ROWS,
    )
    transform: str | None = opt(
        None,
        "Your own python function for rows in any other layout: fn(row) gives a row, a list of rows, or None to drop "
        "it; --field comes after it.",
        metavar="FILE.py:FN",
        wrong=wrong_function,
        on_resume=ROWS,
    )


@dataclass(kw_only=True, frozen=True)
class BadRows(Settings):
    """What becomes of malformed rows, for commands that keep no file of dropped ones."""

    group: ClassVar[str] = DATA

    on_bad_row: str = opt(
        "stop",
        "A malformed row (not JSON, missing key): stop names file and line; skip counts it.",
        choices=("stop", "skip"),
    )


@dataclass(kw_only=True, frozen=True)
class RemoteCode(Settings):
    """Whether a model may bring code of its own."""

    group: ClassVar[str] = RUN

    trust_remote_code: bool = opt(False, "Run Python code that comes with a hub model. Only for authors you trust.")


@dataclass(kw_only=True, frozen=True)
class IncompleteModels(Settings):
    """Whether a model may come from a run that did not finish."""

    group: ClassVar[str] = RUN

    allow_incomplete: bool = opt(False, "Take models whose own run did not finish.")


@dataclass(kw_only=True, frozen=True)
class Examination(Settings):
    """What the doctor looks at after a reward model has been trained."""

    group: ClassVar[str] = RUN

    examine_rows: int = opt(
        64,
        "Held-out pairs, spread over valid_data, that the doctor looks at in the end; 0 leaves it out, and easyrlhf "
        "doctor can follow.",
        low=0,
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class SharedPrefix(Settings):
    """Whether a prompt is computed once for its answers."""

    group: ClassVar[str] = OPTIMISATION

    share_prefix: str = opt(
        "auto",
        "Compute a prompt once for all of its answers: auto where that is faster, on always. The numbers are the same.",
        choices=("auto", "on", "off"),
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class OutputFile(Settings):
    """What becomes of rows that are there."""

    group: ClassVar[str] = RUN

    overwrite: bool = opt(False, "Replace the output file and begin anew.")


def check_rows_file(name: str, file: str) -> None:
    """Raise SettingError unless the file's name says that it holds rows."""
    if not file.endswith(".jsonl"):
        raise SettingError(name, f"{name} {file}: must end with .jsonl, one row a line")
