"""Rows with tools as episodes that we drive: the policy's calls are posted to the row's resources server."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import requests

from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.data.records import Messages
from easyrlhf.episodes.calls import Calls
from easyrlhf.episodes.chat import EpisodeChat, EpisodeOver
from easyrlhf.episodes.tools import arguments_of, as_tool_text
from easyrlhf.nemo_gym.client import GymFailed, GymSession
from easyrlhf.nemo_gym.servers import GymServers
from easyrlhf.rewards.server import answer_text, connection_reason

AWAY = (502, 503, 504)  # said by what stands before a server that is not there; a tool says nothing of the kind


@dataclass(frozen=True)
class GymEpisodes:
    """Plays rows of NeMo Gym with tools.

    timeout  seconds of one call
    """

    servers: GymServers
    timeout: float

    async def play(self, chat: EpisodeChat, columns: dict[str, Any], calls: Calls) -> float:
        """Play a row to its first answer without a call, or as far as it may go, and have all of it verified.

        Returns the reward; its components are left with the chat. Raises EnvironmentFailed.
        """
        row = columns[WHOLE_ROW]
        chat.tools = replace(chat.tools, schemas=columns.get("tools", []))
        # the limit of a call is the environment's; the connection is given up later
        with GymSession(self.servers.resources(row), row, chat.place, 2 * self.timeout) as session:
            await asked_of_server(calls, session, "seed_session", session.seed)
            with suppress(EpisodeOver):  # what it has come to is verified
                await call_tools(chat, session, calls)
            number_calls(chat.messages)
            # results for whose answer there was no room are what the tools have done
            said = [*chat.messages, *chat.waiting]
            reward, chat.parts = await asked_of_server(calls, session, "verify", lambda: session.verify(said))
        return reward


async def asked_of_server(calls: Calls, session: GymSession, path: str, ask: Any) -> Any:
    """What a request comes to. Raises EnvironmentFailed, with server, row and episode."""

    def caught() -> Any:
        try:
            return ask()
        except GymFailed as error:
            return error

    found = await calls.call(f"{session.who}: /{path}", caught)
    if isinstance(found, GymFailed):
        raise calls.failed(str(found)) from found
    return found


async def call_tools(chat: EpisodeChat, session: GymSession, calls: Calls) -> None:
    """Let the policy call tools until it says something without a call."""
    known = {tool["function"]["name"] for tool in chat.tools.schemas}
    while True:
        await chat.reply()
        number_calls(chat.messages)
        called = chat.messages[-1].get("tool_calls")
        if not called:
            return
        for call in called:
            name, text = await answer_gym_call(call, known, session, calls)
            chat.say(text, role="tool", name=name, tool_call_id=call["id"])


def number_calls(messages: Messages) -> None:
    """Give every call of an episode an id, in their order."""
    number = 0
    for turn in messages:
        for call in turn.get("tool_calls") or ():
            call.setdefault("id", f"call_{number}")
            number += 1


async def answer_gym_call(call: dict[str, Any], known: set[str], session: GymSession, calls: Calls) -> tuple[str, str]:
    """The name of a called tool and what the model reads of it: refusals are answers too, and the episode goes on.

    A tool is called once, as it may change something; no path but that of a tool of the row can be called.
    """
    calls.tool_calls += 1
    name = str(call.get("function", call).get("name"))
    try:
        name, arguments = arguments_of(call)
        if name not in known:
            raise ValueError(f"there is no tool {name}; there are {', '.join(sorted(known)) or 'none'}")
    except ValueError as error:
        calls.tool_errors += 1
        return name, as_tool_text({"error": str(error)})
    found = await asked_of_server(calls, session, name, lambda: call_tool(session, name, arguments))
    calls.tool_errors += found.status_code >= 400
    return name, found.content.decode("utf-8", "replace")


def call_tool(session: GymSession, name: str, arguments: dict[str, Any]) -> requests.Response:
    """What a tool answers, whatever its status. Raises GymFailed where the server does not answer."""
    try:
        found = session.post(requests.utils.quote(name, safe=""), arguments)
    except requests.RequestException as error:
        raise GymFailed(f"{session.who}: the tool {name} failed with {connection_reason(error)}") from error
    if found.status_code in AWAY:
        raise GymFailed(f"{session.who}: the tool {name} failed with {answer_text(found)}")
    return found
