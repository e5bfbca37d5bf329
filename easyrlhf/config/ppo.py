"""Settings of PPO."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from easyrlhf.config.base import DATA, MODEL, PPO, REWARDS, ROWS, SAMPLING, Settings, opt, restate
from easyrlhf.config.scored import ScoredConfig
from easyrlhf.errors import SettingError


@dataclass(kw_only=True, frozen=True)
class ValueModel(Settings):
    """What predicts the return."""

    group: ClassVar[str] = DATA

    value_model: str | None = opt(
        None,
        "Where the value model starts. The default needs the policy's tokenizer, else the policy "
        "itself with a new head is taken.",
        metavar="DIR",
        model=True,
        shown="reward_model",
        on_resume=MODEL,
    )


@dataclass(kw_only=True, frozen=True)
class PPORewards(Settings):
    """What PPO alone does with rewards."""

    group: ClassVar[str] = REWARDS

    whiten_rewards: bool = opt(
        False,
        "Divide the rewards of a rollout by their standard deviation, without shifting them: the mean is divided too, "
        "which TRL's setting of this name keeps. Advantages are standardised in any case.",
    )


@dataclass(kw_only=True, frozen=True)
class PPOUpdate(Settings):
    """How PPO learns from a rollout."""

    group: ClassVar[str] = PPO

    num_ppo_epochs: int = opt(4, "Passes over each rollout. More learn faster and drift further.", low=1)
    kl_coef: float = opt(
        0.05,
        "Price of one nat of distance from the reference, paid per token. Raise it when KL runs "
        "away or answers turn odd; 0.01 to 0.2 is usual.",
        low=0,
    )
    kl_target: float | None = opt(
        None,
        "Adapt kl_coef so that the KL of a completion stays near this many nats; 6 is the classic choice.",
        above=0,
        shown="off",
    )
    kl_estimator: str = opt(
        "k1",
        "Estimate of KL inside the reward: k1 is unbiased; k3 (as TRL offered) pulls towards a different objective.",
        choices=("k1", "k3"),
    )
    cliprange: float = opt(
        0.2,
        "A token's probability ratio stops paying outside [1-X, 1+X].",
        above=0,
        below=1,
    )
    cliprange_value: float = opt(
        0.2,
        "A value may move this far from its old prediction per rollout, in units of the score.",
        above=0,
    )
    vf_coef: float = opt(0.1, "Weight of the value model's loss.", low=0)
    gamma: float = opt(1.0, "Discount per token; 1 for texts.", low=0, high=1)
    lam: float = opt(
        0.95,
        "GAE's lambda: 1 trusts the sampled return, 0 the value model; 0.95 is usual.",
        low=0,
        high=1,
    )
    value_learning_rate: float | None = opt(
        None, "Peak learning rate of the value model.", above=0, shown="learning_rate"
    )
    value_warmup_steps: int = opt(
        0,
        "Rollouts at the start that train the value model alone; 10 to 50 help a new value head.",
        low=0,
    )
    ptx_coef: float = opt(
        0.0,
        "Weight of the SFT loss on ptx_data in each update, against forgetting.",
        low=0,
    )
    ptx_data: str | None = opt(
        None,
        "Demonstrations for ptx_coef, in any format sft_train reads.",
        metavar="FILE[,…]",
        many=True,
        on_resume=ROWS,
    )


@dataclass(kw_only=True, frozen=True)
class ResponseLength(Settings):
    """How long a completion may be."""

    group: ClassVar[str] = SAMPLING

    response_length: int = opt(128, "Longest completion to sample, in tokens.", low=1)


@dataclass(kw_only=True, frozen=True)
class PPOConfig(ResponseLength, PPOUpdate, PPORewards, ValueModel, ScoredConfig):
    """Settings of PPO."""

    stage: ClassVar[str] = "ppo"
    learning_rate_full: ClassVar[float] = 3e-6
    learning_rate_lora: ClassVar[float] = 1e-5
    limit_name: ClassVar[str] = "response_length"
    kl_name: ClassVar[str] = "kl_coef"
    learns_values: ClassVar[bool] = True

    adam_eps: float = restate(
        ScoredConfig, "adam_eps", "Epsilon in AdamW's denominator; PPO likes it large.", default=1e-5
    )

    def _check(self) -> None:
        super()._check()
        if self.kl_target and not self.kl_coef:
            raise SettingError(
                "kl_target",
                f"kl_target {self.kl_target:g}: multiplies kl_coef, and 0 stays 0; give kl_coef a start such as 0.05",
            )
        if bool(self.ptx_coef) != bool(self.ptx_data):
            raise SettingError(
                "ptx_data" if self.ptx_data else "ptx_coef",
                f"ptx_coef {self.ptx_coef:g} with ptx_data {self.ptx_data or 'none'}: give both or neither",
            )

    @property
    def epochs_per_rollout(self) -> int:
        """Passes over each rollout."""
        return self.num_ppo_epochs

    @property
    def clip_limits(self) -> tuple[float, float]:
        """How far below and above 1 a probability ratio pays."""
        return self.cliprange, self.cliprange

    def resolved(self) -> Self:
        """A copy with every default filled in; ValueError when there is no reward source."""
        config = super().resolved()
        return replace(config, value_learning_rate=config.value_learning_rate or config.learning_rate)
