"""Functions that Python code hands to a setting, and the names they get."""

from pathlib import Path

import pytest

from easyrlhf.callables import HANDED, in_file, name_of
from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import InputError
from easyrlhf.rewards.functions import load_functions

HERE = str(Path(__file__).absolute())


def short(completions, **_):
    return [0.0 for _ in completions]


class Judge:
    """A function that is an object."""

    def __call__(self, completions, **_):
        return [1.0 for _ in completions]


def make(number: float):
    def inner(completions, **_):
        return [number for _ in completions]

    return inner


@pytest.fixture(autouse=True)
def forget():
    yield
    HANDED.clear()


def settings(**given) -> dict:
    return {"train_data": "x.jsonl", "model": "m", "reward_model": None} | given


def test_functions_are_recorded_by_file_and_name_and_found_again():
    config = GRPOConfig(**settings(reward_funcs=[short, "rewards.py:other"], reward_weights="1,2"))
    assert config.reward_funcs == f"{HERE}:short,rewards.py:other"
    assert load_functions([f"{HERE}:short"]) == [short] and in_file(f"{HERE}:short")
    assert PPOConfig(**settings(reward_funcs=short)).reward_funcs == f"{HERE}:short"
    assert GRPOConfig(**settings(reward_funcs=config.reward_funcs, reward_weights="1,2")) == config


def test_functions_without_a_name_of_their_own_get_one_each_and_stay_in_this_process():
    one, two, judge = make(1.0), make(2.0), Judge()
    double = lambda completions, **_: [2.0]  # noqa: E731
    line = double.__code__.co_firstlineno
    names = [name_of(function) for function in (one, two, one, double, judge)]
    assert names == [f"{HERE}:inner", f"{HERE}:inner_1", f"{HERE}:inner", f"{HERE}:lambda_at_{line}", "python.py:Judge"]
    assert load_functions(names) == [one, two, one, double, judge]
    assert not any(map(in_file, names))
    HANDED.clear()
    with pytest.raises(InputError, match="has no function inner"):
        load_functions(names[:1])


def test_a_number_is_no_function():
    with pytest.raises(InputError, match="reward_funcs"):
        GRPOConfig(**settings(reward_funcs=3))
