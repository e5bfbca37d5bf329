"""What becomes of environments that fail: which errors are answers, and what the others say."""

import asyncio
import json
import math
import re
import time
from dataclasses import dataclass, replace

import pytest
import torch

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.episodes.calls import EnvironmentFailed
from easyrlhf.errors import ServiceError
from easyrlhf.online.collect import with_episodes
from easyrlhf.online.grpo import estimate_grpo, estimate_reinforce, estimate_rloo
from easyrlhf.online.ppo import estimate_ppo
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.rollout_log import kept_rows
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rewards.environment import EnvironmentReward

END = 2
TRANSCRIPT = "\n  user: 'Name a colour.'\n  assistant: 'blue'"


class Room:
    """An environment of which one part fails."""

    def reset(self, fails=None, how="raises"):
        self.fails, self.how = fails, how
        self._fail("reset")

    def _fail(self, part):
        if self.fails != part:
            return
        if self.how == "hangs":
            time.sleep(0.6)
        elif self.how == "exits":
            raise SystemExit(3)
        elif self.how == "stops":
            next(iter(()))
        elif self.how == "times out":
            raise TimeoutError("the server was slow")
        else:
            raise ValueError("broken")

    def respond(self, text):
        self._fail("respond")

    def get_reward(self):
        self._fail("get_reward")
        return 1.0

    def close(self):
        self._fail("close")


class AsyncRoom(Room):
    """The same, async."""

    async def reset(self, fails=None, how="raises"):
        self.fails, self.how = fails, how
        await self._fail_later("reset")

    async def _fail_later(self, part):
        if self.fails == part and self.how == "hangs":
            await asyncio.sleep(600)
        if self.fails == part and self.how == "is cancelled":
            raise asyncio.CancelledError
        self._fail(part)

    async def respond(self, text):
        await self._fail_later("respond")

    async def get_reward(self):
        await self._fail_later("get_reward")
        return 1.0

    async def close(self):
        await self._fail_later("close")


HOW = {
    "raises": r"raised ValueError: broken \(test_failures.py:\d+\)",
    "exits": r"raised SystemExit: 3 \(test_failures.py:\d+\)",
    "stops": r"raised StopIteration:",
    "times out": r"raised TimeoutError: the server was slow \(test_failures.py:\d+\)",
    "hangs": r"gave no answer within 0.2 s \(--environment_timeout\)",
}
SAYS = {"reset": "\n  user: 'Name a colour.'$"} | dict.fromkeys(("respond", "get_reward", "close"), TRANSCRIPT + "$")


@pytest.fixture
def fails(player, sampler, play):
    """fails(environment, columns, said=, **settings) -> the message of the run that ends by it."""

    def message(environment, said=("blue", "green"), columns=None, **settings) -> str:
        with pytest.raises(EnvironmentFailed) as caught:
            play(player(environment, **settings), sampler([*said]), columns or {})
        return str(caught.value)

    return message


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("part", SAYS)
def test_a_part_that_fails_ends_the_run_with_its_name_and_what_was_said(fails, part, how):
    columns = {"fails": part, "how": how}
    assert re.search(
        f"^the environment Room: {part} {HOW[how]}.*{SAYS[part]}", fails(Room, columns=columns, timeout=0.2)
    )


@pytest.mark.parametrize("how", ["raises", "exits", "times out", "hangs"])
@pytest.mark.parametrize("part", SAYS)
def test_a_part_that_is_async_fails_in_the_same_words(fails, part, how):
    found = fails(AsyncRoom, columns={"fails": part, "how": how}, timeout=0.2)
    assert re.search(f"^the environment AsyncRoom: {part} {HOW[how]}.*{SAYS[part]}", found)


def test_a_part_that_was_cancelled_by_itself_has_failed(fails):
    found = fails(AsyncRoom, columns={"fails": "respond", "how": "is cancelled"})
    assert found.startswith("the environment AsyncRoom: respond raised CancelledError")


class ConnectionClosedOK(Exception):
    """As websockets has it."""


class Full:
    """A client whose server has no room for another session, as OpenEnv's are."""

    def reset(self):
        raise ConnectionClosedOK("received 1000 (OK); then sent 1000 (OK)")


class FullBelow(Full):
    """The same, in the client's own words."""

    def reset(self):
        try:
            super().reset()
        except ConnectionClosedOK as error:
            raise RuntimeError("no answer") from error


async def full(chat):
    FullBelow().reset()


