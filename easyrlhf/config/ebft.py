"""Settings of EBFT."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from easyrlhf.config.base import EBFT, Settings, opt, restate
from easyrlhf.config.common_fields import DEFAULT_LENGTH, filled_lengths
from easyrlhf.config.grpo import CompletionLength
from easyrlhf.config.lists import split_list
from easyrlhf.config.online import OnlineConfig
from easyrlhf.errors import SettingError


def wrong_depth(depth: str) -> str | None:
    """What is wrong with a depth; None where nothing is."""
    try:
        usable = 0 < float(depth) <= 1
    except ValueError:
        usable = False
    return None if usable else "is no share of the model's depth; give numbers above 0, up to 1, such as 0.25,0.5,0.75"


@dataclass(kw_only=True, frozen=True)
class EBFTUpdate(Settings):
    """What completions are compared by, and how EBFT learns from a rollout."""

    group: ClassVar[str] = EBFT

    ebft_mode: str = opt(
        "structured",
        "What is completed: structured, what stands before the last answer of a demonstration; stride, plain texts, "
        "each from many places on.",
        choices=("structured", "stride"),
    )
    stride: int = opt(8, "Tokens from one place that a text is continued from to the next, in stride mode.", low=1)
    context_length: int = opt(8, "Tokens of a text before the first such place.", low=1)
    generate_length: int = opt(
        8, "Tokens that a text is continued by, in stride mode; fewer where the end of the text is drawn.", low=1
    )
    num_generations: int = opt(
        4, "Completions per prompt, one group. More estimate better how the policy answers on the average.", low=2
    )
    alignment_coef: float = opt(1.0, "What being near the demonstration counts for.", low=0)
    diversity_coef: float = opt(
        1.0,
        "What being unlike the other completions counts for. 1 makes the policy as varied as the demonstrations; 0 "
        "lets it fall for the one answer that is nearest to them.",
        low=0,
    )
    ce_coef: float = opt(
        0.0,
        "Weight of the cross-entropy of the demonstrations, as of sft_train, beside; 0.03 to 0.1 in the paper.",
        low=0,
    )
    feature_depths: str = opt(
        "0.25,0.5,0.75",
        "The layers whose states are the features, as shares of the depth of the start model.",
        metavar="X[,…]",
        many=True,
        wrong=wrong_depth,
    )
    feature_pooling: str = opt(
        "last",
        "Which states of a layer: that of the last token, or the mean over the completion.",
        choices=("last", "mean"),
    )
    whiten_samples: int = opt(
        256,
        "Demonstrations, and as many answers of the start model, from which it is measured, once, how features vary: "
        "they are compared in that measure. 0 compares them as they are, and mostly nothing is learned then.",
        low=0,
    )
    whiten_epsilon: float = opt(
        0.01, "What directions in which features hardly vary count for, of the largest variance.", above=0, high=1
    )
    beta: float = opt(0.0, "Price of one nat of distance from the reference, paid by the whole completion.", low=0)
    epsilon: float = opt(
        0.2, "The probability ratio of a completion stops paying outside [1-X, 1+X].", above=0, below=1
    )
    num_iterations: int = opt(1, "Passes over each rollout.", low=1)


@dataclass(kw_only=True, frozen=True)
class EBFTConfig(CompletionLength, EBFTUpdate, OnlineConfig):
    """Settings of EBFT, which compares completions with demonstrations: there are no rewards, and no environment."""

    stage: ClassVar[str] = "ebft"
    learning_rate_full: ClassVar[float] = 1e-6
    learning_rate_lora: ClassVar[float] = 1e-5
    kl_name: ClassVar[str] = "beta"
    imitates: ClassVar[bool] = True
    mask_truncated_completions: ClassVar[bool] = False  # a setting of GRPO

    train_data: str | None = restate(
        OnlineConfig,
        "train_data",
        "Demonstrations, in any format sft_train reads; the last answer of each is compared.",
    )

    @property
    def strides(self) -> bool:
        """Whether plain texts are continued from many places."""
        return self.ebft_mode == "stride"

    @property
    def answers_end(self) -> bool:
        """Whether a completion that is cut off is a fault: a piece of a text is no answer."""
        return not self.strides

    @property
    def limit_name(self) -> str:
        """The setting that bounds a completion."""
        return "generate_length" if self.strides else "max_completion_length"

    @property
    def sharing(self) -> str:
        """How prompts are shared: those of a text are beginnings of one another."""
        return "trees" if self.strides and self.share_prefix != "off" else self.share_prefix

    @property
    def epochs_per_rollout(self) -> int:
        """Passes over each rollout."""
        return self.num_iterations

    @property
    def clip_limits(self) -> tuple[float, float]:
        """How far below and above 1 a probability ratio pays."""
        return self.epsilon, self.epsilon

    @property
    def depths(self) -> tuple[float, ...]:
        """The shares of the depth."""
        return tuple(float(one) for one in split_list(self.feature_depths))

    @property
    def ptx_coef(self) -> float:
        """What the demonstrations' cross-entropy counts for."""
        return self.ce_coef

    def _check(self) -> None:
        super()._check()
        if not (self.alignment_coef or self.diversity_coef):
            raise SettingError("alignment_coef", "alignment_coef 0 and diversity_coef 0: nothing would be learned")
        if self.whiten_samples == 1:
            raise SettingError("whiten_samples", "whiten_samples 1: tells no variance; use 64 or more, or 0 for none")
        if self.context_parallel_size > 1:
            raise SettingError(
                "context_parallel_size",
                f"context_parallel_size {self.context_parallel_size}: ebft compares features of whole rows, which "
                "several processes cannot share; leave it out",
            )
        self._check_mode()

    def _check_mode(self) -> None:
        idle = ["max_completion_length"] if self.strides else ["stride", "context_length", "generate_length"]
        for name in idle:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise SettingError(
                    name,
                    f"{name} {getattr(self, name)}: means nothing with ebft_mode {self.ebft_mode}; "
                    + ("use generate_length" if self.strides else "add ebft_mode stride, or leave it out"),
                )
        longest, shortest = self.max_length or DEFAULT_LENGTH, self.context_length + self.taken_length
        if self.strides and shortest > longest:
            raise SettingError(
                "context_length",
                f"context_length {self.context_length}: with generate_length {self.generate_length} no text of "
                f"max_length {longest} has a place to go on from; use max_length {shortest} or more, or lower it",
            )
        if self.strides and self.context_length > (self.max_prompt_length or self.context_length):
            raise SettingError(
                "context_length",
                f"context_length {self.context_length}: is more than max_prompt_length {self.max_prompt_length}, so no "
                "text has a place to go on from; lower it, or leave max_prompt_length out",
            )

    def with_lengths(self, places: int | None) -> Self:
        """As of every stage; a text may be a prompt as far as its last block, unless told otherwise."""
        lengths = filled_lengths(self, places, self.taken_length)
        if self.strides and not self.max_prompt_length:
            lengths["max_prompt_length"] = max(1, lengths["max_length"] - self.taken_length)
        return replace(self, **lengths)
