"""Each check of the diagnostics table is provoked by one hand-made history, not by another."""

import re
import time
from dataclasses import fields
from pathlib import Path

import pytest

from easyrlhf.config.suggestions import STAGES
from easyrlhf.report.conclusion import concluded
from easyrlhf.report.diagnostics import CHECKS, Watch, verdicts, words_of
from easyrlhf.report.metrics import METRICS
from easyrlhf.report.verdict import alarms, worst
from easyrlhf.userfile import load_module

metrics_page = load_module(Path(__file__).parents[2] / "scripts" / "metrics_page.py")

SETTINGS = {field.name for config in STAGES for field in fields(config)}


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
    "NaN in ebft": (
        "ebft",
        "loss/policy_avg",
        "alarm",
        rows(ebft__cfm=[0.5, None]),
        rows(ebft__cfm=[0.5, 0.4]),
    ),
    "alike answers": (
        "ebft",
        "ebft/diversity",
        "warn",
        rows(ebft__diversity=steady(0.97)),
        rows(ebft__diversity=steady(0.9)),
    ),
    "cut-off answers of ebft": (
        "ebft",
        "health/eos_rate",
        "alarm",
        rows(health__eos_rate=steady(0.4)),
        rows(health__eos_rate=steady(0.95)),
    ),
    "no nearer": (
        "ebft",
        "ebft/cfm",
        "warn",
        rows(ebft__cfm=[0.4] * 10 + [0.5] * 10),
        rows(ebft__cfm=[0.5] * 10 + [0.4] * 10),
    ),
    "score not rising": (
        "ppo",
        "objective/scores",
        "warn",
        rows(objective__scores=[1.0] * 10 + [0.9] * 10),
        rows(objective__scores=[1.0] * 10 + [1.2] * 10),
    ),
    "no reward tells answers apart": (
        "ppo",
        "reward/<name>/std",
        "warn",
        rows(reward__a__std=[1.0] * 10 + [0.1] * 10, reward__b__std=steady(0.0)),
        rows(reward__a__std=[1.0] * 10 + [0.2] * 10, reward__b__std=steady(0.0)),
    ),
    "chosen answers become unlikely": (
        "dpo",
        "logps/chosen",
        "warn",
        rows(logps__chosen=[-1.0] * 10 + [-1.6] * 10),
        rows(logps__chosen=[-1.0] * 10 + [-1.4] * 10),
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


# a score that rises at a KL beyond 15 while answers repeat themselves more and more
EARNS_BY_REPEATING = {
    "objective__scores": [0.0] * 10 + [1.0] * 10,
    "objective__kl": [0.0] * 10 + [20.0] * 10,
    "health__repetition": [0.05] * 10 + [0.3] * 10,
    "health__eos_rate": steady(0.95),
}
NEVER_ENDED = {"health__repetition": steady(0.3), "health__eos_rate": steady(0.8)}


def over_optimised(**changed):
    found = verdicts("ppo", rows(**EARNS_BY_REPEATING | changed))
    return next(v for v in found if "ver-optimisation" in v.message)


def test_over_optimisation_needs_a_rising_score_a_high_kl_and_worse_answers():
    found = over_optimised()
    assert found.severity == "alarm"
    assert "+0.000 to +1.000 at a KL of 20.0 nats, while repetition went from 0.050 to 0.300" in found.message
    assert over_optimised(objective__scores=steady(0.0)).severity == "ok"
    assert over_optimised(objective__kl=steady(14.0)).severity == "ok"
    assert over_optimised(health__repetition=steady(0.05)).severity == "ok"
    assert over_optimised(**NEVER_ENDED).severity == "ok"  # as bad at the start


def test_over_optimisation_shows_in_missing_ends_and_in_length_too():
    healthy = {"health__repetition": steady(0.05)}
    ends = over_optimised(**healthy, health__eos_rate=[0.95] * 10 + [0.7] * 10)
    assert ends.severity == "alarm" and "answers that end went from 0.950 to 0.700" in ends.message
    longer = over_optimised(**healthy, health__reward_length_correlation=steady(0.7), length__completion_mean=LONGER)
    assert longer.severity == "alarm" and "10 to 16 tokens" in longer.message


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
    histories = [(stage, provoking) for stage, _, _, provoking, _ in CASES.values()]
    histories.append(("ppo", rows(**EARNS_BY_REPEATING)))
    said = [v.message.split(":")[0].lower() for stage, rows_ in histories for v in verdicts(stage, rows_) if v.remedy]
    assert {c.name.lower() for c in CHECKS} == set(said)


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
    assert concluded("ppo", []).sentence == "No step has been logged yet."


def test_the_headline_gives_the_outcome_and_the_health():
    history = rows(objective__scores=[0.0] * 10 + [1.0] * 10, objective__kl=steady(20.0))
    total = sum("ppo" in check.stages for check in CHECKS)
    assert concluded("ppo", history).sentence == (
        "PPO raised the mean score: +0.000 to +1.000, at a KL of 20.000 nats. "
        f"1 warning; 4 of {total} checks could be judged."
    )
    history = rows(loss=[2.0, 1.5], eval__loss=[2.0, 1.9], eval__perplexity=[7.39, 6.69])
    assert concluded("sft", history).sentence == (
        "Loss went from 2 to 1.5; held-out perplexity is 6.69. All 2 checks are healthy."
    )
    history = rows(loss=[2.0, 1.5], eval__loss=[2.0, 2.5])
    assert concluded("sft", history).sentence == "Loss went from 2 to 1.5. 1 warning."


def test_the_headline_says_how_many_checks_could_be_judged():
    history = rows(**{"eval/rewards/accuracies": [0.7], "eval/length_baseline_accuracy": [0.6]})
    assert concluded("rm", history).sentence == (
        "The reward model ranks 70.0% of held-out pairs right; length alone ranks 60.0%. "
        "No warning; 3 of 5 checks could be judged."
    )


# --- while the run goes on


def told(stage, history, before=()):
    """(step, severity, metric) of everything a watch says over these rows."""
    watch = Watch(stage, before)
    return [(row["step"], v.severity, v.metric) for row in history for v in watch.add(row)]


KL_RISES = rows(objective__kl=[1.0] * 10 + [20.0] * 10 + [90.0] * 10 + [1.0] * 10 + [90.0] * 10)


def test_a_watch_speaks_when_a_check_turns_worse_than_it_ever_was_and_then_no_more():
    # the mean of ten passes 15 with the eighth 20 (7 x 20 + 3 is 143, 8 x 20 + 2 is 162), 50 with the fifth 90
    assert told("ppo", KL_RISES) == [(18, "warn", "objective/kl"), (25, "alarm", "objective/kl")]


def test_a_watch_may_begin_with_an_alarm():
    assert told("ppo", rows(health__eos_rate=steady(0.1))) == [(3, "alarm", "health/eos_rate")]


@pytest.mark.parametrize("kept, again", [(17, [18, 25]), (18, [25]), (24, [25]), (25, []), (45, [])])
def test_what_earlier_sittings_showed_is_not_told_again(kept, again):
    found = told("ppo", KL_RISES[kept:], before=KL_RISES[:kept])
    assert [step for step, *_ in found] == again


def test_earlier_sittings_count():
    assert told("ppo", KL_RISES[17:18], before=KL_RISES[:17]) == [(18, "warn", "objective/kl")]
    assert told("ppo", KL_RISES[17:18]) == []


def test_a_number_that_is_not_finite_is_told_as_it_comes_and_as_it_is_read_back():
    for nothing in (float("nan"), float("inf"), None):
        found = told("ppo", rows(objective__kl=[0.0, nothing, 0.0, nothing]))
        assert found == [(2, "alarm", "loss/policy_avg")]


def test_a_check_of_the_result_is_silent_until_the_end():
    history = rows(objective__scores=[1.0] * 10 + [0.9] * 10)
    assert told("ppo", history) == [] and fired("ppo", history) == {"objective/scores": "warn"}
    history = rows(**{"eval/rewards/accuracies": [0.5], "eval/length_baseline_accuracy": [0.65]})
    assert told("rm", history) == [] and len([v for v in verdicts("rm", history) if v.remedy]) == 2


@pytest.mark.parametrize("case", CASES)
def test_a_watch_ends_where_the_report_does(case):
    stage, _, _, provoking, healthy = CASES[case]
    late = {c.metric for c in CHECKS if not c.live}
    for history in (provoking, healthy):
        last = [v for v in verdicts(stage, history) if v.severity != "ok" and v.metric not in late]
        assert {(v.severity, v.metric) for v in last} <= {said[1:] for said in told(stage, history)}


def test_alarms_are_texts_with_their_remedy():
    found = verdicts("ppo", rows(objective__kl=steady(20.0), health__eos_rate=steady(0.2)))
    (text,) = alarms(found)
    assert text.startswith("Missing EOS: health/eos_rate is 0.200 lately.") and "Raise response_length" in text


def test_a_watch_does_not_slow_a_long_run():
    names = [name.replace("<name>", "model") for name, entry in METRICS.items() if "ppo" in entry.stages]
    watch = Watch("ppo")
    started = time.process_time()
    for step in range(1, 10_001):
        watch.add({"step": step} | dict.fromkeys(names, 0.5))
    assert (time.process_time() - started) / 10_000 < 1e-3
    watch, started = Watch("sft"), time.process_time()
    for step in range(1, 10_001):
        watch.add({"step": step, "loss": 1.0, "grad_norm": 1.0, "eval/loss": 1.0})
    assert (time.process_time() - started) / 10_000 < 1e-3


ALL_WRONG = {
    "objective/kl": 60.0,
    "policy/clipfrac_avg": 0.7,
    "health/eos_rate": 0.2,
    "health/repetition": 0.4,
    "health/reward_length_correlation": 0.9,
    "policy/entropy_avg": 1.0,
    "objective/scores": 0.0,
}


@pytest.mark.parametrize(
    "stage, own, others",
    [
        ("ppo", ("kl_coef", "num_ppo_epochs", "response_length", "kl_target"), ("beta", "num_iterations")),
        ("grpo", ("beta", "num_iterations", "max_completion_length"), ("kl_coef", "num_ppo_epochs", "kl_target")),
    ],
)
def test_advice_names_settings_that_the_stage_has(stage, own, others):
    """Of every check that the two share; told while the run goes on, and at its end."""
    told = [{"step": step} | ALL_WRONG for step in range(1, 21)]
    told[-1]["policy/entropy_avg"] = 0.0
    for row in told[10:]:
        row["policy/entropy_avg"] = 0.01
    at_the_end = [verdict.text for verdict in verdicts(stage, told) if verdict.severity != "ok"]
    watch = Watch(stage)
    live = [verdict.text for row in told for verdict in watch.add(row)]
    for texts in (at_the_end, live):
        said = " ".join(texts)
        assert len(texts) >= 6 and not set("{}") & set(said)
        assert all(name in said for name in own)
        assert not any(name in said for name in others)


def test_every_setting_that_a_remedy_names_is_one_of_each_stage_that_has_the_check():
    for check in CHECKS:
        for stage in check.stages:
            known = {field.name for config in STAGES if config.stage == stage for field in fields(config)}
            words = set(
                re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", f"{check.means} {check.remedy}".format(**words_of(stage)))
            )
            assert words & SETTINGS <= known, (check.name, stage)


def test_the_page_of_metrics_names_both():
    page = metrics_page.markdown()
    assert "raise kl_coef (grpo: beta) or set kl_target (ppo)" in page
    assert "{" not in page


@pytest.mark.parametrize("name", ["objective/kl", "eval/kl", None])
def test_a_run_whose_distance_nobody_measured_is_not_said_to_have_gone_none(name):
    spent = ", at a KL of 2.000 nats" if name else ""
    told = [{"step": step, "objective/scores": step / 10} | ({name: 2.0} if name else {}) for step in range(1, 13)]
    assert concluded("grpo", told).sentence.startswith(
        f"GRPO raised the mean score: +0.200 to +1.100{spent}. No warning"
    )
