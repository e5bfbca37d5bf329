"""Rewards that are asked for while others are sampled: a call a prompt, the same scores, the first failure told."""

import asyncio
import math
import threading

import pytest
import torch

from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.batch import RewardError
from easyrlhf.rewards.functions import load_functions
from easyrlhf.rewards.workers import WorkerFunction, Workers
from easyrlhf.rollout.sharded import behind

TEXTS = ["1", "22", "333", "4444", "55555", "666666"]  # two answers each to three prompts
LONG = 20  # seconds, of what never takes as long


@pytest.fixture
def rows(prompt_row):
    """The second prompt's rows have a column that the others lack."""
    return [prompt_row([3], prompt, **columns) for prompt, columns in (("a", {}), ("b", {"word": "w"}), ("c", {}))]


@pytest.fixture
def asked(rewards_of, rows, answer):
    """asked(sources, order, workers) -> (scores, raw scores) of TEXTS, and the rewards; they end in that order."""
    answered = [row for row in rows for _ in range(2)]

    def ask(sources, order=(3, 0, 2, 5, 4, 1), workers=None, said=TEXTS):
        rewards = rewards_of(sources, workers=workers, streams=True)
        ids, finished = [answer(text) for text in TEXTS], torch.ones(6, dtype=torch.bool)
        with rewards, rewards.stream(answered) as stream:
            for row in order:
                stream.ended(row, answer(said[row]), True)
            return *rewards(answered, ids, finished, stream), rewards

    return ask


def lengths(completions, **_):
    return [float(len(text)) for text in completions]


def test_a_part_of_the_rollout_is_numbered_from_where_it_begins():
    told = []
    behind(3, lambda *ended: told.append(ended))(1, [5, 2], True)
    assert told == [(4, [5, 2], True)] and behind(3, None) is None


def test_each_prompt_is_asked_about_once_as_soon_as_it_is_answered(rewards_of, rows, answer):
    calls, called = [], threading.Semaphore(0)

    def score(prompts, completions, word, **_):
        calls.append((prompts, completions, word))
        called.release()
        return lengths(completions)

    rewards, answered = (
        rewards_of([RewardFunction(score, "score")], streams=True),
        [row for row in rows for _ in range(2)],
    )
    with rewards.stream(answered) as stream:
        for row in (3, 0, 2):
            stream.ended(row, answer(TEXTS[row]), True)
        assert called.acquire(timeout=LONG)  # before the others are there
        assert calls == [(["b", "b"], ["333", "4444"], ["w", "w"])]
        for row in (5, 4, 1):
            stream.ended(row, answer(TEXTS[row]), True)
        scores, raw = rewards(answered, [answer(text) for text in TEXTS], torch.ones(6).bool(), stream)
    assert scores.tolist() == raw["score"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    # A column that a prompt lacks is None, as where all are asked about together.
    assert calls[1:] == [(["c", "c"], ["55555", "666666"], [None] * 2), (["a", "a"], ["1", "22"], [None] * 2)]


def test_what_has_changed_since_is_asked_about_anew(asked):
    """As where vLLM was lost, and sampled again with other weights."""
    calls = []

    def score(completions, **_):
        calls.append(completions)
        return lengths(completions)

    scores, _, _ = asked([RewardFunction(score, "score")], said=["1", "22", "3", "4444", "55555", "666666"])
    assert scores.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert calls == [["3", "4444"], ["55555", "666666"], ["1", "22"], ["333", "4444"]]


def test_what_is_logged_stands_in_the_order_of_the_rollout(asked):
    def score(completions, log_metric, log_extra, **_):
        for text in completions:
            log_metric("length", len(text))
        log_extra("text", completions)
        return lengths(completions)

    _, _, rewards = asked([RewardFunction(score, "score")])
    assert rewards.logged == {"score/length": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    assert rewards.extra == [{"score/text": text} for text in TEXTS]


def test_functions_take_turns_and_async_ones_wait_side_by_side(asked):
    inside, most, met = [], [], asyncio.Event()

    def first(completions, **_):
        inside.append(completions)
        most.append(len(inside))
        inside.remove(completions)
        return lengths(completions)

    waiting = []

    async def later(completions, **_):
        waiting.append(completions)
        if len(waiting) == 3:
            met.set()
        await asyncio.wait_for(met.wait(), LONG)  # every prompt's call waits for the others'
        return [2 * length for length in lengths(completions)]

    sources = [RewardFunction(first, "first"), RewardFunction(later, "later"), RewardFunction(first, "again")]
    assert asked(sources)[0].tolist() == [4.0, 8.0, 12.0, 16.0, 20.0, 24.0]
    assert most == [1] * 6


@pytest.mark.parametrize("kind", ["function", "async"])
def test_a_source_that_fails_ends_the_sampling_and_is_asked_no_more(rewards_of, rows, answer, kind):
    calls, failed = [], threading.Event()

    def score(completions, **_):
        calls.append(completions)
        try:
            return [1 / (3 - len(text)) for text in completions]
        finally:
            failed.set()

    async def later(completions, **_):
        return score(completions)

    rewards = rewards_of([RewardFunction(score if kind == "function" else later, "score")], streams=True)
    answered = [row for row in rows for _ in range(2)]
    message = r"score raised ZeroDivisionError.*\n  prompt: 'b'\n  completion: '333'"
    with rewards.stream(answered) as stream:
        with pytest.raises(RewardError, match=message):
            stream.ended(2, answer("333"), True)
            stream.ended(3, answer("4444"), True)
            assert failed.wait(LONG)
            for _ in range(10**6):  # the failure is told from another thread
                stream.ended(0, answer("1"), True)
        with pytest.raises(RewardError, match=message):
            stream.ended(1, answer("22"), True)
    assert calls == [["333", "4444"]]


def test_a_failure_behind_the_last_completion_is_that_of_the_scores(asked):
    def score(completions, **_):
        return [math.nan if len(text) == 5 else 1.0 for text in completions]

    with pytest.raises(RewardError, match=r"score returned nan.*\n  prompt: 'c'\n  completion: '55555'"):
        asked([RewardFunction(score, "score")])

    def fails(completions, **_):
        raise ValueError("as asked")

    with pytest.raises(RewardError, match=r"score raised ValueError: as asked.*\n  prompt: 'b'"):
        asked([RewardFunction(fails, "score")])


FILE = """
import os

def lengths(completions, log_metric, **_):
    log_metric("prompts", 1)
    return [float(len(text)) for text in completions]

def where(completions, **_):
    return [float(os.getpid())] * len(completions)

def fails(completions, **_):
    return [1 / (5 - len(text)) for text in completions]
"""


def test_a_prompt_goes_to_the_worker_that_has_it_anyway(asked, tmp_path):
    (tmp_path / "rewards.py").write_text(FILE)
    specs = [f"{tmp_path}/rewards.py:{name}" for name in ("lengths", "where", "fails")]
    functions = load_functions(specs)
    workers = Workers(specs, 2, LONG)
    sources = [WorkerFunction(workers, place, functions[place], f"{place}") for place in range(2)]
    _, raw, rewards = asked(sources, workers=workers)
    assert raw["0"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert rewards.logged == {"0/prompts": [1.0] * 3}
    first, *others = raw["1"].tolist()[::2]  # one prompt for the first worker, two for the second
    assert others[0] == others[1] != first and not workers.workers
    with pytest.raises(RewardError, match=r"fails raised ZeroDivisionError[^\n]*\n  prompt: 'c'"):
        asked([WorkerFunction(workers, 2, functions[2], "fails")], workers=workers)
    assert not workers.workers
