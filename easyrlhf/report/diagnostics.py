"""What the numbers of a run say, in plain words: one table of checks, shared by code and docs."""

from collections.abc import Iterable
from dataclasses import fields

from easyrlhf.config import TRAINING
from easyrlhf.report import detectors
from easyrlhf.report.detectors import History, above, below
from easyrlhf.report.metrics import COMPARING, EBFT, GRPO, OFFLINE, ONLINE, PPO, REWARDED
from easyrlhf.report.verdict import SEVERITIES, Check, Finding, Verdict, worst_first


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
PPO_WORDS = {"price": "kl_coef", "target": " or set kl_target", "passes": "num_ppo_epochs", "limit": "response_length"}
GRPO_WORDS = {"price": "beta", "passes": "num_iterations", "limit": "max_completion_length"}
WORDS = {
    "ppo": NOBODYS | PPO_WORDS,
    "grpo": NOBODYS | GRPO_WORDS,
    "ebft": NOBODYS | GRPO_WORDS,
    **{stage: NOBODYS | {"sft_loss": f"{SFT_LOSS} ({name})"} for stage, name in SFT_WEIGHTS.items()},
}
ALL_WORDS = {name: f"{word} (grpo: {GRPO_WORDS[name]})" for name, word in PPO_WORDS.items() if name in GRPO_WORDS}
ALL_WORDS["target"] = f"{PPO_WORDS['target']} (ppo)"
ALL_WORDS["sft_loss"] = f"{SFT_LOSS} ({_who_has(SFT_WEIGHTS)})"

