"""Episodes that are alive at a time, and how their turns are sampled: in waves, or each as it comes."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Protocol

from torch import nn

from easyrlhf.episodes.chat import Ask, Turn
from easyrlhf.errors import RunStopped, ServiceStopped
from easyrlhf.rewards.async_source import in_thread
from easyrlhf.rollout.sampler import Samples

Key = tuple[int, ...]
Begin = Callable[[], Coroutine[Any, Any, Any]]  # begins an episode

LOOK = 0.2  # seconds between two looks at whether to stop
CLOSING = 5.0  # seconds that episodes have to put away what they have open, where all of them end
LEAVING = 1.0  # seconds for what does not end by then
AT_ONCE = 256  # turns that are under way together


class TurnSampler(Protocol):
    """What the turns of one process's episodes are sampled with; no other process takes part in it.

    lm      the policy, wherever it samples
    pad_id  the padding token
    """

    lm: nn.Module
    pad_id: int

    def generate(self, prompts: list[list[int]], keys: list[Key], limits: list[int]) -> Samples:
        """Complete each prompt, with at most so many tokens; its random numbers are drawn from its key."""


class Turns(ABC):
    """Plays episodes, so many at a time: as one ends, the next begins.

    sampler   samples their turns
    most      episodes alive at a time
    stopping  whether the user has asked the run to stop
    living    episodes that have begun and not ended
    failure   the first error of any part
    """

    def __init__(self, sampler: TurnSampler, most: int, stopping: Callable[[], bool]):
        self.sampler, self.most, self.stopping = sampler, most, stopping
        self.living = 0
        self.failure: BaseException | None = None
        self.changed = asyncio.Event()
        self.coming: Iterator[tuple[int, Begin]] = iter(())
        self.tasks: list[asyncio.Task] = []

    def asking(self, place: int, key_of: Callable[[int], Key]) -> Ask:
        """What the chat at this place asks for its turns with; key_of gives the key of a turn."""

        async def ask(ids: list[int], most: int, turn: int) -> Turn:
            return await self.turn(place, ids, most, key_of(turn))

        return ask

    @abstractmethod
    async def turn(self, place: int, ids: list[int], most: int, key: Key) -> Turn:
        """The turn of the episode at this place behind these ids, of at most so many tokens."""

    @abstractmethod
    def leave(self, place: int) -> None:
        """The episode at this place waits for no turn any more."""

    @abstractmethod
    def look_around(self) -> None:
        """Something has happened: an episode began to wait for its turn, or ended."""

    async def run(self, begin: list[Begin]) -> list[Any]:
        """Play them all; the outcome of each, in order. The first error ends all, and so does a request to stop."""
        self.coming = iter(enumerate(begin))
        try:
            for _ in range(self.most):
                self.begin_next()
            while self.living:
                await self.happened()
                if self.failure is not None:
                    raise self.failure
                self.look_around()
            return [task.result() for task in self.tasks]
        finally:
            await self.end_all()

    def begin_next(self) -> None:
        """Begin the next episode, if there is one."""
        for place, begin in self.coming:
            self.living += 1
            self.tasks.append(asyncio.ensure_future(self.until_done(place, begin)))
            return

    async def until_done(self, place: int, begin: Begin) -> Any:
        """Play one, counted among the living while it is."""
        try:
            return await begin()
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.leave(place)
            self.living -= 1
            self.begin_next()
            self.changed.set()

    def fail(self, error: BaseException) -> None:
        """Note what ends all, even where an episode would go on without its turn."""
        self.failure = self.failure or error
        self.changed.set()

    async def happened(self) -> None:
        """Wait until something has happened. Raises ServiceStopped when the run is asked to stop."""
        while True:
            if self.stopping():
                raise ServiceStopped("Stopped on request while episodes were played, which will be played again")
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), LOOK)
                self.changed.clear()
                return

    async def end_all(self) -> None:
        """End what is still played: environments are closed, but none is waited for long."""
        self.coming = iter(())
        for limit in (CLOSING, LEAVING):
            if left := [task for task in self.tasks if not task.done()]:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=limit)
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # which is told already


class Waves(Turns):
    """All turns that are waited for are sampled together, as soon as nobody alive is doing anything else.

    So a wave does not depend on who answers faster, and a policy whose weights are put together is asked once a turn.
    """

    def __init__(self, *how: Any):
        super().__init__(*how)
        self.asked: dict[int, tuple[tuple[list[int], Key, int], asyncio.Future]] = {}

    async def turn(self, place: int, ids: list[int], most: int, key: Key) -> Turn:
        """As Turns says."""
        future = asyncio.get_running_loop().create_future()
        self.asked[place] = (ids, key, most), future
        self.changed.set()
        try:
            return await future
        finally:  # an episode that does not wait for its turn any more is not given one
            self.leave(place)

    def leave(self, place: int) -> None:
        """As Turns says."""
        self.asked.pop(place, None)

    def look_around(self) -> None:
        """Sample a turn for everybody, if all wait."""
        if not self.asked or len(self.asked) < self.living:
            return
        waiting = [self.asked[place] for place in sorted(self.asked)]
        self.asked.clear()
        prompts, keys, most = (list(column) for column in zip(*(question for question, _ in waiting), strict=True))
        for turn, (_, future) in zip(turns_of(self.sampler.generate(prompts, keys, most)), waiting, strict=True):
            if not future.cancelled():
                future.set_result(turn)


class AtOnce(Turns):
    """Each turn is sampled as soon as it is asked for, by what takes requests from several threads."""

    def __init__(self, *how: Any):
        super().__init__(*how)
        self.requests = asyncio.Semaphore(AT_ONCE)

    async def turn(self, place: int, ids: list[int], most: int, key: Key) -> Turn:
        """As Turns says."""
        async with self.requests:
            try:
                samples = await asyncio.wrap_future(in_thread(lambda: self.sampler.generate([ids], [key], [most])))
            except Exception as error:  # of the sampler: no episode may go on as if it was its own
                self.fail(error)
                raise
        return turns_of(samples)[0]

    def leave(self, place: int) -> None:
        """Nobody waits for it."""

    def look_around(self) -> None:
        """Nobody waits for anybody."""


def turns_of(samples: Samples) -> list[Turn]:
    """Samples as the turns that they are."""
    lengths = samples.completion_mask.sum(1).long().tolist()
    drawn = zip(samples.completion_ids.tolist(), samples.logprobs.tolist(), samples.finished.tolist(), strict=True)
    return [
        Turn(ids[:length], logprobs[:length], ended)
        for (ids, logprobs, ended), length in zip(drawn, lengths, strict=True)
    ]


def run_to_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, from a loop of its own in this thread; no task outlives that."""
    loop, stopped = asyncio.new_event_loop(), []

    def note(_, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), RunStopped):  # by a signal that came within the loop's own work
            stopped.append(context["exception"])
            loop.stop()
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(note)
    try:
        return loop.run_until_complete(coroutine)
    except RuntimeError:
        if stopped:
            raise stopped[0] from None
        raise
    finally:
        loop.set_exception_handler(lambda *_: None)  # what does not end by now is not worth a word
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LEAVING))
        loop.close()  # not asyncio.run, which waits for threads that hang
