"""An environment that speaks between the turns of a completion, and the tools that it has."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import ENVIRONMENT, FILES, FREE, Settings, opt
from easyrlhf.config.common_fields import wrong_function


@dataclass(kw_only=True, frozen=True)
class EnvironmentSettings(Settings):
    """Completions of several turns: what speaks between them, and for how long."""

    group: ClassVar[str] = ENVIRONMENT

    environment: str | None = opt(
        None,
        "What the policy acts in: a class with reset, respond(text) and get_reward, whose other methods are tools "
        "(TRL's environment classes work as they are), or async def episode(chat, **columns); easyrlhf docs "
        "environments.",
        metavar="FILE.py:NAME",
        functions=True,
        wrong=wrong_function,
        on_resume=FILES,
    )
    tools: str | None = opt(
        None,
        "Python functions that the policy may call, described to it by their signatures and docstrings.",
        metavar="FILE.py:FN[,…]",
        many=True,
        functions=True,
        wrong=wrong_function,
        on_resume=FILES,
    )
    max_turns: int = opt(8, "Most turns of the policy in an episode.", low=1)
    max_turn_length: int | None = opt(
        None, "Most tokens of one of its turns.", low=1, shown="what is left of the completion"
    )
    environment_timeout: float = opt(
        60.0, "Seconds that one call of the environment may take.", above=0, high=1e6, on_resume=FREE
    )
    environment_workers: int = opt(
        16,
        "Calls of the environment at a time; functions that are not async have a thread each.",
        low=1,
        on_resume=FREE,
    )
    environment_concurrency: int | None = opt(
        None,
        "Most episodes alive at a time, over all processes of the run; as one ends, the next begins, and what is "
        "sampled stays the same. An OpenEnv server takes one session unless its max_concurrent_envs says otherwise, "
        "and closes the others without a word: give its number here.",
        low=1,
        shown="all of a rollout",
        on_resume=FREE,
    )
    on_environment_error: str = opt(
        "stop",
        "An environment that raises or takes too long: stop saves the run and fails; drop learns nothing from that "
        "episode, and stops when more than a tenth of a rollout failed. A tool that raises is answered with the error.",
        choices=("stop", "drop"),
    )

    @property
    def plays(self) -> bool:
        """Whether completions are episodes."""
        return bool(self.environment or self.tools)
