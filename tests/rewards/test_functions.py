"""Reward functions: found, checked against what they are given, awaited side by side, and not for ever."""

import asyncio
import os
import pickle
import signal
import sys
import threading
import time
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from easyrlhf.errors import InputError, RunStopped
from easyrlhf.rewards.async_source import RewardFunction, keywords_for
from easyrlhf.rewards.batch import RewardBatch, RewardError
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.rewards.workers import divide
from easyrlhf.run.signals import StopRequest
from easyrlhf.userfile import load_module

CHAT = [{"role": "user", "content": "Name a colour."}]


def test_a_function_written_for_trl_works_unchanged(tmp_path, ask, prompt_row, answer):
    file = tmp_path / "rewards.py"
    file.write_text(
        "def accuracy_reward(completions, solution, **kwargs):\n"
        "    contents = [completion[0]['content'] for completion in completions]\n"
        "    return [None if s is None else float(c == s) for c, s in zip(contents, solution)]\n"
    )
    function = RewardFunction(*load_functions([f"{file}:accuracy_reward"]), "accuracy_reward")
    rows = [prompt_row([3], CHAT, solution="blue"), prompt_row([3], CHAT, solution="green"), prompt_row([3], CHAT)]
    assert ask(function, rows, [answer("blue")] * 3) == [1.0, 0.0, None]
    assert ask(function, rows[2:], [answer("blue")]) == [None]  # a batch in which no row has the column


