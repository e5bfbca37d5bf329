"""What a command says before it imports anything heavy, and while it reads a long file."""

import io
import json
import sys
import types

import click
import pytest
from click.testing import CliRunner

from easyrlhf import launch
from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.main import COMMANDS, main
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import RolloutsConfig, SFTConfig
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.sources import open_sources
from easyrlhf.data.watching import watched, watched_by
from easyrlhf.report import opening
from easyrlhf.report.opening import Counted, opening_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def heavy(monkeypatch, capsys):
    """A module with a stage that remembers what was said before it was imported."""
    said = []
    monkeypatch.setattr(launch, "glance", lambda config: None)

    class Heavy(types.ModuleType):
        @property
        def train(self):
            printed = capsys.readouterr()
            said.append((printed.out, printed.err))
            return lambda config: print("working")

    monkeypatch.setitem(sys.modules, "heavy_stage", Heavy("heavy_stage"))
    return said


def test_a_stage_says_what_it_reads_before_it_is_imported(heavy, monkeypatch, capsys):
    config = SFTConfig(train_data="my rows.jsonl,b.jsonl=0.5", devices="cpu")
    launch.start("heavy_stage:train", config)
    monkeypatch.setenv("RANK", "1")
    launch.start("heavy_stage:train", config)
    assert heavy == [("reading my rows.jsonl,b.jsonl=0.5 …\n", ""), ("working\n", "")]


def test_a_tool_says_it_where_its_output_is_not(monkeypatch):
    tool = types.ModuleType("light_tool")
    tool.run = lambda config: print('{"step": 1}')
    monkeypatch.setitem(sys.modules, "light_tool", tool)
    monkeypatch.setattr("easyrlhf.glance.glance_at_models", lambda settings: None)
    for config_class, words, said in (
        (RolloutsConfig, ["--run", "out", "--json"], ""),
        (main.get_command(click.Context(main), "score").config_class, ["--reward_model", "rm", "--text", "a"], "rm"),
    ):
        command = SettingsCommand("tool", config_class, "light_tool:run", HelpPage(summary="", story=[], examples=[]))
        done = CliRunner().invoke(command, words)
        assert (done.exit_code, done.stdout) == (0, '{"step": 1}\n')
        assert done.stderr == (f"loading {said} …\n" if said else "")


def test_every_command_that_loads_much_has_a_first_line():
    context = click.Context(main)
    silent = {name for name in COMMANDS if not _openings(main.get_command(context, name))}
    # these read files of ours or fetch, print or start something else
    assert silent == {"recipes", "init-config", "docs", "convert-config", "vllm_serve", "report", "rollouts", "push"}


def _openings(command) -> list[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        return [
            line for name in command.list_commands(context) for line in _openings(command.get_command(context, name))
        ]
    return (
        [command.config_class.opening]
        if getattr(command, "config_class", None) and command.config_class.opening
        else []
    )


def test_rows_are_counted_while_they_are_read(tmp_path):
    path, seen = tmp_path / "rows.jsonl", []
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(1200)))
    [source] = open_sources(str(path))
    with watched_by(lambda name, rows: seen.append((name, rows))):
        records = list(
            read_records(source, "demonstration", Ledger("train", tmp_path / "bad"), format=None, on_bad_row="stop")
        )
    assert len(records) == 1200
    assert seen[-3:] == [(str(path), 500), (str(path), 1000), (str(path), None)]
    assert list(watched("x", "ab")) == ["a", "b"] and seen[-1] == (str(path), None)  # nobody watches any more


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(opening.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_long_file_is_heard_of_every_thirty_seconds(clock):
    out = io.StringIO()
    say = Counted(out)
    for clock[0], rows in ((10.0, 500), (31.0, 1000), (40.0, 1500), (62.0, 12_000), (63.0, None)):
        say("a.jsonl", rows)
    assert out.getvalue() == "reading a.jsonl: 1,000 rows\nreading a.jsonl: 12,000 rows\n"


def test_on_a_terminal_one_line_changes_and_is_gone_in_the_end(clock):
    out = Terminal()
    say = Counted(out)
    for clock[0], rows in ((0.1, 500), (0.3, 1000), (0.6, 1500)):
        say("a", rows)
    said = "reading a: 1,500 rows"
    assert out.getvalue() == f"\rreading a: 1,000 rows\r{said}"
    say("a", None)
    assert out.getvalue().endswith(f"\r{' ' * len(said)}\r")


def test_the_changing_line_stays_on_one_line(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    say = Counted(out)
    clock[0] = 1.0
    say("a/long/path/to/rows.jsonl", 500)
    assert out.getvalue() == "\r…ws.jsonl: 500 rows"
    assert len(out.getvalue()) - 1 < 20


def test_settings_stand_in_the_line():
    assert opening_of(SFTConfig(train_data="a.jsonl")) == "reading a.jsonl …"
    assert opening_of(RolloutsConfig(run="out", json=True)) == ""
