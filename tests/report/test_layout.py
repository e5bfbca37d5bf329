"""What a run says stays within the terminal, at any width, and no word is broken."""

import io
import re

import pytest

from easyrlhf.report.console import Console
from easyrlhf.report.layout import cell, columns_of, command_lines, packed, wrapped
from easyrlhf.report.metrics import METRICS
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.report.text_table import aligned_columns

WIDTHS = (40, 60, 80, 100, 120)
# one row of each stage's metrics.jsonl, evaluation and all, and one whose numbers are as long as they get
RECORDED = {
    "loss": 0.6931,
    "grad_norm": 1.234e-05,
    "learning_rate": 1.9834e-05,
    "epoch": 12.25,
    "tokens_per_second": 11234.5,
    "rewards/accuracies": 0.578,
    "eval/loss": 0.6604,
    "eval/perplexity": 12.34,
    "eval/rewards/accuracies": 0.872,
    "eval/length_baseline_accuracy": 0.744,
}
LONG = {"loss": -1.2345678e-05, "grad_norm": 123456.7, "tokens_per_second": 1234567.0, "time/step": 12345.6}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def metrics_of(stage: str, known: dict[str, float], otherwise: float) -> dict[str, float]:
    names = [name for name, metric in METRICS.items() if stage in metric.stages and "<" not in name]
    return {name: known.get(name, otherwise) for name in names}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stage", VIEWS)
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_tables_fit(kind, stage, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    out = kind()
    console = Console(stage, out)
    for step, known, otherwise in ((10, RECORDED, -0.125), (1000, LONG, -123.456)):
        console.row(step, metrics_of(stage, known, otherwise))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert lines[0].split()[:2] == ["step", VIEWS[stage].columns[0][0]] and lines[0].split()[-1] == "left"
    shown = " ".join(" ".join(lines).split())
    for name, value in metrics_of(stage, RECORDED, -0.125).items():
        if name.startswith("eval/"):
            assert f"{name.removeprefix('eval/')} {format(value, METRICS[name].format)}" in shown, name


def test_no_width_no_bounds(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = io.StringIO()
    console = Console("rm", out)
    console.row(10, metrics_of("rm", RECORDED, -0.125))
    console.warn("word " * 60)
    assert [len(line) for line in out.getvalue().splitlines()][1:] == [89, 217, 309]


@pytest.mark.parametrize(
    "stage, width, titles",
    [
        ("ppo", 80, "score kl reward expl.var length eos sec"),
        ("ppo", 60, "score kl expl.var length"),
        ("ppo", 40, "score kl"),
        ("grpo", 80, "score kl reward equal length eos sec"),
        ("rm", 80, "loss accuracy margin grad epoch tok/s"),
        ("dpo", 80, "loss accuracy margin chosen rejected grad"),
        ("sft", 60, "loss grad epoch tok/s"),
        ("sft", 20, "loss"),
    ],
)
def test_which_columns_stay(stage, width, titles):
    assert [title for title, _, _ in columns_of(stage, width)] == titles.split()


def test_a_table_of_a_hundred_columns_is_whole():
    assert all(columns_of(stage, 100) == list(VIEWS[stage].columns) for stage in VIEWS)


def test_a_long_number_has_fewer_digits():
    assert cell("tokens_per_second", 1234567.0, 8) == "1.23e+06"
    assert cell("loss", -1.2345e-05, 8) == "-1.2e-05"
    assert cell("loss", None, 3) == "  -"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_said_is_broken_between_words_alone(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = "3,112 of 40,000 rows are over length: 1,234 --max_prompt_length, 56 fold-in/out-of-range rows dropped"
    for kind in (io.StringIO, Terminal):
        out = kind()
        console = Console("sft", out)
        console.summary("Supervised fine-tuning", {"data": [text]})
        console.warn(text)
        console.note(text)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
        assert max(map(len, lines)) <= width
        words = " ".join(lines).split()
        assert words == f"Supervised fine-tuning data {text} warning: {text} {text}".split()


def test_wrapped_by_hand():
    assert wrapped("    one two three", 12) == ["    one two", "    three"]
    assert wrapped("    one two three", 18) == ["    one two three"]
    assert wrapped("warning: a longer-than-this-word b", 12) == ["warning: a", "  longer-than-this-word", "  b"]
    assert wrapped("two\nlines", None) == ["two", "lines"]


def test_packed_by_hand():
    assert packed("first", ["a 1", "b 2", "c 3"], None) == ["first  a 1  b 2  c 3"]
    assert packed("first", ["a" * 30, "b" * 30, "c"], 60) == [
        "first  " + "a" * 30,
        "       " + "b" * 30 + "  c",
    ]
    assert packed("first", ["a 1", "b 2"], 11) == ["first", "    a 1", "    b 2"]


def test_a_wide_table_becomes_several_with_the_first_column_each():
    head, rows = ("model", "answers", "win rate"), [("sft", "8", "50 %"), ("ppo", "128", "62.5 %")]
    whole = ["  model  answers  win rate", "  sft          8      50 %", "  ppo        128    62.5 %"]
    assert aligned_columns(head, rows) == aligned_columns(head, rows, 26) == whole
    assert aligned_columns(head, rows, 25) == [
        "  model  answers",
        "  sft          8",
        "  ppo        128",
        "",
        "  model  win rate",
        "  sft        50 %",
        "  ppo      62.5 %",
    ]


def test_a_command_is_broken_so_that_a_shell_reads_it_as_one():
    words = ["ppo_train", "--model", "'my run'", "--reward_model", "outputs/rm", "--train_data", "a.jsonl"]
    assert command_lines("next:", words, 48) == [
        "next: ppo_train --model 'my run' \\",
        "    --reward_model outputs/rm \\",
        "    --train_data a.jsonl",
    ]
    assert command_lines("next:", words, None) == [f"next: {' '.join(words)}"]
