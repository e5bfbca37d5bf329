"""Where the scores of an online stage come from, and what becomes of them."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import FILES, FREE, MODEL, REWARDS, Settings, opt
from easyrlhf.config.common_fields import wrong_reward_function
from easyrlhf.config.lists import split_list
from easyrlhf.paths import split_paths


@dataclass(kw_only=True, frozen=True)
class RewardSettings(Settings):
    """Where scores come from, and what becomes of them."""

    group: ClassVar[str] = REWARDS
    soft_punish_cache: ClassVar[int] = 0  # a setting of GRPO

    reward_model: str | None = opt(
        None,
        "Folder of rm_train, or a sequence classifier with one label, such as TRL's. Its tokenizer may differ from the "
        "policy's: texts are rendered anew for it.",
        metavar="DIR",
        model=True,
        shown="outputs/rm, unless another source is given",
        on_resume=MODEL,
    )
    reward_funcs: str | None = opt(
        None,
        "Python reward functions, beside or instead of the reward model: fn(prompts, completions, **columns) returns "
        "one number per completion, or None where it does not apply, as in TRL; trl:NAME is one of TRL's own, such as "
        "trl:think_format_reward, and reasoning_gym:NAME scores tasks of reasoning-gym.",
        metavar="FILE.py:FN[,…]",
        many=True,
        functions=True,
        wrong=wrong_reward_function,
        on_resume=FILES,
    )
    reward_url: str | None = opt(
        None,
        "Reward servers, beside or instead of the others: each is posted prompts and completions and answers with "
        "scores (easyrlhf docs rewards). easyrlhf serve_reward is one.",
        metavar="URL[,…]",
        many=True,
        on_resume=FREE,
    )
    nemo_gym_url: str | None = opt(
        None,
        "NeMo Gym's head server, or one of its resources servers, whose verifier scores the answers to rows of the "
        "format nemo_gym; rows with tools become episodes (easyrlhf docs nemo_gym).",
        metavar="URL",
        on_resume=FREE,
    )
    nemo_gym_server: str | None = opt(
        None,
        "The server to ask of those that the head knows, for rows without agent_ref.",
        metavar="NAME",
        shown="the only one",
    )
    nemo_gym_policy: str | None = opt(
        None,
        "Have rows played by NeMo Gym's agent servers, and serve the policy at this address while they do: Gym's "
        "model server has http://HOST:PORT/v1 as its base_url.",
        metavar="HOST:PORT",
        on_resume=FREE,
    )
    reward_weights: str | None = opt(
        None,
        "One weight per reward source: reward_model first, then reward_funcs, then reward_url, then nemo_gym_url; the "
        "score is the weighted sum.",
        metavar="X[,…]",
        many=True,
        shown="1 each",
    )
    reward_timeout: float = opt(
        600.0,
        "Seconds that a reward function or server may take over the completions of a rollout; then the run is saved "
        "and fails.",
        above=0,
        high=1e6,
        on_resume=FREE,
    )
    reward_workers: int = opt(
        0,
        "Processes that call the reward functions, for slow ones. A function then sees a part of the prompts at a "
        "time; 0 calls it with all of it, in this process.",
        low=0,
        on_resume=FREE,
    )
    stream_rewards: bool = opt(
        False,
        "Ask functions and servers about a prompt's completions once all of them are there, while others are still "
        "being sampled. A call then sees one prompt; scores are the same. For slow rewards.",
        on_resume=FREE,
    )
    missing_eos_penalty: float = opt(
        1.0,
        "Subtracted from the score of a completion that was cut off before its end-of-turn token.",
        low=0,
    )
    reward_clip: float | None = opt(
        None,
        "Limit scores to [-X, X] before the KL penalty; 5 to 10 is usual.",
        above=0,
        shown="off",
    )

    @property
    def scored_elsewhere(self) -> bool:
        """Whether a source is named that is no reward model."""
        return bool(self.reward_funcs or self.reward_url or self.nemo_gym_url)

    @property
    def reward_sources(self) -> int:
        """How many sources have weights; at least 1 without an environment, as the default is a reward model."""
        named = len(split_paths(self.reward_funcs)) + len(split_list(self.reward_url)) + bool(self.nemo_gym_url)
        return max(int(not self.environment), bool(self.reward_model) + named)

    @property
    def reward_weight_values(self) -> tuple[float, ...]:
        """A weight per source: the reward model when there is one, reward_funcs and reward_url in order, nemo_gym_url,
        then 1 for the punishment of long completions when soft_punish_cache asks for it."""
        weights = tuple(float(item) for item in split_list(self.reward_weights)) or (1.0,) * self.reward_sources
        return weights + (1.0,) * bool(self.soft_punish_cache)
