"""Answers on their way from the decoding thread to a client, and the forms that OpenAI clients read."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.serve.decode import DecodeEngine, Drawn, Sample, Stopped
from easyrlhf.serve.protocol import Asked
from easyrlhf.serve.text import TokenTexts, Words
from easyrlhf.web.refusals import failed, stopping


@dataclass(frozen=True)
class AnswerPiece:
    """What is new of one answer.

    index   its number among those of the request
    said    (place in the answer's text, token with its log-probabilities) of the tokens that belong to the text
    tokens  how many it has got so far, those that belong to no text as well
    reason  why it ends, with its last piece
    """

    index: int
    text: str
    said: tuple[tuple[int, Drawn], ...]
    tokens: int
    reason: str | None = None


class Speaker:
    """Turns the tokens of one answer into pieces; it is called by the decoding thread.

    post  is given the pieces
    """

    def __init__(self, index: int, asked: Asked, post: Callable[[AnswerPiece], None], *, strip: bool):
        decoder = asked.model.decoder
        self.index, self.ends, self.post = index, decoder.ends, post
        self.words = Words(decoder.decode, asked.stops, left=strip and not asked.continues, right=strip)
        self.wanted = asked.likeliest is not None
        self.tokens = 0
        self.unsent: list[tuple[int, Drawn]] = []

    def take(self, drawn: Drawn, last: bool) -> bool:
        """Hear a token; returns whether the answer ends with it."""
        self.tokens += 1
        ended = drawn.token in self.ends
        if not ended and self.wanted:
            self.unsent.append((self.words.length, drawn))
        text = "" if ended else self.words.add(drawn.token)
        over = ended or self.words.stopped
        if over or last:
            text += self.words.end()
            over |= self.words.stopped
            self.send(text, "stop" if over else "length")
            return True
        if text:
            self.send(text)
        return False

    def send(self, text: str, reason: str | None = None) -> None:
        """Post a piece with the tokens that have not been sent, but for those of a stop text."""
        cut = self.words.cut
        said = tuple(one for one in self.unsent if cut is None or one[0] < cut)
        self.unsent = []
        self.post(AnswerPiece(self.index, text, said, self.tokens, reason))


@dataclass
class Conversation:
    """A request being answered: its samples, and what has come of them."""

    asked: Asked
    engine: DecodeEngine
    strip: bool
    samples: list[Sample] = field(default_factory=list)
    arrived: asyncio.Queue = field(default_factory=asyncio.Queue)

    def begin(self) -> None:
        """Put the samples into the queue. Raises Busy, Stopped."""
        loop, asked = asyncio.get_running_loop(), self.asked

        def post(item: AnswerPiece | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(self.arrived.put_nowait, item)

        for place, (prompt, limit) in enumerate(zip(asked.prompts, asked.limits, strict=True)):
            for number in range(asked.n):
                speaker = Speaker(place * asked.n + number, asked, post, strip=self.strip)
                key = (asked.seed, place, number)  # as easyrlhf generate has it
                drawn = {"temperature": asked.temperature, "shape": asked.shape, "likeliest": asked.likeliest}
                self.samples.append(Sample(prompt, key, limit, take=speaker.take, fail=post, **drawn))
        self.engine.submit(asked.model.id, self.samples)

    async def pieces(self) -> AsyncIterator[AnswerPiece]:
        """All pieces as they come. Raises Refusal when the answers cannot be finished."""
        left = len(self.samples)
        while left:
            item = await self.arrived.get()
            if isinstance(item, Exception):
                raise stopping() if isinstance(item, Stopped) else failed()
            left -= item.reason is not None
            yield item

    def leave(self) -> None:
        """Nobody listens any more."""
        self.engine.leave(self.samples)


async def gathered(talk: Conversation) -> list[list[AnswerPiece]]:
    """The pieces of each answer."""
    found: list[list[AnswerPiece]] = [[] for _ in talk.samples]
    async for piece in talk.pieces():
        found[piece.index].append(piece)
    return found


def usage(asked: Asked, tokens: int) -> dict[str, int]:
    """What a request has used; a prompt counts once, however many answers it gets."""
    prompt = sum(map(len, asked.prompts))
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class ChatForm:
    """The forms of /v1/chat/completions."""

    strip = True  # white space around a turn is no part of it, as templates put their own

    def __init__(self, asked: Asked):
        self.asked = asked
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model.id}

    def chunk(self, choices: list[dict[str, Any]], tokens: int | None = None) -> dict[str, Any]:
        """An event of a stream."""
        found = self.head | {"object": "chat.completion.chunk", "choices": choices}
        if self.asked.include_usage:
            found["usage"] = None if tokens is None else usage(self.asked, tokens)
        return found

    def opening(self) -> list[dict[str, Any]]:
        """The first events of a stream."""
        first = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self.chunk([{"index": index} | first]) for index in range(self.asked.n)]

    def event(self, piece: AnswerPiece) -> dict[str, Any]:
        """The event of a piece."""
        delta = {"content": piece.text} if piece.text else {}
        choice = {"index": piece.index, "delta": delta, "logprobs": self.logprobs(piece.said, piece.text == "")}
        return self.chunk([choice | {"finish_reason": piece.reason}])

    def whole(self, found: list[list[AnswerPiece]]) -> dict[str, Any]:
        """The answer of a request that wants no stream."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": joined_text(pieces), "refusal": None},
                "logprobs": self.logprobs([one for piece in pieces for one in piece.said]),
                "finish_reason": pieces[-1].reason,
            }
            for index, pieces in enumerate(found)
        ]
        tokens = sum(pieces[-1].tokens for pieces in found)
        return self.head | {"object": "chat.completion", "choices": choices, "usage": usage(self.asked, tokens)}

    def logprobs(self, said, nothing: bool = False) -> dict[str, Any] | None:
        """The log-probabilities of tokens; None where they are not wanted."""
        if self.asked.likeliest is None or (nothing and not said):
            return None
        texts = self.asked.model.texts
        return {"content": [token_form(drawn, texts) for _, drawn in said], "refusal": None}


