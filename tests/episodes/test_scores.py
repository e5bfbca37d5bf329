"""Who scores episodes: functions that read all messages, and reward models with a template of their own."""

import asyncio
import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.data.render import Renderer
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.episodes.calls import EnvironmentFailed
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.online.collect import collect, turn_rewards, with_episodes
from easyrlhf.online.rollout import unpad
from easyrlhf.online.state import Models, Online
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rewards.environment import EnvironmentReward
from easyrlhf.rewards.model import ModelSource, ScoringModel
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.run.timer import Timer

END = 2
PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Once:
    """Asks once more, with a hint in the prompt."""

    def reset(self, hint):
        self.turns, self.hint = 0, hint
        return f" A {hint} one."

    def respond(self, text):
        self.turns += 1
        return "More." if self.turns < 2 else None

    def get_reward(self):
        return len(self.hint) / 8


COLUMNS = [{"hint": "warm"}, {"hint": "pale"}]
SAID = [[" red\n", "blue."], ["why", " sky "]]


@pytest.fixture
def episodes(player, sampler, play, rows):
    """Rows with their episodes, and the samples; the second one's last turn is cut off."""
    samples = play(player(Once, turn=7), sampler(lambda number, turn: SAID[number][turn]), *COLUMNS)
    return with_episodes(rows(*COLUMNS), samples.episodes), samples


def test_reward_functions_get_every_message(episodes, chatml_renderer):
    rows, samples = episodes
    asked = []

    def reads(prompts, completions, completion_ids, hint, **_):
        asked.append((prompts, completions, completion_ids, hint))
        return [float(len(turns)) for turns in completions]

    sources = [RewardFunction(reads, "reads"), EnvironmentReward("Once")]
    ids = unpad(samples.completion_ids, samples.completion_mask)
    scores, raw = Rewards(sources, [2.0, 1.0], None, 0.0, chatml_renderer)(rows, ids, samples.finished)
    [(prompts, completions, completion_ids, hint)] = asked
    assert prompts == [[{"role": "user", "content": f"Name a colour. A {word} one."}] for word in ("warm", "pale")]
    assert completions == [
        [
            {"role": "assistant", "content": first},
            {"role": "user", "content": "More."},
            {"role": "assistant", "content": second},
        ]
        for first, second in SAID
    ]
    assert (completion_ids, hint) == (ids, ["warm", "pale"])
    assert scores.tolist() == [6.5, 6.5]
    assert {name: one.tolist() for name, one in raw.items()} == {"reads": [3.0, 3.0], "Once": [0.5, 0.5]}


async def graded(chat):
    """Rewards the first turn twice, nothing after the second, and all of it at the end."""
    chat.reward(0.125)  # before anything is said: the first token has earned it
    await chat.reply()
    chat.reward(0.25)
    chat.reward(0.5)
    chat.say("More.")
    await chat.reply()
    chat.say("More.")
    await chat.reply()
    chat.reward(2)
    return 4.0


def test_what_a_turn_earned_stands_at_its_last_token(player, sampler, play):
    said = [["red", "blue.", "no"], ["a", "longer one", "it is"]]
    samples = play(player(graded), sampler(lambda number, turn: said[number][turn]), {}, {})
    assert [episode.reward for episode in samples.episodes] == [6.875, 6.875]
    earned = turn_rewards(samples.episodes, samples.completion_mask)
    for row, sampled, ids in zip(earned, samples.action_mask, samples.completion_ids, strict=True):
        ends = [place for place, token in enumerate(ids.tolist()) if token == END and sampled[place]]
        assert len(ends) == 3
        assert {place: reward for place, reward in enumerate(row.tolist()) if reward} == {
            0: 0.125,
            ends[0]: 0.75,
            ends[2]: 2.0,
        }


