"""Who is sampled with whom, and with which numbers: the same rows whatever company, workers and delays."""

import asyncio
import os
import signal
import threading
import time
from itertools import product

import numpy as np
import pytest
import torch

from easyrlhf.episodes import waves
from easyrlhf.episodes.play import task_seed
from easyrlhf.errors import RunStopped, ServiceError, ServiceStopped
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

END, WIDTH = 2, 60
DELAYS = np.random.default_rng(5).random(200) / 100  # as random ones, the same in every run
FIELDS = ("completion_ids", "completion_mask", "logprobs", "finished")


@pytest.fixture(scope="module")
def lm(tiny_lm, tokenizer):
    return tiny_lm(vocab=len(tokenizer), max_position_embeddings=256)


@pytest.fixture
def questions(rows, tokenizer):
    """Twelve prompt rows of different lengths, each with its number."""
    asked = ["Name a colour.", "Hello", "Please tell me, in two sentences, why the sky looks blue."]
    return [
        rows({"number": number}, prompt=[{"role": "user", "content": asked[number % 3]}])[0] for number in range(12)
    ]


CALL = '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'
KEYS = [(3, 0, number) for number in range(12)]


def hf(lm, batch_size=5, width=WIDTH, ends=(END, 40, 41, 42, 43, 44)) -> HFSampler:
    """A sampler of a random model, with ends enough that answers do end."""
    return HFSampler(lm, 0, Ending(ends), width, 1.0, batch_size)


class Ends:
    """Ends after the first answer."""

    def respond(self, text):
        return None

    def get_reward(self):
        return 1.0


async def ends_at_once(chat):
    await chat.reply()
    return 1.0


@pytest.mark.parametrize("environment", [Ends, ends_at_once], ids=["class", "function"])
def test_an_environment_that_ends_at_once_is_sampling_without_one_bit_for_bit(lm, player, questions, environment):
    sampler = hf(lm)
    plain = sampler.generate([row["prompt_ids"] for row in questions], KEYS)
    played = player(environment, tokens=WIDTH, turn=WIDTH).play(sampler, questions, KEYS)
    for name in FIELDS:
        assert torch.equal(getattr(played, name), getattr(plain, name)), name
    assert torch.equal(played.action_mask, plain.completion_mask)
    assert 0 < played.finished.sum() < 12


def test_turns_draw_from_keys_of_their_own(player, sampler, play):
    class Talks:
        def respond(self, text):
            return "More."

    says = sampler([[10, END]] * 3)
    play(player(Talks, turns=3), says, {}, {})
    assert [keys for _, keys, _ in says.asked] == [
        [(7, 0, 0), (7, 0, 1)],
        [(7, 0, 0, 1), (7, 0, 1, 1)],
        [(7, 0, 0, 2), (7, 0, 1, 2)],
    ]


def with_delays(kind: str):
    """An environment whose parts take times that differ from episode to episode; of 1 to 3 turns."""

    class Delayed:
        def reset(self, number):
            self.number, self.turns = number, 0
            time.sleep(DELAYS[number])

        def respond(self, text):
            time.sleep(DELAYS[self.number * 7 + self.turns])
            self.turns += 1
            return None if self.turns > self.number % 3 else f"Go on {len(text)}."

        def get_reward(self):
            time.sleep(DELAYS[99 - self.number])
            return float(self.number)

    class Reversed(Delayed):
        def respond(self, text):
            time.sleep(DELAYS[199 - self.number] * 5)
            return super().respond(text)

    return {"delayed": Delayed, "reversed": Reversed}[kind]


def told(samples) -> list:
    return [(one.messages, one.turns, one.reward, one.prompt_ids) for one in samples.episodes]


SETTINGS = [(4, 1, "delayed"), (64, 4, "delayed"), (4, 16, "reversed"), (64, 16, "reversed")]  # batch, workers, delays


def test_rows_do_not_depend_on_batches_workers_and_delays(lm, player, questions):
    ends = tuple(range(40, 140))  # short turns
    limits = {"tokens": WIDTH * 2, "turn": 12}

    def found(kind: str, workers: int, batch_size: int, rows=questions, keys=KEYS):
        sampler = hf(lm, batch_size, WIDTH * 2, ends)
        return player(with_delays(kind), workers=workers, **limits).play(sampler, rows, keys)

    rollouts = [found(kind, workers, batch_size) for batch_size, workers, kind in SETTINGS]
    # each by itself, nobody else about
    alone = [found("delayed", 1, 1, [row], [key]) for row, key in zip(questions, KEYS, strict=True)]
    assert {one.episodes[0].turns for one in alone} == {1, 2, 3}
    for rollout, (number, one) in product(rollouts, enumerate(alone)):
        length = one.completion_ids.shape[1]
        assert rollout.completion_mask[number].sum() == length
        assert rollout.completion_ids[number, :length].tolist() == one.completion_ids[0].tolist()
        assert rollout.action_mask[number, :length].tolist() == one.action_mask[0].tolist()
        torch.testing.assert_close(rollout.logprobs[number, :length], one.logprobs[0], rtol=0, atol=1e-5)
        assert told(rollout)[number] == told(one)[0]
        assert bool(rollout.finished[number]) == bool(one.finished[0])


