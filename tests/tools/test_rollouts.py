"""What an online run sampled, in the terminal and in its report."""

import json

import pytest

from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.report.html import write_report
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.rollout_rows import pick, stored_rows


def row(place: int, score: float, *, kl: float | None = 0.5, length: int = 5, completion: str = "", **changed) -> dict:
    known = {"place": place, "prompt": [{"role": "user", "content": f"Say {place}."}], "finished": True, "columns": {}}
    known |= {"completion": completion or f"said {place}", "length": length, "rewards": {"rm": score}, "score": score}
    return known | {"kl": kl, "total": score, "advantage": 0.25} | changed


@pytest.fixture
def run_folder(tmp_path):
    """A GRPO run of two steps."""
    folder = tmp_path / "grpo"
    log = MetricsLog(folder, report_to="none")
    log.rollouts(1, [row(0, 0.1), row(4, -2.0, length=40)])
    log.log(1, {"objective/scores": 0.0})
    log.rollouts(2, [row(0, 0.9, kl=None), row(4, 0.3, kl=7.0, finished=False, rewards={"rm": 0.3, "short": None})])
    log.log(2, {"objective/scores": 0.1})
    log.close()
    (folder / "stage.json").write_text(json.dumps({"stage": "grpo", "status": "stopped"}))
    return folder


@pytest.fixture
def ask(capsys):
    """ask(*words) -> (exit code, standard output, standard error)."""

    def make(*words) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            easyrlhf(["rollouts", *map(str, words)])
        return end.value.code, *capsys.readouterr()

    return make


