"""Judges: who says which of two answers is better, or how good one is, and how he is asked."""

import re
from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, REWARDS, RUN, SettingError, Settings, opt
from easyrlhf.config.common_fields import wrong_function

JUDGE_URL = re.compile(r"https?://[^\s,/@?#]+(/[^\s@?#]*)?")
VARIABLE = re.compile(r"[A-Za-z_]\w*")


@dataclass(kw_only=True, frozen=True)
class JudgingFunction(Settings):
    """A python function that judges."""

    group: ClassVar[str] = REWARDS

    judge: str | None = opt(
        None,
        "A python function that judges a pair: fn(prompt, answer_a, answer_b, **columns) returns 'A', 'B', 'tie', or "
        "the chance from 0 to 1 that A is better. It sees each pair in both orders.",
        metavar="FILE.py:FN",
        functions=True,
        wrong=wrong_function,
    )


@dataclass(kw_only=True, frozen=True)
class JudgingModel(Settings):
    """A language model that judges: behind a server, or in a folder."""

    group: ClassVar[str] = REWARDS

    judge_url: str | None = opt(
        None,
        "An OpenAI-compatible server whose model judges, by POST URL/v1/chat/completions: of pairs, each in both "
        "orders. Needs judge_model.",
        metavar="URL",
    )
    judge_model: str | None = opt(None, "Name of the judging model, as judge_url knows it.", metavar="NAME")
    judge_dir: str | None = opt(
        None,
        "A language model that judges in this process, with its own chat template: a folder or a hub id. Its verdict "
        "is read from its log-probabilities.",
        metavar="DIR|HUB_ID",
        model=True,
    )
    judge_key_env: str | None = opt(
        None,
        "Environment variable that holds the key for judge_url. The key itself is never written anywhere.",
        metavar="VARIABLE",
        shown="OPENAI_API_KEY, if it is set",
    )
    judge_temperature: float | None = opt(
        0.0,
        "Temperature that judge_url is asked for; none leaves it out, for models that take no other than their own.",
        low=0,
        high=100,
    )
    judge_workers: int = opt(8, "Requests to judge_url that wait for their answers side by side.", low=1)


@dataclass(kw_only=True, frozen=True)
class JudgeBudget(Settings):
    """How much may be asked."""

    group: ClassVar[str] = RUN

    judge_budget: int | None = opt(
        None,
        "Most tokens that the judge may have read and written for this work, in all sittings together. Once they are "
        "used nothing more is asked, and the command ends with exit code 3; a larger budget goes on.",
        metavar="TOKENS",
        low=1,
        shown="no limit",
    )


@dataclass(kw_only=True, frozen=True)
class JudgeSeed(Settings):
    """What the judge's draws come from."""

    group: ClassVar[str] = RUN

    seed: int = opt(42, "Seed by which principles are drawn, and of what judge_dir draws.", low=0, below=2**32)


@dataclass(kw_only=True, frozen=True)
class Principles(Settings):
    """What is judged or revised by."""

    group: ClassVar[str] = DATA

    constitution: str | None = opt(
        None,
        "Principles: a YAML list of {name, critique, revise, compare}; configs/constitution.yaml has ten.",
        metavar="FILE.yaml",
    )


def check_judge_settings(config: Settings, *, needed: tuple[str, ...] = ()) -> None:
    """Raise SettingError unless at most one judge is named, with all that belongs to it.

    config  has the settings of JudgingModel, and perhaps that of JudgingFunction
    needed  settings of which one must be given
    """
    given = [name for name in ("judge", "judge_url", "judge_dir") if config.value(name)]
    rules = (
        ("judge_url", config.judge_url and not config.judge_model, "needs judge_model, the name of the model there"),
        ("judge_model", config.judge_model and not config.judge_url, "belongs to judge_url, the server to ask"),
        ("judge_key_env", config.judge_key_env and not config.judge_url, "belongs to judge_url"),
    )
    if config.judge_url is not None and not JUDGE_URL.fullmatch(config.judge_url):
        raise SettingError(  # what was given may hold a key: it is not repeated
            "judge_url",
            "judge_url: must be an address such as https://api.openai.com or http://127.0.0.1:8000/v1, without a "
            "name, a password or a query; a key goes into the environment variable of judge_key_env",
        )
    if config.judge_key_env is not None and not VARIABLE.fullmatch(config.judge_key_env):
        raise SettingError(
            "judge_key_env", "judge_key_env: must be the name of an environment variable, not the key itself"
        )
    if len(given) > 1:
        first, second = given[:2]
        value = config.value(second)
        raise SettingError(
            second, f"{second} {value}: {first} {config.value(first)} judges already; give one of the two"
        )
    for name, broken, rule in rules:
        if broken:
            raise SettingError(name, f"{name} {config.value(name)}: {rule}")
    if needed and not any(config.value(name) for name in needed):
        raise SettingError(needed[0], f"{needed[0]}: nothing is there to ask; give one of {', '.join(needed)}")
