"""A language model behind an OpenAI-compatible server as the judge of pairs; its key is never shown or written."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import requests

from easyrlhf.errors import InputError, RunError
from easyrlhf.judges.asking import Ask, Reply, about_tokens
from easyrlhf.judges.letters import read_letter
from easyrlhf.judges.pairs import Opinion, Pair
from easyrlhf.judges.questions import pair_question
from easyrlhf.rewards.server import KNOCK, SHOWN, connection_reason

ATTEMPTS = 7
PAUSE = 0.5  # seconds before the second attempt; twice as long before each later one
LONGEST_PAUSE = 60.0
LIMIT = 300.0  # seconds that one answer may take
GO_ON = "What was judged so far is kept, and the same command goes on from there."
LIKELIEST = 20  # top_logprobs; more is not given by most servers


@dataclass(frozen=True)
class JudgeServer:
    """A language model behind an OpenAI-compatible server.

    url    address of the chat completions
    key    what the server knows its client by; "" for a server that asks for none
    plain  set once the server has refused to give log-probabilities: it is asked without them from then on
    """

    url: str
    name: str
    key: str = field(repr=False)
    variable: str
    temperature: float | None
    workers: int
    plain: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)
    batch: ClassVar[int] = 1

    @property
    def model(self) -> str:
        """What tells it from others: its name, as its address may change."""
        return self.name

    def replies(self, asks: list[Ask]) -> list[Reply]:
        """The replies, one after the other. Raises RunError when the server refuses, or fails too often."""
        return [self.reply(ask) for ask in asks]

    def reply(self, ask: Ask) -> Reply:
        """The reply to a question, with the log-probabilities of its first token where choices are asked for."""
        likely = bool(ask.choices) and not self.plain.is_set()
        answer = self.send(self.body(ask, likely))
        if likely and answer.status_code in (400, 422) and "logprobs" in answer.text:
            self.plain.set()
            answer = self.send(self.body(ask, False))
        self.accept(answer)
        said, choice = self.text_of(answer)
        text = self.hidden(str(said))
        tokens = tokens_of(answer.json())
        return Reply(
            text,
            likeliest_of(choice),
            about_tokens(ask.messages, text) if tokens is None else tokens,
            choice.get("finish_reason") != "length",
        )

    def body(self, ask: Ask, likely: bool) -> dict[str, Any]:
        """A request; `likely` says whether it asks for log-probabilities."""
        body: dict[str, Any] = {"model": self.name, "messages": ask.messages}
        temperature = self.temperature if ask.temperature is None else ask.temperature
        if temperature is not None:
            body["temperature"] = temperature
        return body | ({"logprobs": True, "top_logprobs": LIKELIEST} if likely else {})

    def text_of(self, answer: requests.Response) -> tuple[str, dict[str, Any]]:
        """What an answer says, and its choices[0]. Raises RunError when it is none of a chat."""
        try:
            choice = answer.json()["choices"][0]
            return choice["message"]["content"] or "", choice
        except (ValueError, KeyError, TypeError, IndexError) as error:
            found = self.described(answer)
            raise RunError(f"{self.who} answered without choices[0].message.content: {found}\n{GO_ON}") from error

    @property
    def who(self) -> str:
        """What messages call it."""
        return f"--judge_url {self.url}"

    def send(self, body: dict[str, Any]) -> requests.Response:
        """The server's answer; 429, 5xx, time-outs and lost connections are tried again. Raises RunError."""
        for attempt in range(ATTEMPTS):
            pause = min(LONGEST_PAUSE, PAUSE * 2**attempt)
            try:
                # a redirect is not followed: it would make a GET of the POST, and might carry the key elsewhere
                answer = requests.post(self.url, json=body, timeout=LIMIT, auth=self.sign, allow_redirects=False)
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer
                failure = self.described(answer)
                pause = max(pause, asked_pause(answer))
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = self.hidden(connection_reason(error))
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause)
        raise RunError(f"{self.who} failed {ATTEMPTS} times in a row, at last with {failure}\n{GO_ON}")

    def accept(self, answer: requests.Response) -> None:
        """Raise RunError when the server has refused."""
        if answer.status_code != 200:
            raise RunError(f"{self.who} refused a request with {self.described(answer)}\n{GO_ON}")

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the key into a request; said this way, no .netrc puts another in its place."""
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def described(self, answer: requests.Response) -> str:
        """Status and text of an answer; none of its text where it is about the key, of which it may hold a part."""
        status = f"HTTP {answer.status_code} {answer.reason}"
        if answer.status_code in (401, 403):
            return f"{status}: {self.about_the_key()}"
        return f"{status}: {self.hidden(answer.text.strip())[:SHOWN] or 'no text'}"

    def about_the_key(self) -> str:
        """Where the key came from, never what it is."""
        if self.key:
            return f"the key in the environment variable {self.variable} is not accepted"
        return f"it wants a key: put one into the environment variable {self.variable}, or see --judge_key_env"

    def hidden(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self.key, "[key]") if self.key else text

    def check(self) -> None:
        """Raise InputError when nothing answers at the address, or when the key is not accepted."""
        try:
            models = self.url.removesuffix("/chat/completions") + "/models"
            answer = requests.get(models, timeout=KNOCK, auth=self.sign, allow_redirects=False)
        except requests.RequestException as error:
            raise InputError(
                f"{self.who}: no server answers there ({self.hidden(connection_reason(error))})"
            ) from error
        if answer.status_code in (401, 403):
            raise InputError(f"{self.who}: {self.described(answer)}")


@dataclass(frozen=True)
class EndpointJudge(JudgeServer):
    """The model as a judge of pairs, asked for one letter."""

    def __call__(self, pair: Pair) -> Opinion:
        """Its opinion. Raises RunError when the server refuses, or fails too often."""
        said = self.reply(Ask("letter", pair_question(pair))).said
        return Opinion(read_letter(said), said[:SHOWN])


def likeliest_of(choice: dict[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """The likeliest candidates of the first token that is not blank; None where the answer has none."""
    try:
        first = next(one for one in choice["logprobs"]["content"] if one["token"].strip())
        found = tuple((one["token"], float(one["logprob"])) for one in first["top_logprobs"])
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError):
        return None
    return found if all(isinstance(token, str) for token, _ in found) else None


def tokens_of(body: dict[str, Any]) -> int | None:
    """Tokens read and written, as the server counts them; None where it does not."""
    used = body.get("usage")
    total = used.get("total_tokens") if isinstance(used, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None


def asked_pause(answer: requests.Response) -> float:
    """Seconds that a server asks to be left alone for, at most LONGEST_PAUSE."""
    asked = answer.headers.get("Retry-After", "")
    return min(LONGEST_PAUSE, float(asked)) if asked.isdecimal() else 0.0


def completions_url(url: str) -> str:
    """The address of the chat completions, of a server given with or without /v1."""
    base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return f"{base}/v1/chat/completions"
