"""What a stage shows of its numbers: in the terminal, in report.html, on its model card, and in one sentence.

A view is a family's (easyrlhf/stage_table.py): a new stage of a family that is there needs nothing here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from easyrlhf.report.detectors import History
from easyrlhf.report.metrics import ALIGN
from easyrlhf.report.outcomes import aligning_outcome, ebft_outcome, online_outcome, rm_outcome, sft_outcome
from easyrlhf.stage_table import COMPARING, KTO, RRHF, STAGES, Stage


class Column(NamedTuple):
    """A column of the console's table."""

    title: str
    width: int
    metric: str


class Curve(NamedTuple):
    """A chart of metrics over steps: the file's name, the title, label → metric, and what to know about it.

    The first metric's healthy range is shaded.
    """

    name: str
    title: str
    lines: dict[str, str]
    caption: str


@dataclass(frozen=True)
class StageView:
    """What is shown of a stage.

    columns      of the console's table
    beside_bar   label and metric of the number beside the progress bar
    key_numbers  label → metric, at the head of report.html
    curves       of report.html, the most telling first
    results      metrics that the model card names
    picture      the curve on the model card
    what         what came out, in a sentence of the model card
    tags         words that the hub finds it by
    outcome      history → what came of the run, in a sentence
    """

    columns: tuple[Column, ...]
    beside_bar: tuple[str, str]
    key_numbers: dict[str, str]
    curves: tuple[Curve, ...]
    results: tuple[str, ...]
    picture: str
    what: str
    tags: tuple[str, ...]
    outcome: Callable[[History], str]


LOSS, GRAD_NORM, RATE = Column("loss", 8, "loss"), Column("grad", 8, "grad_norm"), Column("lr", 9, "learning_rate")
EPOCH, SPEED = Column("epoch", 6, "epoch"), Column("tok/s", 8, "tokens_per_second")
ACCURACY, MARGIN = Column("accuracy", 8, "rewards/accuracies"), Column("margin", 8, "rewards/margins")
LENGTH, SCORE = "length/completion_mean", "objective/scores"
EXPLAINED = Column("expl.var", 8, "value/explained_variance")
GRADIENT_CURVE = Curve("grad_norm", "Gradient norm", {"": "grad_norm"}, "Before clipping.")
LOSSES = {"training": "loss", "held out": "eval/loss"}
BOTH_ACCURACIES = {"training": "rewards/accuracies", "held out": "eval/rewards/accuracies"}

