"""Rows played by NeMo Gym's agent servers, which ask a model server, which asks our policy."""

import asyncio
import time
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import requests

from easyrlhf.data.nemo_gym import WHOLE_ROW, request_turns
from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.episodes.calls import LOOKS, Calls
from easyrlhf.episodes.chat import EpisodeChat
from easyrlhf.nemo_gym.bodies import BadAnswer, GymRow, OutputItem, reward_of, with_seed
from easyrlhf.nemo_gym.client import PASSING, GymFailed, GymSession
from easyrlhf.nemo_gym.policy import PolicyServer, Sampled
from easyrlhf.nemo_gym.servers import GymServers
from easyrlhf.rewards.async_source import in_thread
from easyrlhf.rewards.server import connection_reason

FOREVER = 1e6  # seconds that a run may take: what is limited is the time in which the policy is not asked


@dataclass(frozen=True)
class GymAgents:
    """Has rows played by their agents.

    policy  what their model server asks
    """

    servers: GymServers
    policy: PolicyServer

    def serving(self) -> AbstractAsyncContextManager[None]:
        """What has to be there while episodes are played."""
        return self.policy.serving()

    async def play(self, chat: EpisodeChat, columns: dict[str, Any], calls: Calls) -> float:
        """Have a row played; the chat then holds what was sampled, exactly. Raises EnvironmentFailed.

        The time that an agent may take between two turns of the policy is that of a call.
        """
        row, seed = columns[WHOLE_ROW], chat.own_seed
        sampled = self.policy.episodes[seed] = Sampled(chat)
        session = GymSession(self.servers.agent(row), row, chat.place, FOREVER)
        try:
            said = await within(session, calls, in_thread(lambda: run_by_agent(session, with_seed(row, seed))))
            if isinstance(said, GymFailed):
                raise calls.failed(str(said))
            reward, chat.parts = verdict_of_run(session, said)
            take(chat, said["response"]["output"], calls)
            chat.finished = sampled.finished
            return reward
        except GymFailed as error:
            raise calls.failed(str(error)) from error
        finally:
            del self.policy.episodes[seed]
            session.http.close()


async def within(session: GymSession, calls: Calls, run: Future) -> Any:
    """What a run comes to. Raises EnvironmentFailed when the agent takes too long between two turns of the policy."""
    waiting = asyncio.wrap_future(run)
    while not (await asyncio.wait({waiting}, timeout=min(LOOKS, calls.timeout)))[0]:
        if not calls.chat.asking and time.monotonic() - calls.chat.since > calls.timeout:
            raise calls.too_slow(f"{session.who}: /run")
    return waiting.result()


def run_by_agent(session: GymSession, row: GymRow) -> Any:
    """What an agent's run of a row comes to, or the GymFailed that it fails with; it is asked once."""
    try:
        answer = session.post("run", row)
        session.accept(answer)
        return answer.json()
    except PASSING as error:
        return GymFailed(f"{session.who}: /run failed with {connection_reason(error)}")
    except requests.exceptions.JSONDecodeError:
        return GymFailed(f"{session.who}: /run answered no JSON")
    except GymFailed as error:
        return error


def verdict_of_run(session: GymSession, said: Any) -> tuple[float, dict[str, float]]:
    """Reward and components of a run. Raises GymFailed, also where it has no response."""
    try:
        found = reward_of(said)
    except BadAnswer as error:
        raise GymFailed(f"{session.who}: /run: {error}") from error
    response = said.get("response")
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        raise GymFailed(f"{session.who}: /run: must have a response with 'output', a list of items")
    return found


def take(chat: EpisodeChat, output: list[OutputItem], calls: Calls) -> None:
    """Put what was sampled in a run into the chat, and between it what later prompts have added.

    Raises EnvironmentFailed where a later prompt does not begin with the tokens so far: they are never cut to fit.
    """
    try:
        chat.messages = request_turns({"input": output})
        sampled = [generation(item) for item in output if item.get("generation_token_ids")]
    except (StructuralFault, TypeError, ValueError, KeyError, AttributeError) as error:
        raise calls.failed(f"its agent's response cannot be read: {error}") from error
    calls.tool_calls = sum(item.get("type") == "function_call" for item in output)
    if not sampled:
        raise calls.failed(
            "its agent's response has no item with generation_token_ids; the model server needs "
            "return_token_id_information: true, and must ask this run's policy (--nemo_gym_policy)"
        )
    for prompt, ids, logprobs in sampled:
        if not chat.turns:
            chat.prompt_ids = prompt
        else:
            before = chat.prompt_ids + chat.ids
            if prompt[: len(before)] != before:
                same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, before, strict=False)))
                raise calls.failed(
                    f"the prompt of turn {chat.turns + 1} does not begin with the {len(before)} tokens so far: they "
                    f"part at token {same}. An agent that changes what was said before cannot be learned from"
                )
            chat.append(prompt[len(before) :], [0.0] * (len(prompt) - len(before)), sampled=0)
        chat.append(ids, logprobs, sampled=1)
        chat.turns += 1


def generation(item: OutputItem) -> tuple[list[int], list[int], list[float]]:
    """Prompt, sampled ids and their log-probabilities of an item. Raises ValueError for what does not fit."""
    prompt, ids = ([int(token) for token in item[name]] for name in ("prompt_token_ids", "generation_token_ids"))
    logprobs = [float(number) for number in item["generation_log_probs"]]
    if len(logprobs) != len(ids):
        raise ValueError(f"an item has {len(ids)} generation_token_ids and {len(logprobs)} generation_log_probs")
    return prompt, ids, logprobs
