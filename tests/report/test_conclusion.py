"""The first line of a run carries its worst verdict, on every page and in the terminal alike."""

import json
import re

import pytest

from easyrlhf.report.card import write_model_card
from easyrlhf.report.compare_page import worst_of_comparisons as of_comparison
from easyrlhf.report.conclusion import concluded
from easyrlhf.report.html import write_report
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.rm_verdict import right_at_every_length

pytestmark = pytest.mark.usefixtures("pictures")

# held-out pairs of which it ranks half right, and nonsense that it likes better than the chosen answers
EXAMINED = {
    "n": 100,
    "accuracy": 0.5,
    "ci95": [0.404, 0.596],
    "length_baseline_accuracy": 0.6,
    "by_length_gap": [
        {"low": -9, "high": -1, "n": 50, "accuracy": 0.5},
        {"low": 1, "high": 9, "n": 50, "accuracy": 0.5},
    ],
    "ece": 0.0,
    "ece_by_chance": 0.0,
    "calibration": [{"n": 100, "predicted": 0.5, "observed": 0.5}],
    "ties": 0.0,
    "chosen_histogram": {"edges": [0, 1], "counts": [1]},
    "rejected_histogram": {"edges": [0, 1], "counts": [1]},
    "probes": {
        "n": 8,
        "chosen": 0.0,
        "rejected": 0.0,
        "answers": [{"name": "empty", "score": 1.0, "over_chosen": 1.0, "over_rejected": 1.0, "above_chosen": 1.0}],
    },
    "invariance": {"n": 8, "largest": 0.0, "limit": 1e-4, "differences": {"alone": 0.0}},
}
ROWS = [{"step": 1, "loss": 0.7, "eval/rewards/accuracies": 0.6, "eval/length_baseline_accuracy": 0.5}]
SAID = (
    "The reward model ranks 60.0% of held-out pairs right; length alone ranks 50.0%. 2 alarms; 9 of 11 checks could be "
    "judged. PPO should not lean on this reward model: see the alarms."
)


@pytest.fixture
def folder(tmp_path):
    log = MetricsLog(tmp_path / "rm", report_to="none")
    for row in ROWS:
        log.log(row["step"], {name: value for name, value in row.items() if name != "step"})
    log.close()
    (tmp_path / "rm" / "doctor.json").write_text(json.dumps(EXAMINED))
    return tmp_path / "rm"


def test_an_examination_counts_in_the_conclusion():
    found = concluded("rm", ROWS, EXAMINED)
    assert (found.severity, found.trouble, found.sentence) == ("alarm", "2 alarms", SAID)
    only_scores = {name: value for name, value in EXAMINED.items() if name not in ("probes", "invariance")}
    assert concluded("rm", ROWS, only_scores).severity == "ok"


def test_page_and_card_say_the_same(folder):
    page = write_report(folder, stage="rm", settings={}, info={}).read_text()
    assert f'<p class="lead alarm">{SAID}</p>' in page
    assert SAID in write_model_card(folder, stage="rm", info={}).read_text()


def test_cards_and_headline_give_the_same_numbers_in_the_same_form(folder, tmp_path):
    page = write_report(folder, stage="rm", settings={}, info={}).read_text()
    assert re.findall(r"<b>([^<]+)</b>", page)[:2] == ["60.0%", "50.0%"]
    log = MetricsLog(tmp_path / "ppo", report_to="none")
    for step in range(1, 25):
        log.log(step, {"objective/scores": step / 4, "objective/kl": step / 2})
    log.close()
    page = write_report(tmp_path / "ppo", stage="ppo", settings={}, info={}).read_text()
    # 24 rows: the first and the last six
    assert "raised the mean score: +0.875 to +5.375, at a KL of 10.750 nats" in page
    assert ">score</span><b>+5.375</b><span>+0.875 at the start<" in page
    assert "<b>+10.750</b>" in page and "means over the last 6 logged" in page


@pytest.mark.parametrize(
    "n, accuracy, said",
    [
        (3, 0.0, "the lowest: where chosen − rejected is -9 to -1 tokens, none of 3 pairs are right, too few to tell"),
        (1, 0.0, "none of 1 pair is right, too few to tell"),
        (5, 0.3, "1.5 of 5 pairs are right, too few to tell"),
        (50, 0.52, "52.0% of 50 pairs are right"),
    ],
)
def test_few_pairs_are_counted(n, accuracy, said):
    found = right_at_every_length({"by_length_gap": [{"low": -9, "high": -1, "n": n, "accuracy": accuracy}]})
    assert found.severity == "ok" and found.says.startswith("no range is surely below one half")
    assert found.says.endswith(said)


def compared(*rates: tuple[float, float, float], equal=None, finished=1.0) -> dict:
    entries = [
        {"n": 100, "win_rate": rate, "ci95": [low, high], "length_controlled": equal, "left_out": 0}
        for rate, low, high in rates
    ]
    return {
        "comparisons": entries,
        "verdicts": [f"verdict {number}" for number in range(len(entries))],
        "models": [{"model": "ppo", "finished": finished, "kl_why": None}],
        "judge": None,
    }


@pytest.mark.parametrize(
    "found, severity, lead",
    [
        (compared((0.6, 0.55, 0.65)), "ok", "verdict 0."),
        (compared((0.5, 0.45, 0.55)), "warn", "verdict 0."),
        (compared((0.4, 0.35, 0.45)), "alarm", "verdict 0."),
        (compared((0.6, 0.55, 0.65), (0.5, 0.4, 0.6)), "warn", "verdict 1. 1 more verdict below."),
        (compared((0.6, 0.55, 0.65), (0.5, 0.4, 0.6), (0.3, 0.2, 0.4)), "alarm", "verdict 2. 2 more verdicts below."),
        (compared((0.6, 0.55, 0.65), equal={"win_rate": 0.4, "ci95": [0.3, 0.45]}), "warn", "verdict 0."),
        (compared((0.6, 0.55, 0.65), equal={"win_rate": 0.5, "ci95": [0.4, 0.6]}), "ok", "verdict 0."),
        (
            compared((0.6, 0.55, 0.65), finished=0.5),
            "warn",
            "verdict 0. But 50% of the answers of ppo were cut off at --max_new_tokens, and are judged as they are.",
        ),
    ],
)
def test_a_comparisons_first_line_carries_its_worst_verdict(found, severity, lead):
    assert of_comparison(found) == (severity, lead)


def test_a_comparison_that_nobody_could_judge_is_a_warning():
    found = compared((0.6, 0.55, 0.65)) | {"comparisons": [{"n": 0, "left_out": 0}]}
    assert of_comparison(found)[0] == "warn"
