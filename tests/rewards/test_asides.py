"""What reward functions may ask for beside completions and columns: the step, the state of the training, a log."""

import pytest
import torch

from easyrlhf.report.metrics import metric
from easyrlhf.rewards.asides import Logged
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.batch import RewardError, TrainerState
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.rewards.workers import WorkerFunction, Workers

HALFWAY = TrainerState(global_step=3, max_steps=6, num_train_epochs=2.0, train_batch_size=8)
FILE = """
import numpy

def by_step(prompts, completions, completion_ids, step, trainer_state, log_metric):
    log_metric("halves", trainer_state.epoch / 2)
    log_metric("halves", 1.0)
    log_metric("length", len(completions))
    return [10.0 * step + trainer_state.global_step / trainer_state.max_steps] * len(completions)

def by_any(completions, **kwargs):
    return [float(kwargs["trainer_state"].global_step) for _ in completions]

def by_column(completions, step, **kwargs):
    return [float(one) for one in step]

def by_extra(prompts, completions, log_extra, **kwargs):
    log_extra("prompt", prompts)
    for completion in completions:
        log_extra("length", [len(completion)])
    if "a" in prompts:
        log_extra("array", numpy.arange(len(prompts)) / 2)
        log_extra("odd", [{"of": [1, None]}, float("inf")][:len(prompts)])
    return [0.0] * len(completions)

def ragged(completions, log_extra, **kwargs):
    log_extra("x", [1])
    return [0.0] * len(completions)

def single(completions, log_extra, **kwargs):
    log_extra("x", "one")

def misnamed(completions, log_metric, **kwargs):
    log_metric("mean", 1)

def endless(completions, log_metric, **kwargs):
    log_metric("x", float("nan"))
"""


@pytest.fixture
def functions(tmp_path):
    """Name → (spec, function)."""
    (tmp_path / "r.py").write_text(FILE)
    names = ("by_step", "by_any", "by_column", "by_extra", "ragged", "single", "misnamed", "endless")
    specs = [f"{tmp_path}/r.py:{name}" for name in names]
    return dict(zip(names, zip(specs, load_functions(specs), strict=True), strict=True))


def score(rewards, prompt_row, answer, count: int = 2, **columns):
    vars(rewards.state).update(vars(HALFWAY))
    rows = [prompt_row([3], "abc"[number], **columns) for number in range(count)]
    return rewards(rows, [answer("hi")] * count, torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_is_told_how_far_training_is_and_logs_numbers(functions, rewards_of, prompt_row, answer, workers):
    spec, function = functions["by_step"]
    check_parameters(spec, function, [])
    pool = Workers([spec], workers, 60.0) if workers else None
    source = WorkerFunction(pool, 0, function, "f") if pool else RewardFunction(function, "f")
    rewards = rewards_of([source], workers=pool)
    with rewards:
        scores, _ = score(rewards, prompt_row, answer)
    assert scores.tolist() == [30.5, 30.5]
    assert rewards.take_logged() == {
        "f/halves": 0.75,
        "f/length": 1.0 if workers else 2.0,
    }  # an epoch of two is done: 0.5, and 1.0
    assert rewards.take_logged() == {}


def test_what_kwargs_hold_and_that_a_column_goes_before(functions, rewards_of, prompt_row, answer):
    for name, expected in (("by_any", 3.0), ("by_column", 7.0)):
        rewards = rewards_of([RewardFunction(functions[name][1], "f")])
        assert score(rewards, prompt_row, answer, step=7)[0].tolist() == [expected] * 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("misnamed", "log_metric: 'mean' is no name"),
        ("endless", "log_metric: x is nan, which is not"),
        ("ragged", r"f logged 1 values of x \(log_extra\) for 2 completions"),
        ("single", "log_extra: x is a str; give a list"),
    ],
)
def test_what_cannot_be_logged_stops_like_any_error_of_a_function(
    functions, rewards_of, prompt_row, answer, name, message
):
    rewards = rewards_of([RewardFunction(functions[name][1], "f")])
    with pytest.raises(RewardError, match=message):
        score(rewards, prompt_row, answer)


@pytest.mark.parametrize("workers", [0, 2])
def test_values_of_completions_are_kept_in_their_order(functions, rewards_of, prompt_row, answer, workers):
    """Of three prompts, two workers have one and two; what a worker did not log is None in its rows."""
    spec, function = functions["by_extra"]
    pool = Workers([spec], workers, 60.0) if workers else None
    source = WorkerFunction(pool, 0, function, "f") if pool else RewardFunction(function, "f")
    rewards = rewards_of([source, RewardFunction(functions["by_any"][1], "g")], workers=pool)
    with rewards:
        score(rewards, prompt_row, answer, 3 if workers else 2)
    odd = [{"of": [1, None]}, "inf"]
    second = [("b", 2, None, None), ("c", 2, None, None)] if workers else [("b", 2, 0.5, odd[1])]
    expected = [("a", 2, 0.0, odd[0]), *second]
    names = ("f/prompt", "f/length", "f/array", "f/odd")
    assert rewards.extra == [dict(zip(names, values, strict=True)) for values in expected]


def test_what_no_worker_can_add_up_is_no_column(functions, rewards_of, prompt_row, answer):
    """Two workers, one value each of one and two completions."""
    spec, function = functions["ragged"]
    pool = Workers([spec], 2, 60.0)
    rewards = rewards_of([WorkerFunction(pool, 0, function, "f")], workers=pool)
    with rewards, pytest.raises(RewardError, match=r"f logged 1 values of x \(log_extra\) for 2 completions"):
        score(rewards, prompt_row, answer, 3)


def test_several_parts_are_one_behind_the_other():
    first, second = Logged(2), Logged(1)
    first.log_extra("x", [1, 2])
    second.log_extra("y", torch.tensor([3]))
    first.append(second)
    assert first.rows() == [{"x": 1, "y": None}, {"x": 2, "y": None}, {"x": None, "y": 3}]


def test_names_are_those_of_a_metric():
    logged = Logged()
    for name in ("a b", "", 3, "std", "a/b"):
        with pytest.raises(ValueError, match="is no name"):
            logged.log_metric(name, 1)
    logged.log_metric("tool_calls.mean-x", torch.tensor(2))
    assert logged.numbers == [("tool_calls.mean-x", 2.0)]
    for name in ("", " ", 3):
        with pytest.raises(ValueError, match="is no name of a column"):
            logged.log_extra(name, [])
    assert metric("reward/f/tool_calls") is metric("reward/other/x") is not metric("reward/f/mean")
    assert metric("eval/reward/f/tool_calls").meaning.endswith("on the valid_data prompts.")


def test_nothing_is_done_of_no_steps():
    assert (TrainerState().epoch, HALFWAY.epoch) == (0.0, 1.0)