@pytest.mark.parametrize("environment", [Full, FullBelow, full], ids=lambda one: one.__name__)
def test_a_session_that_was_closed_without_a_word_is_explained(fails, environment):
    said = fails(environment)
    assert re.search(r"raised (ConnectionClosedOK: received 1000|RuntimeError: no answer)", said)
    assert "(OpenEnv's has room for one unless its max_concurrent_envs says otherwise)" in said
    assert "set --environment_concurrency to it\n  user: 'Name a colour.'" in said


def test_of_two_failures_the_first_is_told(fails):
    class Worse(Room):
        def close(self):
            raise KeyError("closing it, too")

    found = fails(Worse, columns={"fails": "respond"})
    assert found.startswith("the environment Worse: respond raised ValueError: broken")


def test_what_has_failed_is_closed_and_so_are_the_others(player, sampler, play):
    closed = []

    class Closes(Room):
        def reset(self, number, fails=None):
            super().reset(fails)
            self.number = number

        def respond(self, text):
            super().respond(text)
            return "More."

        def close(self):
            closed.append(self.number)

    columns = [{"number": 0}, {"number": 1, "fails": "respond"}, {"number": 2}]
    with pytest.raises(EnvironmentFailed):
        play(player(Closes), sampler(["blue"] * 8), *columns)
    assert sorted(closed) == [0, 1, 2]


REWARDS = [math.nan, math.inf, "good", None, [1.0]]


@pytest.mark.parametrize("given", REWARDS, ids=map(repr, REWARDS))
def test_a_reward_that_is_no_finite_number(player, sampler, play, fails, given):
    class Pays:
        def respond(self, text):
            return None

        def get_reward(self):
            return given

    if given is None:  # which says that it does not apply
        assert math.isnan(play(player(Pays), sampler(["blue"])).episodes[0].reward)
        return
    expected = f"the environment Pays: gave {given!r} as reward, which is no finite number{TRANSCRIPT}"
    assert fails(Pays) == expected


def test_what_respond_and_reset_may_not_return(fails):
    class Numbers:
        def respond(self, text):
            return 4

    class Lists(Numbers):
        def reset(self):
            return ["a"]

    said = f"the environment Numbers: respond returned int, and must return a text or None{TRANSCRIPT}"
    assert fails(Numbers) == said
    assert fails(Lists).startswith("the environment Lists: reset returned list, and must return a text or None")


async def raises(chat):
    await chat.reply()
    raise ValueError("broken")


async def leaves(chat):
    await chat.reply()
    raise SystemExit(3)


async def hangs(chat):
    await chat.reply()
    await asyncio.sleep(600)


async def replies_twice(chat):
    await chat.reply()
    await chat.reply()


async def replies_at_once(chat):
    await asyncio.gather(chat.reply(), chat.reply())


async def says_first(chat):
    chat.say("Hello.")


async def says_a_number(chat):
    await chat.reply()
    chat.say(4)


async def pays_a_word(chat):
    await chat.reply()
    chat.reward("good")


async def pays_nan(chat):
    await chat.reply()
    chat.reward(math.nan)


async def returns_a_word(chat):
    await chat.reply()
    return "good"


async def says_nothing(chat):
    return 1.0


