"""How long the rest takes, from numbers small enough to add up by hand."""

import io

import pytest

from easyrlhf.report import progress as progress_module
from easyrlhf.report.console import Console
from easyrlhf.report.pace import clock, seconds_left


@pytest.mark.parametrize(
    "ahead, seen, guess, expected",
    [
        ({"step": 10}, {}, {}, None),
        ({"step": 10}, {"step": (2, 6.0)}, {}, 30.0),
        # ten steps of 3 s, four evaluations of 20 s, two checkpoints of 5 s
        ({"step": 10, "eval": 4, "save": 2}, {"step": (2, 6.0), "eval": (1, 20.0), "save": (3, 15.0)}, {}, 120.0),
        # an evaluation that is yet to be seen is taken to last seven steps, a checkpoint nothing
        ({"step": 10, "eval": 4, "save": 2}, {"step": (2, 6.0)}, {"eval": 7.0}, 114.0),
        ({"step": 0, "eval": 0, "save": 0}, {"step": (2, 6.0)}, {"eval": 7.0}, 0.0),
        ({"step": 10, "eval": 1}, {"eval": (1, 20.0)}, {}, None),
    ],
)
def test_the_rest_by_hand(ahead, seen, guess, expected):
    assert seconds_left(ahead, seen, guess) == expected


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 125, 3725)] == ["0:00", "1:00", "2:05", "1:02:05"]


def test_evaluations_and_saves_are_not_counted_as_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    out, ahead = io.StringIO(), {"step": 4, "eval": 2, "save": 1}
    with Console("sft", out).progress(4, ahead=lambda: ahead, guess={"eval": 5.0}) as progress:
        now[0] = 2.0
        ahead |= {"step": 3}
        progress.advance()
        assert (progress.speed(), progress.left()) == ("0.50 step/s", "0:26")  # 3 x 2 s and twice 5 steps of 2 s
        now[0] = 4.0
        with progress.phase("evaluating", "eval", 30) as done:
            now[0] = 7.0
            done(10)
            assert progress.left() == "0:21"  # five seconds later
            ahead |= {"step": 2, "eval": 1}
        progress.advance()
        assert (progress.speed(), progress.left()) == ("0.50 step/s", "0:07")  # 2 x 2 s and an evaluation of 3 s
        with progress.phase("saving", "save"):
            now[0] = 8.0
            ahead |= {"save": 1}
        assert progress.left() == "0:08"


def test_a_long_evaluation_says_how_far_it_is_without_a_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Console("ppo", out).progress(4) as progress:
        now[0] = 10.0
        progress.advance()
        with progress.phase("evaluating", "eval", 252) as done:
            now[0] = 45.0
            done(120)
        now[0] = 80.0
        progress.tell("scoring")
    # three steps of 10 s are left, and the one under way takes longer than expected
    assert out.getvalue().splitlines() == [
        "step 1/4 · 25% · evaluating 120/252 · 0.10 step/s · 0:30 left",
        "step 1/4 · 25% · scoring · 0.10 step/s · 0:20 left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_says_the_phase_and_what_the_table_says_of_the_rest(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    now, out = [0.0], Terminal()
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    console = Console("sft", out)
    with console.progress(4) as progress:
        now[0] = 2.0
        progress.advance({"loss": 1.5})
        console.row(1, {"loss": 1.5})
        with progress.phase("evaluating", "eval", 252) as done:
            done(120)
            progress._bar.refresh()
    shown = [line for line in out.getvalue().splitlines() if "evaluating 120/252" in line][-1]
    assert "1/4" in shown and "loss 1.5" in shown and "0:06" in shown
    assert any(line.rstrip().endswith("0:06") and "1/4" in line for line in out.getvalue().splitlines())
