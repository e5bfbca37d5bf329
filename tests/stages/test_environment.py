"""PPO and GRPO in an environment: one that says nothing changes nothing, and stopped runs go on as they were."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import InputError, RunError, RunStopped, ServiceStopped
from easyrlhf.online.update import Update
from easyrlhf.stages.online import train_grpo, train_ppo

CODE = '''
import asyncio
import os
import signal
import time


class Silent:
    """Ends every episode with the first answer."""

    def reset(self, **columns):
        return None

    def respond(self, text):
        return None


class Twice(Silent):
    """Asks for the word once more."""

    def reset(self, word, **columns):
        self.word, self.said = word, []

    def respond(self, text):
        self.said.append(text)
        return "Once more." if len(self.said) == 1 else None

    def get_reward(self):
        return sum(self.word[:1] in text for text in self.said) / 2


class Fails(Twice):
    def get_reward(self):
        return float("nan")


class LosesOne(Twice):
    """Of ten prompts it cannot begin with one."""

    def reset(self, word, number):
        if number == 3:
            raise OSError("no such room")
        super().reset(word)


NUMBER = [0]  # answers since the file was read


def interrupt():
    """Ctrl-C, with the answer that has this number."""
    NUMBER[0] += 1
    due = NUMBER[0] == int(os.environ.get("INTERRUPT_AT", 0))
    if due:
        os.kill(os.getpid(), signal.SIGINT)
    return due


class Interrupted(Twice):
    def respond(self, text):
        if interrupt():
            time.sleep(60)
        return super().respond(text)


class InterruptedLater(Twice):
    async def respond(self, text):
        if interrupt():
            await asyncio.sleep(60)
        return super().respond(text)


async def episode(chat, word):
    for turn in range(2):
        chat.reward(float(word[:1] in await chat.reply()))
        chat.say("Once more.")


def length(completions, **_):
    return [float(len(messages[-1]["content"])) for messages in completions]


def remembered(completions, environments, **_):
    return [float(len(one.said)) for one in environments]
'''
CLOCK = ("time/", "tokens_per_second", "env/seconds_mean")
STAGES = {"ppo": (train_ppo, PPOConfig), "grpo": (train_grpo, GRPOConfig)}


@pytest.fixture
def train(data, chain, small_ppo, small_grpo, tmp_path, monkeypatch):
    """train(stage, folder, **settings) -> the folder of a run of 4 rollouts."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)
    (tmp_path / "acting.py").write_text(CODE)

    def run(stage: str, name: str, **settings) -> Path:
        function, config = STAGES[stage]
        known = (small_ppo if stage == "ppo" else small_grpo) | {"model": chain.sft, "train_data": data.prompts}
        named = {
            key: f"{tmp_path / 'acting.py'}:{settings[key]}"
            for key in ("environment", "reward_funcs")
            if key in settings
        }
        known |= {"max_steps": 4, "save_steps": 0, "output_dir": str(tmp_path / name)}
        return Path(function(config(**known | settings | named)))

    return run