def test_functions_of_one_file_share_it(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("seen = []\ndef a(**_): seen.append(1)\ndef b(**_): return len(seen)\n")
    a, b = load_functions([f"{file}:a", f"{file}:b"])
    a()
    assert b() == 1


def test_a_file_hides_no_module_of_its_name(tmp_path):
    """Its own name can be looked up, which dataclasses with postponed annotations need."""
    file = tmp_path / "json.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    )
    assert load_module(file).A(1).x == 1
    import json

    assert json.loads("1") == 1


def test_files_of_one_name_are_two_modules_and_import_what_lies_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, number in (("a", 1), ("b", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"numbers_of_{name}.py").write_text(f"number = {number}\n")
        (folder / "rewards.py").write_text(f"from numbers_of_{name} import number\nclass Kept: number = number\n")
    first, second = (load_module(tmp_path / name / "rewards.py") for name in "ab")
    again = [pickle.loads(pickle.dumps(module.Kept)).number for module in (first, second)]
    assert again == [1, 2]
    assert load_module(tmp_path / "b" / "rewards.py").__name__ == second.__name__


@pytest.mark.parametrize(
    "text, spec, message",
    [
        (None, "gone.py:score", "there is no file"),
        ("def other(): pass\nclass Score: pass\n", "r.py:score", "has no function score; it has other"),
        ("import a_module_that_is_not_there\n", "r.py:score", "raised ModuleNotFoundError"),
        ("def score(:\n", "r.py:score", "raised SyntaxError"),
        ("score = 3\n", "r.py:score", "it has none"),
        ("raise SystemExit('usage')\n", "r.py:score", "raised SystemExit: usage"),
    ],
)
def test_a_function_that_cannot_be_had_is_bad_input(tmp_path, text, spec, message):
    if text is not None:
        (tmp_path / "r.py").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_functions([f"{tmp_path / spec}"])
    assert str(caught.value).startswith("--reward_funcs ")


# --- parameters


def only_completions(completions): ...
def no_ids(prompts, completions, **_): ...
def ours(prompts, completions, completion_ids): ...
def by_position(prompts, /, **_): ...
def says_nothing(): ...
def wants(completions, solution, **_): ...
def may_have(completions, solution=None, **_): ...
def for_log(completions, log_metric, **_): ...


@pytest.mark.parametrize(
    "function, columns, message",
    [
        (only_completions, None, r"takes no parameter prompts, completion_ids, .* end its parameters with \*\*kwargs"),
        (ours, None, None),  # whether the data have more is not known yet
        (ours, [], None),
        (ours, ["word", "level"], "takes no parameter level, word, but is called with .*completion_ids, level, word;"),
        (no_ids, ["word"], None),
        (by_position, [], "takes no parameter prompts, but is called with"),
        (says_nothing, [], "takes no parameter prompts, completions, completion_ids"),
        (wants, None, None),
        (wants, ["solution"], None),
        (wants, ["word"], "needs solution, which is no column of --train_data; it has word. Add the column"),
        (wants, [], "it has none beside the prompt"),
        (may_have, [], None),
        (for_log, [], None),
        (len, [], None),
        (max, [], None),  # says nothing of its parameters
    ],
)
def test_a_function_that_cannot_take_what_it_is_given_is_bad_input(function, columns, message):
    if message is None and function is not len:
        check_parameters("r.py:f", function, columns)
        return
    with pytest.raises(InputError, match=message) as caught:
        check_parameters("r.py:f", function, columns)
    assert str(caught.value).startswith("--reward_funcs r.py:f: ")


def test_the_answers_of_a_row_go_to_the_functions_that_take_them():
    batch = RewardBatch(["p"], ["c"], [[1]], [True], {"chosen": ["a"], "rejected": ["b"], "word": ["w"]})
    ids = {"prompts": ["p"], "completions": ["c"], "completion_ids": [[1]]}

    def names_one(prompts, completions, completion_ids, word, chosen): ...

    check_parameters("r.py:f", names_one, ["chosen", "rejected", "word"])
    assert keywords_for(names_one, batch) == ids | {"word": ["w"], "chosen": ["a"]}
    assert keywords_for(no_ids, batch) == ids | {"chosen": ["a"], "rejected": ["b"], "word": ["w"]}


def test_a_key_that_the_prompt_holds_is_told_so():
    with pytest.raises(InputError, match=r"needs solution, .* solution is in the prompts: read it there, or give"):
        check_parameters("r.py:f", wants, ["word"], {"solution"})


# --- side by side


def test_async_functions_wait_side_by_side(rewards_of, prompt_row, answer):
    inside = asyncio.Event()

    async def first(prompts, **_):
        await asyncio.wait_for(inside.wait(), 20)  # only the second can set it
        return [1.0]

    async def second(prompts, **_):
        inside.set()
        return [2.0]

    rewards = rewards_of([RewardFunction(first, "first"), RewardFunction(second, "second")])
    assert rewards([prompt_row([3])], [answer("x")], torch.tensor([True]))[0].item() == 3.0


def test_what_an_async_function_keeps_open_lives_from_rollout_to_rollout(ask, prompt_row, answer):
    loops = []

    async def score(prompts, **_):
        loops.append(asyncio.get_running_loop())
        return [1.0]

    for _ in range(2):
        ask(RewardFunction(score, "score"), [prompt_row([3])], [answer("x")])
    assert loops[0] is loops[1] and not loops[0].is_closed()


class Judge:
    """A callable object whose call is async."""

    async def __call__(self, prompts, **_):
        return [5.0]


def plain_call_to_async(**_):
    return Judge()(None)


@pytest.mark.parametrize("function", [Judge(), plain_call_to_async, lambda **_: Judge()([])])
def test_whatever_gives_something_to_await_is_awaited(ask, prompt_row, answer, function):
    assert ask(RewardFunction(function, "judge"), [prompt_row([3])], [answer("x")]) == [5.0]


# --- what it returns


class Five:
    """A callable object."""

    def __call__(self, prompts, **_):
        return [5.0 for _ in prompts]

    def method(self, prompts, **_):
        return self(prompts)


async def five_later(prompts, **_):
    return map(float, "555")


def fives(prompts, **_):
    yield from [5.0] * 3


SERIES = {
    "generator": fives,
    "map of an async function": five_later,
    "range": lambda **_: range(5, 6),
    "values of a dict": lambda **_: dict.fromkeys(range(3), 5).values(),
    "tuple": lambda **_: (5, 5.0, True * 5),
    "tensor": lambda **_: torch.full((3,), 5.0, dtype=torch.bfloat16, requires_grad=True),
    "array": lambda **_: np.full(3, 5),
    "scalars": lambda **_: [np.float32(5), torch.tensor([5]), Fraction(5)],
    "object": Five(),
    "method": Five().method,
    "partial": partial(lambda prompts, number, **_: [number] * 3, number=5),
}


@pytest.mark.parametrize("function", SERIES.values(), ids=SERIES)
def test_anything_in_an_order_is_a_list_of_scores(three, rewards_of, prompt_row, answer, function):
    check_parameters("r.py:f", function, [])
    rows = [prompt_row([3], prompt) for prompt in ("abc" if function is not SERIES["range"] else "a")]
    rewards = rewards_of([RewardFunction(function, "f")])
    scores, _ = rewards(rows, [answer("x")] * len(rows), torch.ones(len(rows), dtype=torch.bool))
    assert scores.tolist() == [5.0] * len(rows)


def breaks_off(**_):
    yield 1.0
    raise ValueError("half way")


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda **_: {1.0, 2.0, 3.0}, "returned set, which is no list, for 3 completions"),
        (lambda **_: {"scores": [1.0]}, "returned dict, which is no list"),
        (lambda **_: "123", "returned str, which is no list"),
        (lambda **_: None, "returned NoneType, which is no list"),
        (lambda **_: 1.0, "returned float, which is no list"),
        (lambda **_: iter([1.0]), "returned 1 scores for 3 completions"),
        (breaks_off, r"f raised ValueError: half way \(test_functions.py:\d+\)"),
        (partial(breaks_off), r"f raised ValueError: half way \(test_functions.py:\d+\)"),
    ],
)
def test_what_is_no_list_of_scores_is_named(three, function, message):
    with pytest.raises(RewardError, match=message):
        RewardFunction(function, "f").start(three).scores()


