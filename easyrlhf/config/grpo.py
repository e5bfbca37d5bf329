"""Settings of GRPO, RLOO and REINFORCE++."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import GRPO, SAMPLING, Settings, opt, restate
from easyrlhf.config.scored import ScoredConfig
from easyrlhf.errors import SettingError


@dataclass(kw_only=True, frozen=True)
class GRPOUpdate(Settings):
    """How GRPO and its relatives learn from a rollout."""

    group: ClassVar[str] = GRPO

    advantage: str = opt(
        "grpo",
        "What a completion is compared with: grpo, the mean of its group; rloo, the mean of the others in its group; "
        "reinforce++, the mean of the batch.",
        choices=("grpo", "rloo", "reinforce++"),
    )
    num_generations: int = opt(
        8,
        "Completions per prompt, one group. More tell good from bad more surely and cost as much more sampling.",
        low=1,
    )
    beta: float = opt(
        0.0,
        "Price of one nat of distance from the reference. grpo pays it in the loss (k3), rloo and reinforce++ in the "
        "reward (k1). 0, the default, as in TRL; 0.04 in the paper.",
        low=0,
    )
    use_bias_correction_kl: bool = opt(
        True,
        "Weight grpo's KL by the probability ratio, without which its gradient belongs to another penalty.",
    )
    loss_type: str = opt(
        "dapo",
        "What grpo averages over: dapo, all tokens of the rollout; bnpo, all tokens of the minibatch; grpo, each "
        "completion first; dr_grpo, completions x max_completion_length.",
        choices=("dapo", "grpo", "dr_grpo", "bnpo"),
    )
    epsilon: float = opt(0.2, "A probability ratio stops paying below 1-X, and above 1+X.", above=0, below=1)
    epsilon_high: float | None = opt(None, "Upper limit apart from the lower; 0.28 in DAPO.", above=0, shown="epsilon")
    scale_rewards: str = opt(
        "group",
        "Divide grpo's advantages by the standard deviation of the group's scores, of the batch's, or by nothing.",
        choices=("group", "batch", "none"),
    )
    multi_objective_aggregation: str = opt(
        "sum_then_normalize",
        "With several rewards: weigh and add them first, or standardize each within its group first (GDPO).",
        choices=("sum_then_normalize", "normalize_then_sum"),
    )
    num_iterations: int = opt(1, "Passes over each rollout.", low=1)
    mask_truncated_completions: bool = opt(False, "Leave completions that were cut off out of the loss (DAPO).")
    soft_punish_cache: int = opt(
        0,
        "Tokens before max_completion_length over which a punishment grows from 0 to -1 (DAPO, eq. 13); 0 for none.",
        low=0,
    )
    dynamic_sampling: int = opt(
        0,
        "Sample again, up to so many times a step, while groups whose completions no reward tells apart leave the "
        "batch short (DAPO); 0 for never.",
        low=0,
    )

    replay_buffer_size: int = opt(
        0,
        "Earlier groups to keep whose scores differed: they take the places of groups whose completions no reward "
        "tells apart, weighted by how likely they are to the policy now (up to importance_cap). 0 for none.",
        low=0,
    )
    replay_max_age: int = opt(50, "Steps after which a group of the replay buffer is let go.", low=1)


@dataclass(kw_only=True, frozen=True)
class CompletionLength(Settings):
    """How long a completion may be."""

    group: ClassVar[str] = SAMPLING

    max_completion_length: int = opt(256, "Longest completion to sample, in tokens.", low=1)


@dataclass(kw_only=True, frozen=True)
class GRPOConfig(CompletionLength, GRPOUpdate, ScoredConfig):
    """Settings of GRPO and its relatives, which compare the completions of one prompt instead of learning values."""

    stage: ClassVar[str] = "grpo"
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5
    limit_name: ClassVar[str] = "max_completion_length"
    kl_name: ClassVar[str] = "beta"

    missing_eos_penalty: float = restate(ScoredConfig, "missing_eos_penalty", default=0.0)

    @property
    def resamples(self) -> int:
        """Rollouts that may be added to a step's first to fill it with groups that teach something."""
        return self.dynamic_sampling

    @property
    def epochs_per_rollout(self) -> int:
        """Passes over each rollout."""
        return self.num_iterations

    @property
    def clip_limits(self) -> tuple[float, float]:
        """How far below and above 1 a probability ratio pays."""
        return self.epsilon, self.epsilon if self.epsilon_high is None else self.epsilon_high

    def _check(self) -> None:
        super()._check()
        if self.num_generations == 1 and self.advantage != "reinforce++":
            raise SettingError(
                "num_generations",
                f"num_generations 1: {self.advantage} compares the completions of a prompt with one another; use 2 or "
                "more, or advantage reinforce++",
            )
        if self.soft_punish_cache > self.max_completion_length:
            raise SettingError(
                "soft_punish_cache",
                f"soft_punish_cache {self.soft_punish_cache}: is longer than max_completion_length "
                f"{self.max_completion_length}; every completion would be punished",
            )
        self._check_grpo_alone()
        self._check_replay()

    def _check_replay(self) -> None:
        if not self.replay_buffer_size:
            return
        if self.advantage == "reinforce++":
            raise SettingError(
                "replay_buffer_size",
                f"replay_buffer_size {self.replay_buffer_size}: keeps groups for groups that teach nothing, and "
                "advantage reinforce++ compares the whole batch; leave it at 0, or use grpo or rloo",
            )
        if self.plays or self.nemo_gym_url:
            raise SettingError(
                "replay_buffer_size",
                f"replay_buffer_size {self.replay_buffer_size}: keeps completions, not episodes of an environment; "
                "leave it at 0",
            )

    def _check_grpo_alone(self) -> None:
        """Settings that one way of computing advantages has, and another would silently ignore."""
        if self.advantage == "grpo":
            if self.multi_objective_aggregation == "normalize_then_sum" and self.reward_clip:
                raise SettingError(
                    "reward_clip",
                    f"reward_clip {self.reward_clip:g}: limits the sum of the rewards, but multi_objective_aggregation "
                    "normalize_then_sum takes each by itself; leave one of the two out",
                )
            return
        for name, default in {
            "loss_type": "dapo",
            "scale_rewards": "group",
            "multi_objective_aggregation": "sum_then_normalize",
            "use_bias_correction_kl": True,
        }.items():
            if getattr(self, name) != default:
                raise SettingError(
                    name, f"{name} {getattr(self, name)}: belongs to advantage grpo, not {self.advantage}"
                )
