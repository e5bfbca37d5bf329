"""Talking to a resources server: a session and its cookie, what is tried again, and what is said of failures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import requests

from easyrlhf.data.records import Messages
from easyrlhf.nemo_gym.bodies import BadAnswer, GymRow, reward_of, verify_body
from easyrlhf.rewards.server import ATTEMPTS, PAUSE, answer_text, connection_reason

PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
Verified = tuple[float, dict[str, float]]  # a reward and its components by name


class GymFailed(Exception):
    """A server refused, failed or answered what it may not; the text names it and the row."""


@dataclass
class GymSession:
    """The session of one completion or episode at a server.

    place    file and line of the row, for messages
    timeout  seconds of one request
    """

    url: str
    row: GymRow
    place: str
    timeout: float
    http: requests.Session = field(default_factory=requests.Session)

    def __enter__(self) -> "GymSession":
        return self

    def __exit__(self, *_) -> None:
        self.http.close()

    @property
    def who(self) -> str:
        """What messages call the server and the row."""
        return f"NeMo Gym server {self.url}, row {self.place}"

    def judged(self, said: Messages) -> Verified:
        """What an answer of a single turn is worth, in a session of its own. Raises GymFailed.

        What may pass is tried again from the start of the session, which a server that was restarted has forgotten.
        """

        def seed_and_verify() -> requests.Response:
            self.http.cookies.clear()
            seeded = self.post("seed_session", self.row)
            return self.post("verify", verify_body(self.row, said)) if seeded.status_code == 200 else seeded

        return self.verdict(self.patiently(seed_and_verify))

    def seed(self) -> None:
        """Open the session of an episode. Raises GymFailed."""
        self.accept(self.patiently(lambda: self.post("seed_session", self.row)))

    def verify(self, said: Messages) -> Verified:
        """What an episode is worth. Raises GymFailed."""
        return self.verdict(self.patiently(lambda: self.post("verify", verify_body(self.row, said))))

    def post(self, path: str, body: Any) -> requests.Response:
        """The answer to one request. Raises GymFailed for what cannot be sent; what may pass goes through."""
        try:
            return self.http.post(f"{self.url}/{path}", json=body, timeout=self.timeout)
        except requests.exceptions.InvalidJSONError as error:
            raise GymFailed(f"{self.who}: the row cannot be sent as JSON ({error})") from error

    def patiently(self, ask: Callable[[], requests.Response]) -> requests.Response:
        """An answer; a connection that fails and an error of the server (5xx) are tried again. Raises GymFailed."""
        for attempt in range(ATTEMPTS):
            if attempt:
                sleep(PAUSE * 2 ** (attempt - 1))
            try:
                answer = ask()
                if answer.status_code < 500:
                    return answer
                failure = refusal(answer)
            except PASSING as error:
                failure = connection_reason(error)
        raise GymFailed(f"{self.who}: failed {ATTEMPTS} times in a row, at last with {failure}")

    def accept(self, answer: requests.Response) -> None:
        """Raise GymFailed for any other answer than 200."""
        if answer.status_code != 200:
            raise GymFailed(f"{self.who}: refused with {refusal(answer)}")

    def verdict(self, answer: requests.Response) -> Verified:
        """What a verifier's answer says. Raises GymFailed for any other than 200 with a finite reward."""
        self.accept(answer)
        try:
            return reward_of(answer.json())
        except BadAnswer as error:
            raise GymFailed(f"{self.who}: {error}, in {refusal(answer)}") from error
        except ValueError as error:
            raise GymFailed(f"{self.who}: answers no JSON, but {refusal(answer)}") from error


def refusal(answer: requests.Response) -> str:
    """Path, status and text of an answer: `/verify HTTP 422 Unprocessable Entity: …`."""
    return f"{answer.request.path_url} {answer_text(answer)}"