SFT_VIEW = StageView(
    columns=(LOSS, GRAD_NORM, RATE, EPOCH, SPEED),
    beside_bar=("loss", "loss"),
    key_numbers={
        "training loss": "loss",
        "held-out loss": "eval/loss",
        "held-out perplexity": "eval/perplexity",
        "tokens a second": "tokens_per_second",
    },
    curves=(
        Curve("loss", "Loss", LOSSES, "Nats per assistant token."),
        Curve("perplexity", "Held-out perplexity", {"": "eval/perplexity"}, "Lower is better."),
        GRADIENT_CURVE,
        Curve("learning_rate", "Learning rate", {"": "learning_rate"}, "The schedule as it ran."),
    ),
    results=("loss", "eval/loss", "eval/perplexity"),
    picture="loss",
    what="A language model fine-tuned on demonstrations; the loss counted assistant tokens only.",
    tags=("sft",),
    outcome=sft_outcome,
)
RM_VIEW = StageView(
    columns=(LOSS, ACCURACY, MARGIN, GRAD_NORM, RATE, EPOCH, SPEED),
    beside_bar=("loss", "loss"),
    key_numbers={
        "held-out accuracy": "eval/rewards/accuracies",
        "length alone": "eval/length_baseline_accuracy",
        "training accuracy": "rewards/accuracies",
        "held-out margin": "eval/rewards/margins",
        "held-out loss": "eval/loss",
    },
    curves=(
        Curve("loss", "Loss", LOSSES | {"least for the labels": "eval/label_entropy"}, "A coin gets 0.693."),
        Curve(
            "accuracy",
            "Accuracy",
            BOTH_ACCURACIES | {"length alone": "eval/length_baseline_accuracy"},
            "Share of pairs with the chosen answer scored higher; a coin gets 0.5.",
        ),
        Curve(
            "margin",
            "Margin",
            {"training": "rewards/margins", "held out": "eval/rewards/margins"},
            "Chosen minus rejected score.",
        ),
        GRADIENT_CURVE,
    ),
    results=(
        "rewards/accuracies",
        "eval/rewards/accuracies",
        "eval/length_baseline_accuracy",
        "eval/rewards/margins",
        "eval/loss",
    ),
    picture="accuracy",
    what="A reward model: a language model with a scalar head, trained on pairs of a chosen and a rejected answer with "
    "the Bradley-Terry loss.",
    tags=("rm", "reward-model", "rlhf"),
    outcome=rm_outcome,
)
PPO_VIEW = StageView(
    columns=(
        Column("score", 7, SCORE),
        Column("kl", 7, "objective/kl"),
        Column("reward", 7, "objective/rlhf_reward"),
        Column("entropy", 7, "policy/entropy_avg"),
        Column("clip", 5, "policy/clipfrac_avg"),
        EXPLAINED,
        Column("length", 6, LENGTH),
        Column("eos", 5, "health/eos_rate"),
        Column("sec", 6, "time/step"),
    ),
    beside_bar=("score", SCORE),
    key_numbers={
        "score": SCORE,
        "KL, nats an answer": "objective/kl",
        "answer length": LENGTH,
        "answers that end": "health/eos_rate",
        "explained variance": "value/explained_variance",
        "seconds a step": "time/step",
    },
    curves=(
        Curve("score", "Score", {"sampled": SCORE, "held-out prompts": "eval/scores"}, "Mean score of the answers."),
        Curve(
            "kl",
            "KL to the reference",
            {"sampled": "objective/kl", "held-out prompts": "eval/kl"},
            "Nats an answer: how far the policy has moved.",
        ),
        Curve("length", "Answer length", {"mean": LENGTH, "longest": "length/completion_max"}, "Tokens."),
        Curve("eos_rate", "Answers that end", {"": "health/eos_rate"}, "Share with an end of turn."),
        Curve(
            "explained_variance",
            "Value model",
            {"": "value/explained_variance"},
            "Explained variance of the returns; 1 is perfect, 0 is a constant.",
        ),
        Curve(
            "length_correlation",
            "Score against length",
            {"": "health/reward_length_correlation"},
            "Correlation within a step; high and lasting is length hacking.",
        ),
        Curve("entropy", "Entropy", {"": "policy/entropy_avg"}, "Nats a token."),
        Curve("clipfrac", "Clipped updates", {"": "policy/clipfrac_avg"}, "Share of tokens."),
        Curve(
            "losses",
            "Losses",
            {"policy": "loss/policy_avg", "value": "loss/value_avg", "ptx": "loss/ptx_avg"},
            "The policy loss does not fall as a supervised loss does.",
        ),
    ),
    results=(SCORE, "objective/kl", LENGTH, "health/eos_rate", "eval/scores", "eval/kl"),
    picture="reward_kl",
    what="A policy trained with PPO against a reward; a KL penalty held it near its reference. `value_model/` holds "
    "the value model, which only further training needs.",
    tags=("ppo", "rlhf"),
    outcome=lambda history: online_outcome("PPO", history),
)
GRPO_VIEW = replace(  # PPO's without the value model
    PPO_VIEW,
    columns=tuple(Column("equal", 5, "health/equal_groups") if c is EXPLAINED else c for c in PPO_VIEW.columns),
    key_numbers={label: name for label, name in PPO_VIEW.key_numbers.items() if name != EXPLAINED.metric},
    curves=tuple(curve for curve in PPO_VIEW.curves if curve.name != "explained_variance"),
    what="A policy trained with GRPO or a relative: its answers to a prompt were scored and compared with one another.",
    tags=("grpo", "rlhf"),
    outcome=lambda history: online_outcome("GRPO", history),
)
CFM = "ebft/cfm"
EBFT_VIEW = replace(
    GRPO_VIEW,
    columns=(
        Column("cfm", 7, CFM),
        Column("align", 7, "ebft/alignment"),
        Column("alike", 7, "ebft/diversity"),
        Column("kl", 7, "objective/kl"),
        Column("entropy", 7, "policy/entropy_avg"),
        Column("clip", 5, "policy/clipfrac_avg"),
        Column("length", 6, LENGTH),
        Column("eos", 5, "health/eos_rate"),
        Column("sec", 6, "time/step"),
    ),
    beside_bar=("cfm", CFM),
    key_numbers={
        "distance to the demonstrations": CFM,
        "alignment": "ebft/alignment",
        "diversity": "ebft/diversity",
        "held-out alignment": "eval/reward/alignment/mean",
        **{label: name for label, name in GRPO_VIEW.key_numbers.items() if label != "score"},
    },
    curves=(
        Curve("cfm", "Distance to the demonstrations", {"": CFM}, "Squared, between mean features."),
        Curve(
            "alignment",
            "Alignment and diversity",
            {"with the demonstration": "ebft/alignment", "with one another": "ebft/diversity"},
            "Cosines of features. With one another: 1 would be the same answer every time.",
        ),
        *GRPO_VIEW.curves[1:],
    ),
    results=(CFM, "ebft/alignment", "ebft/diversity", "objective/kl", LENGTH, "health/eos_rate"),
    picture="cfm",
    what="A policy trained with EBFT: its answers to a prompt, taken together, were brought near a demonstration, by "
    "what a frozen model makes of them. There was no reward.",
    tags=("ebft",),
    outcome=ebft_outcome,
)
REWARDS = Column("chosen", 8, "rewards/chosen"), Column("rejected", 8, "rewards/rejected")
LIKELIHOODS = Column("chosen", 8, "logps/chosen"), Column("rejected", 8, "logps/rejected")
ALIGNING_COLUMNS = {
    COMPARING: (LOSS, ACCURACY, MARGIN, *LIKELIHOODS, GRAD_NORM, RATE, EPOCH),
    KTO: (LOSS, *REWARDS, MARGIN, Column("kl", 8, "kl"), GRAD_NORM, RATE, EPOCH),
    RRHF: (LOSS, ACCURACY, GRAD_NORM, RATE, EPOCH),
}
ALIGNING_CURVES = (
    Curve("loss", "Loss", LOSSES, "The method's own."),
    Curve("accuracy", "Accuracy", BOTH_ACCURACIES, "Share of pairs whose chosen answer the policy itself prefers."),
    Curve(
        "margin",
        "Implicit rewards",
        {"chosen": "rewards/chosen", "rejected": "rewards/rejected", "margin": "rewards/margins"},
        "Beta times log-ratio or log-probability.",
    ),
    Curve(
        "logps",
        "Likelihood",
        {"chosen": "logps/chosen", "rejected": "logps/rejected"},
        "Nats a token. Both falling steeply is the usual trouble.",
    ),
    Curve("kto_kl", "Reference point", {"": "kl"}, "KTO's estimate of the KL, nats."),
    GRADIENT_CURVE,
)


