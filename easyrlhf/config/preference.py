"""Stages that learn from preferences in files: reward models, DPO and its kin."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.base import DATA, MODEL, OPTIMISATION, PREFERENCE, Settings, opt, restate
from easyrlhf.config.common_fields import DEFAULT_MODEL, Examination, SharedPrefix
from easyrlhf.config.training import TrainConfig
from easyrlhf.errors import SettingError

__all__ = [
    "CPOConfig",
    "DPOConfig",
    "IPOConfig",
    "KTOConfig",
    "ORPOConfig",
    "PreferenceConfig",
    "RMConfig",
    "RRHFConfig",
    "ReferenceConfig",
    "SimPOConfig",
]


@dataclass(kw_only=True, frozen=True)
class PreferenceConfig(SharedPrefix, TrainConfig):
    """What every stage that learns from preferences in files can be told."""

    sft_weight: ClassVar[float] = 0.0  # of the SFT loss on chosen answers, beside the preference loss
    matches_batches: ClassVar[bool] = False  # whether the loss compares a batch's margins as a whole

    model: str | None = restate(
        TrainConfig,
        "model",
        "Where to start: usually the folder of sft_train.",
        shown=f"outputs/sft if it exists, else {DEFAULT_MODEL}",
    )

    def default_model(self) -> str:
        """The SFT result when it is there."""
        return "outputs/sft" if Path("outputs/sft").is_dir() else DEFAULT_MODEL


@dataclass(kw_only=True, frozen=True)
class StartedHead(Settings):
    """What becomes of the score head of the model that reward-model training starts from."""

    group: ClassVar[str] = DATA

    value_head: str = opt(
        "keep",
        "The score head to start from: keep goes on with that of model where it is a reward model, new draws one. A "
        "model without a head gets a new one.",
        choices=("keep", "new"),
    )


@dataclass(kw_only=True, frozen=True)
class RMConfig(Examination, StartedHead, PreferenceConfig):
    """Settings of reward-model training."""

    stage: ClassVar[str] = "rm"
    group: ClassVar[str] = OPTIMISATION
    learning_rate_full: ClassVar[float] = 9e-6
    learning_rate_lora: ClassVar[float] = 1e-4

    center_rewards_coefficient: float = opt(
        0.0,
        "Weight of a penalty on the squared sum of a pair's two scores, which keeps scores around 0; 0.01 is usual.",
        low=0,
    )


@dataclass(kw_only=True, frozen=True)
class Reference(Settings):
    """What the policy is compared with."""

    group: ClassVar[str] = DATA

    ref_model: str | None = opt(
        None,
        "The reference. Its log-probabilities are computed once and kept, so it takes no memory while training.",
        metavar="DIR|HUB_ID",
        model=True,
        shown="model",
        on_resume=MODEL,
    )


@dataclass(kw_only=True, frozen=True)
class ReferenceConfig(Reference, PreferenceConfig):
    """What the methods that compare the policy with a reference can be told."""

    group: ClassVar[str] = PREFERENCE

    beta: float = opt(
        0.1,
        "How tightly the policy is held to the reference: lower lets it go further. 0.01 to 0.5 is usual.",
        above=0,
    )

    def resolved(self) -> Self:
        """A copy with every default filled in."""
        config = super().resolved()
        return replace(config, ref_model=config.ref_model or config.model)


@dataclass(kw_only=True, frozen=True)
class DPOConfig(ReferenceConfig):
    """Settings of DPO and the losses of its family."""

    stage: ClassVar[str] = "dpo"
    group: ClassVar[str] = PREFERENCE
    learning_rate_full: ClassVar[float] = 5e-7
    learning_rate_lora: ClassVar[float] = 5e-6
    smoothed: ClassVar[tuple[str, ...]] = ("sigmoid", "robust", "exo_pair", "aot")

    loss_type: str = opt(
        "sigmoid",
        "The loss: sigmoid is DPO itself; robust for noisy labels; apo_zero and bco_pair push chosen up and rejected "
        "down each by itself.",
        choices=(
            "sigmoid",
            "hinge",
            "robust",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "aot",
            "apo_zero",
            "apo_down",
            "discopop",
        ),
    )
    label_smoothing: float = opt(0.0, "Share of pairs believed to be labelled the wrong way round.", low=0, below=0.5)
    rpo_alpha: float = opt(
        0.0,
        "Weight of the SFT loss on chosen answers, which keeps their likelihood from falling; 1 in ms-swift.",
        low=0,
    )

    @property
    def sft_weight(self) -> float:
        """Weight of the SFT loss on chosen answers beside the preference loss."""
        return self.rpo_alpha

    @property
    def matches_batches(self) -> bool:
        """Whether the loss compares a batch's margins as a whole."""
        return self.loss_type == "aot"

    def _check(self) -> None:
        super()._check()
        if self.label_smoothing and self.loss_type not in self.smoothed:
            raise SettingError(
                "label_smoothing",
                f"label_smoothing {self.label_smoothing:g}: loss_type {self.loss_type} does not use it; leave it at 0, "
                f"or take one of {', '.join(self.smoothed)}",
            )
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise SettingError(
                "label_smoothing",
                "label_smoothing 0: loss_type exo_pair divides by it; use a small one such as 0.001",
            )


