"""A language model behind an OpenAI-compatible server as the judge of pairs; its key is never shown or written."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError, RunError
from easyrlhf.judges.pairs import Opinion, Pair
from easyrlhf.rewards.server import KNOCK, SHOWN, connection_reason

LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
ONE_LETTER = re.compile(r"[\s\"'*(\[]*([ABC])[\s\"'*)\].]*")
ATTEMPTS = 7
PAUSE = 0.5  # seconds before the second attempt; twice as long before each later one
LONGEST_PAUSE = 60.0
LIMIT = 300.0  # seconds that one answer may take
GO_ON = "What was judged so far is kept, and the same command goes on from there."
INSTRUCTION = """\
You compare two answers to the same conversation. Judge which one serves the user better: correct, relevant to what \
was asked, harmless, and clear. Neither the order nor the length of the answers counts.
Reply with one letter and nothing else: A if answer A is better, B if answer B is better, C if they are equally good."""
QUESTION = """\
# Conversation
{prompt}

# Answer A
{answer_a}

# Answer B
{answer_b}

Which answer is better? Reply with A, B or C."""


@dataclass(frozen=True)
class EndpointJudge:
    """A language model behind an OpenAI-compatible server, asked for one letter.

    url  address of the chat completions
    key  what the server knows its client by; "" for a server that asks for none
    """

    url: str
    name: str
    key: str = field(repr=False)
    variable: str
    temperature: float | None
    workers: int

    def __call__(self, pair: Pair) -> Opinion:
        """Its opinion. Raises RunError when the server refuses, or fails too often."""
        body: dict[str, Any] = {"model": self.name, "messages": self.messages(pair)}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        answer = self.post(body)
        try:
            said = answer.json()["choices"][0]["message"]["content"] or ""
        except (ValueError, KeyError, TypeError, IndexError) as error:
            found = self.described(answer)
            raise RunError(f"{self.who} answered without choices[0].message.content: {found}\n{GO_ON}") from error
        return Opinion(read_letter(said), self.hidden(str(said))[:SHOWN])

    @property
    def who(self) -> str:
        """What messages call it."""
        return f"--judge_url {self.url}"

    def messages(self, pair: Pair) -> Messages:
        """The question, as a conversation."""
        texts = {"prompt": text_to_judge(pair.prompt), "answer_a": pair.answer_a, "answer_b": pair.answer_b}
        question = re.sub(r"\{(\w+)\}", lambda found: texts[found[1]], QUESTION)
        return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}]

    def post(self, body: dict[str, Any]) -> requests.Response:
        """The server's answer; 429, 5xx, time-outs and lost connections are tried again. Raises RunError."""
        for attempt in range(ATTEMPTS):
            pause = min(LONGEST_PAUSE, PAUSE * 2**attempt)
            try:
                # a redirect is not followed: it would make a GET of the POST, and might carry the key elsewhere
                answer = requests.post(self.url, json=body, timeout=LIMIT, auth=self.sign, allow_redirects=False)
                if answer.status_code != 429 and answer.status_code < 500:
                    break
                failure = self.described(answer)
                pause = max(pause, asked_pause(answer))
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = self.hidden(connection_reason(error))
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause)
        else:
            raise RunError(f"{self.who} failed {ATTEMPTS} times in a row, at last with {failure}\n{GO_ON}")
        if answer.status_code != 200:
            raise RunError(f"{self.who} refused a request with {self.described(answer)}\n{GO_ON}")
        return answer

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


def read_letter(said: Any) -> float | None:
    """The verdict of a reply that is one letter, perhaps in quotes, brackets or asterisks; None for any other reply."""
    found = ONE_LETTER.fullmatch(said) if isinstance(said, str) else None
    return LETTERS[found[1]] if found else None


def text_to_judge(prompt: Messages | str) -> str:
    """A prompt as the judging model reads it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in prompt)


def asked_pause(answer: requests.Response) -> float:
    """Seconds that a server asks to be left alone for, at most LONGEST_PAUSE."""
    asked = answer.headers.get("Retry-After", "")
    return min(LONGEST_PAUSE, float(asked)) if asked.isdecimal() else 0.0


def completions_url(url: str) -> str:
    """The address of the chat completions, of a server given with or without /v1."""
    base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return f"{base}/v1/chat/completions"