def test_32_episodes_of_three_turns_are_sampled_in_three_waves(player, sampler, play):
    class Slow:
        def __init__(self):
            self.turns = 0

        def respond(self, text):
            time.sleep(0.02)
            self.turns += 1
            return "More." if self.turns < 3 else None

    says = sampler([[10, END]] * 3)
    play(player(Slow, workers=16), says, *[{}] * 32)
    assert [len(prompts) for prompts, _, _ in says.asked] == [32, 32, 32]


@pytest.mark.parametrize("at_once", [False, True], ids=["waves", "at once"])
def test_no_more_episodes_are_alive_than_may_be_and_rows_stay_the_same(player, sampler, rows, at_once):
    lock, now, most = threading.Lock(), set(), [0]

    class Counted:
        """Of 1 to 3 turns; alive from reset to close."""

        def reset(self, number):
            self.number, self.turns = number, 0
            with lock:
                now.add(self)
                most[0] = max(most[0], len(now))

        def respond(self, text):
            time.sleep(self.number % 3 / 500)
            self.turns += 1
            return None if self.turns > self.number % 3 else f"Go on {self.number}."

        def close(self):
            with lock:
                now.discard(self)

    def found(concurrency):
        says, most[0] = sampler(lambda number, turn: [10 + number, 30 + turn, END]), 0
        one = player(Counted, concurrency=concurrency, workers=16)
        samples = one.play(says, rows(*({"number": number} for number in range(10))), KEYS[:10], at_once)
        assert not now
        return samples, says, most[0]

    whole, _, alive = found(None)
    assert at_once or alive == 10
    for concurrency in (1, 3, 10, 99):
        samples, asked, alive = found(concurrency)
        assert alive <= concurrency
        for name in (*FIELDS, "action_mask"):
            assert torch.equal(getattr(samples, name), getattr(whole, name)), name
        assert told(samples) == told(whole)
        if not at_once:  # the next one begins as soon as one ends, so that waves are as full as may be
            turns = sum(one.turns for one in whole.episodes)
            assert max(len(prompts) for prompts, _, _ in asked.asked) == min(concurrency, 10)
            assert len(asked.asked) == {1: turns, 3: 7, 10: 3, 99: 3}[concurrency]


def test_tools_that_take_long_cost_no_more_generations_and_little_time(player, sampler, rows, with_template):
    """32 episodes of three turns, two of them with a call of 0.2 s: 12.8 s one after the other."""

    class SlowTool:
        def wait(self) -> str:
            """Wait."""
            time.sleep(0.2)
            return "Done."

    says, began = sampler([CALL, CALL, [10, END]]), time.monotonic()
    one = player(SlowTool, workers=16, renderer=with_template("qwen2_5"))
    samples = one.play(says, rows(*[{}] * 32), [(3, 0, number) for number in range(32)])
    assert time.monotonic() - began < 6  # 0.8 s of them in tools
    assert [one.tool_calls for one in samples.episodes] == [2] * 32
    assert [len(prompts) for prompts, _, _ in says.asked] == [32, 32, 32]


def test_no_more_calls_at_a_time_than_workers(player, sampler, play):
    lock, now, most = threading.Lock(), [0], [0]

    class Counted:
        def respond(self, text):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.005)
            with lock:
                now[0] -= 1

    play(player(Counted, workers=3), sampler([[10, END]]), *[{}] * 20)
    assert most == [3]


def test_what_no_call_waits_for_takes_no_time_of_its_limit(player, sampler, play):
    """One worker, 25 calls of 0.02 s, a limit of 0.4 s each: the last of them waits longer than the limit."""

    class Waits:
        def respond(self, text):
            time.sleep(0.02)

    samples = play(player(Waits, workers=1, timeout=0.4), sampler([[10, END]]), *[{}] * 25)
    assert samples.finished.all()


class Seeds:
    def reset(self, seed):
        self.seed = seed

    def respond(self, text):
        return None

    def get_reward(self):
        return float(self.seed)


async def seeds(chat, seed):
    await chat.reply()
    assert chat.seed == seed
    return float(seed)


@pytest.mark.parametrize("environment", [Seeds, seeds], ids=["class", "function"])
def test_a_seed_belongs_to_a_task(player, sampler, rows, environment):
    def found(kind: int, seed: int = 7) -> list[int]:
        keys = [(seed, kind, number) for number in range(12, 20)]
        samples = player(environment, generations=4).play(sampler([[10, END]]), rows(*[{}] * 8), keys)
        return [int(one.reward) for one in samples.episodes]

    training, evaluation = found(0), found(1)
    # prompts 3 and 4 of the run, four completions each; the evaluation's are a prompt each
    first, second = (int(np.random.SeedSequence((7, 0, prompt)).generate_state(1)[0]) for prompt in (3, 4))
    assert training == [first] * 4 + [second] * 4
    assert len({*training, *evaluation, *found(0, 8)}) == 2 + 8 + 2
    assert task_seed((7, 0, 3)) == first


