"""What a request that cannot be answered is told, in the form that OpenAI clients read."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered.

    status   of the HTTP answer
    param    the key of the request that is at fault
    code     a word for programs
    headers  of the HTTP answer
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def failed() -> Refusal:
    """What is told when the fault is ours: no more than that, as the rest stands in the server's terminal."""
    return Refusal("the server failed to answer; its terminal says why", status=500, code="internal_error")


def busy(waiting: int) -> Refusal:
    """What is told when too many wait."""
    return Refusal(
        f"{waiting} answers wait already; ask again in a moment",
        status=503,
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def stopping() -> Refusal:
    """What is told when the server ends."""
    return Refusal("the server is stopping", status=503, code="stopping")
