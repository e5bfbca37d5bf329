"""What all stages that learn from their own samples can be told."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.answering import check_stop
from easyrlhf.config.base import DATA, MODEL, Settings, opt, restate
from easyrlhf.config.common_fields import DEFAULT_LENGTH, SharedPrefix
from easyrlhf.config.rendering import FinalTurn
from easyrlhf.config.rollout_settings import RolloutLog, Rollouts, RolloutSampling
from easyrlhf.config.sampling import RolloutConfig
from easyrlhf.config.training import TrainConfig
from easyrlhf.errors import SettingError


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
    answers_end: ClassVar[bool] = True  # whether one that is cut off is a fault
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