def test_a_function_may_change_what_it_is_given(rewards_of, answer, prompt_row):
    """The next one, and messages, have what the policy said."""

    def spoil(prompts, completions, completion_ids, word, **_):
        prompts.clear()
        completions[0][0]["content"] = "spoilt"
        completion_ids[1].append(7)
        word[0].append(7)
        return [0.0, 0.0]

    def seen(prompts, completions, completion_ids, word, **_):
        texts, ends = [message[0]["content"] for message in completions], [ids[-1] for ids in completion_ids]
        found = texts, ends, word, len(prompts)
        return [float(found == (["x", "y"], [2, 2], [[1], [1]], 2))] * 2

    rewards = rewards_of([RewardFunction(spoil, "spoil"), RewardFunction(seen, "seen")])
    rows = [prompt_row([3], [{"role": "user", "content": text}], word=[1]) for text in "ab"]
    assert rewards(rows, [answer("x"), answer("y")], torch.ones(2, dtype=torch.bool))[0].tolist() == [1.0, 1.0]


# --- limits


def hang_for_ever(**_):
    threading.Event().wait()


async def wait_for_ever(**_):
    await asyncio.Event().wait()


@pytest.mark.parametrize("function", [hang_for_ever, wait_for_ever])
def test_a_function_that_takes_too_long_is_named_with_its_limit_and_a_sample(three, function):
    began = time.monotonic()
    with pytest.raises(RewardError) as caught:
        RewardFunction(function, "slow", timeout=0.2).start(three).scores()
    assert time.monotonic() - began < 10
    assert str(caught.value) == (
        "reward function slow gave no scores for 3 completions within 0.2 s (--reward_timeout). The first of them:\n"
        "  prompt: 'a'\n  completion: '1'"
    )


def test_a_function_that_hangs_keeps_no_process_from_ending():
    hung = [thread for thread in threading.enumerate() if thread.name in ("reward", "reward functions")]
    assert hung and all(thread.daemon for thread in hung)


def test_a_function_that_calls_exit_is_a_fault_of_it(three):
    def leave(**_):
        raise SystemExit(0)

    with pytest.raises(RewardError, match="reward function leave raised SystemExit: 0"):
        RewardFunction(leave, "leave").start(three).scores()


def test_a_function_that_needs_the_main_thread_is_told_how_to_get_it(three):
    def alarm(**_):
        signal.signal(signal.SIGALRM, lambda *_: None)

    with pytest.raises(RewardError, match="--reward_workers 1"):
        RewardFunction(alarm, "alarm").start(three).scores()


def test_functions_compute_no_gradients(three):
    def score(completions, **_):
        return (torch.nn.Linear(1, 3)(torch.ones(1)).requires_grad * torch.ones(3)).tolist()

    assert RewardFunction(score, "score").start(three).scores() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("count, sizes", [(1, [3]), (2, [1, 2]), (3, [1, 1, 1]), (5, [1, 1, 1])])
def test_a_batch_is_divided_in_order_with_no_part_empty(three, count, sizes):
    parts = divide(three, count)
    assert [len(part) for part in parts] == sizes
    assert [prompt for part in parts for prompt in part.prompts] == three.prompts


@pytest.mark.parametrize("count, sizes", [(2, [4, 8]), (3, [4, 4, 4]), (5, [4, 4, 4])])
def test_a_prompts_completions_stay_together(batch_of, prompt_row, answer, count, sizes):
    """Three prompts with four completions each; the second and the third differ by a column alone."""
    rows = [prompt_row([3], prompt, word=word) for prompt, word in (("a", 1), ("b", 1), ("b", 2)) for _ in range(4)]
    batch = batch_of(rows, [answer(text) for text in "abcdefghijkl"])
    assert [len(part) for part in divide(batch, count)] == sizes
    assert [(part.start, part.stop) for part in (batch.share(2, rank) for rank in range(2))] == [(0, 4), (4, 12)]
    assert batch.share(5, 4) == slice(8, 12) and batch.share(5, 0) == slice(0, 0)


def test_a_stop_request_is_noted_while_a_function_works_and_a_second_one_ends_the_wait(three):
    """The run finishes its step at the first signal; at the second it does not wait for a function that hangs."""
    called = threading.Event()

    def hang(**_):
        called.set()
        threading.Event().wait()

    def send_twice():
        called.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.requested:  # two signals that come before the first is noted are one
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    with StopRequest() as stop:
        stop.holding = True
        began = time.monotonic()
        threading.Thread(target=send_twice, daemon=True).start()
        with pytest.raises(RunStopped, match="SIGTERM received a second time"):
            RewardFunction(hang, "hang", timeout=60).start(three).scores()
        assert 0.2 < time.monotonic() - began < 20 and stop.requested
