"""Stages that learn from preferences in files: reward models, DPO and its kin."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.base import DATA, MODEL, OPTIMISATION, PREFERENCE, SettingError, opt
from easyrlhf.config.common_fields import DEFAULT_MODEL, examine_rows, share_prefix
from easyrlhf.config.training import TrainConfig

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
class PreferenceConfig(TrainConfig):
    """What every stage that learns from preferences in files can be told."""

    model: str | None = opt(
        None,
        "Where to start: usually the folder of sft_train.",
        group=DATA,
        metavar="DIR|HUB_ID",
        shown=f"outputs/sft if it exists, else {DEFAULT_MODEL}",
        on_resume=MODEL,
    )
    share_prefix: str = share_prefix()

    def default_model(self) -> str:
        """The SFT result when it is there."""
        return "outputs/sft" if Path("outputs/sft").is_dir() else DEFAULT_MODEL


@dataclass(kw_only=True, frozen=True)
class RMConfig(PreferenceConfig):
    """Settings of reward-model training."""

    stage: ClassVar[str] = "rm"
    learning_rate_full: ClassVar[float] = 9e-6
    learning_rate_lora: ClassVar[float] = 1e-4

    center_rewards_coefficient: float = opt(
        0.0,
        "Weight of a penalty on the squared sum of a pair's two scores, which keeps scores around 0; 0.01 is usual.",
        group=OPTIMISATION,
        low=0,
    )
    examine_rows: int = examine_rows(
        "the doctor looks at in the end; 0 leaves it out, and easyrlhf doctor can follow.", 0
    )


@dataclass(kw_only=True, frozen=True)
class ReferenceConfig(PreferenceConfig):
    """What the methods that compare the policy with a reference can be told."""

    ref_model: str | None = opt(
        None,
        "The reference. Its log-probabilities are computed once and kept, so it takes no memory while training.",
        group=DATA,
        metavar="DIR|HUB_ID",
        shown="model",
        on_resume=MODEL,
    )
    beta: float = opt(
        0.1,
        "How tightly the policy is held to the reference: lower lets it go further. 0.01 to 0.5 is usual.",
        group=PREFERENCE,
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
    learning_rate_full: ClassVar[float] = 5e-7
    learning_rate_lora: ClassVar[float] = 5e-6
    smoothed: ClassVar[tuple[str, ...]] = ("sigmoid", "robust", "exo_pair", "aot")

    loss_type: str = opt(
        "sigmoid",
        "The loss: sigmoid is DPO itself; robust for noisy labels; apo_zero and bco_pair push chosen up and rejected "
        "down each by itself.",
        group=PREFERENCE,
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
    label_smoothing: float = opt(
        0.0, "Share of pairs believed to be labelled the wrong way round.", group=PREFERENCE, low=0, below=0.5
    )
    rpo_alpha: float = opt(
        0.0,
        "Weight of the SFT loss on chosen answers, which keeps their likelihood from falling; 1 in ms-swift.",
        group=PREFERENCE,
        low=0,
    )

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
    learning_rate_full: ClassVar[float] = 5e-7
    learning_rate_lora: ClassVar[float] = 5e-6

    desirable_weight: float = opt(
        1.0,
        "Weight of the loss on liked answers. When they are few, raise it: weight x count of the two kinds should be "
        "between 1 and 4/3 of each other.",
        group=PREFERENCE,
        above=0,
    )
    undesirable_weight: float = opt(1.0, "Weight of the loss on disliked answers.", group=PREFERENCE, above=0)


@dataclass(kw_only=True, frozen=True)
class ORPOConfig(PreferenceConfig):
    """Settings of ORPO, which teaches and aligns at once and may start from a base model."""

    stage: ClassVar[str] = "orpo"
    learning_rate_full: ClassVar[float] = 8e-6
    learning_rate_lora: ClassVar[float] = 8e-5

    beta: float = opt(
        0.1, "Weight of the odds-ratio loss beside the SFT loss; the paper's lambda.", group=PREFERENCE, above=0
    )


@dataclass(kw_only=True, frozen=True)
class SimPOConfig(PreferenceConfig):
    """Settings of SimPO."""

    stage: ClassVar[str] = "simpo"
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5

    beta: float = opt(
        2.0, "Scale of the mean log-probabilities that are compared; 2 to 2.5 in the paper.", group=PREFERENCE, above=0
    )
    simpo_gamma: float = opt(
        1.0, "Margin by which chosen should win; 0.3 to 0.5 of beta in the paper.", group=PREFERENCE, low=0
    )
    cpo_alpha: float = opt(
        0.0, "Weight of the SFT loss on chosen answers; 0 in the paper, 1 in ms-swift.", group=PREFERENCE, low=0
    )


@dataclass(kw_only=True, frozen=True)
class CPOConfig(PreferenceConfig):
    """Settings of CPO."""

    stage: ClassVar[str] = "cpo"
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5

    beta: float = opt(0.1, "Scale of the log-probabilities that are compared.", group=PREFERENCE, above=0)
    cpo_alpha: float = opt(1.0, "Weight of the SFT loss on chosen answers.", group=PREFERENCE, low=0)
    label_smoothing: float = opt(
        0.0, "Share of pairs believed to be labelled the wrong way round.", group=PREFERENCE, low=0, below=0.5
    )


@dataclass(kw_only=True, frozen=True)
class RRHFConfig(PreferenceConfig):
    """Settings of RRHF."""

    stage: ClassVar[str] = "rrhf"
    learning_rate_full: ClassVar[float] = 2e-5
    learning_rate_lora: ClassVar[float] = 2e-4

    rrhf_weight: float = opt(
        1.0, "Weight of the ranking loss beside the SFT loss on the best answer.", group=PREFERENCE, above=0
    )
    length_penalty: float = opt(
        1.0, "Log-probabilities are divided by length to this power before they are ranked.", group=PREFERENCE, low=0
    )
