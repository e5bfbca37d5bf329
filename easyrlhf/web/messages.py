"""What a request holds, what one that goes wrong is answered with, and that the server is there."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from easyrlhf.data.decoding import read_json
from easyrlhf.web.refusals import Refusal, failed

READ_ON = 16  # times the limit that a larger request is read and forgotten: clients listen once they have sent it all


async def json_of(request: Request, limit: int) -> object:
    """The JSON of a request of `limit` bytes at most, read no further than it may go. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal("Content-Type: must be application/json", status=415)
    declared = request.headers.get("content-length", "")
    body = bytearray()
    size = 0
    if declared.isdigit() and int(declared) > READ_ON * limit:
        raise too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        elif size > READ_ON * limit:
            break
    if size > limit:
        raise too_large(limit)
    try:
        return read_json(bytes(body))
    except ValueError as error:
        raise Refusal(f"the request {error}") from error


def too_large(limit: int) -> Refusal:
    """What is told of a request beyond the limit."""
    return Refusal(f"the request is larger than {limit:,} bytes", status=413, code="request_too_large")


def refusal_response(refusal: Refusal) -> Response:
    """The answer that a refusal is."""
    return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)


async def refusal_answer(request: Request, error: Refusal) -> Response:
    """What a refusal is answered with."""
    return refusal_response(error)


async def http_answer(request: Request, error: HTTPException) -> Response:
    """What an address or a method that there is not is answered with."""
    where = f"{request.method} {request.url.path}"
    message = f"{where}: another method is needed" if error.status_code == 405 else f"{where}: there is nothing here"
    return refusal_response(Refusal(message, status=error.status_code, headers=dict(error.headers or {})))


async def nobody(request: Request, error: ClientDisconnect) -> Response:
    """Nobody reads it."""
    return Response(status_code=499)


async def fault_answer(request: Request, error: Exception) -> Response:
    """What a fault of ours is answered with; what it was stands in the terminal."""
    return refusal_response(failed())


async def health(request: Request) -> Response:
    """GET /health."""
    return JSONResponse({"status": "ok"})


FAULT_ANSWERS = {
    Refusal: refusal_answer,
    HTTPException: http_answer,
    ClientDisconnect: nobody,
    Exception: fault_answer,
}