FUNCTIONS = {
    raises: rf"raised ValueError: broken \(test_failures.py:\d+\){TRANSCRIPT}$",
    leaves: rf"raised SystemExit: 3 \(test_failures.py:\d+\){TRANSCRIPT}$",
    hangs: rf"the function gave no answer within 0.2 s \(--environment_timeout\){TRANSCRIPT}$",
    replies_twice: rf"raised RuntimeError: chat.reply was called twice without chat.say .*{TRANSCRIPT}$",
    replies_at_once: r"raised RuntimeError: chat.reply was called before the last call of it had its answer",
    says_first: r"raised ValueError: chat.say before the first reply: .*\n  user: 'Name a colour.'$",
    says_a_number: rf"raised TypeError: chat.say takes a text, not int .*{TRANSCRIPT}$",
    pays_a_word: rf"raised ValueError: could not convert string to float: 'good'.*{TRANSCRIPT}$",
    pays_nan: rf"gave nan as reward, which is no finite number{TRANSCRIPT}$",
    returns_a_word: rf"gave 'good' as reward, which is no finite number{TRANSCRIPT}$",
    says_nothing: r"ended before the policy said anything\n  user: 'Name a colour.'$",
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_an_episode_function_that_fails(fails, function):
    expected = f"^the environment {function.__name__}: {FUNCTIONS[function]}"
    assert re.search(expected, fails(function, timeout=0.2))


def test_columns_of_any_name_reach_who_takes_them(player, sampler, play):
    names = ("part", "function", "name", "chat", "prompt_text", "args")
    columns = {name: f"the {name}" for name in names}

    class Keeps:
        def reset(self, **columns):
            self.columns = columns

        def respond(self, text):
            return None

        def get_reward(self):
            return float(self.columns == columns | {"seed": self.columns["seed"], "prompt": [asked]})

    async def takes(chat, function, part, **more):
        await chat.reply()
        return float(function == "the function" and part == "the part" and "chat" not in more)

    asked = {"role": "user", "content": "Name a colour."}
    for environment in (Keeps, takes):
        assert play(player(environment), sampler(["blue"]), columns).episodes[0].reward == 1.0


def test_rewards_within_an_episode_are_summed(player, sampler, play):
    async def pays(chat):
        await chat.reply()
        chat.reward(0.25)
        chat.say("More.")
        await chat.reply()
        chat.reward(0.5)

    async def is_cut(chat):
        await chat.reply()
        chat.reward(0.25)
        chat.say("More.")
        await chat.reply()
        raise AssertionError("there is no second turn")

    async def pays_at_the_end_too(chat):
        await pays(chat)
        return 4

    assert play(player(pays), sampler(["blue", "green"])).episodes[0].reward == 0.75
    assert play(player(pays_at_the_end_too), sampler(["blue", "green"])).episodes[0].reward == 4.75
    assert play(player(is_cut, turns=1), sampler(["blue"])).episodes[0].reward == 0.25


# --- drop


@pytest.fixture
def dropped(player, sampler, rows):
    """dropped(fails, generations, part) -> rows and samples of episodes, of which those fail in that part."""

    def make(fails: list[bool], generations=2, part="respond"):
        prompts = rows(*({"fails": part if one else None} for one in fails))
        one = player(Room, drop=True, generations=generations)
        samples = one.play(sampler(lambda n, t: "blue" * (n + 1)), prompts, [(7, 0, n) for n in range(len(fails))])
        return prompts, samples

    return make


@pytest.mark.parametrize("part", ["respond", "get_reward", "close"])
def test_a_dropped_episode_has_no_reward_and_says_why(player, sampler, play, part):
    samples = play(player(Room, drop=True), sampler(["blue"]), {"fails": part}, {})
    first, second = samples.episodes
    assert first.dropped
    assert math.isnan(first.reward)
    assert first.failure.startswith(f"the environment Room: {part} raised ValueError: broken")
    assert not second.dropped
    assert second.reward == 1.0
    assert second.failure == ""


class CannotBeMade(Room):
    made = 0

    def __init__(self):
        CannotBeMade.made += 1
        if CannotBeMade.made > 1:  # one to look at
            raise ValueError("broken")


class GrowsAndFails(Room):
    def reset(self, fails=None):
        super().reset("reset")


async def adds_and_fails(chat):
    chat.add_to_prompt(" Or not.")
    raise ValueError("broken")


UNBEGUN = [CannotBeMade, GrowsAndFails, adds_and_fails, says_nothing, says_first]


@pytest.mark.parametrize("environment", UNBEGUN, ids=lambda one: one.__name__)
def test_an_episode_that_failed_before_its_first_turn_is_an_answer_without_a_word(
    player, sampler, play, rows, environment
):
    CannotBeMade.made = 0
    samples = play(player(environment, drop=True), sampler(["blue"]), {})
    [episode] = samples.episodes
    assert episode.dropped and math.isnan(episode.reward)
    assert (episode.turns, episode.turn_rewards) == (0, [])
    assert samples.completion_ids.tolist() == [[END]]
    assert samples.completion_mask.tolist() == [[1]]
    assert samples.action_mask.tolist() == [[0]]
    assert samples.logprobs.tolist() == [[0]]
    assert samples.finished.tolist() == [False]
    # the prompt as it was asked, and a message that those who read completions find
    assert episode.prompt == [{"role": "user", "content": "Name a colour."}]
    assert episode.prompt_ids == rows({})[0]["prompt_ids"]
    assert episode.messages == [{"role": "assistant", "content": ""}]


def test_one_among_others_is_played_by_nobody(player, sampler, play):
    says = sampler(lambda number, turn: "blue" * (number + 1))
    samples = play(player(Room, drop=True), says, {}, {"fails": "reset"}, {})
    assert [len(prompts) for prompts, _, _ in says.asked] == [2]
    assert samples.completion_ids[1].tolist() == [END] + [0] * (samples.completion_ids.shape[1] - 1)
    assert samples.action_mask.any(1).tolist() == [True, False, True]
    assert [one.reward for one in samples.episodes if not one.dropped] == [1.0, 1.0]


@dataclass(frozen=True)
class Says:
    """A source that has scored all of them."""

    scores: list[float]
    name: str = "says"

    def __call__(self, rows, completions, finished):
        return self.scores


def rollout_of(samples, scores, sources) -> Rollout:
    mask = samples.completion_mask
    return Rollout(
        rows=[{"prompt_ids": [5]}] * len(mask),
        completion_ids=samples.completion_ids,
        completion_mask=mask,
        action_mask=samples.action_mask,
        finished=samples.finished,
        sampler_logprobs=samples.logprobs,
        old_logprobs=samples.logprobs,
        ref_logprobs=samples.logprobs,
        entropies=mask * 0,
        values=mask * 0.5,
        scores=scores,
        source_scores=sources,
    )


KNOWN = {"model": "m", "reward_model": "rm", "train_data": "x.jsonl"}


@pytest.mark.parametrize("part", ["respond", "reset"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_nothing_is_learned_from_a_dropped_episode(dropped, chatml_renderer, aggregation, part):
    """Though another source has scored it; the group is compared without it."""
    prompts, samples = dropped([False, True, False, False, False, False], 3, part)
    prompts = [row | {"episode": one} for row, one in zip(prompts, samples.episodes, strict=True)]
    rewards = Rewards(
        [Says([3.0, 9.0, 1.0, 2.0, 2.0, 2.0]), EnvironmentReward("Room")], [1.0, 1.0], None, 0.5, chatml_renderer
    )
    completions = [
        ids[: int(n)] for ids, n in zip(samples.completion_ids.tolist(), samples.completion_mask.sum(1), strict=True)
    ]
    scores, sources = rewards(prompts, completions, samples.finished)
    torch.testing.assert_close(
        scores, torch.tensor([4.0, math.nan, 2.0, 3.0, 3.0, 3.0]), equal_nan=True, rtol=0, atol=0
    )

    rollout = replace(rollout_of(samples, scores, sources), rows=prompts)
    grpo = GRPOConfig(**KNOWN, num_generations=3, batch_size=6, multi_objective_aggregation=aggregation)
    learned = samples.action_mask.clone()
    learned[1] = 0
    for estimate in (estimate_grpo, estimate_rloo, estimate_reinforce):  # no KL of it is paid for in the loss either
        estimated = estimate(rollout, grpo, 0.5)
        assert torch.equal(estimated.loss_mask, learned)
        assert not estimated.advantages[1].any()
    found = estimate_grpo(rollout, grpo, 0.0).advantages
    assert not found[1].any()
    assert found[0, 0] == -found[2, 0] > 0.5
    loo = estimate_rloo(rollout, grpo, 0.0).advantages
    assert [loo[0, 0].item(), loo[1].abs().sum().item(), loo[2, 0].item()] == [2.0, 0.0, -2.0]
    ppo = estimate_ppo(rollout, PPOConfig(**KNOWN), 0.5)
    assert torch.equal(ppo.loss_mask, learned)
    assert not (ppo.advantages[1].any() or ppo.returns[1].any())
    # as if it had not been there
    others = [0, 2, 3, 4, 5]
    batch, alone = (estimate_reinforce(one, grpo, 0.5).advantages for one in (rollout, rollout.take(others)))
    torch.testing.assert_close(batch[others], alone, rtol=0, atol=1e-6)
    alone = estimate_ppo(rollout.take(others), PPOConfig(**KNOWN), 0.5)
    torch.testing.assert_close(ppo.advantages[others], alone.advantages, rtol=0, atol=1e-6)
    assert torch.equal(ppo.returns[others], alone.returns)
    json.dumps(kept_rows(ppo, 0.5, 6, chatml_renderer.decode, with_ids=True), allow_nan=False)


@pytest.mark.parametrize("part", ["respond", "reset"])
@pytest.mark.parametrize("failed, count, goes_on", [(1, 10, True), (10, 100, True), (11, 100, False), (1, 9, False)])
def test_more_than_a_tenth_dropped_stops_the_run(dropped, failed, count, goes_on, part):
    prompts, samples = dropped([n < failed for n in range(count)], part=part)
    if goes_on:
        assert sum(row["episode"].dropped for row in with_episodes(prompts, samples.episodes)) == failed
        return
    said = f"failed in {failed} of {count} episodes.*drop leaves out at most 10%.*{part} raised ValueError: broken"
    with pytest.raises(ServiceError, match=re.compile(said, re.S)):
        with_episodes(prompts, samples.episodes)
