"""NeMo Gym in an online stage: its servers are found, and held against the rows, before a model is loaded."""

import json
from collections.abc import Iterator
from typing import Any

from easyrlhf.config import OnlineConfig
from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine import processes
from easyrlhf.episodes.environments import Environment
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.errors import InputError
from easyrlhf.nemo_gym.bodies import check_extra_body
from easyrlhf.nemo_gym.episodes import GymEpisodes
from easyrlhf.nemo_gym.reward import GYM
from easyrlhf.nemo_gym.servers import GymServers, find_servers, knock
from easyrlhf.stages.environments import Playground, check_between, check_concurrency
from easyrlhf.web.listening import check_installed, listening


def gym_servers(config: OnlineConfig) -> GymServers | None:
    """What is behind --nemo_gym_url; None without one. Raises InputError when nothing answers there."""
    return find_servers(config.nemo_gym_url, config.nemo_gym_server) if config.nemo_gym_url else None


def check_gym_rows(config: OnlineConfig, servers: GymServers | None, data: dict[str, TokenData | None]) -> None:
    """Raise InputError for a prompt that no verifier knows, and for a server that is not known or does not answer."""
    if servers is None:
        return
    answering: set[str] = set()
    for place, columns in gym_rows(data):
        if WHOLE_ROW not in columns:
            raise InputError(
                f"{place}: --nemo_gym_url {config.nemo_gym_url} verifies answers to rows of the format nemo_gym, and "
                'this is none; they are {"responses_create_params": {"input": …}, …}'
            )
        row = columns[WHOLE_ROW]
        try:
            url = servers.agent(row) if config.nemo_gym_policy else servers.resources(row)
            if config.nemo_gym_policy:
                check_extra_body(row)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        if url not in answering:
            knock(servers.url, url)
            answering.add(url)


def gym_rows(data: dict[str, TokenData | None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and columns of every prompt row."""
    for part in filter(None, (data.get(name) for name in ("train", "valid"))):
        for row in part.rows.select_columns(["place", "columns"]):
            yield row["place"], json.loads(row["columns"])


def gym_playground(
    config: OnlineConfig, servers: GymServers | None, renderer: Renderer, data: dict[str, TokenData | None]
) -> Playground | None:
    """The environment of rows that agents play, or of rows with tools; None where every row is answered once.

    Raises InputError where a chat template cannot tell of tools, or is not known to call them.
    """
    has_tools = servers is not None and any(columns.get("tools") for _, columns in gym_rows(data))
    if servers is None or not (has_tools or config.nemo_gym_policy):
        return None
    check_concurrency(config.environment_concurrency)
    flag = f"--nemo_gym_url {config.nemo_gym_url}"
    if config.colocates_vllm and config.vllm_tensor_parallel_size > 1:
        raise InputError(
            f"{flag}: rows with tools are episodes, which colocated processes that share a copy of the model cannot "
            "play; leave --vllm_tensor_parallel_size at 1, or use --vllm_mode server or --rollout hf"
        )
    if has_tools:
        check_tools(flag, renderer)
    if config.nemo_gym_policy:
        return Playground(agents(config.nemo_gym_policy, servers, renderer), Tools(), asked=False)
    play = GymEpisodes(servers, config.environment_timeout).play
    return Playground(Environment(GYM, None, None, {}, rewards=True, play=play), Tools(), asked=False)


def check_tools(flag: str, renderer: Renderer) -> None:
    """Raise InputError unless calls are found in answers, and go on behind them."""
    try:
        enable_parsing(renderer)
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
    check_between(flag, renderer, "tool")


def agents(address: str, servers: GymServers, renderer: Renderer) -> Environment:
    """The environment of rows that agents play. Raises InputError where the policy cannot be served there."""
    flag = f"--nemo_gym_policy {address}"
    if processes.size() > 1:
        raise InputError(f"{flag}: agents are served by one process; leave --devices at 1, or --nemo_gym_policy out")
    check_installed(flag, "serve")
    from easyrlhf.nemo_gym.agents import GymAgents
    from easyrlhf.nemo_gym.policy import PolicyServer

    host, _, port = address.rpartition(":")
    try:
        listening(host, int(port)).close()
    except (InputError, OverflowError) as error:
        raise InputError(f"{flag}: {error}") from error
    played = GymAgents(servers, PolicyServer((host, int(port)), renderer))
    return Environment(GYM, None, None, {}, rewards=True, play=played.play, around=played.serving)
