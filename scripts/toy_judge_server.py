"""A judge that knows the toy world, behind the API of OpenAI's chat completions.

With it labels, marks and revisions by a judge can be tried without a language model:

    python scripts/toy_judge_server.py --port 8000 --error 0.1 --place 0.5
    easyrlhf label ai --judge_url http://127.0.0.1:8000 --judge_model toy

It answers what `easyrlhf label ai`, `compare`, `serve_judge` and `revise` ask, with the gold judge of
data/toy/judge.py, and says the same to the same question, always. Needs nothing but Python.

  --error E      of a pair of answers it prefers the worse one, in both orders, with this chance
  --sure S       how sure it is of a pair: log-odds, in nats (2.2: nine to one)
  --place B      what it adds to the log-odds of the answer that is shown first
  --refusals R   share of the questions that it does not answer
  --letters      letters alone, without log-probabilities: drawn as likely as they are
"""

import argparse
import hashlib
import json
import math
import re
import runpy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

JUDGE = runpy.run_path(str(Path(__file__).parents[1] / "data" / "toy" / "judge.py"))
TURN = re.compile(r"(?:^|\n\n)\[(user|assistant|system)\]\n")
PAIR = re.compile(r"# Conversation\n(.*)\n\n# Answer A\n(.*)\n\n# Answer B\n(.*)\n\n[^\n]*$", re.DOTALL)
ONE = re.compile(r"# Conversation\n(.*)\n\n# Answer\n(.*?)\n\n(?:Which mark|# What to look at)", re.DOTALL)
REFUSAL = "I would rather not judge that."
HIGHEST = 9


@dataclass(frozen=True)
class ToyJudge:
    """What the judge is like; see above."""

    error: float = 0.0
    sure: float = math.log(9)
    place: float = 0.0
    refusals: float = 0.0
    letters: bool = False

    def log_odds(self, conversation: str, first: str, second: str) -> float:
        """ln P(A) − ln P(B) of two answers, of which `first` is shown as A."""
        gap = gold(conversation, first) - gold(conversation, second)
        wrong = chance("error", conversation, *sorted([first, second])) < self.error
        return ((gap > 0) - (gap < 0)) * (-1 if wrong else 1) * self.sure + self.place

    def reply(self, body: dict[str, Any]) -> tuple[str, list[tuple[str, float]] | None]:
        """What is said to a request, and the likeliest first tokens with their probabilities."""
        asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
        if chance("refusal", json.dumps(body["messages"])) < self.refusals:
            return REFUSAL, [("I", 0.9), ("As", 0.1)]
        if pair := PAIR.search(asked[0]):
            a = 1 / (1 + math.exp(-self.log_odds(*pair.groups())))
            return ("A" if chance("letter", *asked) < a else "B"), [("A", a), ("B", 1 - a), ("C", 1e-12)]
        conversation, answer = ONE.search(asked[0]).groups()
        if "Which mark" in asked[0]:
            mark = 1 + round(gold(conversation, answer) * (HIGHEST - 1))
            return str(mark), [(str(mark), 1 - 1e-9), ("x", 1e-9)]
        return (kinder(answer) if len(asked) > 1 else "The words that are not kind could go."), None


def gold(conversation: str, answer: str) -> float:
    """The gold judge's score."""
    _, *parts = TURN.split(conversation)
    turns = [{"role": role, "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    return JUDGE["score"](turns or [{"role": "user", "content": conversation}], answer)["gold"]


def kinder(answer: str) -> str:
    """The answer without its rude phrases."""
    for phrase in JUDGE["RUDE"]:
        answer = answer.replace(phrase, "")
    return " ".join(answer.split())


def chance(*words: str) -> float:
    """A number from 0 to 1, the same for the same words."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8]) / 2**64


def completion(judge: ToyJudge, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, as the API has it."""
    said, likely = judge.reply(body)
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    if body.get("logprobs") and likely and not judge.letters:
        top = [{"token": token, "logprob": math.log(p)} for token, p in likely if p > 0]
        choice["logprobs"] = {"content": [{"token": said, "logprob": top[0]["logprob"], "top_logprobs": top}]}
    tokens = sum(len(turn["content"]) for turn in body["messages"]) // 4 + 1
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    return {"object": "chat.completion", "model": body.get("model"), "choices": [choice], "usage": usage}


def server_of(judge: ToyJudge, port: int) -> ThreadingHTTPServer:
    """A server that answers with the judge, on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"object": "list", "data": [{"id": "toy", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(completion(judge, body))

        def answer(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    ThreadingHTTPServer.daemon_threads, ThreadingHTTPServer.request_queue_size = True, 128
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    for name, default in (("error", 0.0), ("sure", math.log(9)), ("place", 0.0), ("refusals", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--letters", action="store_true")
    given = vars(parser.parse_args())
    server = server_of(ToyJudge(**{name: value for name, value in given.items() if name != "port"}), given["port"])
    print(f"the toy judge is ready: --judge_url http://127.0.0.1:{server.server_port} --judge_model toy", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