def test_a_column_of_that_name_is_the_datas_own_seed(player, sampler, play):
    samples = play(player(Seeds), sampler([[10, END]]), {"seed": 4})
    assert samples.episodes[0].reward == 4.0


def test_a_turn_that_nobody_waits_for_any_more_hinders_nobody(player, sampler, play):
    """A function that gave up waiting, one that returned meanwhile, and one that goes on after both."""
    given_up = asyncio.Event()

    async def impatient(chat, how):
        await chat.reply()
        chat.say("More.")
        if how == "gives up":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(chat.reply(), 0.01)
            given_up.set()
        elif how == "returns":
            given_up.left = asyncio.ensure_future(chat.reply())
            await asyncio.sleep(0)
        else:
            await given_up.wait()
            await chat.reply()
        return 1.0

    says = sampler([[10, END], [11, END]])
    samples = play(player(impatient), says, {"how": "gives up"}, {"how": "returns"}, {"how": "goes on"})
    assert [one.turns for one in samples.episodes] == [1, 1, 2]
    assert [len(prompts) for prompts, _, _ in says.asked] == [3, 1]


# --- stopped


class Sleeps:
    """Says that it is asked, then sleeps for long, in a thread or in the loop; its tool does as well."""

    asked: threading.Event

    def respond(self, text):
        self.asked.set()
        time.sleep(9)


class SleepsLater(Sleeps):
    async def respond(self, text):
        self.asked.set()
        await asyncio.sleep(9)


class SleepingTool:
    asked: threading.Event

    def wait(self) -> str:
        """Wait."""
        self.asked.set()
        time.sleep(9)


async def sleeps_in_between(chat):
    await chat.reply()
    Sleeps.asked.set()
    await asyncio.sleep(9)


SLEEPING = [Sleeps, SleepsLater, SleepingTool, sleeps_in_between]


@pytest.fixture
def sleeping(player, sampler, rows, with_template, monkeypatch):
    """sleeping(environment, at_once, **settings) -> begins to play episodes of which each sleeps for long."""
    asked = threading.Event()
    for cls in (Sleeps, SleepingTool):
        monkeypatch.setattr(cls, "asked", asked, raising=False)

    def begin(environment, at_once=False, **settings):
        if environment is SleepingTool:
            settings["renderer"] = with_template("qwen2_5")
        one = player(environment, timeout=90.0, **settings)
        return one.play(sampler(lambda number, turn: CALL), rows({}, {}, {}), KEYS[:3], at_once)

    begin.asked = asked
    return begin


@pytest.mark.parametrize("at_once", [False, True], ids=["waves", "at once"])
@pytest.mark.parametrize("environment", SLEEPING, ids=lambda one: one.__name__)
def test_a_run_that_is_asked_to_stop_does_not_wait_for_environments(sleeping, environment, at_once):
    threads, began = set(threading.enumerate()), time.monotonic()
    with pytest.raises(ServiceStopped, match=r"^Stopped on request while episodes were played"):
        sleeping(environment, at_once, stopping=lambda: sleeping.asked.is_set())
    assert time.monotonic() - began < 4
    assert all(thread.daemon for thread in set(threading.enumerate()) - threads)


@pytest.mark.parametrize("environment", SLEEPING, ids=lambda one: one.__name__)
def test_nor_does_ctrl_c_where_nobody_has_taken_its_place(sleeping, environment, capfd):
    def press():
        if sleeping.asked.wait(10):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sleeping(environment)
    assert time.monotonic() - began < 4
    assert capfd.readouterr().err == ""


def test_a_signal_that_ends_the_run_is_no_failure_of_who_was_at_work(player, sampler, play):
    def stop(*_):
        raise RunStopped("SIGINT received a second time")

    class Works:
        async def respond(self, text):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(RunStopped, match="a second time"):
            play(player(Works, drop=True), sampler([[10, END]]))
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_takes_long_to_close_is_not_waited_for_for_ever(player, sampler, play, monkeypatch):
    monkeypatch.setattr(waves, "CLOSING", 0.2)
    closed = []

    class Slow:
        def reset(self, number):
            self.number = number

        async def respond(self, text):
            if self.number == 0:
                raise ValueError("broken")
            await asyncio.sleep(9)

        async def close(self):
            if self.number == 1:
                await asyncio.sleep(9)
            closed.append(self.number)

    began = time.monotonic()
    with pytest.raises(ServiceError, match="broken"):
        play(player(Slow, timeout=90.0), sampler([[10, END]]), *({"number": number} for number in range(3)))
    assert time.monotonic() - began < 4
    assert sorted(closed) == [0, 2]


def test_where_a_loop_runs_already_as_in_a_notebook(player, sampler, play):
    async def cell() -> list[int]:
        return play(player(Ends), sampler([[10, END]])).completion_ids.tolist()

    assert asyncio.run(cell()) == [[10, END]]
