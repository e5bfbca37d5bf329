"""Rewards: what functions are given, how sources are added up, and what is refused with the sample that did it."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch import tensor as T

from easyrlhf.data.render import Renderer
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.batch import RewardError
from easyrlhf.rewards.combined import distinct_names
from easyrlhf.rewards.model import ModelSource, ScoringModel

END = 2
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]


class Says:
    """A source that says given scores."""

    def __init__(self, scores, name="says"):
        self.scores, self.name = scores, name

    def __call__(self, rows, completions, finished):
        return self.scores


# --- functions


def test_a_function_is_given_what_trl_gives_for_texts(ask, prompt_row, answer):
    given = {}

    def score(prompts, completions, completion_ids, **columns):
        given.update(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [0.5, 1.5]

    rows = [prompt_row([3], "first", label="a", level=1), prompt_row([4], "second", label="b", completions="theirs")]
    ids = [answer("blue"), answer("a green sky", ended=False)]
    assert ask(RewardFunction(score, "score"), rows, ids, T([True, False])) == [0.5, 1.5]
    asides = [given.pop(name) for name in ("step", "trainer_state", "log_metric", "log_extra")]
    assert asides[0] == asides[1].global_step == 0
    assert given == {
        "prompts": ["first", "second"],
        "completions": ["blue", "a green sky"],  # without the end-of-turn token
        "completion_ids": ids,
        "label": ["a", "b"],
        "level": [1, None],  # a column that some rows lack; one that has the name of ours is not passed
    }


def test_a_function_is_given_message_lists_for_conversations(ask, prompt_row, answer):
    def score(prompts, completions, **_):
        assert prompts == [CHAT]
        assert completions == [[{"role": "assistant", "content": "blue"}]]
        return [1.0]

    assert ask(RewardFunction(score, "score"), [prompt_row([3], CHAT)], [answer("blue")]) == [1.0]


def test_an_async_function_is_awaited(ask, prompt_row, answer):
    async def score(prompts, completions, **_):
        return [float(len(text)) for text in completions]

    assert ask(RewardFunction(score, "score"), [prompt_row([3])], [answer("blue")]) == [4.0]


# --- the sum


def test_sources_are_weighted_and_their_raw_scores_kept(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([1.0, 2.0], "a"), Says([10, -10], "b")], weights=[0.5, 0.1])
    scores, raw = rewards([prompt_row([3])] * 2, [answer("x"), answer("y")], T([True, True]))
    assert scores.tolist() == pytest.approx([1.5, 0.0])  # 0.5 · 1 + 0.1 · 10, 0.5 · 2 - 0.1 · 10
    assert {name: values.tolist() for name, values in raw.items()} == {"a": [1.0, 2.0], "b": [10.0, -10.0]}


def test_the_penalty_of_a_cut_off_completion_comes_after_the_clip(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([9.0, -9.0, 3.0, 9.0])], clip=5.0, missing_eos_penalty=1.5)
    finished = T([True, True, False, False])
    scores, raw = rewards([prompt_row([3])] * 4, [answer("x")] * 4, finished)
    assert scores.tolist() == pytest.approx([5.0, -5.0, 1.5, 3.5])  # 9 → 5, -9 → -5, 3 - 1.5, 9 → 5 - 1.5
    assert raw["says"].tolist() == [9.0, -9.0, 3.0, 9.0]


def test_the_clip_is_of_the_weighted_sum(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([8.0], "a"), Says([-6.0], "b")], clip=5.0)
    assert rewards([prompt_row([3])], [answer("x")], T([True]))[0].item() == pytest.approx(2.0)


def test_two_functions_of_the_same_name_both_count(rewards_of, prompt_row, answer):
    """As `--reward_funcs a.py:score,b.py:score` has them."""
    sources = [
        RewardFunction(lambda **_: [1.0], "score"),
        RewardFunction(lambda **_: [10.0], "score"),
    ]
    scores, _ = rewards_of(sources)([prompt_row([3])], [answer("x")], T([True]))
    assert scores.item() == pytest.approx(11.0)


@pytest.mark.parametrize("scores", [T([1.0, 2.0]), np.array([1.0, 2.0]), (1.0, 2.0)], ids=["tensor", "array", "tuple"])
def test_a_tensor_or_an_array_is_a_list_of_scores(rewards_of, prompt_row, answer, scores):
    assert rewards_of([Says(scores)])([prompt_row([3])] * 2, [answer("x")] * 2, T([True] * 2))[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("number", [1, True, 1.0, T(1.0)])
def test_any_finite_number_is_a_score(rewards_of, prompt_row, answer, number):
    assert rewards_of([Says([number])])([prompt_row([3])], [answer("x")], T([True]))[0].item() == 1.0


# --- None: a reward that does not apply


def test_a_source_that_does_not_apply_is_left_out_of_the_sum(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([1.0, None, 3.0], "a"), Says([10.0, 20.0, None], "b")], weights=[2.0, 0.5])
    scores, raw = rewards([prompt_row([3])] * 3, [answer("x")] * 3, T([True] * 3))
    assert scores.tolist() == pytest.approx([7.0, 10.0, 6.0])  # 2 · 1 + ½ · 10, ½ · 20, 2 · 3
    assert raw["a"].isnan().tolist() == [False, True, False]
    assert raw["b"].isnan().tolist() == [False, False, True]
    assert raw["a"][2] == 3.0


def test_a_completion_to_which_nothing_applies_has_no_score(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([1.0, None], "a"), Says([None, None], "b")], clip=5.0, missing_eos_penalty=1.0)
    rows = [prompt_row([3], "first"), prompt_row([3], "second")]
    scores, raw = rewards(rows, [answer("x"), answer("y")], T([True, False]))
    assert scores[0] == 1.0 and scores[1].isnan() and raw["b"].isnan().all()


def test_a_rollout_to_which_nothing_applies_is_refused(rewards_of, prompt_row, answer):
    rewards = rewards_of([Says([None, None], "a"), Says([None, None], "b")])
    with pytest.raises(RewardError) as caught:
        rewards([prompt_row([3], "first"), prompt_row([3], "second")], [answer("x"), answer("y")], T([True] * 2))
    assert str(caught.value) == (
        "a and b returned None for all 2 completions, so that none has a score; at least one must apply to some. "
        "The first of them:\n  prompt: 'first'\n  completion: 'x'"
    )


@pytest.mark.parametrize(
    "names, expected",
    [
        (["reward", "reward", "reward_2"], ["reward", "reward_3", "reward_2"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a_2", "a", "a", "a_2", "a"], ["a_2", "a", "a_3", "a_2_2", "a_4"]),
    ],
)
def test_a_numbered_name_is_one_that_no_source_has(names, expected):
    assert distinct_names(names) == expected


def test_functions_of_numbered_names_are_weighted_each_by_itself(rewards_of, prompt_row, answer):
    sources = [Says([0.0], "reward"), Says([5.0], "reward"), Says([100.0], "reward_2")]
    scores, raw = rewards_of(sources, weights=[1.0, 1.0, 0.0])([prompt_row([3])], [answer("x")], T([True]))
    assert scores.item() == 5.0 and len(raw) == 3


# --- failures


def test_a_function_that_raises_is_reported_with_the_sample(rewards_of, prompt_row, answer):
    def score(**_):
        raise ZeroDivisionError("by nothing")

    function = RewardFunction(score, "score")
    with pytest.raises(RewardError) as caught:
        rewards_of([function])([prompt_row([3], CHAT)], [answer("blue")], T([True]))
    line = score.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        f"reward function score raised ZeroDivisionError: by nothing (test_sources.py:{line})\n"
        "  prompt: 'Name a colour.'\n  completion: 'blue'"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_async_function_that_raises_is_reported_too(ask, prompt_row, answer):
    async def score(**_):
        raise TimeoutError("too slow")

    with pytest.raises(RewardError, match="raised TimeoutError: too slow"):
        ask(RewardFunction(score, "score"), [prompt_row([3])], [answer("x")])


@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -math.inf, "3", T([1.0, 2.0]), 10**400, 1e39],
    ids=["nan", "inf", "-inf", "text", "vector", "huge integer", "too large for float32"],
)
def test_a_score_that_is_not_a_finite_number_shows_its_own_sample(rewards_of, prompt_row, answer, bad):
    rows = [prompt_row([3], "first"), prompt_row([3], "second")]
    with pytest.raises(RewardError) as caught:
        rewards_of([Says([1.0, bad], "judge")])(rows, [answer("blue"), answer("green")], T([True, True]))
    message = str(caught.value)
    assert message.startswith(f"judge returned {repr(bad)[:200]}, which is not a finite number")
    assert message.endswith("  prompt: 'second'\n  completion: 'green'")


@pytest.mark.parametrize(
    "scores, found",
    [
        ([1.0], "1 scores for 2 completions"),
        ([1.0, 2.0, 3.0], "3 scores for 2 completions"),
        ([], "0 scores for 2 completions"),
        (None, "NoneType, which is no list, for 2 completions"),
        (3.0, "float, which is no list, for 2 completions"),
    ],
)
def test_the_wrong_number_of_scores_is_refused(rewards_of, prompt_row, answer, scores, found):
    with pytest.raises(RewardError, match=f"judge returned {found}") as caught:
        rewards_of([Says(scores, "judge")])([prompt_row([3], "first")] * 2, [answer("x")] * 2, T([True, True]))
    assert str(caught.value).endswith("  prompt: 'first'\n  completion: 'x'")


# --- the reward model


@pytest.fixture
def scorer(tiny_lm, tokenizer):
    """A reward model whose every weight differs."""
    head = nn.Linear(32, 1)
    head.weight.data, head.bias.data = torch.linspace(-1, 1, 32)[None], T([0.25])
    return ScalarModel(tiny_lm(vocab=len(tokenizer)), head)


@torch.no_grad()
def score_alone(model, ids: list[int]) -> float:
    """Score of one row at its last token, from transformers' hidden states."""
    hidden = model.lm(input_ids=T([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
    return (hidden @ model.head.weight[0] + model.head.bias).item()


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_a_reward_model_scores_prompt_and_completion_at_its_last_token(
    scorer, chatml_renderer, prompt_row, answer, budget
):
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    ids = [answer("blue"), answer("a green sky", ended=False), answer("why")]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, budget), chatml_renderer, True)
    scores = source([prompt_row(prompt) for prompt in prompts], ids, T([True, False, True]))
    expected = [score_alone(scorer, prompt + tokens) for prompt, tokens in zip(prompts, ids, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(set(scores)) == 3


@pytest.mark.parametrize("share", ["on", "off"])
@pytest.mark.parametrize("budget", [30, 10_000])
def test_a_reward_model_scores_several_answers_of_a_prompt(scorer, chatml_renderer, prompt_row, answer, budget, share):
    assert enable_sharing(scorer.lm, 64)
    prompts = [[5, 6, 7, 8, 9, 10], [8], [5, 6, 7, 8, 9, 10], [8], [11]]
    ids = [answer(text) for text in ("blue", "a green sky", "why", "it is", "no")]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, budget), chatml_renderer, True, share)
    scores = source([prompt_row(prompt) for prompt in prompts], ids, T([True] * 5))
    expected = [score_alone(scorer, prompt + tokens) for prompt, tokens in zip(prompts, ids, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 5


@pytest.fixture
def other_tokenizer():
    """A policy's tokenizer with other ids, a BOS-less template and another end of turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["zebra zebra"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    made.chat_template = (
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    return made


@pytest.mark.parametrize("ended", [True, False])
def test_a_policy_of_another_tokenizer_is_read_in_the_reward_models_own_tokens(
    scorer, tokenizer, chatml_renderer, other_tokenizer, ended
):
    policy = Renderer(other_tokenizer)
    row = {"prompt_ids": policy.prompt_ids(CHAT), "prompt": json.dumps(CHAT), "columns": "{}"}
    ids = other_tokenizer("It is blue.", add_special_tokens=False)["input_ids"] + [policy.end_of_turn_id] * ended
    # what a row of reward-model training would be: its own template around the same texts
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
        "<|im_start|>assistant\nIt is blue." + "<|im_end|>" * ended
    )
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, 1000), policy, False)
    assert source.in_own_tokens([row], [ids], [ended]) == [expected]
    scores = source([row], [ids], T([ended]))
    assert scores == pytest.approx([score_alone(scorer, expected)], abs=1e-5)


def test_white_space_around_the_answer_of_a_conversation_is_not_part_of_it(
    scorer, tokenizer, chatml_renderer, other_tokenizer
):
    """Templates without a line break before the answer make a policy begin with a space; another template has none."""
    policy = Renderer(other_tokenizer)
    row = {"prompt_ids": policy.prompt_ids(CHAT), "prompt": json.dumps(CHAT), "columns": "{}"}
    ids = other_tokenizer(" It is blue.\n", add_special_tokens=False)["input_ids"] + [policy.end_of_turn_id]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, 1000), policy, False)
    text = tokenizer.decode(source.in_own_tokens([row], [ids], [True])[0])
    assert text.endswith("<|im_start|>assistant\nIt is blue.<|im_end|>")


def test_a_text_prompt_of_another_tokenizer_goes_on_as_text(scorer, tokenizer, chatml_renderer, other_tokenizer):
    policy = Renderer(other_tokenizer)
    row = {"prompt_ids": policy.prompt_ids("The sky is"), "prompt": json.dumps("The sky is"), "columns": "{}"}
    ids = other_tokenizer(" blue", add_special_tokens=False)["input_ids"]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, 1000), policy, False)
    prompt, completion = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("The sky is", " blue"))
    assert source.in_own_tokens([row, row], [[*ids, policy.end_of_turn_id], ids], [True, False]) == [
        [*prompt, *completion, END],
        [*prompt, *completion],
    ]


def test_an_answer_without_a_single_word_is_scored(scorer, tokenizer, chatml_renderer, other_tokenizer):
    policy = Renderer(other_tokenizer)
    row = {"prompt_ids": policy.prompt_ids(CHAT), "prompt": json.dumps(CHAT), "columns": "{}"}
    source = ModelSource(ScoringModel(scorer, chatml_renderer, 1000), policy, False)
    ids = source.in_own_tokens([row], [[policy.end_of_turn_id]], [True])[0]
    assert ids[-1] == END
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<|im_end|>")


def test_an_answer_that_a_text_finished_is_scored_with_the_end_it_has_not(scorer, chatml_renderer, tokenizer):
    """At the end-of-turn token; where another token of the model's ended it, at that, and cut off at its last."""
    policy = Renderer(tokenizer, (7,), stops=("blue",))
    row = {"prompt_ids": policy.prompt_ids(CHAT), "prompt": json.dumps(CHAT), "columns": "{}"}
    blue = tokenizer("It is blue", add_special_tokens=False)["input_ids"]
    source = ModelSource(ScoringModel(scorer, chatml_renderer, 1000), policy, True)
    scores = source([row] * 4, [blue, blue, [*blue, 7], [*blue, END]], T([True, False, True, True]))
    read = [[*blue, END], blue, [*blue, 7], [*blue, END]]
    assert scores == pytest.approx([score_alone(scorer, row["prompt_ids"] + ids) for ids in read], abs=1e-5)