def rows_of(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


WEIGHTS = {"full": {}, "lora": {"lora_r": 4}, "shared": {"lora_r": 4, "share_backbone": True}}


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
@pytest.mark.parametrize("trained", WEIGHTS)
def test_an_environment_that_says_nothing_changes_no_number(train, stage, trained):
    settings = WEIGHTS[trained] | {"reward_funcs": "length", "max_steps": 3, "log_rollouts": 8, "log_rollout_ids": True}
    plain = train(stage, "plain", **settings)
    silent = train(stage, "silent", environment="Silent", **settings)
    answers, episodes = (rows_of(folder, "rollouts.jsonl") for folder in (plain, silent))
    assert answers == [{name: row[name] for name in answers[0]} for row in episodes]
    assert all(torch.equal(tensor, weights(silent)[name]) for name, tensor in weights(plain).items())
    own = [{name: value for name, value in row.items() if not name.startswith("env/")} for row in rows_of(silent)]
    assert own == rows_of(plain)
    assert {row["env/turns_mean"] for row in rows_of(silent)} == {1.0}


TWO_TURNS = {"response_length": 40, "max_length": 100}
TWO_TURNS_GRPO = {"max_completion_length": 40, "max_length": 100}


TWO_TURNS_OF = {"ppo": TWO_TURNS, "grpo": {"max_completion_length": 40, "max_length": 100}}


class Killed(BaseException):
    """The process is gone: nothing is saved."""


@pytest.fixture
def kill_in(monkeypatch):
    """kill_in(step): the next run ends within that step, its rollout sampled."""

    def install(step: int):
        update = Update.__call__

        def killed(self, rollout, number):
            if number + 1 == step:
                raise Killed
            return update(self, rollout, number)

        monkeypatch.setattr(Update, "__call__", killed)
        return lambda: monkeypatch.setattr(Update, "__call__", update)

    return install


def same_runs(one: Path, other: Path) -> bool:
    """Whether two runs have the same numbers, episodes and weights."""
    rows = all(rows_of(one, name) == rows_of(other, name) for name in ("metrics.jsonl", "rollouts.jsonl"))
    return rows and all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("stage, environment", [("ppo", "Twice"), ("grpo", "episode")], ids=["ppo", "grpo"])
def test_a_stopped_and_a_killed_run_go_on_with_the_same_episodes(train, stop_after, kill_in, stage, environment):
    settings = TWO_TURNS_OF[stage] | {"environment": environment, "max_steps": 5, "save_steps": 2}
    whole = train(stage, "whole", **settings)
    for name, stop, step, error in (("stopped", stop_after, 2, RunStopped), ("killed", kill_in, 4, Killed)):
        go_on = stop(step)
        with pytest.raises(error):
            train(stage, name, **settings)
        go_on()
        assert same_runs(train(stage, name, **settings), whole)
    finished = [row for row in rows_of(whole, "rollouts.jsonl") if row["finished"]]
    assert finished and all(
        [turn["role"] for turn in row["messages"]] == ["assistant", "user", "assistant"] for row in finished
    )


def test_reward_functions_read_what_the_environments_remember(train):
    folder = train("grpo", "remembering", environment="Twice", reward_funcs="remembered", max_steps=1, **TWO_TURNS_GRPO)
    kept = rows_of(folder, "rollouts.jsonl")
    heard = [sum(turn["role"] == "assistant" for turn in row["messages"]) - (not row["finished"]) for row in kept]
    assert [row["rewards"]["remembered"] for row in kept] == heard


AFTER_1 = r"^Stopped on request after step 1; \S*step-1 holds it.*easyrlhf finish"
AT_FIRST = r"^Stopped on request while episodes were played.*\n.*the same command starts from the beginning"
WHERE = [  # as samples are shown, in a rollout, before the first step
    ("Interrupted", 40, AFTER_1),
    ("InterruptedLater", 60, AFTER_1),
    ("Interrupted", 3, AT_FIRST),
]


@pytest.mark.parametrize("environment, number, said", WHERE, ids=["sync", "async", "begin"])
def test_ctrl_c_ends_a_run_at_once_and_the_same_command_goes_on(
    train, tmp_path, monkeypatch, environment, number, said
):
    """Though an environment would take another minute to answer; what is done is kept."""
    settings = TWO_TURNS | {"environment": environment, "max_steps": 3}
    monkeypatch.setenv("INTERRUPT_AT", str(number))
    began, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises((RunStopped, ServiceStopped), match=said) as caught:
        train("ppo", "stopped", **settings)
    assert caught.value.exit_code == 3
    assert time.monotonic() - began < 15
    assert all(thread.daemon for thread in set(threading.enumerate()) - threads)  # no process waits for them
    status = json.loads((tmp_path / "stopped" / "stage.json").read_text())["status"]
    assert status == ("stopped" if said is AFTER_1 else "running")
    monkeypatch.delenv("INTERRUPT_AT")
    if environment == "InterruptedLater":
        assert same_runs(train("ppo", "stopped", **settings), train("ppo", "whole", **settings))


def test_what_an_environment_fails_with_ends_the_run_and_what_was_done_is_kept(train, tmp_path):
    place = r"\(\S+prompts.jsonl:\d+\)"
    with pytest.raises(
        RunError, match=rf"the environment Fails {place}: gave nan as reward.*\n  user: 'Say \w+.'\n  assistant: "
    ):
        train("ppo", "failed", environment="Fails", **TWO_TURNS)
    assert json.loads((tmp_path / "failed" / "stage.json").read_text())["status"] != "complete"


METHODS = [("ppo", {}), *(("grpo", {"advantage": name, "beta": 0.1}) for name in ("grpo", "rloo", "reinforce++"))]


@pytest.mark.parametrize("stage, settings", METHODS, ids=["ppo", "grpo", "rloo", "reinforce++"])
def test_episodes_that_cannot_begin_are_left_out(train, tmp_path, stage, settings):
    asked = [{"prompt": [{"role": "user", "content": f"Say {word}."}], "word": word} for word in ("red", "cat") * 5]
    rows = tmp_path / "numbered.jsonl"
    rows.write_text("".join(json.dumps(row | {"number": number}) + "\n" for number, row in enumerate(asked)))
    size = 10 if stage == "ppo" else 20
    limit = {"response_length" if stage == "ppo" else "max_completion_length": 40}
    settings = settings | limit | {"train_data": str(rows), "batch_size": size, "max_length": 100, "max_steps": 2}
    folder = train(
        stage,
        "run",
        environment="LosesOne",
        on_environment_error="drop",
        log_rollouts=size,
        total_episodes=2 * size,
        **settings,
    )
    assert [row["env/dropped"] for row in rows_of(folder)] == [0.1, 0.1]
    kept = rows_of(folder, "rollouts.jsonl")
    lost = [row for row in kept if row["columns"]["number"] == 3]
    assert len(lost) == size // 5 and len(kept) == 2 * size
    assert "NaN" not in (folder / "rollouts.jsonl").read_text() + (folder / "samples.jsonl").read_text()
    told = {(row["score"], row["advantage"], row["turns"], row["kl"], row["completion"]) for row in lost}
    assert told == {(None, 0.0, 0, 0.0, "")}
    assert all(row["score"] is not None and row["turns"] for row in kept if row not in lost)
    assert all(row["policy/grad_norm"] > 0 for row in rows_of(folder))


def test_what_cannot_be_played_is_refused_before_a_model_is_loaded(train, data, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"prompt": "Say cat.", "word": "cat"}\n' * 8)
    nameless = tmp_path / "nameless.jsonl"
    nameless.write_text('{"prompt": [{"role": "user", "content": "Say cat."}], "name": "cat"}\n' * 8)
    for settings, message in (
        ({"environment": "Twice", "train_data": str(texts)}, "prompts of the train data are plain texts"),
        ({"environment": "Twice", "train_data": str(nameless)}, "reset needs word, which is no column.*it has name"),
        ({"environment": "Silent"}, "has no get_reward, and there is no other reward"),
        ({"environment": "length"}, "must be a class with reset"),
        ({"environment": "Nobody"}, "has no function Nobody"),
        ({"reward_funcs": "remembered"}, "needs environments, the objects .*; give --environment a class"),
        ({"environment": "Twice", "reward_funcs": "remembered", "reward_workers": 1}, "for which .*remembered asks"),
    ):
        with pytest.raises(InputError, match=message):
            train("ppo", "refused", **settings)
