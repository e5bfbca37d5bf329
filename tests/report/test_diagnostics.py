"""Each check of the diagnostics table is provoked by one hand-made history, not by another."""

import pytest

from easyrlhf.report.diagnostics import CHECKS, headline, verdicts, worst


def rows(**series):
    """Rows of steps 1…n from equally long series; __ in a name stands for /."""
    length = len(next(iter(series.values())))
    named = {name.replace("__", "/"): values for name, values in series.items()}
    return [{"step": i + 1} | {name: v[i] for name, v in named.items()} for i in range(length)]


def steady(value, n=20):
    return [value] * n


def fired(stage, history):
    return {v.metric: v.severity for v in verdicts(stage, history) if v.severity != "ok"}


LONGER = [10.0] * 10 + [16.0] * 10  # answers half as long again, and more
# (stage, metric that must speak, severity, history that provokes it, history it is silent on)
CASES = {
    "NaN in sft": (
        "sft",
        "loss",
        "alarm",
        rows(loss=[1.0, None, 1.0]),
        rows(loss=[1.0, 1.1, 1.0]),
    ),
    "NaN in ppo": (
        "ppo",
        "loss/policy_avg",
        "alarm",
        rows(objective__kl=[0.0, None]),
        rows(objective__kl=[0.0, 0.1], health__reward_length_correlation=[None, None]),
    ),
    "negative KL": (
        "ppo",
        "objective/kl",
        "warn",
        rows(objective__kl=steady(-0.4)),
        rows(objective__kl=[-0.3, 0.3, 0.2, 0.4]),
    ),
    "very negative KL": (
        "ppo",
        "objective/kl",
        "alarm",
        rows(objective__kl=steady(-1.5)),
        rows(objective__kl=steady(-0.05)),
    ),
    "exploding KL": (
        "ppo",
        "objective/kl",
        "warn",
        rows(objective__kl=steady(20.0)),
        rows(objective__kl=[40.0] * 5 + [9.0] * 10),
    ),
    "KL beyond return": (
        "ppo",
        "objective/kl",
        "alarm",
        rows(objective__kl=steady(60.0)),
        rows(objective__kl=steady(14.0)),
    ),
    "sampler and scorer disagree": (
        "ppo",
        "health/sampler_mismatch",
        "warn",
        rows(health__sampler_mismatch=steady(0.2)),
        rows(health__sampler_mismatch=steady(1e-6)),
    ),
    "updates too large": (
        "ppo",
        "policy/clipfrac_avg",
        "warn",
        rows(policy__clipfrac_avg=steady(0.4)),
        rows(policy__clipfrac_avg=steady(0.2)),
    ),
    "blind value model": (
        "ppo",
        "value/explained_variance",
        "warn",
        rows(value__explained_variance=steady(-0.2)),
        rows(value__explained_variance=[-3.0] * 10 + [0.4] * 10),
    ),
    "missing EOS": (
        "ppo",
        "health/eos_rate",
        "warn",
        rows(health__eos_rate=steady(0.8)),
        rows(health__eos_rate=steady(0.97)),
    ),
    "equal groups": (
        "grpo",
        "health/equal_groups",
        "warn",
        rows(health__equal_groups=steady(0.7)),
        rows(health__equal_groups=steady(0.3)),
    ),
    "hardly any EOS": (
        "ppo",
        "health/eos_rate",
        "alarm",
        rows(health__eos_rate=steady(0.3)),
        rows(health__eos_rate=[0.3] * 10 + [0.95] * 10),
    ),
    "repetition": (
        "ppo",
        "health/repetition",
        "warn",
        rows(health__repetition=steady(0.3)),
        rows(health__repetition=steady(0.1)),
    ),
    "reward follows length": (
        "ppo",
        "health/reward_length_correlation",
        "warn",
        rows(health__reward_length_correlation=steady(0.7), length__completion_mean=steady(10.0)),
        rows(health__reward_length_correlation=steady(0.3), length__completion_mean=LONGER),
    ),
    "length hacking": (
        "ppo",
        "health/reward_length_correlation",
        "alarm",
        rows(health__reward_length_correlation=steady(0.7), length__completion_mean=LONGER),
        rows(health__reward_length_correlation=steady(-0.7), length__completion_mean=LONGER),
    ),
    "entropy collapse": (
        "ppo",
        "policy/entropy_avg",
        "warn",
        rows(policy__entropy_avg=[1.0] * 10 + [0.1] * 10),
        rows(policy__entropy_avg=[1.0] * 10 + [0.5] * 10),
    ),
    "score not rising": (
        "ppo",
        "objective/scores",
        "warn",
        rows(objective__scores=[1.0] * 10 + [0.9] * 10),
        rows(objective__scores=[1.0] * 10 + [1.2] * 10),
    ),
    "no better than length": (
        "rm",
        "eval/rewards/accuracies",
        "warn",
        rows(**{"eval/rewards/accuracies": [0.655], "eval/length_baseline_accuracy": [0.65]}),
        rows(**{"eval/rewards/accuracies": [0.70], "eval/length_baseline_accuracy": [0.65]}),
    ),
    "accuracy near 50 %": (
        "rm",
        "eval/rewards/accuracies",
        "warn",
        rows(**{"eval/rewards/accuracies": [0.52]}),
        rows(**{"eval/rewards/accuracies": [0.52, 0.71]}),
    ),
    "training accuracy near 50 %": (
        "rm",
        "eval/rewards/accuracies",
        "warn",
        rows(rewards__accuracies=steady(0.5)),
        rows(rewards__accuracies=[0.5] * 10 + [0.7] * 10),
    ),
    "equal scores": (
        "rm",
        "eval/ties",
        "warn",
        rows(eval__ties=[0.05]),
        rows(eval__ties=[0.05, 0.0]),
    ),
    "overfitting": (
        "sft",
        "eval/loss",
        "warn",
        rows(loss=[2.0, 1.5, 1.0, 0.5], eval__loss=[2.0, 1.5, 1.7, 1.9]),
        rows(loss=[2.0, 1.5, 1.8, 1.9], eval__loss=[2.0, 1.5, 1.7, 1.9]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_check_fires_on_a_history_made_for_it(case):
    stage, metric, severity, provoking, _ = CASES[case]
    assert fired(stage, provoking) == {metric: severity}


@pytest.mark.parametrize("case", CASES)
def test_the_check_is_silent_on_a_healthy_history(case):
    stage, _, _, _, healthy = CASES[case]
    assert fired(stage, healthy) == {}
    assert verdicts(stage, healthy), "silent because it has looked, not because it could not"


def test_every_check_of_the_table_has_a_case():
    provoked = {(stage, metric) for stage, metric, *_ in CASES.values()}
    assert {(c.stages[0], c.metric) for c in CHECKS} <= provoked


def test_a_warning_says_the_number_and_what_to_do():
    found = verdicts("ppo", rows(objective__kl=steady(-0.4)))
    negative = next(v for v in found if v.message.startswith("Negative KL"))
    assert negative.value == pytest.approx(-0.4)
    assert "-0.400" in negative.message and "sampler and the scorer disagree" in negative.message
    assert "temperature" in negative.remedy


def test_a_healthy_check_says_what_it_did_not_find():
    messages = [v.message for v in verdicts("rm", rows(eval__ties=[0.0]))]
    assert "No equal scores: 0.0% of held-out pairs have equal scores." in messages


def test_a_healthy_check_has_no_remedy():
    assert {v.remedy for v in verdicts("ppo", rows(objective__kl=steady(3.0)))} == {""}


def test_the_worst_verdict_comes_first():
    history = rows(objective__kl=steady(20.0), health__eos_rate=steady(0.2))
    severities = [v.severity for v in verdicts("ppo", history)]
    assert severities[:2] == ["alarm", "warn"] and set(severities[2:]) == {"ok"}
    assert worst(verdicts("ppo", history)) == "alarm"


def test_one_row_is_too_little_to_judge_the_kl_by():
    assert fired("ppo", rows(objective__kl=[-5.0, 90.0])) == {}


def test_a_check_of_another_stage_does_not_speak():
    assert verdicts("sft", rows(objective__kl=steady(-5.0)))[0].metric == "loss"


def test_an_empty_history_has_a_headline_and_no_verdict():
    assert verdicts("ppo", []) == []
    assert headline("ppo", []) == "No step has been logged yet."


def test_the_headline_gives_the_outcome_and_the_health():
    history = rows(objective__scores=[0.0] * 10 + [1.0] * 10, objective__kl=steady(20.0))
    assert headline("ppo", history) == ("PPO raised the mean score: +0.00 to +1.00, at a KL of 20.0 nats. 1 warning.")
    history = rows(**{"eval/rewards/accuracies": [0.7], "eval/length_baseline_accuracy": [0.6]})
    assert headline("rm", history) == (
        "The reward model ranks 70.0% of held-out pairs right; length alone ranks 60.0%. All 3 checks are healthy."
    )
    assert headline("sft", rows(loss=[2.0, 1.5])) == "Loss went from 2 to 1.5. All 1 checks are healthy."
