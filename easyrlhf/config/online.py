"""What all stages that learn from their own samples can be told."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.answering import check_stop
from easyrlhf.config.base import DATA, LORA, MODEL, Settings, opt, restate
from easyrlhf.config.common_fields import DEFAULT_LENGTH, SharedPrefix
from easyrlhf.config.environment_settings import EnvironmentSettings
from easyrlhf.config.lists import split_list
from easyrlhf.config.rendering import FinalTurn
from easyrlhf.config.reward_settings import RewardSettings
from easyrlhf.config.rollout_settings import Rerolls, RolloutLog, Rollouts, RolloutSampling
from easyrlhf.config.sampling import RolloutConfig
from easyrlhf.config.training import TrainConfig
from easyrlhf.errors import SettingError

ADDRESS = re.compile(r"\S+:[1-9]\d{0,4}")
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
    RolloutLog,
    RolloutSampling,
    Rollouts,
    SharedPrefix,
    FinalTurn,
    ReferenceModel,
    RolloutConfig,
    TrainConfig,
):
    """What every stage that learns from its own samples can be told, whatever it learns from."""

    less_for_completions: ClassVar[str] = ", less where completions need the room"
    limit_name: ClassVar[str]  # the setting that bounds a completion
    kl_name: ClassVar[str]  # the setting that prices distance from the reference
    imitates: ClassVar[bool] = False  # whether completions are compared with demonstrations in place of being scored
    reward_model: ClassVar[str | None] = None  # with the next two of the stages that are scored
    reward_funcs: ClassVar[str | None] = None
    plays: ClassVar[bool] = False
    reroll_max_groups: ClassVar[int] = 0
    replay_buffer_size: ClassVar[int] = 0  # a setting of GRPO
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
    def sharing(self) -> str:
        """How prompts are shared, as completion_states takes it."""
        return self.share_prefix

    @property
    def kl_price(self) -> float:
        """What a nat of distance from the reference costs."""
        return getattr(self, self.kl_name)

    @property
    def own_reference(self) -> bool:
        """Whether the reference, where there is one, is the policy with its adapter off."""
        return bool(self.lora_r) and self.ref_model in (None, self.model)

    @property
    def holds_reference(self) -> bool:
        """Whether a frozen model of its own is held to be asked."""
        return not self.own_reference and (self.imitates or self.kl_measured != "never")

    @property
    def kl_measured(self) -> str:
        """When the reference is asked: step, eval or never."""
        if self.measure_kl != "auto":
            return self.measure_kl
        if self.kl_price or self.imitates:
            return "step"
        return "eval" if self.own_reference or self.ref_model not in (None, self.model) else "never"

    def _check(self) -> None:
        super()._check()
        self._check_batches()
        self._check_parts()
        check_stop(self.stop, self.stop_finishes)
        self._check_reference()
        self._check_room()

    def _check_batches(self) -> None:
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

    def _check_parts(self) -> None:
        if self.load_in_4bit and self.uses_vllm:
            raise SettingError(
                "load_in_4bit",
                "load_in_4bit true: rollout vllm samples from the base in its own precision, which is another policy "
                "than the one that is trained; use rollout hf, or leave it out",
            )
        if self.lora_dropout:
            raise SettingError(
                "lora_dropout",
                f"lora_dropout {self.lora_dropout:g}: the policy is compared with itself before the update, and "
                "dropout makes that two policies; leave it at 0",
            )

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

    def _check_room(self) -> None:
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

    def default_model(self) -> str:
        """The SFT result; ValueError when it is not there."""
        if Path("outputs/sft").is_dir():
            return "outputs/sft"
        raise SettingError("model", "model: outputs/sft does not exist; run sft_train first, or give model")

    def resolved(self) -> Self:
        """A copy with every default filled in."""
        config = super().resolved()
        return replace(config, ref_model=config.ref_model or config.model)


@dataclass(kw_only=True, frozen=True)
class ScoredConfig(OneBackbone, EnvironmentSettings, Rerolls, RewardSettings, OnlineConfig):
    """What a stage can be told whose samples are scored by rewards; PPO and GRPO add their own settings."""

    def _check(self) -> None:
        super()._check()
        self._check_backbone()
        self._check_environment()
        self._check_rerolls()
        self._check_rewards()

    def _check_rerolls(self) -> None:
        groups = self.batch_size // self.num_generations
        if self.reroll_max_groups > groups:
            raise SettingError(
                "reroll_max_groups",
                f"reroll_max_groups {self.reroll_max_groups}: a rollout has {groups} prompts (batch_size "
                f"{self.batch_size} / num_generations {self.num_generations}); use {groups} or fewer",
            )
        if self.reroll_max_groups and self.rollout_ahead:
            raise SettingError(
                "reroll_max_groups",
                f"reroll_max_groups {self.reroll_max_groups}: with rollout_ahead the next prompts are asked before it "
                "is known which have failed; leave one of the two out",
            )

    def _check_backbone(self) -> None:
        if self.share_backbone and not self.lora_r:
            raise SettingError("share_backbone", "share_backbone: the parts are LoRA adapters; give lora_r, such as 16")
        if self.share_backbone and self.ref_model not in (None, self.model):
            raise SettingError(
                "ref_model",
                f"ref_model {self.ref_model}: with share_backbone the reference is the policy without its adapter; "
                "leave one of the two out",
            )

    def _check_environment(self) -> None:
        if self.plays and self.colocates_vllm and self.vllm_tensor_parallel_size > 1:
            raise SettingError(
                "vllm_tensor_parallel_size",
                f"vllm_tensor_parallel_size {self.vllm_tensor_parallel_size}: episodes of an environment are played by "
                "each process for itself, and colocated processes that share a copy of the model sample together; "
                "leave it at 1, or use vllm_mode server or rollout hf",
            )

    def _check_rewards(self) -> None:
        for url in split_list(self.reward_url):
            if not REWARD_URL.fullmatch(url):
                raise SettingError("reward_url", f"reward_url {url}: must look like http://host:port or https://…")
        self._check_nemo_gym()
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
                "function of reward_funcs, then one per server of reward_url, then one for nemo_gym_url",
            )

    def _check_nemo_gym(self) -> None:
        url = self.nemo_gym_url
        for name, what in (("nemo_gym_server", "is one of"), ("nemo_gym_policy", "is for the agents behind")):
            if url is None and self.value(name):
                raise SettingError(name, f"{name} {self.value(name)}: {what} nemo_gym_url, which is not given")
        if self.nemo_gym_policy and not ADDRESS.fullmatch(self.nemo_gym_policy):
            raise SettingError(
                "nemo_gym_policy", f"nemo_gym_policy {self.nemo_gym_policy}: must look like 127.0.0.1:8000"
            )
        if url is not None and not REWARD_URL.fullmatch(url):
            raise SettingError("nemo_gym_url", f"nemo_gym_url {url}: must look like http://host:port or https://…")
        if url is not None and self.plays:
            raise SettingError(
                "nemo_gym_url",
                f"nemo_gym_url {url}: its servers have tools of their own, and verify what was done with those; leave "
                "environment and tools out",
            )

    def resolved(self) -> Self:
        """A copy with every default filled in; ValueError when there is no reward source."""
        config = super().resolved()
        if config.reward_model or config.scored_elsewhere or config.environment:
            return config
        if not Path("outputs/rm").is_dir():
            raise SettingError(
                "reward_model",
                "reward_model: outputs/rm does not exist and reward_funcs is not given; run "
                "rm_train first, or give reward_model, reward_funcs or reward_url",
            )
        return replace(config, reward_model="outputs/rm")
