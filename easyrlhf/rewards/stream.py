"""Rewards that are asked for while others of the rollout are still being sampled: a prompt's, once it is answered."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.rewards.asides import Logged
from easyrlhf.rewards.async_source import BRIEFLY, AsyncSource, Pending
from easyrlhf.rewards.batch import RewardBatch, Row, TrainerState
from easyrlhf.rewards.workers import WorkerFunction, worker_of

REQUESTS = 4  # prompts that a server is asked about together

Said = dict[int, tuple[list[int], bool]]  # row → ids of its completion, and whether it is finished


class Lane:
    """A thread that does one job after another; it keeps no process from ending."""

    def __init__(self):
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self.work, name="rewards in turn", daemon=True).start()

    def work(self) -> None:
        """Do what there is, until there is a None."""
        while (job := self.jobs.get()) is not None:
            job()


@dataclass(frozen=True)
class InTurn:
    """Scores of a source that is asked when its turn comes.

    future  → what it was asked, once that is answered
    """

    future: Future

    def scores(self) -> list:
        """Wait for them; raises what asking has raised."""
        while not self.future.done():
            wait([self.future], BRIEFLY)  # in turns, as Pending does
        return self.future.result().scores()

    @property
    def logged(self) -> Logged:
        """What the source has logged."""
        return self.future.result().logged


@dataclass(frozen=True)
class OfAllPrompts:
    """What a source says of several prompts, in their order."""

    answers: list[Pending | InTurn]
    logged: Logged = field(default_factory=Logged)

    def scores(self) -> list:
        """Wait for all. Raises RewardError where one failed."""
        found = []
        for answer in self.answers:
            found += answer.scores()
            self.logged.append(answer.logged)
        return found


@dataclass
class AskedPrompt:
    """The completions of a prompt.

    rows     their numbers
    said     those that have ended
    asked    those that the sources were asked about
    answers  of each source, by its number
    """

    rows: range
    said: Said = field(default_factory=dict)
    asked: Said = field(default_factory=dict)
    answers: dict[int, Pending | InTurn] = field(default_factory=dict)


class RewardStream:
    """Asks sources about each prompt once all its completions are there; used inside of `with`.

    Every call is about one prompt. Sources take turns as they do without: functions in one thread or in their worker,
    a server with some requests at a time; async functions wait side by side.

    sources  by number
    rows     prompt rows of the whole rollout, of which this process asks about its share
    """

    def __init__(self, sources: dict[int, AsyncSource], rows: list[Row], renderer: Renderer, state: TrainerState):
        self.sources, self.rows, self.renderer, self.state = sources, rows, renderer, state
        unsaid = RewardBatch.of(rows, [[]] * len(rows), [False] * len(rows), renderer)
        own = unsaid.share(processes.size(), processes.rank())
        starts = [start for start in unsaid.groups() if own.start <= start < own.stop]
        self.columns = list(unsaid.columns)
        self.prompts = [
            AskedPrompt(range(start, stop)) for start, stop in zip(starts, [*starts[1:], own.stop], strict=True)
        ]
        self.number_of = {row: number for number, prompt in enumerate(self.prompts) for row in prompt.rows}
        self.lanes: dict[Hashable, Lane] = {}
        self.waiting: list[Pending] = []
        self.failed: BaseException | None = None
        self.closed = False
        self.lock = threading.RLock()

    def __enter__(self) -> "RewardStream":
        return self

    def __exit__(self, *_) -> None:
        """Ask nothing any more; what is under way is not waited for."""
        self.closed = True
        for lane in self.lanes.values():
            lane.jobs.put(None)

    def ended(self, row: int, ids: list[int], finished: bool) -> None:
        """Take a completion, in any thread. Raises RewardError where a source has failed by now."""
        with self.lock:
            self.check()  # first: when a source has failed nothing more is asked
            if (number := self.number_of.get(row)) is not None:
                prompt = self.prompts[number]
                prompt.said[row] = ids, finished
                if len(prompt.said) == len(prompt.rows) and not prompt.asked:
                    self.ask(number, dict(prompt.said))

    def begun(self, completions: list[list[int]], finished: list[bool]) -> dict[int, OfAllPrompts]:
        """What each source says of this process's share, by its number, of what was sampled in the end.

        Who was not asked about that yet is asked now: where sampling was begun anew, completions may be others.
        """
        with self.lock:
            for number, prompt in enumerate(self.prompts):
                said = {row: (completions[row], finished[row]) for row in prompt.rows}
                if prompt.asked != said:
                    self.ask(number, said)
        return {place: OfAllPrompts([prompt.answers[place] for prompt in self.prompts]) for place in self.sources}

    def ask(self, number: int, said: Said) -> None:
        """Let all sources be asked about these completions of a prompt."""
        prompt = self.prompts[number]
        prompt.asked = said
        ids, finished = map(list, zip(*(said[row] for row in prompt.rows), strict=True))
        batch = RewardBatch.of([self.rows[row] for row in prompt.rows], ids, finished, self.renderer, self.state)
        columns = {name: batch.columns.get(name, [None] * len(batch)) for name in self.columns}
        batch = replace(batch, columns=columns)
        for place, source in self.sources.items():
            prompt.answers[place] = self.begin(source, batch, number)

    def begin(self, source: AsyncSource, batch: RewardBatch, number: int) -> Pending | InTurn:
        """Begin to ask a source about the prompt of that number, or let it wait for its turn."""
        if isinstance(source, WorkerFunction):
            worker = worker_of(number, len(self.prompts), source.workers.count)
            return self.in_turn(("worker", worker), replace(source, only=worker), batch)
        if not source.overlaps:
            return self.in_turn("functions", source, batch)
        if source.remote:
            return self.in_turn((id(source), number % REQUESTS), source, batch)
        self.waiting.append(source.start(batch))
        return self.waiting[-1]

    def in_turn(self, lane: Hashable, source: AsyncSource, batch: RewardBatch) -> InTurn:
        """Let a source be asked behind what its lane has to do already."""
        future: Future = Future()

        def job() -> None:
            if self.closed or self.failed:
                future.set_exception(self.failed or RuntimeError("closed"))
                return
            try:
                pending = source.start(batch)
                pending.scores()
                future.set_result(pending)
            except BaseException as error:  # whoever waits is to have it
                self.failed = self.failed or error
                future.set_exception(self.failed)  # what fails behind another may fail for that

        if lane not in self.lanes:
            self.lanes[lane] = Lane()
        self.lanes[lane].jobs.put(job)
        return InTurn(future)

    def check(self) -> None:
        """Raise what a source has failed with by now."""
        for pending in [one for one in self.waiting if one.future.done() or one.seconds_left() <= 0]:
            self.waiting.remove(pending)
            try:
                pending.scores()
            except Exception as error:
                self.failed = self.failed or error
        if self.failed:
            raise self.failed
