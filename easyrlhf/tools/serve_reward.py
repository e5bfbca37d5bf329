"""easyrlhf serve_reward: a trained reward model behind HTTP; docs/rewards.md has the protocol."""

import json
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from easyrlhf.config import ScoringConfig, ServeRewardConfig
from easyrlhf.data.chat_template import answered, arguments_for
from easyrlhf.data.decoding import read_json
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.engine.device import choose_threads, pick_device, pick_dtype, pick_micro_batch_tokens
from easyrlhf.errors import InputError
from easyrlhf.models.folder import check_probes, load_scalar_model
from easyrlhf.models.load import load_config, positions_of
from easyrlhf.models.sequence_classifier import check_classifier, is_classifier
from easyrlhf.models.value_head import ScalarModel, check_head_file
from easyrlhf.run.manifest import read_stage, require_whole
from easyrlhf.run.renderers import own_renderer
from easyrlhf.tools.at_hand import at_hand
from easyrlhf.tools.scoring import scores_of, too_long

PATHS = ("/", "/score")
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
TOO_LARGE = 413
MOST_DIGITS = 18
LARGEST = 2**26  # bytes of a request: 64 completions of a mebibyte each, with their prompts and columns
READ_ON = 2**28  # bytes of a larger one that are read and forgotten
PATIENCE = 2.0  # seconds that its next bytes may take


class BadRequest(ValueError):
    """A request that cannot be answered; the message says what it should hold.

    status  of the HTTP answer
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Scorer:
    """Answers requests with a reward model, one at a time.

    tokenizer  fingerprint of its tokenizer and template
    limit      tokens that the model was made for; None: no limit
    """

    model: ScalarModel
    renderer: Renderer
    micro_batch_tokens: int
    tokenizer: dict[str, str]
    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: Any) -> dict[str, list]:
        """The answer to a request's JSON: scores, and where some are null, notes that say why. Raises BadRequest."""
        with self.lock:
            try:
                sequences = self.sequences(body)
            except InputError as error:  # a conversation that the template refuses
                raise BadRequest(str(error)) from error
            scores = scores_of(self, sequences, self.limit)
        if None not in scores:
            return {"scores": scores}
        both = zip(scores, sequences, strict=True)
        return {"scores": scores, "notes": [too_long(ids, self.limit) if one is None else None for one, ids in both]}

    def sequences(self, body: Any) -> list[list[int]]:
        """Prompt + completion of each row, in the model's tokens. Raises BadRequest."""
        prompts, completions = list_of(body, "prompts"), list_of(body, "completions")
        if len(prompts) != len(completions):
            raise BadRequest(f"{len(prompts)} prompts, but {len(completions)} completions: give one for each")
        finished = list_of(body, "finished", [True] * len(prompts), length=len(prompts))
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            check_text("prompts", place, prompt)
            check_text("completions", place, completion)
            if not isinstance(completion, str) and len(completion) != 1:
                raise BadRequest(f"completions[{place}]: must be one message, not {len(completion)}")
        given = arguments_of(body, prompts)
        if body.get("tokenizer") == self.tokenizer and "completion_ids" in body:
            ids = list_of(body, "completion_ids", length=len(prompts))
            if not all(is_ids(one, len(self.renderer.tokenizer)) for one in ids):
                raise BadRequest("completion_ids: must hold a list of at least one token id for each prompt")
            ids = [self.renderer.ended(one) if end else one for one, end in zip(ids, finished, strict=True)]
            asked = map(self.renderer.prompt_ids, prompts, given)
            return [prompt + one for prompt, one in zip(asked, ids, strict=True)]
        rows = zip(prompts, completions, finished, given, strict=True)
        return [
            self.renderer.sequence(*answered(prompt, text_of(completion)), bool(ended), arguments)
            for prompt, completion, ended, arguments in rows
        ]


def list_of(body: Any, name: str, default: list | None = None, *, length: int | None = None) -> list:
    """A list of the request. Raises BadRequest when it is not there, no list, or not of this length."""
    if not isinstance(body, dict):
        raise BadRequest('the request must be a JSON object: {"prompts": […], "completions": […]}')
    found = body.get(name, default)
    if not isinstance(found, list) or length not in (None, len(found)):
        raise BadRequest(f"{name}: must be a list{'' if length is None else f' of {length}, one for each prompt'}")
    return found


def arguments_of(body: dict[str, Any], prompts: list) -> list[dict[str, Any] | None]:
    """What the columns of the request tell the chat template, for each prompt. Raises BadRequest."""
    columns = {name: list_of(body, name, [None] * len(prompts), length=len(prompts)) for name in TEMPLATE_COLUMNS}
    try:
        return [
            arguments_for(prompt, {name: column[place] for name, column in columns.items()})
            for place, prompt in enumerate(prompts)
        ]
    except InputError as error:
        raise BadRequest(str(error)) from error


def check_text(name: str, place: int, value: Any) -> None:
    """Raise BadRequest unless a prompt or completion is a string or a list of messages."""
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value or not all(map(is_message, value)):
        raise BadRequest(f'{name}[{place}]: must be a string or a list of messages {{"role": "user", "content": "…"}}')


