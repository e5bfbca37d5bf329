"""Reward functions in processes of their own: they run side by side, and one that hangs can be ended."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait

from easyrlhf.errors import InputError
from easyrlhf.rewards.asides import LOGGING, Logged
from easyrlhf.rewards.async_source import AsyncSource, Pending, asides_for, in_thread, keywords_for, too_slow
from easyrlhf.rewards.batch import RewardBatch, RewardError, not_one_each, score_list
from easyrlhf.userfile import Function

PATIENCE = 2.0  # seconds for a worker to leave by itself
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from easyrlhf.rewards.worker_main import serve_requests; serve_requests()"
)


class Worker:
    """One process, which loads the functions and calls them when asked.

    It leads a session of its own: Ctrl-C in the terminal does not reach it, and what it starts ends with it.
    """

    def __init__(self, specs: list[str]):
        self.connection, theirs = Pipe()
        command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), str(theirs.fileno())]
        # its standard input is never written to: it closes when this process ends, however it ends
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], start_new_session=True
        )
        theirs.close()
        self.connection.send(specs)

    def end(self, deadline: float) -> None:
        """End the process and all it has started; until the deadline it may leave by itself."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()


class Workers:
    """Processes that call the reward functions `file.py:fn`, each on a part of the completions.

    They are there inside of `with`, and none is left behind it. Raises InputError on Windows.
    """

    def __init__(self, specs: list[str], count: int, timeout: float):
        if sys.platform == "win32":
            raise InputError(f"--reward_workers {count}: needs Linux or macOS; leave it at 0")
        self.specs, self.count, self.timeout = specs, count, timeout
        self.workers: list[Worker] = []

    def __enter__(self) -> "Workers":
        self.workers = [Worker(self.specs) for _ in range(self.count)]
        return self

    def __exit__(self, *_) -> None:
        self.close(PATIENCE)

    def close(self, seconds: float) -> None:
        """End all of them; for so many seconds they may leave by themselves."""
        deadline = time.monotonic() + seconds
        for worker in self.workers:
            worker.connection.close()  # an idle worker leaves
        for worker in self.workers:
            worker.end(deadline)
        self.workers = []

    def scores(self, place: int, function: Function, who: str, batch: RewardBatch, logged: Logged) -> list:
        """What the function at this place says of the completions, divided among the workers in order.

        logged  takes what it logs

        Raises RewardError, with all workers ended, when one of them fails, dies or takes too long.
        """
        parts = dict(enumerate(divide(batch, len(self.workers))))
        try:
            found = []
            for scores, said in self.answers(place, function, who, parts):
                found += scores
                logged.append(said)
            return found
        except RewardError:
            self.close(0.0)
            raise

    def scores_by(
        self, number: int, place: int, function: Function, who: str, batch: RewardBatch, logged: Logged
    ) -> list:
        """As scores, of the worker of that number alone; the others, who may be busy, stay where one fails."""
        [(scores, said)] = self.answers(place, function, who, {number: batch})
        logged.append(said)
        return scores

    def answers(
        self, place: int, function: Function, who: str, parts: dict[int, RewardBatch]
    ) -> list[tuple[list, Logged]]:
        """The scores of each worker's part and what was logged of it. Raises RewardError."""
        deadline = time.monotonic() + self.timeout
        found: dict[int, tuple[list, Logged]] = {}
        waiting = {self.workers[number].connection: number for number in parts}
        for number, part in parts.items():
            try:
                asides = {k: v for k, v in asides_for(function, part, Logged()).items() if k not in LOGGING}
                self.workers[number].connection.send((place, keywords_for(function, part) | asides))
            except OSError as error:
                raise self.dead(number, who, part) from error
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                raise too_slow(who, self.timeout, parts[min(waiting.values())])
            for connection in ready:
                number = waiting.pop(connection)
                found[number] = self.answer(number, who, parts[number])
        return [found[number] for number in parts]

    def answer(self, number: int, who: str, part: RewardBatch) -> tuple[list, Logged]:
        """The scores that a worker has sent, and what it logged. Raises RewardError when it sent else, or died."""
        try:
            kind, what, said = self.workers[number].connection.recv()
        except (EOFError, OSError) as error:
            raise self.dead(number, who, part) from error
        if kind == "scores":
            said.check(who, part)
            return score_list(what, who, part), said
        if kind == "no list":
            raise not_one_each(f"{what}, which is no list,", who, part)
        raise RewardError(f"{who} raised {what}\n{part.sample()}")

    def dead(self, number: int, who: str, part: RewardBatch) -> RewardError:
        """The error of a worker that is gone."""
        process, how = self.workers[number].process, "its connection closed"
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(PATIENCE)
            how = f"it ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        return RewardError(
            f"{who} lost its worker process (--reward_workers), {how}, on {len(part)} completions. "
            f"The first of them:\n{part.sample()}"
        )


def divide(batch: RewardBatch, count: int) -> list[RewardBatch]:
    """At most `count` parts in order, none empty, of whole prompts, whose numbers are at most one apart."""
    count = min(count, len(batch.groups()))
    shares = [batch.share(count, number) for number in range(count)]
    return [batch.part(share.start, share.stop) for share in shares]


def worker_of(prompt: int, prompts: int, workers: int) -> int:
    """The number of the worker that has a prompt of so many, as divide deals them."""
    workers = min(workers, prompts)
    return next(number for number in range(workers) if prompt < prompts * (number + 1) // workers)


@dataclass(frozen=True)
class WorkerFunction(AsyncSource):
    """A reward function that worker processes call; `place` is its number among theirs.

    only  number of the one worker that calls it; None: all do, each about a part
    """

    workers: Workers
    place: int
    function: Function
    name: str
    overlaps: bool = False
    only: int | None = None

    def start(self, batch: RewardBatch) -> Pending:
        """Hand the batch to the workers, which keep the limit themselves."""
        who = f"reward function {self.name}"
        logged = Logged()
        what = self.place, self.function, who, batch, logged
        workers, only = self.workers, self.only
        future = in_thread(lambda: workers.scores(*what) if only is None else workers.scores_by(only, *what))
        return Pending(who, batch, None, future, str, logged)
