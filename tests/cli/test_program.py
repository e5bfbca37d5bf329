"""The command `easyrlhf`, and the files around the commands: configs, scripts, setup.py."""

import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli.init import command as init
from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.cli.stages import ppo_train, rm_train, sft_train
from easyrlhf.config.suggestions import STAGES
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]


@pytest.fixture
def calls(monkeypatch):
    """Stands in for easyrlhf.tools: a list of what was called with which arguments."""
    made = []
    for module, function in (("init", "init_model"), ("downloading.download", "download")):
        pretended = types.ModuleType(f"easyrlhf.tools.{module}")
        setattr(pretended, function, lambda *args, name=function: made.append((name, args)))
        monkeypatch.setitem(sys.modules, f"easyrlhf.tools.{module}", pretended)
    return made


def run(*args):
    return CliRunner().invoke(easyrlhf, list(args), prog_name="easyrlhf")


def test_init_passes_its_settings_on(calls):
    result = run("init", "--preset", "small", "--train_data", "a.jsonl", "--vocab_size", "2000")
    assert result.exit_code == 0, result.output
    [(name, (config,))] = calls
    assert name == "init_model"
    assert (config.preset, config.train_data, config.vocab_size) == ("small", "a.jsonl", 2000)
    assert (config.output_dir, config.chat_template, config.seed) == ("outputs/init", "chatml", 42)


def test_download_passes_its_choices_on(calls):
    assert run("data", "download", "hh-rlhf").exit_code == 0
    args = ["--subset", "helpful-base, harmless-base", "--output_dir", "d", "--base_url", "u"]
    assert run("data", "download", "hh-rlhf", *args).exit_code == 0
    assert calls == [
        ("download", ("hh-rlhf", None, None, None)),
        ("download", ("hh-rlhf", "d", ["helpful-base", "harmless-base"], "u")),
    ]


@pytest.mark.parametrize(
    "args, message",
    [
        (["int"], "error: unknown command int: did you mean init?\n"),
        (["xyzzy"], "error: unknown command xyzzy: easyrlhf --help lists the commands\n"),
        (["sft"], "error: --train_data is required. Rows to train on"),
        (["ppo_trian"], "error: unknown command ppo_trian: did you mean ppo_train?\n"),
        (["init", "--preset", "tiny"], "error: --train_data is required. Texts to learn"),
        (["init", "--train_data", "a", "--preset", "big"], "error: --preset big: must be one of t"),
        (["init", "--train_data", "a", "--vocab_siz", "9"], "error: unknown flag --vocab_siz: did"),
        (
            ["data", "download"],
            "error: hh-rlhf|slimorca-dedup|OWNER/NAME is missing; easyrlhf data download --help ",
        ),
    ],
)
def test_bad_input_exits_with_2_and_one_message(calls, args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert calls == []


@pytest.mark.parametrize("name", ["serve-reward", "serve_reward", "convert_config", "convert-config", "init-config"])
def test_commands_are_found_with_hyphens_and_with_underscores(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: easyrlhf ")


def test_help_lists_the_commands_and_the_stages():
    page = run("--help").stdout
    for name in ("init", "data", *(f"{config.stage}_train" for config in STAGES)):
        assert re.search(rf"^  {name} +\w", page, re.MULTILINE), name


def test_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    expected = f"easyrlhf {version('easyrlhf')}\n"
    assert run("--version").stdout == expected
    assert CliRunner().invoke(init, ["--version"], prog_name="x").stdout == expected


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_config_of_each_stage_is_valid_and_names_its_own_command(stage, stages):
    path = ROOT / "configs" / f"{stage}.yaml"
    config = stages.config(stage, "--config", str(path))
    assert config.output_dir == f"outputs/{stage}"
    assert f"#   {stage}_train --config configs/{stage}.yaml" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_script_of_each_stage_passes_valid_settings_and_further_flags(stage, stages, tmp_path):
    """The script runs with a stand-in for the console script that prints its arguments."""
    stand_in = tmp_path / ".venv" / "bin" / f"{stage}_train"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    script = tmp_path / "scripts" / f"{stage}_train.sh"
    script.parent.mkdir()
    script.write_text((ROOT / "scripts" / script.name).read_text(encoding="utf-8"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        ["bash", str(script), "--seed", "7", "--model", "my model"],
        capture_output=True,
        text=True,
        check=True,
    )
    config = stages.config(stage, *done.stdout.splitlines())
    assert config.seed == 7
    assert config.model == "my model"
    assert config.train_data.endswith((".jsonl", "@train"))


def test_every_console_script_exists():
    targets = dict(command.split(" = ") for command in load_module(ROOT / "setup.py").COMMANDS)
    assert set(targets) == {"easyrlhf"} | {f"{config.stage}_train" for config in STAGES}
    for name, target in targets.items():
        module, attribute = target.split(":")
        assert getattr(importlib.import_module(module), attribute).name == name


@pytest.mark.parametrize("command", [sft_train, rm_train, ppo_train, init])
def test_every_command_leads_to_a_function_of_the_library(command):
    module, function = command.target.split(":")
    found = getattr(importlib.import_module(module), function)
    [parameter] = inspect.signature(found).parameters.values()
    assert parameter.annotation is command.config_class


def test_constraints_pin_every_dependency_within_its_bounds():
    from packaging.requirements import Requirement

    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    wanted = re.findall(r"""^    ["']([\w-]+[<>=][^\n]*)["'],$""", setup, re.MULTILINE)
    dev = re.findall(r'"([^"]+)"', re.search(r'"dev": \[(.*?)\]', setup, re.DOTALL)[1])
    assert len(wanted) >= 15 and len(dev) >= 4
    for text in wanted + dev:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"constraints.txt has no version of {name}"
        assert requirement.specifier.contains(pins[name]), f"{text} against {pins[name]}"