def aligning_view(stage: Stage) -> StageView:
    """That of a stage that learns from preferences without a reward model."""
    return StageView(
        columns=ALIGNING_COLUMNS[stage.family],
        beside_bar=("loss", "loss"),
        key_numbers={
            "held-out accuracy": "eval/rewards/accuracies",
            "margin": "rewards/margins",
            "loss": "loss",
            "held-out loss": "eval/loss",
            "chosen, nats a token": "logps/chosen",
            "tokens a second": "tokens_per_second",
        },
        curves=ALIGNING_CURVES,
        results=("loss", "eval/loss", "rewards/margins", "eval/rewards/accuracies", "eval/rewards/margins"),
        picture="loss",
        what=f"A policy aligned with {stage.title} on people's preferences, without a reward model.",
        tags=(stage.name, "rlhf"),
        outcome=lambda history: aligning_outcome(stage.title, history),
    )


VIEWS: dict[str, StageView] = {
    "sft": SFT_VIEW,
    "rm": RM_VIEW,
    "ppo": PPO_VIEW,
    "grpo": GRPO_VIEW,
    "ebft": EBFT_VIEW,
    **{name: aligning_view(STAGES[name]) for name in ALIGN},
}


def outcome(stage: str, rows: list[dict]) -> str:
    """What came of the run, in one sentence."""
    return VIEWS[stage].outcome(History(rows)) if rows else "No step has been logged yet."
