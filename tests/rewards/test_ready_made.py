"""trl's own reward functions by name: what they say of answers is what trl's function says when it is asked itself."""

import sys
from types import ModuleType

import pytest
from trl.rewards import accuracy_reward, think_format_reward

from easyrlhf.callables import name_of
from easyrlhf.config import GRPOConfig
from easyrlhf.config.common_fields import wrong_reward_function
from easyrlhf.errors import InputError, SettingError
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.rewards.ready_made import functions_of, trl_rewards
from easyrlhf.run.inputs import files_contents
from easyrlhf.tools.converting.method_rules import function_form

CHAT = [{"role": "user", "content": "What is 1/3 + 1/3?"}]
ANSWERS = [r"It is \boxed{\frac{2}{3}}.", r"It is \boxed{\frac{1}{3}}.", "Two thirds.", r"\boxed{4}"]
SOLUTIONS = [r"\frac{2}{3}", r"\frac{2}{3}", r"\frac{2}{3}", 4]


def source(spec: str) -> RewardFunction:
    return RewardFunction(*load_functions([spec]), spec)


@pytest.mark.parametrize("prompt", [CHAT, "What is 1/3 + 1/3?"])
def test_solutions_are_compared_as_trl_does(ask, prompt_row, answer, prompt):
    messages = [[{"role": "assistant", "content": text}] for text in ANSWERS]
    theirs = accuracy_reward(messages, [str(one) for one in SOLUTIONS])
    rows = [prompt_row([3], prompt, solution=solution) for solution in SOLUTIONS]
    assert ask(source("trl:accuracy_reward"), rows, list(map(answer, ANSWERS))) == theirs == [1.0, 0.0, 0.0, 1.0]
    without = [prompt_row([3], prompt), prompt_row([3], prompt, solution="blue")]
    assert ask(source("trl:accuracy_reward"), without, [answer(ANSWERS[0])] * 2) == [None, None]


@pytest.mark.parametrize("prompt", [CHAT, "Think."])
def test_the_format_of_thoughts_is_judged_as_trl_does(ask, prompt_row, answer, prompt):
    texts = ["<think>a</think>b", "a</think>b", "<think>a<think>b</think>"]
    theirs = think_format_reward([[{"role": "assistant", "content": text}] for text in texts])
    found = ask(source("trl:think_format_reward"), [prompt_row([3], prompt)] * 3, list(map(answer, texts)))
    assert found == theirs == [1.0, 0.0, 0.0]


def test_what_it_logs_is_kept(batch_of, prompt_row, answer):
    batch = batch_of([prompt_row([3], CHAT, solution="1")], [answer(r"\boxed{1}")])
    pending = source("trl:accuracy_reward").start(batch)
    assert pending.scores() == [1.0]
    assert pending.logged.columns == {"solution": ["1"], "gold_parsed": ["[1, '1']"], "answer_parsed": ["[1, '1']"]}


def test_its_column_is_asked_for():
    (function,) = load_functions(["trl:accuracy_reward"])
    with pytest.raises(InputError, match=r"it has answer\. Add the column, or name another: --field sol"):
        check_parameters("trl:accuracy_reward", function, ["answer"])


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "trl:accuracy",
            "trl has no reward function accuracy; it has trl:accuracy_reward, trl:reasoning_accuracy_reward, "
            "trl:think_format_reward",
        ),
        (
            "trl:get_soft_overlong_punishment",
            "`mine = get_soft_overlong_punishment(…)` with max_completion_len, soft_punish_cache as you want them",
        ),
    ],
)
def test_other_names_are_refused_with_those_there_are(spec, message):
    with pytest.raises(InputError) as caught:
        load_functions([spec])
    assert str(caught.value).startswith(f"--reward_funcs {spec}: ") and message in str(caught.value)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl.rewards", None)
    with pytest.raises(InputError, match=r"trl cannot be imported here .*; pip install 'trl>=1.16,<2'"):
        load_functions(["trl:accuracy_reward"])
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[accuracy_reward.__module__], "is_math_verify_available", lambda: False)
    with pytest.raises(InputError, match=r"trl:accuracy_reward: .*math_verify.*; pip install 'easyrlhf\[math\]'"):
        load_functions(["trl:accuracy_reward"])


def test_only_public_functions_are_offered():
    module = ModuleType("rewards")
    module.mine_reward, module._hidden, module.number = think_format_reward, think_format_reward, 3
    assert functions_of(module) == {"mine_reward": think_format_reward}
    assert "think_format_reward" in functions_of(trl_rewards("--reward_funcs"))


@pytest.mark.parametrize(
    "written, meant",
    [
        ("trl.rewards.accuracy_reward", "accuracy_reward"),
        ("trl.rewards.format_rewards.think_format_reward", "think_format_reward"),
        ("trl.rewards:think_format_reward()", "think_format_reward"),
        ("think_format_reward", "think_format_reward"),
    ],
)
def test_other_spellings_are_answered_with_ours(written, meant):
    with pytest.raises(SettingError, match=f"reward_funcs {written.replace('()', '..')}: .*; write trl:{meant}$"):
        GRPOConfig(train_data="p.jsonl", reward_funcs=written)
    assert function_form(written) == f"trl:{meant}"


def test_one_with_numbers_is_no_name():
    assert "is made in a file of yours" in wrong_reward_function("trl:get_repetition_penalty_reward(3")
    assert wrong_reward_function("trl:accuracy_reward") is wrong_reward_function("my.py:accuracy_reward") is None


def test_a_function_of_trl_that_python_hands_over_has_its_name(tmp_path):
    config = GRPOConfig(train_data="p.jsonl", reward_funcs=[think_format_reward, "rewards.py:f"])
    assert config.reward_funcs == "trl:think_format_reward,rewards.py:f" and name_of(len) != "trl:len"
    (tmp_path / "rewards.py").write_text("def f(**_): return [0.0]\n")
    contents = files_contents(f"trl:think_format_reward,{tmp_path}/rewards.py:f")
    assert contents[0] == "trl:think_format_reward" and contents[1].endswith(":f")
