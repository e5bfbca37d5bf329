"""The policy as NeMo Gym's model servers ask for it: chat completions with token ids, and the ids of prompts.

Ids are only ever appended: an assistant's message that brings the ids that it was sampled as is not rendered again.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easyrlhf.data.messages import messages
from easyrlhf.data.nemo_gym import nested_tool
from easyrlhf.data.records import Message, Messages
from easyrlhf.data.render import Renderer
from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.episodes.chat import EpisodeChat, Turn
from easyrlhf.episodes.tools import Tools
from easyrlhf.errors import InputError, ServiceError
from easyrlhf.nemo_gym.bodies import POLICY
from easyrlhf.web.http_server import AppServer
from easyrlhf.web.listening import listening
from easyrlhf.web.messages import FAULT_ANSWERS, json_of
from easyrlhf.web.refusals import Refusal

LIMIT = 2**26  # bytes of a request: conversations bring the ids and log-probabilities of their turns
READY = 0.01  # seconds between two looks at whether the server listens
IDS = ("prompt_token_ids", "generation_token_ids")


@dataclass
class Sampled:
    """What the policy was asked in an episode, and what it has said.

    prompt    ids of its first prompt; None before it
    turns     that it has had
    finished  whether the last of them came to its end, and no further one was refused
    """

    chat: EpisodeChat
    prompt: list[int] | None = None
    turns: int = 0
    finished: bool = False
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def next(self, ids: list[int], most: int | None) -> Turn:
        """The turn behind these ids. Raises Refusal where there is no turn left, or no room for it.

        most  tokens that the request allows
        """
        chat, limits = self.chat, self.chat.limits
        async with self.one_at_a_time:
            if self.prompt is None:
                if len(ids) > limits.prompt:
                    raise Refusal(f"the prompt has {len(ids)} tokens, and --max_prompt_length is {limits.prompt}")
                self.prompt = ids
            room = min(limits.tokens - (len(ids) - len(self.prompt)), limits.turn, most or limits.turn)
            if room < 1 or self.turns == limits.turns:
                self.finished = False
                raise Refusal(
                    f"This model's maximum context length is reached: an episode has {limits.tokens} tokens behind its "
                    f"prompt and {limits.turns} turns at most"  # the words by which NeMo Gym knows that it is over
                )
            chat.asking = True
            try:
                turn = await chat.ask(ids, room, self.turns)
            finally:
                chat.asking, chat.since = False, time.monotonic()
            self.turns += 1
            self.finished = turn.ended
            return turn


@dataclass
class PolicyServer:
    """Answers for the episodes that are being played.

    episodes  by the seed that their requests bring
    """

    address: tuple[str, int]
    renderer: Renderer
    episodes: dict[int, Sampled] = field(default_factory=dict)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve in this event loop. Raises ServiceError when the address is taken."""
        try:
            socket = listening(*self.address)
        except InputError as error:
            raise ServiceError(f"--nemo_gym_policy {self.address[0]}:{self.address[1]}: {error}") from error
        server = LoopServer(self.app())
        running = asyncio.ensure_future(server.serve([socket]))
        try:
            while not (server.started or running.done()):
                await asyncio.sleep(READY)
            yield
        finally:
            server.should_exit = server.force_exit = True  # whoever still asks is asking for nobody
            await running

    def app(self) -> Starlette:
        """The routes, with and without the /v1 that clients put before them."""
        routes = [
            Route(f"{root}{path}", answer, methods=["POST"])
            for root in ("", "/v1")
            for path, answer in (("/chat/completions", self.complete), ("/tokenize", self.tokenize))
        ]
        return Starlette(routes=routes, exception_handlers=FAULT_ANSWERS)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: the ids that an answer to these messages is sampled behind."""
        ids = prompt_of(await body_of(request), self.renderer)
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def complete(self, request: Request) -> Response:
        """POST /chat/completions: the next turn of the episode whose seed the request brings."""
        body = await body_of(request)
        seed, most = body.get("seed"), body.get("max_completion_tokens") or body.get("max_tokens")
        episode = self.episodes.get(seed) if isinstance(seed, int) else None
        if episode is None:
            raise Refusal(
                f"seed {seed!r}: is that of no episode that is being played; the agent must hand on "
                "responses_create_params.metadata, which has it in extra_body"
            )
        if not isinstance(most, int | None):
            raise Refusal(f"max_tokens {most!r}: must be a whole number")
        ids = prompt_of(body, self.renderer)
        turn = await episode.next(ids, most)
        parsed = Tools({}, told_to_template(body).get("tools", [])).parse(turn.ids, ids, self.renderer)
        return JSONResponse(chat_completion(turn, message_of(parsed, episode.turns), len(ids)))


def message_of(parsed: Message, number: int) -> dict[str, Any]:
    """The turn of this number as a message: its calls with ids, and arguments as text; thoughts in the content."""
    thought = parsed.get("reasoning_content")
    content = (f"<think>{thought}</think>" if thought else "") + parsed["content"]
    calls = [
        {
            "id": f"call_{number}_{place}",
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": argument_text(call["function"]["arguments"])},
        }
        for place, call in enumerate(parsed.get("tool_calls") or ())
    ]
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


async def body_of(request: Request) -> dict[str, Any]:
    """The object that a request holds. Raises Refusal."""
    body = await json_of(request, LIMIT)
    if not isinstance(body, dict):
        raise Refusal("the request must be a JSON object")
    return body


def prompt_of(body: dict[str, Any], renderer: Renderer) -> list[int]:
    """The ids that an answer to a request's messages is sampled behind. Raises Refusal."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise Refusal("messages: must be a list of at least one message")
    sampled = [place for place, turn in enumerate(given) if isinstance(turn, dict) and all(map(turn.get, IDS))]
    try:
        arguments = told_to_template(body)
        turns = named_results(messages(given, "messages"))
        if not sampled:
            return renderer.prompt_ids(turns, arguments)
        last = sampled[-1]
        if not given[last + 1 :]:
            raise Refusal(f"messages[{last}]: is an answer with its ids, and nothing follows to be answered")
        before = [int(token) for name in IDS for token in given[last][name]]
        return before + renderer.between(turns[last + 1 :], arguments, behind=before[-1])
    except (StructuralFault, InputError) as error:
        raise Refusal(str(error)) from error
    except (TypeError, ValueError) as error:
        raise Refusal(f"messages: {' and '.join(IDS)} must be lists of ids") from error


