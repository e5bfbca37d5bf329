"""What a finished stage names can be pasted into a shell, and the commands take it."""

import dataclasses
import io
import shlex
from unittest import mock

import click
import pytest

from easyrlhf.cli import stages
from easyrlhf.cli.main import main
from easyrlhf.config import TRAINING, DPOConfig, GRPOConfig, KTOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.report.console import Console
from easyrlhf.report.next_steps import next_commands, next_line

FILES = {"train_data": 'my rows/it\'s a "file".jsonl', "model": "my models/a&b;c", "output_dir": "out put/run 1"}


def commands_of(config_class, **settings) -> list[list[str]]:
    needed = {"reward_model": "my rm"} if issubclass(config_class, PPOConfig | GRPOConfig) else {}
    config = config_class(**FILES | needed | settings).resolved()
    return next_commands(config.stage, dataclasses.asdict(config))


def taken(words: list[str]):
    """The settings that a command makes of the words."""
    program, *rest = words
    if program == "easyrlhf":
        command, rest = main.get_command(click.Context(main), rest[0]), rest[1:]
    else:
        command = getattr(stages, program)
    seen = []
    with (
        mock.patch("easyrlhf.cli.options.job", lambda *args: seen.append(args[-1])),
        mock.patch("easyrlhf.cli.options.job_on_models", lambda *args: seen.append(args[-1])),
        command.make_context(program, rest) as context,
    ):
        command.invoke(context)
    return seen[0]


@pytest.mark.parametrize("stage", TRAINING)
@pytest.mark.parametrize("width", [None, 40, 80])
def test_pasting_gives_the_same_words_and_the_commands_take_them(stage, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width or ""))
    wanted, out = commands_of(TRAINING[stage], valid_data="held out.jsonl"), io.StringIO()
    Console(stage, out).finish(["complete"], wanted)
    text = out.getvalue().split("next: ")[1:]
    pasted = [shlex.split(part.replace("\\\n", "")) for part in text]
    assert pasted == wanted
    assert [next_line(words) for words in wanted] == [f"next: {shlex.join(words)}" for words in wanted]
    if width is None:
        assert all(dataclasses.is_dataclass(taken(words)) for words in pasted)


def test_a_reward_model_is_for_the_policy_it_was_trained_from():
    train, export = commands_of(RMConfig, format="hh")
    config = taken(train)
    assert (config.stage, config.model, config.reward_model) == ("ppo", FILES["model"], FILES["output_dir"])
    assert (config.train_data, config.format) == (FILES["train_data"], "hh")
    assert taken(export).to == "sequence_classification"


def test_a_policy_is_compared_by_what_it_was_trained_with():
    compare, chat, export = commands_of(PPOConfig, valid_data="held out.jsonl", reward_funcs="my file.py:f")
    config = taken(compare)
    assert config.models == f"{FILES['model']},{FILES['output_dir']}"
    assert (config.prompts, config.reward_model, config.reward_funcs) == ("held out.jsonl", "my rm", "my file.py:f")
    assert taken(chat).model == taken(export).model == FILES["output_dir"]
    assert taken(export).output_dir == "out put/run 1_bf16"


@pytest.mark.parametrize("config_class", [DPOConfig, KTOConfig])
def test_what_only_the_user_knows_stands_in_capitals(config_class):
    config = taken(commands_of(config_class)[0])
    assert (config.prompts, config.reward_model) == ("HELD_OUT.jsonl", "REWARD_MODEL")
    assert commands_of(SFTConfig)[0][-1] == "COMPARISONS.jsonl"


def test_a_reward_model_that_was_trained_further_is_no_policy(tmp_path):
    (tmp_path / "value_head.safetensors").touch()
    words, _ = commands_of(RMConfig, model=str(tmp_path))
    assert words[:3] == ["ppo_train", "--model", "SFT_MODEL"]
    words, _ = commands_of(RMConfig, model=str(tmp_path / "other"))
    assert words[:3] == ["ppo_train", "--model", str(tmp_path / "other")]
