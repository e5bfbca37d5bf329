"""Live conversations: every message gets two answers, and the one that is preferred becomes history."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from easyrlhf.config import ServeConfig
from easyrlhf.data.records import Messages
from easyrlhf.labels.conversations import (
    add_turn,
    conversations_of,
    read_conversation,
    send_message,
    start_conversation,
)
from easyrlhf.labels.rows import Given, StoredConversation
from easyrlhf.labels.web.desk import Desk
from easyrlhf.labels.web.tasks import shown_text
from easyrlhf.serve.answers import Conversation, gathered, joined_text
from easyrlhf.serve.decode import Busy, DecodeEngine, Stopped
from easyrlhf.serve.models import Served
from easyrlhf.serve.protocol import chat_request
from easyrlhf.web.refusals import Refusal, busy, stopping

TRIES = 4  # of two answers that differ
SEEDS = 2**32


@dataclass(frozen=True)
class Talks:
    """The conversations of a store and the models that answer.

    models  the one whose answers are drawn, twice, or the two
    """

    desk: Desk
    config: ServeConfig
    models: Sequence[Served]
    engine: DecodeEngine
    locks: dict[int, asyncio.Lock] = field(default_factory=dict)

    async def given(self, annotator: int) -> dict[str, Any]:
        """What the page shows of an annotator's newest conversation; a message that waits gets its answers first."""
        async with self.locks.setdefault(annotator, asyncio.Lock()):
            talk = await run_in_threadpool(self.newest, annotator)
            if talk.said:
                answers, sources = await self.draw(talk.messages)
                await run_in_threadpool(add_turn, self.desk.store, talk.id, answers, sources)
                talk = await run_in_threadpool(self.newest, annotator)
        return await run_in_threadpool(self.shown, talk)

    def shown(self, talk: StoredConversation) -> dict[str, Any]:
        """A conversation as the page gets it: a pair to label, or where it stands."""
        progress = {"done": self.desk.done(talk.annotator), "left": None}
        if talk.open is None:
            return {"task": None, "composing": True, "talk": shown_text(talk.messages), "progress": progress}
        store = self.desk.store
        given = Given(talk.open, store.shown(talk.open, talk.annotator), False, 0.0)
        return self.desk.handed(talk.annotator, given) | {"progress": progress}

    def newest(self, annotator: int) -> StoredConversation:
        """The conversation that he is in; a new one where there is none."""
        found = conversations_of(self.desk.store, annotator)
        return found[0] if found else read_conversation(self.desk.store, self.begin(annotator))

    def begin(self, annotator: int) -> int:
        """Begin another conversation, unless the newest one is empty; its number."""
        found = conversations_of(self.desk.store, annotator)
        return found[0].id if found and not found[0].messages else start_conversation(self.desk.store, annotator)

    def say(self, annotator: int, text: str) -> None:
        """Keep a message. Raises InputError where an answer waits, Refusal for a text that is too long."""
        talk = self.newest(annotator)
        if talk.said and talk.messages[-1]["content"] == text:
            return  # it is sent again: its answers are still to be drawn
        said = [*talk.messages, {"role": "user", "content": text}]
        for model in self.models:
            self.request(model, said, 1, 0)
        send_message(self.desk.store, talk.id, text)

    def request(self, model: Served, messages: Messages, n: int, seed: int):
        """What is asked of a model. Raises Refusal."""
        body = {"model": model.id, "messages": messages, "n": n, "seed": seed}
        return chat_request(body, {one.id: one for one in self.models}, self.config)

    async def draw(self, messages: Messages) -> tuple[list[Messages], list[dict[str, Any]]]:
        """Two answers that differ, and where they come from. Raises Refusal."""
        for _ in range(TRIES):
            seed = secrets.randbelow(SEEDS)
            if len(self.models) == 2:
                drawn = [await self.answers(model, messages, 1, seed) for model in self.models]
                texts = [texts[0] for texts in drawn]
            else:
                texts = await self.answers(self.models[0], messages, 2, seed)
            if texts[0] != texts[1] and all(text.strip() for text in texts):
                return [[{"role": "assistant", "content": text}] for text in texts], self.sources(seed)
        raise Refusal(
            f"{TRIES} times over, the two answers were equal or one was empty; say something else in a new "
            "conversation, or start the server with a higher --temperature",
            status=409,
            code="equal_answers",
        )

    def sources(self, seed: int) -> list[dict[str, Any]]:
        """Where two answers come from, drawn with this seed."""
        shared = {"seed": seed, "temperature": self.config.temperature}
        two = len(self.models) == 2
        return [
            shared | {"model": self.models[side if two else 0].title, "sample": 0 if two else side} for side in (0, 1)
        ]

    async def answers(self, model: Served, messages: Messages, n: int, seed: int) -> list[str]:
        """The texts of n answers. Raises Refusal."""
        asked = await run_in_threadpool(self.request, model, messages, n, seed)
        talk = Conversation(asked, self.engine, strip=True)
        try:
            talk.begin()
        except Busy:
            raise busy(self.engine.waiting()) from None
        except Stopped:
            raise stopping() from None
        try:
            return [joined_text(pieces) for pieces in await gathered(talk)]
        finally:
            talk.leave()
