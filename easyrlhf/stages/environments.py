"""The environment of an online stage: found, checked against template and data before a model is loaded, and played."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datasets import Dataset

from easyrlhf.config import GenerateConfig, OnlineConfig, PlayConfig
from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine import processes
from easyrlhf.episodes.chat import EpisodeLimits
from easyrlhf.episodes.environments import Environment, environment_tools, load_environment
from easyrlhf.episodes.play import Player, unsendable
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.errors import InputError
from easyrlhf.paths import split_paths
from easyrlhf.rewards.batch import ENVIRONMENTS
from easyrlhf.rewards.functions import names_environments, parameters
from easyrlhf.userfile import Function

Playing = OnlineConfig | GenerateConfig | PlayConfig
Prompts = dict[str, Dataset]  # the prompt rows that episodes begin with, by what they are called in messages


@dataclass(frozen=True)
class Playground:
    """An environment that was checked, and the tools that the policy is told of.

    asked  whether a reward function asks for the objects that episodes were played with
    """

    environment: Environment
    tools: Tools
    asked: bool


def played_prompts(data: dict[str, TokenData | None]) -> Prompts:
    """The rows that are played; demonstrations that are mixed in are played by nobody."""
    return {name: data[name].rows for name in ("train", "valid") if data.get(name)}


def check_environment(
    config: Playing, renderer: Renderer, prompts: Prompts, functions: Sequence[Function] = ()
) -> Playground | None:
    """The environment of the settings, None without one. Raises InputError for one that cannot be played.

    functions  the reward functions of its episodes
    """
    if not config.plays:
        return None
    check_concurrency(config.environment_concurrency)
    flag = played_flag(config)
    environment = load_environment(config.environment, split_paths(config.tools))
    instance = environment.looked_at
    check_reset_columns(flag, environment, instance, prompts)
    for name, rows in prompts.items():
        if any(prompt.startswith('"') for prompt in rows["prompt"]):
            raise InputError(
                f"{flag}: speaks in turns, and prompts of the {name} data are plain texts; give conversations, such as "
                'rows with prompt: [{"role": "user", "content": …}]'
            )
    tools = environment_tools(environment, instance, flag)
    if tools.schemas:
        enable_parsing(renderer)
        check_between(flag, renderer, "tool")
        check_prompt_room(flag, renderer, tools, prompts, config.max_prompt_length)
    if environment.function is not None or hasattr(instance, "respond"):
        check_between(flag, renderer, "user")
    asked = any(map(names_environments, functions)) and not in_columns(ENVIRONMENTS, prompts)
    if asked and instance is not None and processes.size() > 1 and (fault := unsendable(instance)):
        raise InputError(f"{flag}: {fault}")
    return Playground(environment, tools, asked)


def played_flag(config: Playing) -> str:
    """The flag that says what is played, for messages."""
    return f"--environment {config.environment}" if config.environment else f"--tools {config.tools}"


def check_prompt_room(flag: str, renderer: Renderer, tools: Tools, prompts: Prompts, limit: int | None) -> None:
    """Raise InputError when the longest prompt has no room for the tools that the template puts before it.

    limit  most tokens of a prompt; None: not known yet
    """
    for name, rows in prompts.items() if limit else ():
        row = max(zip(rows["prompt"], rows["columns"], strict=True), key=lambda row: len(row[0]))
        prompt, columns = map(json.loads, row)
        ids = renderer.prompt_ids(prompt, arguments_for(prompt, columns) | {"tools": tools.schemas})
        if len(ids) > limit:
            raise InputError(
                f"{flag}: with the tools before it, a prompt of the {name} data has {len(ids):,} tokens, and "
                f"--max_prompt_length is {limit:,}; raise it (and --max_length), or describe the tools in fewer words"
            )


def in_columns(name: str, prompts: Prompts) -> bool:
    """Whether the prompts have a column of this name."""
    return any(name in json.loads(cell) for rows in prompts.values() for cell in rows["columns"])


def check_between(flag: str, renderer: Renderer, role: str) -> None:
    """Raise InputError unless the template goes on behind an answer as it was sampled."""
    try:
        renderer.between([{"role": role, "content": "Go on."} | ({"name": "tool"} if role == "tool" else {})])
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error


def check_reset_columns(flag: str, environment: Environment, instance: object, prompts: Prompts) -> None:
    """Raise InputError when an environment begins with what is no column of the data."""
    begins = environment.function or getattr(instance, "reset", None)
    if begins is None:
        return
    needed = [p.name for p in parameters(begins).values() if needs_value(p) and p.name != "chat"]
    for part, rows in prompts.items():
        columns = {name for cell in rows["columns"] for name in json.loads(cell)}
        missing = [name for name in needed if name not in columns | {"seed", "prompt"}]
        if missing:
            raise InputError(
                f"{flag}: {begins.__name__} needs {', '.join(missing)}, which is no column of the {part} data; it has "
                f"{', '.join(sorted(columns)) or 'none beside the prompt'}. Add the column, name another with --field "
                f"{missing[0]}=KEY, or give the parameter a default"
            )


def needs_value(parameter: inspect.Parameter) -> bool:
    """Whether a function cannot be called without this parameter."""
    named = (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY, parameter.POSITIONAL_ONLY)
    return parameter.kind in named and parameter.default is parameter.empty


def check_concurrency(concurrency: int | None) -> None:
    """Raise InputError when the processes of the run cannot keep to so many episodes between them."""
    if concurrency is not None and concurrency < processes.size():
        raise InputError(
            f"--environment_concurrency {concurrency}: each of the {processes.size()} processes of this run plays "
            f"episodes; give {processes.size()} or more, or run fewer processes"
        )


def make_player(
    config: Playing,
    renderer: Renderer,
    playground: Playground | None,
    stopping: Callable[[], bool] = lambda: False,
) -> Player | None:
    """What plays the environment; None without one.

    stopping  whether the user has asked the run to stop
    """
    if playground is None:
        return None
    limit = config.completion_limit
    return Player(
        environment=playground.environment,
        renderer=renderer,
        limits=EpisodeLimits(config.max_turns, limit, config.max_turn_length or limit, config.max_prompt_length),
        tools=playground.tools,
        generations=config.num_generations,
        timeout=config.environment_timeout,
        workers=config.environment_workers,
        drop=config.on_environment_error == "drop",
        keep=playground.asked,
        sent=processes.size() > 1,
        concurrency=config.environment_concurrency and config.environment_concurrency // processes.size(),
        stopping=stopping,
    )