@pytest.mark.parametrize(
    "words, expected",
    [
        ((), [(2, 0), (2, 4)]),  # the last step
        (("--step", 1), [(1, 0), (1, 4)]),
        (("--worst", 2), [(1, 4), (1, 0)]),
        (("--best", 3), [(2, 0), (2, 4), (1, 0)]),
        (("--longest", 2), [(1, 4), (1, 0)]),  # of equals, the earlier
        (("--furthest", 9), [(2, 4), (1, 0), (1, 4)]),  # one has no KL
        (("--best", 1, "--step", 1), [(1, 0)]),
    ],
)
def test_rows_are_those_that_were_asked_for(run_folder, ask, words, expected):
    code, said, _ = ask(run_folder, *words, "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [(found["step"], found["place"]) for found in rows] == expected
    assert all(found in list(stored_rows(run_folder / "rollouts.jsonl")) for found in rows)


def test_a_row_in_the_terminal_has_its_numbers_and_no_control_characters(run_folder, ask):
    with (run_folder / "rollouts.jsonl").open("a") as file:
        extra = {"f/found": "4\n2", "f/parts": [1, None], "g/x": None}
        file.write(json.dumps({"step": 3} | row(1, 0.5, completion="two\nlines \x1b[31m", extra=extra)) + "\n")
        file.write('{"step": 3, "pla')  # a run that was killed while it wrote
    code, said, _ = ask(run_folder)
    assert code == 0
    assert said.splitlines() == [
        "step 3 · 1 · score +0.500 · kl +0.500 · total +0.500 · advantage +0.250 · 5 tokens",
        "  ┌ user: Say 1.",
        "  └ two⏎lines �[31m",
        "    f/found: 4⏎2",
        "    f/parts: [1, null]",
    ]
    assert ask(run_folder, "--step", 2)[1].splitlines()[3] == (
        "step 2 · 4 · score +0.300 · kl +7.000 · total +0.300 · advantage +0.250 · 5 tokens, cut off · "
        "rm +0.300 · short -"
    )


def test_a_completion_without_a_score_is_neither_best_nor_worst(run_folder, ask):
    with (run_folder / "rollouts.jsonl").open("a") as file:
        unscored = {"score": None, "total": None, "rewards": {"rm": None}}
        file.write(json.dumps({"step": 2} | row(6, 0.0, length=99) | unscored) + "\n")
    for order in ("--best", "--worst"):
        assert len(ask(run_folder, order, 9, "--json")[1].splitlines()) == 4
    assert ask(run_folder, "--longest", 1)[1].startswith("step 2 · 6 · kl +0.500 · advantage +0.250 · 99 tokens\n")


def test_what_cannot_be_shown_is_said(run_folder, ask, tmp_path):
    assert ask(run_folder, "--step", 7)[0::2] == (
        2,
        f"error: --step 7: is not in {run_folder}/rollouts.jsonl, which has steps 1 to 2\n",
    )
    unasked = [json.dumps(found | {"kl": None}) + "\n" for found in stored_rows(run_folder / "rollouts.jsonl")]
    (run_folder / "rollouts.jsonl").write_text("".join(unasked))
    for words in (("--furthest", 2), ("--furthest", 2, "--step", 1)):
        code, _, error = ask(run_folder, *words)
        assert code == 2 and "--furthest 2: the reference was not asked for a KL of these completions" in error
    code, _, error = ask(run_folder, "--worst", 1, "--best", 1)
    assert code == 2 and "best 1: worst picks already; give one" in error
    code, _, error = ask(tmp_path)
    assert code == 2 and "is not the output folder of an online run" in error
    (run_folder / "rollouts.jsonl").unlink()
    code, _, error = ask(run_folder)
    assert code == 2 and "has no rollouts.jsonl; the run has logged no step yet, or was told --log_rollouts 0" in error


def test_a_run_that_goes_on_takes_back_the_rollouts_of_steps_that_it_repeats(run_folder):
    kept = (run_folder / "rollouts.jsonl").read_bytes().splitlines(keepends=True)[:2]
    log = MetricsLog(run_folder, last_step=1, report_to="none")
    assert (run_folder / "rollouts.jsonl").read_bytes() == b"".join(kept)
    log.rollouts(2, [row(0, 1.0)])
    log.rollouts(3, [])
    log.close()
    assert [found["step"] for found in stored_rows(run_folder / "rollouts.jsonl")] == [1, 1, 2]
    MetricsLog(run_folder, report_to="none").close()
    assert list(stored_rows(run_folder / "rollouts.jsonl")) == []


def test_the_report_shows_what_stands_out_escaped_and_bounded(run_folder):
    log = MetricsLog(run_folder, report_to="none")
    for step in range(1, 31):
        log.log(step, {"objective/scores": 0.0})
        log.rollouts(step, [row(n, step + n / 100, completion=f"<b>{step}-{n}</b>" + "x" * 20_000) for n in range(50)])
    log.close()
    page = write_report(run_folder, stage="grpo", settings={}, info={"stage": "grpo"}).read_text()
    best = [f"&lt;b&gt;30-{n}&lt;/b&gt;" for n in (49, 48, 47, 46)]
    worst = [f"&lt;b&gt;21-{n}&lt;/b&gt;" for n in (0, 1, 2, 3)]  # of the last ten steps
    assert all(text in page for text in best + worst)
    assert "<b>30-49" not in page and "&lt;b&gt;20-0" not in page and "30-45" not in page
    assert "17,0" in page.split("characters…")[0]  # of 20,0xx characters 3,000 are shown
    assert len(page) < 150_000


def test_an_episode_in_the_terminal_has_a_line_for_each_call_and_result(run_folder, ask):
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"thing": "hat"}}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "look_up", "content": "red"},
        {"role": "assistant", "content": "It is\nred."},
    ]
    log = MetricsLog(run_folder, report_to="none")
    log.rollouts(3, [row(1, 0.5, messages=messages, turns=2, tool_errors=0)])
    log.close()
    _, said, _ = ask(run_folder, "--step", 3)
    assert said == (
        "step 3 · 1 · score +0.500 · kl +0.500 · total +0.500 · advantage +0.250 · 5 tokens · 2 turns · 1 call\n"
        "  ┌ user: Say 1.\n"
        '  │ assistant: → look_up(thing="hat")\n'
        "  │ tool look_up: red\n"
        "  └ assistant: It is⏎red.\n"
    )


def test_equals_are_picked_in_their_order():
    rows = [row(n, 1.0) for n in range(5)]
    assert [found["place"] for found in pick(iter(rows), "best", 3)] == [0, 1, 2]
