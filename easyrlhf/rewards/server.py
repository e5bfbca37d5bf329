"""An HTTP server as a source of reward: docs/rewards.md has the protocol."""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import requests

from easyrlhf.errors import InputError
from easyrlhf.rewards.async_source import LIMIT, AsyncSource, Pending, in_thread
from easyrlhf.rewards.batch import RewardBatch, RewardError, score_list

BATCH = 64  # completions of one request, or those of one prompt where they are more
ATTEMPTS = 7
PAUSE = 0.5  # seconds before the second attempt; twice as long before each later one, 31 s in all
KNOCK = 10  # seconds to wait for a sign of life before the run begins
SHOWN = 500  # characters of an answer that cannot be used


@dataclass(frozen=True)
class RewardServer(AsyncSource):
    """Posts completions to a server, which answers with their scores.

    tokenizer  fingerprint of the policy's, by which a server can tell what completion_ids mean
    """

    url: str
    tokenizer: dict[str, str]
    timeout: float = LIMIT
    name: str = "reward_url"
    overlaps: bool = True
    remote: ClassVar[bool] = True

    @property
    def who(self) -> str:
        """What messages call it."""
        return f"reward server {self.url}"

    def start(self, batch: RewardBatch) -> Pending:
        """Begin to post the completions, request after request."""
        future = in_thread(lambda: self.post_all(batch))
        return Pending(self.who, batch, self.timeout, future, lambda error: f"{type(error).__name__}: {error}")

    def post_all(self, batch: RewardBatch) -> list:
        """The scores of all completions, a prompt's in one request. Raises RewardError."""
        starts = [0]
        for start, end in pairwise([*batch.groups(), len(batch)]):
            if end - starts[-1] > BATCH and start > starts[-1]:
                starts.append(start)
        parts = [batch.part(start, end) for start, end in pairwise([*starts, len(batch)])]
        with requests.Session() as session:
            return [score for part in parts for score in self.post(session, part)]

    def post(self, session: requests.Session, batch: RewardBatch) -> list:
        """The scores of one request. Raises RewardError."""
        body = batch.columns | {
            "prompts": batch.prompts,
            "completions": batch.completions,
            "completion_ids": batch.completion_ids,
            "finished": batch.finished,
            "tokenizer": self.tokenizer,
        }
        answer = self.answer(session, body, batch)
        if not answer.ok:
            raise RewardError(f"{self.who} refused a request with {answer_text(answer)}\n{batch.sample()}")
        try:
            scores = answer.json()["scores"]
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(
                f'{self.who} must answer {{"scores": […]}} in JSON; it answered {answer_text(answer)}\n{batch.sample()}'
            ) from error
        return score_list(scores, self.who, batch)

    def answer(self, session: requests.Session, body: dict[str, Any], batch: RewardBatch) -> requests.Response:
        """The server's answer; a connection that fails and an error of the server (5xx) are tried again.

        urllib3's Retry would not do: it has handed the answer over before its body can break off.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                answer = session.post(self.url, json=body, timeout=self.timeout)
                if answer.status_code < 500:
                    return answer
                failure = answer_text(answer)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = connection_reason(error)
        raise RewardError(f"{self.who} failed {ATTEMPTS} times in a row, at last with {failure}\n{batch.sample()}")


def answer_text(answer: requests.Response) -> str:
    """Status and text of an answer: `HTTP 400 Bad Request: …`."""
    return f"HTTP {answer.status_code} {answer.reason}: {answer.text.strip()[:SHOWN] or 'no text'}"


def connection_reason(error: Exception) -> str:
    """What went wrong at the bottom of a requests error, without the objects it passed through."""
    while error.args and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    inner = getattr(error, "reason", None)
    return connection_reason(inner) if isinstance(inner, Exception) else f"{type(error).__name__}: {error}"


def check_server(url: str) -> None:
    """Raise InputError when nothing answers at the URL; what it answers to a GET does not matter."""
    try:
        requests.get(url, timeout=KNOCK)
    except requests.RequestException as error:
        raise InputError(
            f"--reward_url {url}: no server answers there ({connection_reason(error)}); start it first, for a reward "
            "model with easyrlhf serve_reward DIR"
        ) from error
