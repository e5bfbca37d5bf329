"""A resources server of NeMo Gym as a source of reward: single turns are verified, many at a time."""

import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.data.records import Messages
from easyrlhf.nemo_gym.client import GymFailed, GymSession, Verified
from easyrlhf.nemo_gym.servers import GymServers
from easyrlhf.rewards.asides import Logged
from easyrlhf.rewards.async_source import LIMIT, AsyncSource, Pending, in_thread
from easyrlhf.rewards.batch import RewardBatch, RewardError

WORKERS = 64  # completions that are verified at a time
GYM = "nemo_gym"


@dataclass(frozen=True)
class GymReward(AsyncSource):
    """Has every completion verified by the resources server of its row.

    timeout  seconds for the completions of a rollout
    """

    servers: GymServers
    timeout: float = LIMIT
    name: str = GYM
    overlaps: bool = True

    def start(self, batch: RewardBatch) -> Pending:
        """Begin to have them verified; components of rewards are logged as parts of this source."""
        logged = Logged(len(batch))
        future = in_thread(lambda: Verification(self.servers, batch, self.timeout).run(logged))
        # it keeps the limit itself, as it knows whose answer is late
        return Pending(GYM, batch, None, future, lambda error: f"{type(error).__name__}: {error}", logged)


@dataclass
class Verification:
    """The requests of one rollout.

    late      places of those who wait for an answer
    verdicts  of the completions, as they come
    """

    servers: GymServers
    batch: RewardBatch
    timeout: float
    late: set[int] = field(default_factory=set)
    verdicts: dict[int, Verified] = field(default_factory=dict)
    failed: bool = False

    def run(self, logged: Logged) -> list[float]:
        """The rewards of all completions. Raises RewardError with the first that has none."""
        ends, places = time.monotonic() + self.timeout, iter(range(len(self.batch)))
        workers = [in_thread(lambda: self.work(places)) for _ in range(min(WORKERS, len(self.batch)))]
        while workers:
            done = wait(workers, max(0.0, ends - time.monotonic()), return_when="FIRST_COMPLETED").done
            if not done:
                raise self.too_slow()
            self.check(done)
            workers = [worker for worker in workers if worker not in done]
        verdicts = [self.verdicts[place] for place in range(len(self.batch))]
        for name in sorted({name for _, parts in verdicts for name in parts}):
            logged.parts[name] = [parts.get(name) for _, parts in verdicts]
        return [reward for reward, _ in verdicts]

    def work(self, places) -> None:
        """Have one completion after the other verified, as long as there are any and none has failed."""
        for place in places:
            if self.failed:
                return
            self.late.add(place)
            self.verdicts[place] = self.verdict(place)
            self.late.discard(place)

    def verdict(self, place: int) -> Verified:
        """What a completion is worth. Raises RewardError."""
        row = self.batch.columns[WHOLE_ROW][place]
        with GymSession(self.servers.resources(row), row, self.batch.places[place], self.timeout) as session:
            try:
                return session.judged(as_turns(self.batch.completions[place]))
            except GymFailed as error:
                raise RewardError(f"{error}\n{self.batch.sample(place)}") from error

    def check(self, done: set[Future]) -> None:
        """Raise what a worker has failed with; the others then begin nothing new."""
        for worker in done:
            if worker.exception() is not None:
                self.failed = True
                raise worker.exception()

    def too_slow(self) -> RewardError:
        """The error of servers that did not answer in time; it names the first row that waits."""
        self.failed = True
        place = min(self.late, default=0)
        row, at = self.batch.columns[WHOLE_ROW][place], self.batch.places[place]
        return RewardError(
            f"NeMo Gym server {self.servers.resources(row)}, row {at}: gave no reward within {self.timeout:g} s "
            f"(--reward_timeout), in which {len(self.verdicts)} of {len(self.batch)} completions were verified\n"
            f"{self.batch.sample(place)}"
        )


def as_turns(completion: Messages | str) -> Messages:
    """A completion as turns."""
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
