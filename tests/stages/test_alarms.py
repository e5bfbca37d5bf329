"""Small real runs that go wrong on purpose, each in its own way, and one that does not."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import RunStopped
from easyrlhf.online import loop
from easyrlhf.report.diagnostics import CHECKS
from easyrlhf.rollout import sampler
from easyrlhf.stages.online import train_grpo, train_ppo

REWARDS = """
import random

def right(prompts, completions, word, **columns):
    return [float(text(c).strip().startswith(w)) for c, w in zip(completions, word)]

def length(prompts, completions, **columns):
    return [float(len(text(c))) for c in completions]

def owls(prompts, completions, **columns):
    return [float(text(c).count("owl")) for c in completions]

def constant(prompts, completions, **columns):
    return [1.0] * len(completions)

def noise(prompts, completions, **columns):
    return [random.Random(text(c)).random() for c in completions]

def text(completion):
    return completion if isinstance(completion, str) else completion[-1]["content"]
"""
TOLD = re.compile(r"(alarm|warning)(?: at step (\d+))?: (([^:]+): .*)")


@dataclass(frozen=True)
class Told:
    """One line of the console: step is None for those of the end."""

    word: str
    step: int | None
    check: str


def read_told(out: str) -> list[Told]:
    """What was told, each with its number only once."""
    found = [m for line in out.splitlines() if (m := TOLD.match(line))]
    assert len({m[3] for m in found}) == len(found)
    return [Told(m[1], m[2] and int(m[2]), m[4].lower()) for m in found]


@pytest.fixture
def run(data, chain, tmp_path, capsys):
    """run(reward, steps, **settings) -> what the console told of a PPO run, or with method="grpo" of a GRPO run."""
    functions = tmp_path / "rewards.py"
    functions.write_text(REWARDS)

    def start(reward, steps, method="ppo", folder="run", **changed) -> list[Told]:
        settings = {
            "model": chain.sft,
            "train_data": data.prompts,
            "reward_funcs": f"{functions}:{reward}",
            "output_dir": str(tmp_path / folder),
            "max_length": 64,
            "max_prompt_length": 40,
            "batch_size": 16,
            "max_steps": steps,
            "total_episodes": 10_000,
            "learning_rate": 1e-3,
            "devices": "cpu",
            "report_to": "none",
            "num_sample_generations": 0,
        }
        ppo = {"num_ppo_epochs": 2, "response_length": 8}
        grpo = {"num_generations": 4, "max_completion_length": 8}
        capsys.readouterr()
        if method == "ppo":
            train_ppo(PPOConfig(**settings | ppo | changed))
        else:
            train_grpo(GRPOConfig(**settings | grpo | changed))
        return read_told(capsys.readouterr().out)

    return start


FREE = {"kl_coef": 0.0, "missing_eos_penalty": 0.0, "learning_rate": 2e-3, "lr_scheduler": "constant"}
FREE |= {"measure_kl": "step"}
# what goes wrong → (reward, steps, settings, checks that must speak while the run goes on, and how loudly)
PROVOKED = {
    "a reward for length": (
        "length",
        8,
        FREE | {"response_length": 12},
        {"length hacking": "alarm", "oversized updates": "warning"},
    ),
    "a reward for one word over and over": (
        "owls",
        24,
        FREE | {"response_length": 10, "num_ppo_epochs": 3},
        {
            "exploding kl": "warning",
            "repetition": "alarm",
            "entropy collapse": "warning",
            "missing eos": "alarm",
            "over-optimisation": "alarm",
        },
    ),
    "a value model that overshoots": (
        "noise",
        20,
        {
            "value_learning_rate": 3e-2,
            "num_ppo_epochs": 1,
            "learning_rate": 1e-4,
            "batch_size": 8,
            "response_length": 3,
        },
        {"blind value model": "warning"},
    ),
}


@pytest.mark.parametrize("case", PROVOKED)
def test_a_run_that_goes_wrong_says_so_while_it_does(case, run):
    reward, steps, settings, expected = PROVOKED[case]
    told = run(reward, steps, **settings)
    for check, word in expected.items():
        assert any(t.check == check and t.word == word and t.step for t in told), (check, told)


def test_a_sampler_at_another_temperature_is_found_out(run, monkeypatch):
    plain = sampler.draw_tokens

    def hot(logits, uniforms, temperature):
        return plain(logits, uniforms, 3.0)

    monkeypatch.setattr(sampler, "draw_tokens", hot)
    told = run("right", 4)
    assert Told("alarm", 3, "sampler mismatch") in told
    assert any(t.check == "negative kl" and t.step for t in told)


def test_a_reward_that_never_differs_leaves_nothing_to_learn_from(run):
    told = run("constant", 20, "grpo", batch_size=8, max_completion_length=3)
    assert Told("warning", 3, "equal groups") in told
    assert Told("warning", 20, "reward saturation") in told
    assert [t.step for t in told if t.check == "flat score"] == [None]  # said at the end alone


def test_a_healthy_run_is_told_nothing(run, tmp_path):
    assert run("right", 20, learning_rate=3e-4) == []
    judged = sum("ppo" in check.stages for check in CHECKS)
    assert f"All {judged} checks are healthy." in (tmp_path / "run" / "report.html").read_text()


def test_every_online_check_is_provoked_above():
    provoked = {check for *_, expected in PROVOKED.values() for check in expected}
    provoked |= {"negative kl", "sampler mismatch", "equal groups", "reward saturation", "flat score"}
    provoked |= {"nan or infinity"}  # below
    assert {check.name.lower() for check in CHECKS if {"ppo", "grpo"} & set(check.stages)} == provoked


# --- stopping on an alarm


def break_kl(monkeypatch, at_step: int) -> None:
    """Make the logged KL of one step NaN."""
    plain, calls = loop.rollout_metrics, iter(range(1, 1000))

    def broken(rollout, kl_coef):
        wrong = {"objective/kl": float("nan")} if next(calls) == at_step else {}
        return plain(rollout, kl_coef) | wrong

    monkeypatch.setattr(loop, "rollout_metrics", broken)


def numbers(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time/", "tokens_per_second")
    return [{name: value for name, value in row.items() if not name.startswith(clock)} for row in rows]


def stage(folder: Path) -> dict:
    return json.loads((folder / "stage.json").read_text())


# answers cannot end from the first step on: an alarm at step 3
PPO_NO_ROOM = {"response_length": 2, "save_steps": 0, "batch_size": 8}
GRPO_NO_ROOM = {"method": "grpo", "max_completion_length": 2, "save_steps": 0, "batch_size": 8}


def test_an_alarm_stops_the_run_once_and_says_how_to_go_on(run, tmp_path, monkeypatch):
    with pytest.raises(RunStopped) as caught:
        run("right", 8, stop_on_alarm=True, **PPO_NO_ROOM)
    assert caught.value.exit_code == 3
    first, alarm, way_out = str(caught.value).splitlines()
    assert re.fullmatch(r"Stopped by an alarm after step 3; .*/checkpoints/step-3 holds it\.", first)
    assert alarm.startswith("Missing EOS: health/eos_rate is 0.000 lately.") and "Raise response_length" in alarm
    assert "The same command continues the run. It goes on past this alarm" in way_out
    assert "--no_stop_on_alarm" in way_out and "another --output_dir" in way_out
    assert (stage(tmp_path / "run")["status"], stage(tmp_path / "run")["step"]) == ("stopped", 3)

    with monkeypatch.context() as patched:
        break_kl(patched, at_step=2)  # the fifth of the run: the alarm of a check that has not stopped it before
        with pytest.raises(RunStopped, match=r"after step 5;(.|\n)*NaN or infinity: objective/kl .* at step 5"):
            run("right", 8, stop_on_alarm=True, **PPO_NO_ROOM)
    told = run("right", 8, stop_on_alarm=True, **PPO_NO_ROOM)
    assert stage(tmp_path / "run")["status"] == "complete"
    assert not [t for t in told if t.step and t.word == "alarm"]  # told in earlier sittings


def test_a_run_that_may_go_on_has_the_numbers_of_one_that_never_stopped(run, tmp_path):
    run("right", 4, folder="whole", **GRPO_NO_ROOM)
    with pytest.raises(RunStopped):
        run("right", 4, stop_on_alarm=True, **GRPO_NO_ROOM)
    run("right", 4, stop_on_alarm=False, **GRPO_NO_ROOM)
    assert stage(tmp_path / "run")["status"] == "complete"
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


def test_an_alarm_at_the_last_step_stops_too_and_the_same_command_only_finishes(run, tmp_path):
    with pytest.raises(RunStopped, match="after step 3;"):
        run("right", 3, stop_on_alarm=True, **GRPO_NO_ROOM)
    run("right", 3, stop_on_alarm=True, **GRPO_NO_ROOM)
    assert stage(tmp_path / "run")["status"] == "complete"
    assert stage(tmp_path / "run")["metrics"]["health/eos_rate"] == 0.0


def test_a_warning_does_not_stop_a_run(run):
    told = run("constant", 4, method="grpo", stop_on_alarm=True, max_completion_length=8)
    assert Told("warning", 3, "equal groups") in told
