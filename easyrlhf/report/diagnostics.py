"""What the numbers of a run say, in plain words: one table of checks, shared by code and docs."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from easyrlhf.config import TRAINING
from easyrlhf.report import detectors
from easyrlhf.report.detectors import Finder, Finding, History, above, below
from easyrlhf.report.metrics import COMPARING, GRPO, OFFLINE, ONLINE, PPO, metric
from easyrlhf.report.stage_view import VIEWS

SEVERITIES = ("alarm", "warn", "ok")


@dataclass(frozen=True)
class Verdict:
    """What one check says of one run; severity is ok, warn or alarm, the remedy is "" when ok."""

    severity: str
    metric: str
    value: float | None
    healthy: str
    message: str
    remedy: str

    @property
    def text(self) -> str:
        """Message and remedy."""
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Check:
    """One row of the diagnostics table.

    name     what it finds, a noun: "No <name>" is the good news
    metric   the metric it is about
    stages   where it applies
    fires    when it fires, in words
    means    what it means
    remedy   what to do
    find     history -> Finding, or None when the history cannot tell
    live     whether it speaks while the run goes on; a check of what came out is for the end

    What a stage calls otherwise than another stands in braces in the last two texts, as in WORDS.
    """

    name: str
    metric: str
    stages: tuple[str, ...]
    fires: str
    means: str
    remedy: str
    find: Finder
    live: bool = True

    def advice(self, stage: str) -> tuple[str, str]:
        """What it means and what to do, in the words of a stage; for "" in those of all."""
        words = WORDS.get(stage, NOBODYS) if stage else ALL_WORDS
        return self.means.format(**words), self.remedy.format(**words)


def _who_has(named: dict[str, str]) -> str:
    """`a of x, b of y and z`, of stage → its setting."""
    stages = {name: [stage for stage, own in named.items() if own == name] for name in named.values()}
    return ", ".join(f"{name} of {' and '.join(having)}" for name, having in stages.items())


# comparing stage → its weight of an SFT loss on chosen answers, where it has one
SFT_WEIGHTS = {
    stage: setting.name
    for stage in COMPARING
    for setting in fields(TRAINING[stage])
    if setting.name in ("rpo_alpha", "cpo_alpha")
}
SFT_LOSS = ", or mix in the SFT loss"
# settings that stages call otherwise, or that only some of them have
NOBODYS = {"price": "", "target": "", "passes": "", "limit": "", "sft_loss": ""}
PPO_WORDS = {
    "price": "kl_coef",
    "target": " or set kl_target",
    "passes": "num_ppo_epochs",
    "limit": "response_length",
}
GRPO_WORDS = {"price": "beta", "passes": "num_iterations", "limit": "max_completion_length"}
WORDS = {
    "ppo": NOBODYS | PPO_WORDS,
    "grpo": NOBODYS | GRPO_WORDS,
    **{stage: NOBODYS | {"sft_loss": f"{SFT_LOSS} ({name})"} for stage, name in SFT_WEIGHTS.items()},
}
ALL_WORDS = {name: f"{word} (grpo: {GRPO_WORDS[name]})" for name, word in PPO_WORDS.items() if name in GRPO_WORDS}
ALL_WORDS["target"] = f"{PPO_WORDS['target']} (ppo)"
ALL_WORDS["sft_loss"] = f"{SFT_LOSS} ({_who_has(SFT_WEIGHTS)})"

CHECKS: tuple[Check, ...] = (
    Check(
        "NaN or infinity",
        "loss",
        OFFLINE,
        "alarm: loss or grad_norm was NaN or infinite at any step",
        "The weights have taken a step that no later step repairs.",
        "Lower learning_rate, keep max_grad_norm at 1.0 or below, use precision float32 if it is not, and go on from "
        "the last checkpoint before that step (resume, into another output_dir).",
        detectors.not_finite("loss", "grad_norm"),
    ),
    Check(
        "NaN or infinity",
        "loss/policy_avg",
        ONLINE,
        "alarm: a loss, a gradient norm, the KL or the score was NaN or infinite at any step",
        "The weights have taken a step that no later step repairs, or a reward was not a number.",
        "Look at the samples of that step, lower learning_rate, set reward_clip, and go on from the last checkpoint "
        "before it (resume, into another output_dir).",
        detectors.not_finite(
            "loss/policy_avg",
            "loss/value_avg",
            "policy/grad_norm",
            "value/grad_norm",
            "objective/kl",
            "objective/scores",
        ),
    ),
    Check(
        "negative KL",
        "objective/kl",
        ONLINE,
        "warn: recent mean below −0.1 nats; alarm: −1 or lower",
        "A KL cannot be negative on average over samples of the policy: the sampler and the scorer "
        "disagree about the policy's probabilities.",
        "Sample with plain softmax (no top_k, top_p, min_length or repetition penalty) at the same "
        "temperature that divides the logits when scoring; sample and score in one precision.",
        below("objective/kl", alarm=-1.0),
    ),
    Check(
        "sampler mismatch",
        "health/sampler_mismatch",
        ONLINE,
        "warn: recent mean above 0.05 nats a token; alarm: 0.5 or more",
        "The probabilities that answers were drawn with are not those the update believes in, so "
        "ratios and KL are wrong from the start.",
        "Sample with plain softmax at the scoring temperature; sample and score in one precision.",
        above("health/sampler_mismatch", alarm=0.5),
    ),
    Check(
        "exploding KL",
        "objective/kl",
        ONLINE,
        "warn: recent mean above 15 nats an answer; alarm: 50 or more",
        "The policy has left the texts that the reward model was trained on; its scores there mean "
        "little, however high they are.",
        "Raise {price}{target}, lower learning_rate or {passes}, or keep an earlier checkpoint.",
        above("objective/kl", alarm=50.0),
    ),
    Check(
        "oversized updates",
        "policy/clipfrac_avg",
        ONLINE,
        "warn: recent mean above 0.3; alarm: 0.6 or more",
        "Most of the gradient is thrown away by the clip: each update wants to move further than "
        "the samples can vouch for.",
        "Lower learning_rate or {passes}, or raise batch_size.",
        above("policy/clipfrac_avg", alarm=0.6),
    ),
    Check(
        "blind value model",
        "value/explained_variance",
        PPO,
        "warn: recent mean below −0.05, after the first 10 steps",
        "The value model predicts returns worse than their mean would, so advantages are mostly noise.",
        "Raise value_learning_rate, give it a head start with value_warmup_steps, or start it from "
        "the reward model (value_model).",
        below("value/explained_variance", enough=2 * detectors.RECENT),
    ),
    Check(
        "missing EOS",
        "health/eos_rate",
        ONLINE,
        "warn: recent mean below 0.9; alarm: 0.5 or lower",
        "Answers run into {limit} instead of ending; the reward is read in mid-sentence.",
        "Raise {limit} or missing_eos_penalty, and train SFT longer: it teaches the policy to end its answers.",
        below("health/eos_rate", alarm=0.5),
    ),
    Check(
        "repetition",
        "health/repetition",
        ONLINE,
        "warn: recent mean above 0.2; alarm: 0.5 or more",
        "Answers repeat themselves, which some reward models like and no reader does.",
        "Raise {price}, train the reward model on pairs that punish repetition, or add a reward "
        "function that does (reward_funcs).",
        above("health/repetition", alarm=0.5),
    ),
    Check(
        "length hacking",
        "health/reward_length_correlation",
        ONLINE,
        "warn: recent mean above 0.5; alarm: and answers are half as long again as at the start",
        "The score pays for length: the policy earns by writing more, not by answering better.",
        "Check the reward model's accuracy by length gap in its report, balance lengths in the "
        "comparisons, raise {price}, or lower {limit}.",
        detectors.length_hacking,
    ),
    Check(
        "entropy collapse",
        "policy/entropy_avg",
        ONLINE,
        "warn: below a fifth of its start",
        "The policy has all but stopped exploring: it writes the same answer every time.",
        "Raise {price}, lower learning_rate, or stop at an earlier step.",
        detectors.entropy_collapse,
    ),
    Check(
        "flat score",
        "objective/scores",
        ONLINE,
        "at the end; warn: the last quarter's mean is not above the first quarter's (10 steps each at most)",
        "No answers that score higher have been found.",
        "Raise learning_rate or total_episodes, lower {price}, or raise batch_size; see that the "
        "scores within one step differ at all.",
        detectors.score_not_rising,
        live=False,
    ),
    Check(
        "reward saturation",
        "reward/<name>/std",
        ONLINE,
        "warn: of every reward source, a tenth of its start or lower, after the first 20 steps (means over the first "
        "and the last quarter, 10 steps each at most)",
        "The answers of a step score almost the same, and what is learned from now on is mostly noise: the task is "
        "solved, or the reward cannot tell these answers apart.",
        "Stop here if the samples are good (keep_best finds the step); otherwise use harder prompts or a finer "
        "reward, and see that reward_clip does not cut every score to the same value.",
        detectors.reward_saturation,
    ),
    Check(
        "over-optimisation",
        "objective/kl",
        ONLINE,
        "alarm: the score has risen, the recent KL is above 15 nats, and the answers repeat more, end less often, or "
        "the score pays for length, each beyond its own limit and worse than at the start",
        "The policy earns its score with answers that no reader would prefer.",
        "Go back to a checkpoint before the KL passed 15 nats; raise {price}{target}, and train the "
        "reward model on pairs that punish what the samples show.",
        detectors.over_optimisation,
    ),
    Check(
        "equal groups",
        "health/equal_groups",
        GRPO,
        "warn: recent mean above 0.5",
        "Most prompts get completions that no reward tells apart, and no advantage: they are too easy, too hard, or "
        "the reward is too coarse.",
        "Raise num_generations, set dynamic_sampling, choose other prompts, or use a finer reward.",
        above("health/equal_groups"),
    ),
    Check(
        "falling likelihood",
        "logps/chosen",
        COMPARING,
        "warn: the last quarter's mean (10 steps at most) is 0.5 nats a token below the first's",
        "Chosen answers have become unlikely as well, only less so than rejected ones: the policy drifts towards text "
        "that is in neither.",
        "Lower learning_rate or epochs, raise beta{sft_loss}.",
        detectors.falling_likelihood,
    ),
    Check(
        "length-only reward",
        "eval/rewards/accuracies",
        ("rm",),
        "at the end; warn: not a point above eval/length_baseline_accuracy",
        "Preferring the longer (or the shorter) answer would do as well: the model may know "
        "nothing else, and PPO will find that out.",
        "Use more pairs, or pairs whose lengths are close; look at the accuracy by length gap.",
        detectors.length_baseline,
        live=False,
    ),
    Check(
        "guessing",
        "eval/rewards/accuracies",
        ("rm",),
        "at the end; warn: below 0.55 (without valid_data: rewards/accuracies)",
        "The model hardly tells chosen from rejected.",
        "Check that chosen and rejected are not swapped or cut to the same text by max_length; "
        "raise learning_rate or epochs; start from an SFT model.",
        detectors.near_chance,
        live=False,
    ),
    Check(
        "equal scores",
        "eval/ties",
        ("rm",),
        "warn: above 0.01",
        "Different answers get the very same score: they are cut to the same tokens, or the precision is too coarse.",
        "Raise max_length, or score in float32 (precision float32).",
        detectors.ties,
    ),
    Check(
        "overfitting",
        "eval/loss",
        OFFLINE,
        "warn: eval/loss 2 % (and 0.005) above its best while the training loss has fallen since",
        "The model learns the training examples by heart and gets worse on others.",
        "Use fewer epochs or more data, lower learning_rate, or train with lora_r; let "
        "keep_best eval/loss leave the weights of the best step.",
        detectors.overfitting,
    ),
)


def verdicts(stage: str, rows: list[dict]) -> list[Verdict]:
    """One verdict for each check that `stage` has and these rows of metrics.jsonl can answer, the worst first."""
    history = History(rows)
    asked = [(check, check.find(history)) for check in checks_of(stage)]
    found = [_judged(stage, check, finding) for check, finding in asked if finding is not None]
    return sorted(found, key=lambda verdict: SEVERITIES.index(verdict.severity))


def checks_of(stage: str) -> list[Check]:
    """The rows of the table that apply to a stage."""
    return [check for check in CHECKS if stage in check.stages]


class Watch:
    """The checks of a run while it goes on.

    rows  what the run has logged before; it counts, and nothing that it showed is told again
    """

    def __init__(self, stage: str, rows: Iterable[dict] = ()):
        self._stage, self._history = stage, History()
        self._worst = {check: "ok" for check in checks_of(stage) if check.live}
        for row in rows:
            self.add(row)

    def add(self, row: dict) -> list[Verdict]:
        """Take in the row of a step; returns the verdicts that are worse than they have ever been in this run."""
        self._history.add(row)
        found = [(check, check.find(self._history)) for check in self._worst]
        risen = [(check, finding) for check, finding in found if finding and self._is_worse(check, finding)]
        self._worst |= {check: finding.severity for check, finding in risen}
        return [_judged(self._stage, check, finding) for check, finding in risen]

    def _is_worse(self, check: Check, finding: Finding) -> bool:
        return SEVERITIES.index(finding.severity) < SEVERITIES.index(self._worst[check])


def alarms(found: list[Verdict]) -> list[str]:
    """The texts of the alarms among verdicts."""
    return [verdict.text for verdict in found if verdict.severity == "alarm"]


def outcome(stage: str, rows: list[dict]) -> str:
    """What came of the run, in one sentence."""
    return VIEWS[stage].outcome(History(rows)) if rows else "No step has been logged yet."


def health(found: list[Verdict], total: int) -> str:
    """How many alarms and warnings there are, and how many of so many checks could be judged."""
    judged, trouble = len(found), trouble_in(found)
    if judged == total:
        return f"{trouble}." if trouble else f"All {total} checks are healthy."
    return f"{trouble or 'No warning'}; {judged} of {total} checks could be judged."


def trouble_in(found: list[Verdict]) -> str:
    """`2 alarms and 1 warning`; "" where there is none."""
    counts = [verdict.severity for verdict in found]
    parts = [_plural(counts.count("alarm"), "alarm"), _plural(counts.count("warn"), "warning")]
    return " and ".join(part for part in parts if part)


def worst(found: list[Verdict]) -> str:
    """The worst severity among verdicts; ok when there is none."""
    return min((verdict.severity for verdict in found), key=SEVERITIES.index, default="ok")


def _judged(stage: str, check: Check, finding: Finding) -> Verdict:
    fired = finding.severity != "ok"
    means, remedy = check.advice(stage)
    name = check.name[0].upper() + check.name[1:] if fired else f"No {check.name}"
    message = f"{name}: {finding.says}." + (f" {means}" if fired else "")
    return Verdict(
        finding.severity,
        check.metric,
        finding.value,
        metric(check.metric).healthy,
        message,
        remedy if fired else "",
    )


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}" if count else ""
