"""What a user reads while a stage runs, with and without a terminal."""

import io

from easyrlhf.report import progress as progress_module
from easyrlhf.report.console import Console, one_line, say
from easyrlhf.report.metrics import metric
from easyrlhf.report.stage_view import VIEWS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_column_is_a_declared_metric_of_its_stage():
    for stage, view in VIEWS.items():
        for _, _, name in view.columns:
            assert stage in metric(name).stages, name


def test_a_sample_shows_newlines_as_one_sign_and_signed_numbers():
    out = io.StringIO()
    Console("ppo", out).sample("Hi\nthere", "Yes\n[bold]", score=0.5, kl=-0.1, total=0.505)
    assert out.getvalue().splitlines() == [
        "  ┌ Hi⏎there",
        "  │ Yes⏎[bold]",
        "  └ score +0.500   kl -0.100   total +0.505",
    ]


def test_a_models_control_characters_do_not_reach_the_terminal():
    assert one_line("a\x1b[31mb\rc\u202ed") == "a�[31mb�c�d"


def test_a_long_text_is_cut_in_the_middle():
    shown = one_line("a" * 1000 + "b" * 1000)
    assert shown == "a" * 300 + " … " + "b" * 300


def test_plain_rows_are_whole_lines_under_one_header():
    out = io.StringIO()
    console = Console("rm", out)
    with console.progress(4) as progress:
        for step in (1, 2):
            metrics = {"loss": 0.5, "rewards/accuracies": 0.75}
            progress.advance(metrics)
            console.row(step, metrics)
    header, first, second = out.getvalue().splitlines()
    assert header.split()[:3] == ["step", "loss", "accuracy"]
    assert first.split()[:4] == ["1/4", "0.5", "0.750", "-"]
    assert second.startswith("        2/4")
    assert "\r" not in out.getvalue()


def test_the_header_comes_back_every_twenty_rows():
    out = io.StringIO()
    console = Console("sft", out)
    for step in range(1, 42):
        console.row(step, {"loss": 1.0})
    assert sum("tok/s" in line for line in out.getvalue().splitlines()) == 3


def test_evaluation_gets_a_line_of_its_own():
    out = io.StringIO()
    Console("sft", out).row(5, {"loss": 1.0, "eval/loss": 1.25, "eval/perplexity": 3.49})
    assert out.getvalue().splitlines()[-1].split() == [
        "5",
        "eval",
        "loss",
        "1.25",
        "perplexity",
        "3.49",
    ]


def test_without_a_terminal_progress_speaks_only_after_a_silence(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Console("ppo", out).progress(10, done=2) as progress:
        now[0] = 20.0
        progress.advance({"objective/scores": 0.5})
        assert out.getvalue() == ""
        now[0] = 40.0
        progress.advance({"objective/scores": 0.5})
    # two steps in 40 s: six more take two minutes
    assert out.getvalue() == "step 4/10 · 40% · score +0.500 · 20.0 s/step · 2:00 left\n"


def test_on_a_terminal_there_is_a_bar_and_markup_is_left_alone():
    out = Terminal()
    console = Console("sft", out)
    with console.progress(3) as progress:
        progress.advance({"loss": 1.5})
        console.note("[bold]not bold[/bold]")
    assert "[bold]not bold[/bold]" in out.getvalue()
    assert "1/3" in out.getvalue() and "loss 1.5" in out.getvalue()


def test_the_summary_and_the_last_words_are_readable_lines():
    out = io.StringIO()
    console = Console("sft", out)
    console.summary("SFT", {"data": ["3 rows"]})
    console.warn("small data")
    console.finish(["done", "next: rm_train"])
    assert out.getvalue() == "SFT\n  data\n    3 rows\n\nwarning: small data\n\ndone\nnext: rm_train\n"


def test_what_a_tool_says_fits_too(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    say(["twelve rows of which", "ten are over length"])
    say(f"line {number}" for number in range(2))
    assert capsys.readouterr().out.splitlines() == [
        "twelve rows of which",
        "ten are over length",
        "line 0",
        "line 1",
    ]
    say(["twelve rows of which ten are over length"])
    assert capsys.readouterr().out == "twelve rows of which\n  ten are over\n  length\n"
