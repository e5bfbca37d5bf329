"""The one vocabulary of metrics: each name in metrics.jsonl, its meaning, its healthy range.

`python scripts/metrics_page.py` writes docs/metrics.md from this table and the diagnostics.
"""

from dataclasses import dataclass

from easyrlhf import stage_table
from easyrlhf.stage_table import of_families

COMPARING = of_families(stage_table.COMPARING)
ALIGN = of_families(*stage_table.ALIGNING)
OFFLINE = ("sft", "rm", *ALIGN)
SCORED = ("rm", *COMPARING, "kto")  # stages that give chosen and rejected answers a number
PAIRED = ("rm", *COMPARING)  # stages that learn from pairs, whose labels may be soft
RANKING = ("rm", *COMPARING, "rrhf")  # stages that tell whether chosen beats rejected
PPO, GRPO, EBFT = ("ppo",), ("grpo",), ("ebft",)
REWARDED = PPO + GRPO  # stages whose samples are scored by rewards
ONLINE = REWARDED + EBFT
EVERY = OFFLINE + ONLINE


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    meaning  one sentence, with the unit and the averaging
    stages   the stages that log it
    healthy  the healthy range in words; "" when no value is unhealthy by itself
    low      below this the number deserves a look (None: no bound)
    high     above this the number deserves a look (None: no bound)
    format   format spec for showing the number to people
    better   high or low, where --keep_best can go by it; "" where it cannot
    """

    meaning: str
    stages: tuple[str, ...]
    healthy: str = ""
    low: float | None = None
    high: float | None = None
    format: str = ".4g"
    better: str = ""


METRICS: dict[str, Metric] = {
    # the run
    "epoch": Metric("Passes over the training data so far.", EVERY, format=".2f"),
    "episode": Metric("Completions sampled so far.", ONLINE, format=".0f"),
    "tokens_per_second": Metric("Training tokens handled per second of wall time.", EVERY, format=",.0f"),
    "time/step": Metric("Seconds for the whole step.", EVERY, format=".2f"),
    "time/eval": Metric("Seconds for the evaluation.", EVERY, format=".2f"),
    "time/rollout": Metric("Seconds of the step spent sampling completions.", ONLINE, format=".2f"),
    "time/score": Metric(
        "Seconds of the step spent on rewards, reference log-probabilities and values.",
        ONLINE,
        format=".2f",
    ),
    "time/update": Metric("Seconds of the step spent on gradient steps.", ONLINE, format=".2f"),
    # optimisation
    "loss": Metric(
        "Training loss: nats per assistant token (sft); −log σ(chosen − rejected) a pair (rm); else the method's own.",
        OFFLINE,
        "falls, then flattens; a reward model and DPO start at ln 2 = 0.693",
    ),
    "learning_rate": Metric("Learning rate of this step.", OFFLINE, format=".3g"),
    "grad_norm": Metric(
        "Norm of the gradient before clipping at max_grad_norm.",
        OFFLINE,
        "steady; a lasting rise comes before a diverging loss",
    ),
    "policy/learning_rate": Metric("Learning rate of the policy.", ONLINE, format=".3g"),
    "value/learning_rate": Metric("Learning rate of the value model.", PPO, format=".3g"),
    "policy/grad_norm": Metric(
        "Norm of the policy's gradient before clipping, mean over the step's updates.",
        ONLINE,
        "steady",
    ),
    "value/grad_norm": Metric(
        "Norm of the value model's gradient before clipping, mean over the step's updates.",
        PPO,
        "steady",
    ),
    "loss/policy_avg": Metric(
        "Clipped policy loss a token, mean over the step's updates.",
        ONLINE,
        "near 0 and noisy; it does not fall as a supervised loss does",
    ),
    "loss/value_avg": Metric(
        "Clipped value loss a token, mean over the step's updates.",
        PPO,
        "falls in the first steps, then follows the spread of the scores",
    ),
    "loss/ptx_avg": Metric(
        "Language-model loss on ptx_data in nats a token, mean over the step's updates.",
        PPO,
        "flat: PPO is not unlearning what SFT taught",
    ),
    # lengths, in tokens
    "length/mean": Metric("Mean tokens of an example (both answers of a pair).", OFFLINE, format=".1f"),
    "length/max": Metric("Tokens of the longest example of the step.", OFFLINE, format=".0f"),
    "length/prompt_mean": Metric("Mean tokens of a prompt.", ONLINE, format=".1f"),
    "length/completion_mean": Metric(
        "Mean tokens of a sampled completion.",
        ONLINE,
        "steady, or changing with a reason; steady growth beside a rising score is length hacking",
        format=".1f",
    ),
    "length/completion_max": Metric(
        "Tokens of the longest sampled completion.", ONLINE, "below the longest allowed", format=".0f"
    ),
    # reward model
    "rewards/chosen": Metric(
        "Mean score of the chosen answers; without a reward model, beta x their log-ratio or log-probability.",
        SCORED,
        format="+.3f",
    ),
    "rewards/rejected": Metric("Mean score of the rejected answers.", SCORED, format="+.3f"),
    "rewards/margins": Metric("Mean of chosen minus rejected score.", SCORED, "above 0 and rising", format="+.3f"),
    "logps/chosen": Metric(
        "Log-probability a token of the chosen answers under the policy, mean over pairs, in nats.",
        COMPARING,
        "rises, or falls a little; a steep fall means that good answers become unlikely too",
        format="+.3f",
    ),
    "logps/rejected": Metric(
        "The same of the rejected answers.", COMPARING, "falls, and further than logps/chosen", format="+.3f"
    ),
    "kl": Metric(
        "KTO's reference point: log policy − log reference of mismatched answers, mean over the batch, at least 0.",
        ("kto",),
        "below 10",
        high=10.0,
        format=".3f",
    ),
    "cross_entropy": Metric(
        "Nats that labels cost where σ(rewards/margins) is claimed of them. Only where rows have a chosen_probability.",
        PAIRED,
        "falls towards label_entropy",
        format=".3f",
    ),
    "label_entropy": Metric(
        "Mean entropy of the labels in nats, below which no model can bring the cross-entropy; logged beside it.",
        PAIRED,
        format=".3f",
    ),
    "rewards/accuracies": Metric(
        "Share of training pairs with chosen scored above rejected; equal scores count one half, pairs that are "
        "labelled a tie do not.",
        RANKING,
        "above 0.55; close to 1 on training data only means the pairs are learned by heart",
        low=0.55,
        format=".3f",
    ),
    # PPO: what is optimised
    "objective/scores": Metric(
        "Mean score of the completions, as reward model and reward functions gave it.",
        ONLINE,
        "rises, then flattens",
        format="+.3f",
    ),
    "objective/kl": Metric(
        "Sum over a completion of log policy − log reference, mean over completions, in nats; absent where the "
        "reference is not asked (measure_kl).",
        ONLINE,
        "starts at 0, rises slowly, stays below about 15; never negative on average",
        low=-0.1,
        high=15.0,
        format="+.3f",
    ),
    "objective/non_score_reward": Metric(
        "−kl_coef (or beta) × KL summed over a completion: the part of the objective that is not the score; absent as "
        "objective/kl.",
        ONLINE,
        "below 0, and small beside the score",
        format="+.3f",
    ),
    "objective/rlhf_reward": Metric("Score plus non_score_reward: what is maximised.", ONLINE, "rises", format="+.3f"),
    "objective/entropy": Metric(
        "Sum over a completion of −log policy, mean over completions, in nats.",
        ONLINE,
        "falls slowly",
        format=".3f",
    ),
    "kl_coef": Metric("Price of a nat of distance (kl_coef or beta); it moves when kl_target is set.", ONLINE),
    # PPO: how the update goes
    "policy/entropy_avg": Metric(
        "Entropy of the next-token distribution, mean over tokens and updates, in nats.",
        ONLINE,
        "falls slowly; a fall to a fifth of its start is a collapse",
        format=".3f",
    ),
    "policy/approxkl_avg": Metric(
        "Half the mean squared log-ratio of the updated to the sampling policy, a token.",
        ONLINE,
        "0.001 to 0.05",
        high=0.1,
    ),
    "policy/clipfrac_avg": Metric(
        "Share of tokens whose probability ratio left the range in which it pays.",
        ONLINE,
        "0.01 to 0.3",
        high=0.3,
        format=".3f",
    ),
    "val/clipfrac_avg": Metric(
        "Share of tokens whose value was clipped at cliprange_value.", PPO, "below 0.5", high=0.5
    ),
    "val/ratio": Metric(
        "Mean probability ratio of the updated to the sampling policy.",
        ONLINE,
        "0.9 to 1.1",
        low=0.9,
        high=1.1,
        format=".3f",
    ),
    "val/ratio_var": Metric(
        "Variance of that ratio over the tokens of the step's updates.", ONLINE, "below 0.1", high=0.1
    ),
    "val/num_eos_tokens": Metric("Completions of the step that ended by themselves.", ONLINE),
    "value/explained_variance": Metric(
        "1 − Var(return − value) / Var(return) over the tokens of the step.",
        PPO,
        "above 0 after the first steps, 0.3 to 0.9 later",
        low=-0.05,
        format="+.3f",
    ),
    # PPO: health of the answers
    "health/eos_rate": Metric(
        "Share of completions that ended by themselves within the longest allowed.",
        ONLINE,
        "above 0.9",
        low=0.9,
        format=".3f",
    ),
    "health/repetition": Metric(
        "Share of a completion's 4-grams that occurred in it before, mean over completions.",
        ONLINE,
        "below 0.2; compare with the first steps",
        high=0.2,
        format=".3f",
    ),
    "health/reward_length_correlation": Metric(
        "Pearson correlation of score and completion length over the step; null when undefined.",
        ONLINE,
        "−0.5 to 0.5",
        low=-0.5,
        high=0.5,
        format="+.3f",
    ),
    "health/sampler_mismatch": Metric(
        "Mean |log-probability when sampled − log-probability when scored|, a token, in nats.",
        ONLINE,
        "below 0.001 in float32, below 0.05 in bf16",
        high=0.05,
    ),
    "health/staleness": Metric(
        "Updates between the weights that a completion was drawn with and the policy that learns from it, mean.",
        ONLINE,
        "0; rollout_ahead, or up to vllm_sync_interval − 1, where these are set",
        format=".2f",
    ),
    "health/importance_mean": Metric(
        "Mean importance weight of the tokens that vLLM sampled, after truncation.",
        ONLINE,
        "near 1; 0.9 to 1.1",
        low=0.9,
        high=1.1,
        format=".3f",
    ),
    "health/importance_capped": Metric(
        "Share of tokens whose importance weight was cut to importance_cap.",
        ONLINE,
        "below 0.01",
        high=0.01,
        format=".4f",
    ),
    "policy/off_policy_masked": Metric(
        "Share of tokens left out because their completion has left the policy behind; see off_policy_mask_threshold.",
        ONLINE,
        "below 0.1",
        high=0.1,
        format=".3f",
    ),
    "health/equal_groups": Metric(
        "Share of prompts whose completions all get advantage 0: no reward tells them apart.",
        GRPO + EBFT,
        "below 0.5",
        high=0.5,
        format=".3f",
    ),
    "replay/used": Metric(
        "Share of the completions learned from that were an earlier policy's, in the places of groups that no reward "
        "tells apart.",
        GRPO,
        format=".3f",
    ),
    "health/unscored": Metric(
        "Share of completions that no reward applied to: they have no score, and none learns from them. Absent when 0.",
        ONLINE,
        format=".3f",
    ),
    # energy-based fine-tuning
    "ebft/alignment": Metric(
        "Mean cosine of completions' features and their demonstration's.", EBFT, "rising", format=".3f"
    ),
    "ebft/diversity": Metric(
        "Mean cosine of completions' features and those of the others to the prompt; 1 where all answers are alike.",
        EBFT,
        "below 0.95",
        high=0.95,
        format=".3f",
    ),
    "ebft/cfm": Metric(
        "Squared distance between the mean feature of the policy's answers and the demonstration's, estimated over "
        "pairs of answers to a prompt: what is descended where both coefficients are 1.",
        EBFT,
        "falling",
        format=".3f",
    ),
    "ebft/reward": Metric(
        "Mean of 2 alignment_coef x alignment - 2 diversity_coef x diversity; it need not rise.", EBFT, format=".3f"
    ),
    # episodes of an environment
    "env/turns_mean": Metric("Mean turns of the policy in an episode.", REWARDED, format=".2f"),
    "env/finished": Metric(
        "Share of episodes that the environment ended, no turn being cut off.",
        REWARDED,
        "above 0.9",
        low=0.9,
        format=".3f",
    ),
    "env/tool_calls": Metric("Mean calls of tools in an episode.", REWARDED, format=".2f"),
    "env/tool_errors": Metric(
        "Mean calls in an episode that were answered with an error: unknown, wrong arguments, or the tool raised.",
        REWARDED,
        "falls",
        format=".2f",
    ),
    "env/dropped": Metric(
        "Share of episodes whose environment failed, which nothing is learned from.", REWARDED, "0", format=".3f"
    ),
    "env/sampled": Metric("Share of the tokens after the prompt that the policy sampled.", REWARDED, format=".3f"),
    "env/seconds_mean": Metric("Mean seconds that the environment took over an episode.", REWARDED, format=".3f"),
    "eval/turns": Metric("Mean turns of the policy in an episode on the valid_data prompts.", REWARDED, format=".2f"),
    "policy/skipped_steps": Metric(
        "Updates of the policy left out because every advantage was 0 and nothing else was to be learned.",
        REWARDED,
        "0",
        format=".0f",
    ),
    "reward/<name>/mean": Metric("Mean of this reward source alone, unweighted.", REWARDED, format="+.3f"),
    "reward/<name>/std": Metric(
        "Standard deviation of this reward source over the step's completions.",
        REWARDED,
        "above 0: a reward that never differs teaches nothing",
        format=".3f",
    ),
    "reward/<name>/<metric>": Metric(
        "What this reward function logged by log_metric, over all its calls in the step.", REWARDED, format=".4g"
    ),
    # held-out data
    "eval/loss": Metric(
        "The loss on valid_data.", OFFLINE, "falls; a rise beside a falling loss is overfitting", better="low"
    ),
    "eval/perplexity": Metric("exp(eval/loss): per assistant token.", ("sft",), better="low"),
    "eval/rewards/chosen": Metric("Mean held-out score of chosen answers.", SCORED, format="+.3f"),
    "eval/rewards/rejected": Metric("Mean held-out score of rejected answers.", SCORED, format="+.3f"),
    "eval/rewards/margins": Metric(
        "Mean held-out chosen minus rejected score.", SCORED, "above 0", format="+.3f", better="high"
    ),
    "eval/logps/chosen": Metric("logps/chosen on valid_data.", COMPARING, format="+.3f"),
    "eval/logps/rejected": Metric("logps/rejected on valid_data.", COMPARING, format="+.3f"),
    "eval/cross_entropy": Metric(
        "cross_entropy on valid_data.", PAIRED, "falls towards eval/label_entropy", format=".3f"
    ),
    "eval/label_entropy": Metric("label_entropy on valid_data.", PAIRED, format=".3f"),
    "eval/rewards/accuracies": Metric(
        "Share of held-out pairs with chosen scored above rejected; equal scores count one half, pairs that are "
        "labelled a tie do not.",
        RANKING,
        "above 0.55, and above eval/length_baseline_accuracy; 0.65 to 0.8 on human preferences",
        low=0.55,
        format=".3f",
        better="high",
    ),
    "eval/length_baseline_accuracy": Metric(
        "Accuracy of the better of 'longer wins' and 'shorter wins' on the same pairs.",
        ("rm",),
        "below eval/rewards/accuracies",
        format=".3f",
    ),
    "eval/ties": Metric("Share of held-out pairs with equal scores.", ("rm",), "below 0.01", high=0.01, format=".3f"),
    "eval/scores": Metric("Mean score on the valid_data prompts.", ONLINE, "rises", format="+.3f", better="high"),
    "eval/reward/<name>/mean": Metric(
        "Mean of this reward source alone, unweighted, on the valid_data prompts.", ONLINE, format="+.3f"
    ),
    "eval/reward/<name>/<metric>": Metric(
        "What this reward function logged by log_metric on the valid_data prompts.", ONLINE, format=".4g"
    ),
    "eval/kl": Metric(
        "KL to the reference on the valid_data prompts, as objective/kl (kto: as kl); absent with measure_kl never.",
        (*ONLINE, "kto"),
        "0 to about 15",
        low=-0.1,
        high=15.0,
        format="+.3f",
    ),
    "eval/length": Metric("Mean completion tokens on the valid_data prompts.", ONLINE, format=".1f"),
    "eval/eos_rate": Metric(
        "Share of completions on the valid_data prompts that ended by themselves.",
        ONLINE,
        "above 0.9",
        low=0.9,
        format=".3f",
        better="high",
    ),
}


def metric(name: str) -> Metric:
    """The entry of `name` (`reward/<any source>/mean` finds its family); KeyError if undeclared."""
    if name in METRICS:
        return METRICS[name]
    for family in ("reward/", "eval/reward/"):
        source, _, statistic = name.removeprefix(family).rpartition("/")
        if name.startswith(family) and source:
            return METRICS.get(f"{family}<name>/{statistic}") or METRICS[f"{family}<name>/<metric>"]
    raise KeyError(f"metric {name!r} is not declared in easyrlhf.report.metrics.METRICS")


def ranked(stage: str) -> list[str]:
    """The metrics that --keep_best can go by in this stage."""
    return [name for name, entry in METRICS.items() if entry.better and stage in entry.stages]


def is_better(name: str, value: float, than: float) -> bool:
    """Whether one value of a metric is strictly better than another."""
    return value > than if metric(name).better == "high" else value < than


SHARES = ("accuracies", "length_baseline_accuracy", "ties", "eos_rate")


def told(name: str, value: float | None) -> str:
    """`value` as sentences and the cards of a page have it: as show, but shares of pairs and answers in per cent."""
    if value is not None and name.endswith(SHARES):
        return f"{value:.1%}"
    return show(name, value)


def show(name: str, value: float | None) -> str:
    """`value` as people read it; a dash for one that is missing or was not finite."""
    return "-" if value is None else format(value, metric(name).format)
