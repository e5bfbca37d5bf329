"""What all stages that learn from their own samples can be told."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.answering import StopTexts, check_stop
from easyrlhf.config.base import (
    DATA,
    FILES,
    FREE,
    LORA,
    MODEL,
    ONLINE,
    REWARDS,
    RUN,
    SAMPLING,
    SettingError,
    Settings,
    opt,
    restate,
    split_list,
)
from easyrlhf.config.common_fields import DEFAULT_LENGTH, SharedPrefix, wrong_reward_function
from easyrlhf.config.rendering import FinalTurn
from easyrlhf.config.sampling import RolloutConfig
from easyrlhf.config.training import TrainConfig
from easyrlhf.paths import split_paths

REWARD_URL = re.compile(r"https?://[^\s,/]+\S*")


@dataclass(kw_only=True, frozen=True)
class ReferenceModel(Settings):
    """What the policy is kept close to."""

    group: ClassVar[str] = DATA

    ref_model: str | None = opt(
        None,
        "The reference that the policy is kept close to. It must share the policy's tokenizer and template.",
        metavar="DIR|HUB_ID",
        model=True,
        shown="model",
        on_resume=MODEL,
    )


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
        shown="outputs/rm, unless reward_funcs or reward_url is given",
        on_resume=MODEL,
    )
    reward_funcs: str | None = opt(
        None,
        "Python reward functions, beside or instead of the reward model: fn(prompts, completions, **columns) returns "
        "one number per completion, or None where it does not apply, as in TRL; trl:NAME is one of TRL's own, such as "
        "trl:think_format_reward.",
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
    reward_weights: str | None = opt(
        None,
        "One weight per reward source: reward_model first, then reward_funcs, then reward_url; the score is the "
        "weighted sum.",
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
    def reward_sources(self) -> int:
        """How many sources make the score; at least 1, as the default is a reward model."""
        named = len(split_paths(self.reward_funcs)) + len(split_list(self.reward_url))
        return max(1, bool(self.reward_model) + named)

    @property
    def reward_weight_values(self) -> tuple[float, ...]:
        """A weight per source: the reward model when there is one, reward_funcs and reward_url in order, then 1 for
        the punishment of long completions when soft_punish_cache asks for it."""
        weights = tuple(float(item) for item in split_list(self.reward_weights)) or (1.0,) * self.reward_sources
        return weights + (1.0,) * bool(self.soft_punish_cache)


@dataclass(kw_only=True, frozen=True)
class Rollouts(Settings):
    """What is sampled for each step, and how much of it in all."""

    group: ClassVar[str] = ONLINE

    measure_kl: str = opt(
        "auto",
        "When to ask the reference for the distance from it: at every step, at evaluations alone, or never. auto: at "
        "every step where the distance has a price, else at evaluations where that takes no model in memory or "
        "ref_model names one, else never, and no reference is held.",
        choices=("auto", "step", "eval", "never"),
    )
    batch_size: int = opt(
        64,
        "Completions per rollout, over all devices; divisible by num_generations and num_mini_batches. 64 to 512 is "
        "usual.",
        low=1,
    )
    num_generations: int = opt(
        1,
        "Completions per prompt in a rollout. A prompt is computed once for all of them, which makes several cheaper "
        "than as many prompts, and the rollout less varied.",
        low=1,
    )
    shuffle_prompts: bool = opt(
        True,
        "Ask the prompts in an order drawn anew for each epoch. --no_shuffle_prompts keeps that of the files, in every "
        "epoch: a curriculum.",
    )
    total_episodes: int | None = opt(
        None,
        "Completions to learn from in the whole run; what is sampled besides and thrown away does not count.",
        low=1,
        shown="epochs x prompts",
    )
    num_mini_batches: int = opt(
        1,
        "Optimiser steps per pass: the rollout is split into so many parts, by prompts where that is even.",
        low=1,
    )


@dataclass(kw_only=True, frozen=True)
class Temperature(Settings):
    """How the tokens of a completion are drawn."""

    group: ClassVar[str] = SAMPLING

    temperature: float = opt(
        1.0,
        "Softmax temperature of sampling and of all log-probabilities; 0.7 to 1.",
        above=0,
    )


@dataclass(kw_only=True, frozen=True)
class RolloutSampling(StopTexts, Temperature):
    """What ends a completion, how many are written at once and how many are printed."""

    group: ClassVar[str] = SAMPLING

    local_rollout_forward_batch_size: int = opt(
        64,
        "Completions decoded together on a device. Lower it when sampling runs out of memory.",
        low=1,
        on_resume=FREE,
    )
    num_sample_generations: int = opt(
        10,
        "How often in the run to print a sample with its score and KL; 0 for never.",
        low=0,
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class RolloutLog(Settings):
    """Which samples are kept for a reader."""

    group: ClassVar[str] = RUN

    log_rollouts: int = opt(
        8,
        "Completions of each step to keep in rollouts.jsonl, with every reward, advantage and KL, spread over the "
        "rollout; 0 for none. easyrlhf rollouts and report.html show them.",
        low=0,
        on_resume=FREE,
    )
    log_rollout_ids: bool = opt(False, "Keep their token ids as well.", on_resume=FREE)


@dataclass(kw_only=True, frozen=True)
class OneBackbone(Settings):
    """Whether all parts stand on one base model."""

    group: ClassVar[str] = LORA

    share_backbone: bool = opt(
        False,
        "Hold one base model for all parts, each an adapter: reference = adapter off, reward and value model = their "
        "own adapters and heads. The reward model must be a LoRA of the same model. A fraction of the memory.",
    )


@dataclass(kw_only=True, frozen=True)
class OnlineConfig(
    OneBackbone,
    RolloutLog,
    RolloutSampling,
    Rollouts,
    SharedPrefix,
    RewardSettings,
    FinalTurn,
    ReferenceModel,
    RolloutConfig,
    TrainConfig,
):
    """What every stage that learns from its own samples can be told; PPO and GRPO add their own settings."""

    less_for_completions: ClassVar[str] = ", less where completions need the room"
    limit_name: ClassVar[str]  # the setting that bounds a completion
    kl_name: ClassVar[str]  # the setting that prices distance from the reference
    learns_values: ClassVar[bool] = False
    kl_target: ClassVar[float | None] = None  # what PPO alone can be told
    kl_estimator: ClassVar[str] = "k1"
    value_warmup_steps: ClassVar[int] = 0

    model: str | None = restate(
        TrainConfig, "model", "The policy to start from: the folder of sft_train.", shown="outputs/sft"
    )
    eval_at_start: bool = restate(
        TrainConfig,
        "eval_at_start",
        "Evaluate on valid_data, where it is given, before the first step too, as step 0; keep_best may then keep the "
        "start.",
        default=True,
    )
    max_steps: int | None = restate(
        TrainConfig,
        "max_steps",
        "Stop after this many rollouts even when total_episodes is not reached; for short trials.",
        shown="all episodes",
    )

    @property
    def resamples(self) -> int:
        """Rollouts that may be added to a step's first to fill it with groups that teach something."""
        return 0

    @property
    def completion_limit(self) -> int:
        """Longest completion to sample, in tokens."""
        return getattr(self, self.limit_name)

    @property
    def taken_length(self) -> int:
        """Tokens of max_length that no prompt can have."""
        return self.completion_limit + self.stop_finishes

    @property
    def kl_price(self) -> float:
        """What a nat of distance from the reference costs."""
        return getattr(self, self.kl_name)

    @property
    def own_reference(self) -> bool:
        """Whether the reference, where there is one, is the policy with its adapter off."""
        return bool(self.lora_r) and self.ref_model in (None, self.model)

    @property
    def kl_measured(self) -> str:
        """When the reference is asked: step, eval or never."""
        if self.measure_kl != "auto":
            return self.measure_kl
        if self.kl_price:
            return "step"
        return "eval" if self.own_reference or self.ref_model not in (None, self.model) else "never"

    def _check(self) -> None:
        super()._check()
        if self.batch_size % self.num_generations:
            raise SettingError(
                "batch_size",
                f"batch_size {self.batch_size}: counts completions, {self.num_generations} (num_generations) for each "
                f"prompt; use a multiple of {self.num_generations}",
            )
        if self.batch_size % self.num_mini_batches:
            divisors = ", ".join(str(n) for n in range(1, self.batch_size + 1) if self.batch_size % n == 0)
            raise SettingError(
                "num_mini_batches",
                f"num_mini_batches {self.num_mini_batches}: does not divide batch_size "
                f"{self.batch_size}; use one of {divisors}",
            )
        if self.load_in_4bit and self.uses_vllm:
            raise SettingError(
                "load_in_4bit",
                "load_in_4bit true: rollout vllm samples from the base in its own precision, which is another policy "
                "than the one that is trained; use rollout hf, or leave it out",
            )
        if self.share_backbone and not self.lora_r:
            raise SettingError("share_backbone", "share_backbone: the parts are LoRA adapters; give lora_r, such as 16")
        if self.share_backbone and self.ref_model not in (None, self.model):
            raise SettingError(
                "ref_model",
                f"ref_model {self.ref_model}: with share_backbone the reference is the policy without its adapter; "
                "leave one of the two out",
            )
        if self.lora_dropout:
            raise SettingError(
                "lora_dropout",
                f"lora_dropout {self.lora_dropout:g}: the policy is compared with itself before the update, and "
                "dropout makes that two policies; leave it at 0",
            )
        check_stop(self.stop, self.stop_finishes)
        self._check_reference()
        longest = (self.max_prompt_length or 1) + self.taken_length
        if longest > (self.max_length or DEFAULT_LENGTH):
            prompt = f"max_prompt_length {self.max_prompt_length}" if self.max_prompt_length else "any prompt"
            raise SettingError(
                self.limit_name,
                f"{self.limit_name} {self.completion_limit}: with {prompt}"
                f"{' and an end that stop_finishes adds' * self.stop_finishes} it exceeds "
                f"max_length {self.max_length or DEFAULT_LENGTH}; use "
                f"max_length {longest} or more, or shorter prompts or responses",
            )
        self._check_rewards()

    def _check_reference(self) -> None:
        if self.kl_price and self.measure_kl in ("eval", "never"):
            raise SettingError(
                "measure_kl",
                f"measure_kl {self.measure_kl}: {self.kl_name} {self.kl_price:g} is the price of the distance from the "
                f"reference, which has to be asked at every step; leave it at auto, or give {self.kl_name} 0",
            )
        if self.measure_kl == "never" and self.ref_model not in (None, self.model):
            raise SettingError(
                "ref_model",
                f"ref_model {self.ref_model}: is never asked with measure_kl never; leave one of the two out",
            )

    def _check_rewards(self) -> None:
        for url in split_list(self.reward_url):
            if not REWARD_URL.fullmatch(url):
                raise SettingError("reward_url", f"reward_url {url}: must look like http://host:port or https://…")
        if self.reward_workers and not self.reward_funcs:
            raise SettingError(
                "reward_workers",
                f"reward_workers {self.reward_workers}: call reward functions, and there are none; give reward_funcs, "
                "or leave it at 0",
            )
        weights = split_list(self.reward_weights)
        for weight in weights:
            try:
                usable = math.isfinite(float(weight))
            except ValueError:
                usable = False
            if not usable:
                raise SettingError(
                    "reward_weights",
                    f"reward_weights {self.reward_weights}: '{weight}' is not a number",
                )
        if weights and len(weights) != self.reward_sources:
            raise SettingError(
                "reward_weights",
                f"reward_weights {self.reward_weights}: {len(weights)} for {self.reward_sources} "
                "reward sources; give one for the reward model (when there is one), then one per "
                "function of reward_funcs, then one per server of reward_url",
            )

    def default_model(self) -> str:
        """The SFT result; ValueError when it is not there."""
        if Path("outputs/sft").is_dir():
            return "outputs/sft"
        raise SettingError("model", "model: outputs/sft does not exist; run sft_train first, or give model")

    def resolved(self) -> Self:
        """A copy with every default filled in; ValueError when there is no reward source."""
        config = super().resolved()
        reward_model = config.reward_model
        if not (reward_model or config.reward_funcs or config.reward_url):
            if not Path("outputs/rm").is_dir():
                raise SettingError(
                    "reward_model",
                    "reward_model: outputs/rm does not exist and reward_funcs is not given; run "
                    "rm_train first, or give reward_model, reward_funcs or reward_url",
                )
            reward_model = "outputs/rm"
        return replace(config, reward_model=reward_model, ref_model=config.ref_model or config.model)
