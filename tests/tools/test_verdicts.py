"""The verdict: which number makes PPO's reward model one to lean on."""

import pytest

from easyrlhf.report.rm_verdict import doctor_verdicts, lean

FOUND = {
    "accuracy": 0.7,
    "ci95": [0.67, 0.73],
    "n": 1000,
    "ties": 0.0,
    "length_baseline_accuracy": 0.58,
    "by_length_gap": [
        {"low": -90, "high": -1, "n": 480, "accuracy": 0.65},
        {"low": 0, "high": 0, "n": 20, "accuracy": 0.45},
        {"low": 1, "high": 99, "n": 500, "accuracy": 0.75},
    ],
    "calibration": [{"predicted": 0.72, "observed": 0.7, "n": 1000}],
    "ece": 0.04,
    "ece_by_chance": 0.02,
    "probes": {
        "n": 64,
        "chosen": 1.0,
        "rejected": -1.0,
        "answers": [
            {"name": "empty", "score": -2.0, "over_chosen": -3.0, "over_rejected": -1.0, "above_chosen": 0.0},
            {"name": "joined", "score": 0.9, "over_chosen": -0.1, "over_rejected": 1.9, "above_chosen": 0.4},
        ],
    },
    "invariance": {"n": 64, "limit": 1e-4, "largest": 1e-4, "differences": {"more padding": 1e-4}},
}


def fired(**changed) -> dict[str, str]:
    """First words → severity of the checks that are not healthy."""
    return {v.message.split(":")[0]: v.severity for v in doctor_verdicts(FOUND | changed) if v.severity != "ok"}


def test_a_healthy_model_is_one_to_lean_on():
    assert fired() == {}
    assert len(doctor_verdicts(FOUND)) == 6
    assert lean(doctor_verdicts(FOUND)) == "PPO may lean on this reward model."


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"length_baseline_accuracy": 0.68}, {"Not better than length": "warn"}),
        ({"length_baseline_accuracy": 0.7}, {"Not better than length": "alarm"}),
        ({"ece": 0.119}, {}),
        ({"ece": 0.121}, {"Miscalibrated": "warn"}),
        ({"ties": 0.01}, {}),
        ({"ties": 0.011}, {"Many ties": "warn"}),
        (
            {"invariance": {**FOUND["invariance"], "largest": 1.1e-4}},
            {"Scores the batch too": "alarm"},
        ),
        ({"by_length_gap": [{"low": -9, "high": -1, "n": 100, "accuracy": 0.41}]}, {}),  # 32 % to 51 %
        (
            {
                "by_length_gap": [
                    {"low": 1, "high": 9, "n": 1, "accuracy": 0.0},
                    {"low": -9, "high": -1, "n": 100, "accuracy": 0.4},
                ]
            },
            {"Biased by length": "alarm"},
        ),
    ],
)
def test_each_threshold(changed, expected):
    assert fired(**changed) == expected


def test_the_verdict_on_length_is_about_the_range_that_is_surely_wrong():
    ranges = [{"low": 1, "high": 9, "n": 1, "accuracy": 0.0}, {"low": -9, "high": -1, "n": 100, "accuracy": 0.4}]
    verdict = doctor_verdicts(FOUND | {"by_length_gap": ranges})[0]
    assert (
        verdict.value == 0.4 and "chosen − rejected is -9 to -1 tokens, 40.0% of 100 pairs are right" in verdict.message
    )


def test_a_probe_above_the_chosen_answers_is_hackable_whichever_it_is():
    for place in (0, 1):
        answers = [dict(answer) for answer in FOUND["probes"]["answers"]]
        answers[place]["over_chosen"] = 0.01
        assert fired(probes={**FOUND["probes"], "answers": answers}) == {"Hackable": "alarm"}


def test_verdicts_come_worst_first_with_a_remedy_and_decide_together():
    found = FOUND | {"ties": 0.5, "length_baseline_accuracy": 0.9}
    alarm, warning, *healthy = doctor_verdicts(found)
    assert (alarm.severity, warning.severity) == ("alarm", "warn")
    assert alarm.remedy and warning.remedy and not any(verdict.remedy for verdict in healthy)
    assert lean([alarm, warning]).startswith("PPO should not lean")
    assert lean([warning]).startswith("PPO may lean on this reward model with care")


def test_what_was_not_measured_is_not_judged():
    found = {name: value for name, value in FOUND.items() if name not in ("probes", "invariance")}
    assert len(doctor_verdicts(found)) == 4