async def graded_late(chat):
    """Rewards the first turn while the second is being sampled."""
    await chat.reply()
    chat.say("More.")
    asked = asyncio.ensure_future(chat.reply())
    await asyncio.sleep(0)
    chat.reward(1.5)
    await asked


def test_what_comes_while_the_next_turn_is_sampled_is_still_the_earlier_ones(player, sampler, play):
    [episode] = play(player(graded_late), sampler(["red", "blue."])).episodes
    [(place, reward)] = episode.turn_rewards
    first = play(player(graded_late), sampler(["red", "blue."])).action_mask[0].tolist()
    assert (place, reward) == (first.index(0.0) - 1, 1.5)


@pytest.fixture
def other(tokenizer) -> Renderer:
    """The renderer of a reward model: other tokens, and another template."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["blue", "More", "[assistant]"])
    own.chat_template = PLAIN
    return Renderer(own)


@torch.no_grad()
@pytest.mark.parametrize("ended", [True, False])
def test_a_reward_model_of_other_tokens_scores_the_conversation_in_its_own_template(
    episodes, other, chatml_renderer, tiny_lm, ended
):
    rows, samples = episodes
    lm = tiny_lm(vocab=len(other.tokenizer), dtype=torch.float64)
    head = new_head(lm)
    head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).view_as(head.weight))
    source = ModelSource(ScoringModel(ScalarModel(lm, head), other, 1000), chatml_renderer, False)
    # white space around answers, which some templates bring about, is no part of them
    texts = [
        f"[user]Name a colour. A {word} one.<|im_end|>[assistant]{first}<|im_end|>"
        f"[user]More.<|im_end|>[assistant]{second}" + "<|im_end|>" * ended
        for word, first, second in (("warm", "red", "blue."), ("pale", "why", "sky"))
    ]
    expected = [other.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = unpad(samples.completion_ids, samples.completion_mask)
    assert source.in_own_tokens(rows, ids, [ended] * 2) == expected
    hidden = [lm(input_ids=torch.tensor([one]), output_hidden_states=True).hidden_states[-1][0, -1] for one in expected]
    by_hand = [(states @ head.weight[0].double()).item() for states in hidden]
    assert source(rows, ids, torch.tensor([ended] * 2)) == pytest.approx(by_hand, abs=1e-5)
    assert abs(by_hand[0] - by_hand[1]) > 1e-3


def test_a_reward_model_of_the_policys_tokens_scores_what_was_sampled(episodes, chatml_renderer, monkeypatch):
    """The prompt as reset has left it, and the ids as they are."""
    rows, samples = episodes
    seen = []
    monkeypatch.setattr(
        "easyrlhf.rewards.model.score_completions", lambda scorer, *what: seen.append(what) or [0.0] * 2
    )
    ids = unpad(samples.completion_ids, samples.completion_mask)
    ModelSource(None, chatml_renderer, True)(rows, ids, samples.finished)
    prompts = [[{"role": "user", "content": f"Name a colour. A {word} one."}] for word in ("warm", "pale")]
    assert seen == [([chatml_renderer.prompt_ids(prompt) for prompt in prompts], ids, "off")]


def test_what_models_say_of_the_environments_tokens_is_0_and_of_the_others_is_their_own(
    tiny_lm, tokenizer, player, rows, chatml_renderer
):
    policy, reference, value = (
        tiny_lm(seed=n, vocab=len(tokenizer), dtype=torch.float64, max_position_embeddings=256) for n in range(3)
    )
    models = Models(policy, reference, ScalarModel(value, new_head(value)), Passes(300))
    torch.nn.init.ones_(models.value.head.weight)
    sampler = HFSampler(policy, 0, Ending(tuple(range(2, 90))), 90, 1.0, 2)
    rewards = Rewards([EnvironmentReward("Once")], [1.0], None, 0.0, chatml_renderer)
    online = Online(
        models,
        {},
        ShardedSampler(SimpleNamespace(full_weights=lambda: nullcontext(policy)), sampler),
        rewards,
        *[None] * 3,
        player=player(Once, tokens=90, turn=12),
    )
    rollout = collect(SimpleNamespace(step=0), online, rows(*COLUMNS), [(0, 0, 0), (0, 0, 1)], Timer())
    assert rollout.action_mask.sum() < rollout.completion_mask.sum()
    for row, ids in enumerate(rollout.completions()):
        prompt = rollout.rows[row]["prompt_ids"]
        assert prompt == chatml_renderer.prompt_ids(
            [{"role": "user", "content": f"Name a colour. A {COLUMNS[row]['hint']} one."}]
        )
        whole, at = torch.tensor([prompt + ids]), slice(len(prompt) - 1, -1)
        own = rollout.action_mask[row, : len(ids)].double()
        with torch.no_grad():
            for name, lm in (("old_logprobs", policy), ("ref_logprobs", reference)):
                table = lm(input_ids=whole).logits[0].log_softmax(-1)[at]
                expected = table.gather(1, torch.tensor(ids)[:, None]).squeeze(1) * own
                torch.testing.assert_close(
                    getattr(rollout, name)[row, : len(ids)].double(), expected, rtol=0, atol=2e-5
                )
            states = value(input_ids=whole, output_hidden_states=True).hidden_states[-1][0, at]
            torch.testing.assert_close(rollout.values[row, : len(ids)].double(), states.sum(1) * own, rtol=0, atol=5e-5)
    sampled = rollout.action_mask.bool()
    torch.testing.assert_close(rollout.sampler_logprobs[sampled], rollout.old_logprobs[sampled], rtol=0, atol=2e-5)
    assert not rollout.sampler_logprobs[~sampled].any()
    assert not rollout.entropies[~sampled].any()
    assert rollout.entropies[sampled].min() > 0


class Counts:
    """Counts what it was told, and is closed at the end."""

    def __init__(self):
        self.heard, self.open = [], True

    def respond(self, text):
        self.heard.append(text)
        return "More." if len(self.heard) < 2 else None

    def close(self):
        self.open = False


def by_environment(completions, environments, **_):
    return [float(len("".join(one.heard))) - 100 * one.open for one in environments]


def scored(player, sampler, play, rows, chatml_renderer, function, **settings):
    """The scores that a function gives two episodes of Counts."""
    samples = play(player(Counts, **settings), sampler(lambda number, turn: SAID[number][turn]), {}, {})
    answered = with_episodes(rows({}, {}), samples.episodes)
    rewards = Rewards([RewardFunction(function, "f")], [1.0], None, 0.0, chatml_renderer)
    return rewards(answered, unpad(samples.completion_ids, samples.completion_mask), samples.finished)[0].tolist()


def test_functions_that_ask_get_the_objects_that_episodes_were_played_with(
    player, sampler, play, rows, chatml_renderer
):
    expected = [float(len("".join(said))) for said in SAID]
    parts = player, sampler, play, rows, chatml_renderer
    assert scored(*parts, by_environment, keep=True) == expected
    assert scored(*parts, lambda environments=(), **_: [float(len(environments))] * 2) == [0.0, 0.0]
    assert scored(*parts, lambda **columns: [float("environments" in columns)] * 2, keep=True) == [0.0, 0.0]


def test_an_environment_that_cannot_be_sent_ends_the_run_where_others_have_to_read_it(player, sampler, play):
    class Holds(Counts):
        """Of a function: nobody finds it by its name."""

    with pytest.raises(EnvironmentFailed, match=r"Holds: reward functions ask for it .* __getstate__"):
        play(player(Holds, keep=True, sent=True), sampler(["a", "b"]), {})
    assert play(player(Holds, keep=True), sampler(["a", "b"]), {}).episodes[0].environment.heard == ["a", "b"]
    assert play(player(Holds), sampler(["a", "b"]), {}).episodes[0].environment is None