CHECKS: tuple[Check, ...] = (
    Check(
        "NaN or infinity",
        "loss",
        detectors.not_finite("loss", "grad_norm"),
        stages=OFFLINE,
        fires="alarm: loss or grad_norm was NaN or infinite at any step",
        means="The weights have taken a step that no later step repairs.",
        remedy="Lower learning_rate, keep max_grad_norm at 1.0 or below, use precision float32 if it is not, and go "
        "on from the last checkpoint before that step (resume, into another output_dir).",
    ),
    Check(
        "NaN or infinity",
        "loss/policy_avg",
        detectors.not_finite(
            "loss/policy_avg",
            "loss/value_avg",
            "policy/grad_norm",
            "value/grad_norm",
            "objective/kl",
            "objective/scores",
        ),
        stages=REWARDED,
        fires="alarm: a loss, a gradient norm, the KL or the score was NaN or infinite at any step",
        means="The weights have taken a step that no later step repairs, or a reward was not a number.",
        remedy="Look at the samples of that step, lower learning_rate, set reward_clip, and go on from the last "
        "checkpoint before it (resume, into another output_dir).",
    ),
    Check(
        "negative KL",
        "objective/kl",
        below("objective/kl", alarm=-1.0),
        stages=ONLINE,
        fires="warn: recent mean below −0.1 nats; alarm: −1 or lower",
        means="A KL cannot be negative on average over samples of the policy: the sampler and the scorer "
        "disagree about the policy's probabilities.",
        remedy="Sample with plain softmax (no top_k, top_p, min_length or repetition penalty) at the same "
        "temperature that divides the logits when scoring; sample and score in one precision.",
    ),
    Check(
        "sampler mismatch",
        "health/sampler_mismatch",
        above("health/sampler_mismatch", alarm=0.5),
        stages=ONLINE,
        fires="warn: recent mean above 0.05 nats a token; alarm: 0.5 or more",
        means="The probabilities that answers were drawn with are not those the update believes in, so "
        "ratios and KL are wrong from the start.",
        remedy="Sample with plain softmax at the scoring temperature; sample and score in one precision.",
    ),
    Check(
        "exploding KL",
        "objective/kl",
        above("objective/kl", alarm=50.0),
        stages=REWARDED,
        fires="warn: recent mean above 15 nats an answer; alarm: 50 or more",
        means="The policy has left the texts that the reward model was trained on; its scores there mean "
        "little, however high they are.",
        remedy="Raise {price}{target}, lower learning_rate or {passes}, or keep an earlier checkpoint.",
    ),
    Check(
        "oversized updates",
        "policy/clipfrac_avg",
        above("policy/clipfrac_avg", alarm=0.6),
        stages=ONLINE,
        fires="warn: recent mean above 0.3; alarm: 0.6 or more",
        means="Most of the gradient is thrown away by the clip: each update wants to move further than "
        "the samples can vouch for.",
        remedy="Lower learning_rate or {passes}, or raise batch_size.",
    ),
    Check(
        "blind value model",
        "value/explained_variance",
        below("value/explained_variance", enough=2 * detectors.RECENT),
        stages=PPO,
        fires="warn: recent mean below −0.05, after the first 10 steps",
        means="The value model predicts returns worse than their mean would, so advantages are mostly noise.",
        remedy="Raise value_learning_rate, give it a head start with value_warmup_steps, or start it from "
        "the reward model (value_model).",
    ),
    Check(
        "missing EOS",
        "health/eos_rate",
        below("health/eos_rate", alarm=0.5),
        stages=REWARDED,
        fires="warn: recent mean below 0.9; alarm: 0.5 or lower",
        means="Answers run into {limit} instead of ending; the reward is read in mid-sentence.",
        remedy="Raise {limit} or missing_eos_penalty, and train SFT longer: it teaches the policy to end its answers.",
    ),
    Check(
        "repetition",
        "health/repetition",
        above("health/repetition", alarm=0.5),
        stages=REWARDED,
        fires="warn: recent mean above 0.2; alarm: 0.5 or more",
        means="Answers repeat themselves, which some reward models like and no reader does.",
        remedy="Raise {price}, train the reward model on pairs that punish repetition, or add a reward "
        "function that does (reward_funcs).",
    ),
    Check(
        "length hacking",
        "health/reward_length_correlation",
        detectors.length_hacking,
        stages=REWARDED,
        fires="warn: recent mean above 0.5; alarm: and answers are half as long again as at the start",
        means="The score pays for length: the policy earns by writing more, not by answering better.",
        remedy="Check the reward model's accuracy by length gap in its report, balance lengths in the "
        "comparisons, raise {price}, or lower {limit}.",
    ),
    Check(
        "entropy collapse",
        "policy/entropy_avg",
        detectors.entropy_collapse,
        stages=ONLINE,
        fires="warn: below a fifth of its start",
        means="The policy has all but stopped exploring: it writes the same answer every time.",
        remedy="Raise {price}, lower learning_rate, or stop at an earlier step.",
    ),
    Check(
        "flat score",
        "objective/scores",
        detectors.score_not_rising,
        stages=REWARDED,
        fires="at the end; warn: the last quarter's mean is not above the first quarter's (10 steps each at most)",
        means="No answers that score higher have been found.",
        remedy="Raise learning_rate or total_episodes, lower {price}, or raise batch_size; see that the "
        "scores within one step differ at all.",
        live=False,
    ),
    Check(
        "reward saturation",
        "reward/<name>/std",
        detectors.reward_saturation,
        stages=REWARDED,
        fires="warn: of every reward source, a tenth of its start or lower, after the first 20 steps (means over the "
        "first and the last quarter, 10 steps each at most)",
        means="The answers of a step score almost the same, and what is learned from now on is mostly noise: the task "
        "is solved, or the reward cannot tell these answers apart.",
        remedy="Stop here if the samples are good (keep_best finds the step); otherwise use harder prompts or a finer "
        "reward, and see that reward_clip does not cut every score to the same value.",
    ),
    Check(
        "over-optimisation",
        "objective/kl",
        detectors.over_optimisation,
        stages=REWARDED,
        fires="alarm: the score has risen, the recent KL is above 15 nats, and the answers repeat more, end less "
        "often, or the score pays for length, each beyond its own limit and worse than at the start",
        means="The policy earns its score with answers that no reader would prefer.",
        remedy="Go back to a checkpoint before the KL passed 15 nats; raise {price}{target}, and train the "
        "reward model on pairs that punish what the samples show.",
    ),
    Check(
        "equal groups",
        "health/equal_groups",
        above("health/equal_groups"),
        stages=GRPO,
        fires="warn: recent mean above 0.5",
        means="Most prompts get completions that no reward tells apart, and no advantage: they are too easy, too "
        "hard, or the reward is too coarse.",
        remedy="Raise num_generations, set dynamic_sampling, choose other prompts, or use a finer reward.",
    ),
    Check(
        "falling likelihood",
        "logps/chosen",
        detectors.falling_likelihood,
        stages=COMPARING,
        fires="warn: the last quarter's mean (10 steps at most) is 0.5 nats a token below the first's",
        means="Chosen answers have become unlikely as well, only less so than rejected ones: the policy drifts "
        "towards text that is in neither.",
        remedy="Lower learning_rate or epochs, raise beta{sft_loss}.",
    ),
    Check(
        "length-only reward",
        "eval/rewards/accuracies",
        detectors.length_baseline,
        stages=("rm",),
        fires="at the end; warn: not a point above eval/length_baseline_accuracy",
        means="Preferring the longer (or the shorter) answer would do as well: the model may know "
        "nothing else, and PPO will find that out.",
        remedy="Use more pairs, or pairs whose lengths are close; look at the accuracy by length gap.",
        live=False,
    ),
    Check(
        "NaN or infinity",
        "loss/policy_avg",
        detectors.not_finite("loss/policy_avg", "policy/grad_norm", "ebft/cfm"),
        stages=EBFT,
        fires="alarm: the loss, its gradient norm or the distance was NaN or infinite at any step",
        means="The weights have taken a step that no later step repairs.",
        remedy="Lower learning_rate, and go on from the last checkpoint before it (resume, into another output_dir).",
    ),
    Check(
        "missing EOS",
        "health/eos_rate",
        below("health/eos_rate", alarm=0.5),
        stages=EBFT,
        fires="warn: recent mean below 0.9; alarm: 0.5 or lower",
        means="Answers run into {limit} instead of ending, and are compared with demonstrations that do end.",
        remedy="Raise {limit}, train SFT longer, or give ce_coef: it teaches the policy to end its answers.",
    ),
    Check(
        "alike answers",
        "ebft/diversity",
        above("ebft/diversity"),
        stages=EBFT,
        fires="warn: recent mean above 0.95",
        means="The answers to a prompt are all but the same in their features: the policy has lost its variety, or the "
        "features do not tell answers apart.",
        remedy="Raise diversity_coef, set whiten_samples above 0, or lower learning_rate.",
    ),
    Check(
        "no nearer",
        "ebft/cfm",
        detectors.not_nearer,
        stages=EBFT,
        fires="at the end; warn: the last quarter's mean is not below the first quarter's (10 steps each at most)",
        means="The answers have not come nearer to the demonstrations.",
        remedy="Raise learning_rate, num_generations or batch_size, lower {price}, or give ce_coef.",
        live=False,
    ),
    Check(
        "guessing",
        "eval/rewards/accuracies",
        detectors.near_chance,
        stages=("rm",),
        fires="at the end; warn: below 0.55 (without valid_data: rewards/accuracies)",
        means="The model hardly tells chosen from rejected.",
        remedy="Check that chosen and rejected are not swapped or cut to the same text by max_length; "
        "raise learning_rate or epochs; start from an SFT model.",
        live=False,
    ),
    Check(
        "equal scores",
        "eval/ties",
        detectors.ties,
        stages=("rm",),
        fires="warn: above 0.01",
        means="Different answers get the very same score: they are cut to the same tokens, or the precision is too "
        "coarse.",
        remedy="Raise max_length, or score in float32 (precision float32).",
    ),
    Check(
        "overfitting",
        "eval/loss",
        detectors.overfitting,
        stages=OFFLINE,
        fires="warn: eval/loss 2 % (and 0.005) above its best while the training loss has fallen since",
        means="The model learns the training examples by heart and gets worse on others.",
        remedy="Use fewer epochs or more data, lower learning_rate, or train with lora_r; let "
        "keep_best eval/loss leave the weights of the best step.",
    ),
)


def words_of(stage: str) -> dict[str, str]:
    """What fills the braces in the texts of CHECKS, in the words of a stage; for "" in those of all."""
    return WORDS.get(stage, NOBODYS) if stage else ALL_WORDS


def verdicts(stage: str, rows: list[dict]) -> list[Verdict]:
    """One verdict for each check that `stage` has and these rows of metrics.jsonl can answer, the worst first."""
    history = History(rows)
    asked = [(check, check.find(history)) for check in checks_of(stage)]
    words = words_of(stage)
    return worst_first([check.judge(finding, **words) for check, finding in asked if finding is not None])


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
        return [check.judge(finding, **words_of(self._stage)) for check, finding in risen]

    def _is_worse(self, check: Check, finding: Finding) -> bool:
        return SEVERITIES.index(finding.severity) < SEVERITIES.index(self._worst[check])
