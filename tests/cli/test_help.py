"""The help pages: complete, grouped, narrow enough, and shown without loading torch."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import data, main, stages
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config.suggestions import STAGES

GROUPS = {"easyrlhf": main.main, "easyrlhf data": data.command}
TOOLS = {f"{group} {name}": table.get_command(None, name) for group, table in GROUPS.items() for name in table.table}
PAGES = {f"{config.stage}_train": getattr(stages, f"{config.stage}_train") for config in STAGES} | {
    name: command for name, command in TOOLS.items() if isinstance(command, SettingsCommand)
}


def help_of(name: str) -> str:
    result = CliRunner().invoke(PAGES[name], ["--help"], prog_name=name)
    assert result.exit_code == 0
    return result.stdout


def unwrapped(text: str) -> str:
    """The text on one line, words that were broken at their hyphens joined again."""
    return " ".join(text.split()).replace("- ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_help_shows_every_setting_with_its_default(name):
    page = help_of(name)
    config = PAGES[name].config_class
    one_line = unwrapped(page)
    for setting in fields(config):
        switch = f"--[no_]{setting.name}"
        assert f"--{setting.name} " in page or f"{switch} " in page or f"{switch}\n" in page, setting.name
        assert unwrapped(setting.metadata["help"]) in one_line
    required = sum(line.count("[required]") for line in page.splitlines())
    assert one_line.count("[default: ") + required == len(fields(config))
    assert "--config FILE" in page and "--version" in page


@pytest.mark.parametrize("name", PAGES)
def test_help_fits_into_100_columns(name):
    assert max(len(line) for line in help_of(name).splitlines()) <= 100


def test_help_fits_into_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = help_of("ppo_train")
    settings = page[page.index("Model and data:") :]
    assert max(len(line) for line in settings.splitlines()) <= 80


def test_help_of_ppo_teaches_before_it_lists():
    page = help_of("ppo_train")
    order = ["Usage: ppo_train --train_data", "Goes in", "Comes out", "Next", "Examples:"]
    groups = ["Model and data", "Rewards", "Rollouts", "PPO", "Sampling", "Optimisation", "LoRA", "Run"]
    places = [page.index(words) for words in order + [f"\n{group}:\n" for group in groups]]
    assert places == sorted(places)
    assert "[default: 3e-6, with LoRA 1e-5]" in " ".join(page.split())
    assert "--kl_estimator k1|k3" in page


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_help_are_commands_that_parse(name, monkeypatch, stages):
    """Each is run against the pretended stage; configs/ is read from the project."""
    command = PAGES[name]
    monkeypatch.setattr(command, "target", "pretended_stage:train")
    monkeypatch.setattr("easyrlhf.glance.glance_at_models", lambda settings: None)  # the folders of examples
    monkeypatch.chdir(Path(__file__).parents[2])
    for example in command.page.examples:
        words = shlex.split(example, comments=True)[len(name.split()) :]
        result = CliRunner().invoke(command, words, prog_name=name)
        assert result.exit_code == 0, f"{example}\n{result.output}"
    assert len(stages.configs) == len(command.page.examples)


@pytest.mark.parametrize(
    "command", ["stages import sft_train", "stages import rm_train", "stages import ppo_train", "main import main"]
)
def test_help_loads_neither_torch_nor_transformers(command):
    code = (
        "import sys\n"
        f"from easyrlhf.cli.{command} as main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy', 'yaml', 'rich'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert len(done.stdout.splitlines()) > 10


def test_bad_flags_load_neither_torch_nor_transformers(tmp_path):
    (tmp_path / "s.yaml").write_text("train_data: a\nbatch_size: 0\n")
    code = (
        "import sys\n"
        "from easyrlhf.cli.stages import sft_train as main\n"
        "try:\n    main(['--config', 's.yaml'])\n"
        "except SystemExit as stop:\n    assert stop.code == 2\n"
        "print('LOADED', sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "LOADED []\n"
    assert done.stderr == "error: s.yaml:2: batch_size 0: must be 1 or more\n"


ROOM = Path(importlib.import_module("easyrlhf").__file__).parent
LOWEST = [
    *(ROOM / f"{name}.py" for name in ("errors", "callables", "paths", "stage_table")),
    *sorted((ROOM / "config").rglob("*.py")),
]


@pytest.mark.parametrize("file", LOWEST, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_lowest_modules_import_only_the_standard_library_and_each_other(file):
    body = ast.parse(file.read_text(encoding="utf-8")).body
    imported = [node.module for node in body if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    ours = [module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names]
    lowest = r"easyrlhf\.(errors|callables|paths|stage_table|config(\.\w+)*)"
    assert [module for module in ours if not re.fullmatch(lowest, module)] == []


def test_a_setting_that_may_come_first_stands_without_its_flag_in_the_usage_line():
    assert help_of("easyrlhf chat").startswith("Usage: easyrlhf chat DIR|HUB_ID [--config")
    assert "Usage: easyrlhf generate DIR|HUB_ID [--config" in help_of("easyrlhf generate")
    assert "Usage: easyrlhf compare DIR,DIR[,…] --prompts FILE[,…]" in help_of("easyrlhf compare")