class TextForm:
    """The forms of /v1/completions."""

    strip = False

    def __init__(self, asked: Asked):
        self.asked = asked
        self.head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        self.head["model"] = asked.model.id

    def chunk(self, choices: list[dict[str, Any]], tokens: int | None = None) -> dict[str, Any]:
        """An event of a stream."""
        found = self.head | {"choices": choices}
        if self.asked.include_usage:
            found["usage"] = None if tokens is None else usage(self.asked, tokens)
        return found

    def opening(self) -> list[dict[str, Any]]:
        """A stream of texts begins with the first."""
        return []

    def event(self, piece: AnswerPiece) -> dict[str, Any]:
        """The event of a piece."""
        return self.chunk([self.choice(piece.index, piece.text, piece.said, piece.reason)])

    def whole(self, found: list[list[AnswerPiece]]) -> dict[str, Any]:
        """The answer of a request that wants no stream."""
        choices = [
            self.choice(index, joined_text(pieces), [one for piece in pieces for one in piece.said], pieces[-1].reason)
            for index, pieces in enumerate(found)
        ]
        tokens = sum(pieces[-1].tokens for pieces in found)
        return self.head | {"choices": choices, "usage": usage(self.asked, tokens)}

    def choice(self, index: int, text: str, said, reason: str | None) -> dict[str, Any]:
        """One text, or a piece of it."""
        return {"index": index, "text": text, "logprobs": self.logprobs(said), "finish_reason": reason}

    def logprobs(self, said) -> dict[str, Any] | None:
        """The log-probabilities of tokens; None where they are not wanted."""
        if self.asked.likeliest is None:
            return None
        texts = self.asked.model.texts
        return {
            "tokens": [texts.of(drawn.token).text for _, drawn in said],
            "token_logprobs": [drawn.logprob for _, drawn in said],
            "top_logprobs": [{texts.of(one).text: value for one, value in drawn.likeliest} for _, drawn in said],
            "text_offset": [place for place, _ in said],
        }


def joined_text(pieces: list[AnswerPiece]) -> str:
    """The whole text."""
    return "".join(piece.text for piece in pieces)


def token_form(drawn: Drawn, texts: TokenTexts) -> dict[str, Any]:
    """A token with its log-probabilities, as chat clients read it."""
    return entry(drawn.token, drawn.logprob, texts) | {
        "top_logprobs": [entry(token, value, texts) for token, value in drawn.likeliest]
    }


def entry(token: int, logprob: float, texts: TokenTexts) -> dict[str, Any]:
    """A token and its log-probability."""
    found = texts.of(token)
    return {"token": found.text, "bytes": found.bytes, "logprob": logprob}
