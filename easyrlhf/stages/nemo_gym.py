"""NeMo Gym in an online stage: its servers are found, and held against the rows, before a model is loaded."""

import json
from collections.abc import Iterator
from typing import Any

from easyrlhf.config import OnlineConfig
from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.episodes.environments import Environment
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.errors import InputError
from easyrlhf.nemo_gym.episodes import GymEpisodes
from easyrlhf.nemo_gym.reward import NAME
from easyrlhf.nemo_gym.servers import GymServers, find_servers, knock
from easyrlhf.stages.environments import Playground, check_between


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
        try:
            url = servers.resources(columns[WHOLE_ROW])
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
    """The environment of rows with tools, in which rows without them are of one turn; None where no row has tools.

    Raises InputError where a chat template cannot tell of tools, or is not known to call them.
    """
    if servers is None or not any(columns.get("tools") for _, columns in gym_rows(data)):
        return None
    flag = f"--nemo_gym_url {config.nemo_gym_url}"
    try:
        enable_parsing(renderer)
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
    check_between(flag, renderer, "tool")
    play = GymEpisodes(servers, config.environment_timeout).play
    return Playground(Environment(NAME, None, None, {}, rewards=True, play=play), Tools(), asked=False)