def told_to_template(body: dict[str, Any]) -> dict[str, Any]:
    """What a request tells the chat template. Raises StructuralFault."""
    kwargs, tools = body.get("chat_template_kwargs") or {}, body.get("tools") or []
    if not (isinstance(kwargs, dict) and isinstance(tools, list)):
        raise StructuralFault("chat_template_kwargs must be an object, and tools a list")
    told = [nested_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    return kwargs | ({"tools": told} if told else {})


def named_results(turns: Messages) -> Messages:
    """Results of tools with the names of the calls that they answer."""
    names = {call.get("id"): call["function"]["name"] for turn in turns for call in turn.get("tool_calls", ())}
    return [
        turn | {"name": names[turn["tool_call_id"]]}
        if turn["role"] == "tool" and turn.get("tool_call_id") in names
        else turn
        for turn in turns
    ]


def chat_completion(turn: Turn, message: dict[str, Any], prompt: int) -> dict[str, Any]:
    """A turn as the answer of a chat, the ids of its tokens in the places of their texts; `prompt` counts tokens."""
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    tokens = [
        {"token": f"token_id:{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
        for token, logprob in zip(turn.ids, turn.logprobs, strict=True)
    ]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": reason if turn.ended else "length",
        "logprobs": {"content": tokens},
    }
    used = {"prompt_tokens": prompt, "completion_tokens": len(turn.ids), "total_tokens": prompt + len(turn.ids)}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": POLICY,
        "choices": [choice],
        "usage": used,
    }


def argument_text(arguments: Any) -> str:
    """The arguments of a call as JSON text."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class LoopServer(AppServer):
    """A server beside other work of an event loop, which leaves signals to the run."""

    @contextmanager
    def capture_signals(self):
        """Take none."""
        yield