@dataclass(kw_only=True, frozen=True)
class IPOConfig(ReferenceConfig):
    """Settings of IPO."""

    stage: ClassVar[str] = "ipo"
    learning_rate_full: ClassVar[float] = 5e-7
    learning_rate_lora: ClassVar[float] = 5e-6


@dataclass(kw_only=True, frozen=True)
class KTOConfig(ReferenceConfig):
    """Settings of KTO."""

    stage: ClassVar[str] = "kto"
    group: ClassVar[str] = PREFERENCE
    learning_rate_full: ClassVar[float] = 5e-7
    learning_rate_lora: ClassVar[float] = 5e-6

    desirable_weight: float = opt(
        1.0,
        "Weight of the loss on liked answers. When they are few, raise it: weight x count of the two kinds should be "
        "between 1 and 4/3 of each other.",
        above=0,
    )
    undesirable_weight: float = opt(1.0, "Weight of the loss on disliked answers.", above=0)


@dataclass(kw_only=True, frozen=True)
class ORPOConfig(PreferenceConfig):
    """Settings of ORPO, which teaches and aligns at once and may start from a base model."""

    stage: ClassVar[str] = "orpo"
    group: ClassVar[str] = PREFERENCE
    sft_weight: ClassVar[float] = 1.0
    learning_rate_full: ClassVar[float] = 8e-6
    learning_rate_lora: ClassVar[float] = 8e-5

    beta: float = opt(0.1, "Weight of the odds-ratio loss beside the SFT loss; the paper's lambda.", above=0)


@dataclass(kw_only=True, frozen=True)
class SimPOConfig(PreferenceConfig):
    """Settings of SimPO."""

    stage: ClassVar[str] = "simpo"
    group: ClassVar[str] = PREFERENCE
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5

    beta: float = opt(2.0, "Scale of the mean log-probabilities that are compared; 2 to 2.5 in the paper.", above=0)
    simpo_gamma: float = opt(1.0, "Margin by which chosen should win; 0.3 to 0.5 of beta in the paper.", low=0)
    cpo_alpha: float = opt(0.0, "Weight of the SFT loss on chosen answers; 0 in the paper, 1 in ms-swift.", low=0)

    @property
    def sft_weight(self) -> float:
        """Weight of the SFT loss on chosen answers beside the preference loss."""
        return self.cpo_alpha


@dataclass(kw_only=True, frozen=True)
class CPOConfig(PreferenceConfig):
    """Settings of CPO."""

    stage: ClassVar[str] = "cpo"
    group: ClassVar[str] = PREFERENCE
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5

    beta: float = opt(0.1, "Scale of the log-probabilities that are compared.", above=0)
    cpo_alpha: float = opt(1.0, "Weight of the SFT loss on chosen answers.", low=0)
    label_smoothing: float = opt(0.0, "Share of pairs believed to be labelled the wrong way round.", low=0, below=0.5)

    @property
    def sft_weight(self) -> float:
        """Weight of the SFT loss on chosen answers beside the preference loss."""
        return self.cpo_alpha


@dataclass(kw_only=True, frozen=True)
class RRHFConfig(PreferenceConfig):
    """Settings of RRHF."""

    stage: ClassVar[str] = "rrhf"
    group: ClassVar[str] = PREFERENCE
    learning_rate_full: ClassVar[float] = 2e-5
    learning_rate_lora: ClassVar[float] = 2e-4

    rrhf_weight: float = opt(1.0, "Weight of the ranking loss beside the SFT loss on the best answer.", above=0)
    length_penalty: float = opt(
        1.0, "Log-probabilities are divided by length to this power before they are ranked.", low=0
    )