def is_message(value: Any) -> bool:
    """Whether it has a role and a content, both texts."""
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def is_ids(value: Any, limit: int) -> bool:
    """Whether it is a list of token ids below the limit, at least one."""
    return isinstance(value, list) and bool(value) and all(type(i) is int and 0 <= i < limit for i in value)


def text_of(completion: Messages | str) -> str:
    """The text of an answer."""
    return completion if isinstance(completion, str) else completion[0]["content"]


class Handler(BaseHTTPRequestHandler):
    """GET /health, POST / and POST /score."""

    server: "RewardHTTPServer"

    def do_GET(self) -> None:
        """Say that the server is ready."""
        if self.path == "/health":
            self.reply(200, {"status": "ok"})
        else:
            self.reply(404, {"error": f"GET {self.path}: there is GET /health, and POST / for scores"})

    def do_POST(self) -> None:
        """Answer with scores."""
        try:
            body = self.body()
            if self.path not in PATHS:
                self.reply(404, {"error": f"POST {self.path}: scores are at POST /"})
                return
            self.reply(200, self.server.scorer.answer(parsed(body)))
        except BadRequest as error:
            self.reply(error.status, {"error": str(error)})
            if error.status == TOO_LARGE:
                self.read_on()
        except ConnectionError:
            raise
        except Exception as error:  # out of memory, say: the client is told, and tries again
            self.reply(500, {"error": f"{type(error).__name__}: {error}"})

    def body(self) -> bytes:
        """What was sent. Raises BadRequest when that is too much, or nobody knows how much."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise BadRequest(f"Content-Length {length!r}: must be the number of bytes that follow", 411)
        if len(length) > MOST_DIGITS or int(length) > LARGEST:
            raise BadRequest(
                f"the request has {length} bytes, more than {LARGEST:,}; send fewer rows at a time", TOO_LARGE
            )
        return self.rfile.read(int(length))

    def read_on(self) -> None:
        """Read what follows and forget it: a client hears an answer once it has sent what it has to say."""
        self.connection.settimeout(PATIENCE)
        left = READ_ON
        with suppress(OSError):
            while left > 0 and (piece := self.rfile.read1(2**16)):
                left -= len(piece)

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        """Send JSON."""
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, *_) -> None:
        """Nothing: a line a request would hide the one that says how to reach the server."""


def parsed(body: bytes) -> Any:
    """The JSON of a request. Raises BadRequest."""
    try:
        return read_json(body)
    except ValueError as error:
        raise BadRequest(f"the request {error}") from error


class RewardHTTPServer(ThreadingHTTPServer):
    """Serves a scorer; open requests do not keep it from ending."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], scorer: Scorer):
        self.scorer = scorer
        super().__init__(address, Handler)


def serve_reward(config: ServeRewardConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for a folder, device or address that cannot be used."""
    scorer = load_scorer(config)
    try:
        server = RewardHTTPServer((config.host, config.port), scorer)
    except OSError as error:
        place = f"--host {config.host} --port {config.port}"
        raise InputError(f"{place}: cannot listen there ({error.strerror}); give another --port") from error
    host = socket.gethostname() if config.host == "0.0.0.0" else config.host
    with server:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"{config.reward_model} is ready: --reward_url http://{host}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", flush=True)


def reward_folder(config: ScoringConfig) -> str:
    """The folder of the settings' reward model; one made of a checkpoint where its run has not ended."""
    return at_hand("--reward_model", config.reward_model, allow_incomplete=config.allow_incomplete)


def load_scorer(config: ScoringConfig) -> Scorer:
    """The model of the settings, ready to answer. Raises InputError."""
    folder, trust = reward_folder(config), config.trust_remote_code
    device = pick_device(config.devices)
    dtype = pick_dtype(config.precision, device)
    require_whole("--reward_model", folder, allow_incomplete=config.allow_incomplete)
    try:
        if is_classifier(folder, trust_remote_code=trust):
            check_classifier(folder, trust_remote_code=trust)
        else:
            hidden_size = load_config(folder, trust_remote_code=trust).get_text_config().hidden_size
            check_head_file(folder, hidden_size)
    except InputError as error:
        raise InputError(f"--reward_model {error}") from error
    renderer = own_renderer(folder, trust_remote_code=trust)
    tokenizer = renderer.tokenizer
    how = {"attn_implementation": config.attn_implementation, "trust_remote_code": trust}
    model = load_scalar_model(folder, tokenizer, dtype=dtype, **how).to(device).eval().requires_grad_(False)
    check_probes(model, read_stage(folder).get("probes", []), folder, dtype)
    choose_threads(device, sum(p.numel() for p in model.parameters()))
    tokens = pick_micro_batch_tokens(config.micro_batch_tokens, device)
    limit = positions_of(folder, trust_remote_code=trust)
    return Scorer(model, renderer, tokens, tokenizer_fingerprint(tokenizer), limit)
