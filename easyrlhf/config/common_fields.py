"""What several files of settings share: patterns of values, and settings that are the same everywhere."""

import re
from typing import Any

from easyrlhf.config.base import DATA, FREE, OPTIMISATION, ROWS, RUN, SAMPLING, SettingError, opt, split_texts

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
DEFAULT_LENGTH = 1024  # tokens
STANDARD_INPUT = ("-", "/dev/stdin")  # names of it among files of rows
FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")
# rewards.fn, pkg.rewards.fn, rewards:fn, rewards.py::fn, rewards.py:fn()
OTHER_FORMS = re.compile(r"(?P<file>[\w./~-]*?[\w~-])(\.py)?(\.|::?)(?P<name>(?!py$)[A-Za-z_]\w*)(\(\))?")

TRL = "trl:"  # before the name of a reward function that trl brings
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
    """As wrong_function; `trl:name` is a reward function of trl, whose names trl alone knows."""
    if TRL_FUNCTION.fullmatch(function):
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


def row_format(help: str = "Row format, when recognising it is not wanted.") -> Any:
    """The setting `format`."""
    return opt(None, help, group=DATA, metavar="NAME", shown="recognised", on_resume=ROWS)


def row_field() -> Any:
    """The setting `field`."""
    return opt(
        None,
        "Keys under other names: prompt=question,chosen=good moves them (data.question and turns.0.text lead into "
        "objects and lists); name='a text with {key}' builds a string; name= takes a key out. Done before the format "
        "is recognised.",
        group=DATA,
        metavar="NAME=KEY[,…]",
        many=True,
        on_resume=ROWS,
    )


def row_transform() -> Any:
    """The setting `transform`."""
    return opt(
        None,
        "Your own python function for rows in any other layout: fn(row) gives a row, a list of rows, or None to drop "
        "it; --field comes after it.",
        group=DATA,
        metavar="FILE.py:FN",
        wrong=wrong_function,
        on_resume=ROWS,
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
    return opt(64, f"Held-out pairs, spread over valid_data, that {help}", group=RUN, low=low, on_resume=FREE)


def share_prefix() -> Any:
    """The setting `share_prefix`."""
    return opt(
        "auto",
        "Compute a prompt once for all of its answers: auto where that is faster, on always. The numbers are the same.",
        group=OPTIMISATION,
        choices=("auto", "on", "off"),
        on_resume=FREE,
    )


def stop() -> Any:
    """The setting `stop`."""
    return opt(
        None,
        "Texts that end an answer as soon as it holds one, whatever tokens that is made of; the text stays its last "
        "words. \\n, \\t, \\, and \\\\ are what they look like; spaces count.",
        group=SAMPLING,
        metavar="TEXT[,…]",
        many=True,
        exact=True,
    )


def stop_finishes() -> Any:
    """The setting `stop_finishes`."""
    return opt(
        False,
        "Count an answer that a stop text ended as finished; without it, as one that was cut off.",
        group=SAMPLING,
    )


def check_room(max_length: int | None, max_new_tokens: int) -> None:
    """Raise SettingError when the longest answer leaves no room for a prompt."""
    if max_length is not None and max_new_tokens >= max_length:
        raise SettingError(
            "max_new_tokens",
            f"max_new_tokens {max_new_tokens}: must be less than max_length {max_length}, or no prompt fits; lower it "
            "or raise max_length",
        )


def check_stop(stop: str | None, finishes: bool) -> None:
    """Raise SettingError unless every stop text is one, and stop_finishes has any."""
    if stop is not None and not all(split_texts(stop)):
        raise SettingError("stop", f"stop {stop!r}: has an empty text, which every answer holds; leave it out")
    if finishes and stop is None:
        raise SettingError("stop_finishes", "stop_finishes: belongs to stop, which is not given")
