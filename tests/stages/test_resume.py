"""The same command again: continue, refuse or say it is done; and nothing is lost on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from easyrlhf.config import GRPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

CLOCK = ("time/", "tokens_per_second")
STOPS = {"stop": "e,. ", "stop_finishes": True, "shuffle_prompts": False, "log_rollout_ids": True}


def numbers(folder: str | Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


def status(folder: str | Path) -> str:
    return json.loads((Path(folder) / "stage.json").read_text())["status"]


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo", "grpo", "rloo", "reinforce++"])
def test_a_stopped_run_continues_bit_for_bit(
    stage, lora_r, data, chain, small, small_ppo, small_grpo, tmp_path, stop_after
):
    online = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "num_sample_generations": 2}
    train, config_class, more = {
        "sft": (train_sft, SFTConfig, small | {"model": chain.init, "train_data": data.sft, "valid_data": data.sft}),
        "rm": (train_rm, RMConfig, small | {"model": chain.sft, "train_data": data.pairs, "valid_data": data.pairs}),
        "ppo": (
            train_ppo,
            PPOConfig,
            small_ppo | online | {"kl_target": 0.5, "ptx_coef": 0.1, "ptx_data": data.sft},
        ),
        "grpo": (train_grpo, GRPOConfig, small_grpo | online | {"beta": 0.1, "dynamic_sampling": 2}),
        "rloo": (train_grpo, GRPOConfig, small_grpo | online | STOPS | {"beta": 0.1, "advantage": "rloo"}),
        "reinforce++": (train_grpo, GRPOConfig, small_grpo | online | {"beta": 0.1, "advantage": "reinforce++"}),
    }[stage]
    more |= {"lora_r": lora_r, "save_steps": 2}
    train(config_class(output_dir=str(tmp_path / "whole"), **more))
    stop_signals_off = stop_after(3)
    with pytest.raises(RunStopped, match=r"after step 3; .*step-3 holds it"):
        train(config_class(output_dir=str(tmp_path / "stopped"), **more))
    assert status(tmp_path / "stopped") == "stopped"
    stop_signals_off()
    train(config_class(output_dir=str(tmp_path / "stopped"), **more))
    assert status(tmp_path / "stopped") == "complete"
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert len(numbers(tmp_path / "whole")) == 6
    if stage in ("ppo", "grpo", "rloo", "reinforce++"):
        for name in ("samples.jsonl", "rollouts.jsonl"):
            whole, stopped = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "stopped"))
            assert whole == stopped and whole.count(b"\n") >= 6


@pytest.fixture
def ppo_command(data, chain, small_ppo):
    """ppo_train as a process of its own, with 10 rollouts and a checkpoint every second one."""

    def start(folder) -> subprocess.Popen:
        settings = small_ppo | {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts}
        settings |= {"output_dir": folder, "save_steps": 2, "total_episodes": 80}
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        program = "from easyrlhf.cli.stages import ppo_train as main; main()"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", program, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Wait until the run has logged this step."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        log = folder / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended or hung before step {step}: {process.communicate()}")


def test_a_killed_ppo_run_continues_with_the_same_numbers(ppo_command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ppo_command(whole).wait(180) == 0
    for step in (1, 5):  # before the first checkpoint, and between two later ones
        process = ppo_command(killed)
        wait_for_step(process, killed, step)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert status(killed) == "running"
    assert ppo_command(killed).wait(180) == 0
    assert status(killed) == "complete"
    assert numbers(killed) == numbers(whole)


def test_sigterm_saves_and_exits_3_and_the_same_command_finishes(ppo_command, tmp_path):
    process = ppo_command(tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    assert b"Stopped on request after step" in stderr and b"Traceback" not in stderr
    step = json.loads((tmp_path / "run" / "stage.json").read_text())["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{step}" / "state.json").exists()
    assert ppo_command(tmp_path / "run").wait(180) == 0


@pytest.fixture
def settings(data, chain, small) -> dict:
    """A small sft run."""
    return small | {"model": chain.init, "train_data": data.sft}


def test_a_finished_run_is_not_trained_again(settings, tmp_path, capsys):
    folder = train_sft(SFTConfig(output_dir=str(tmp_path / "run"), **settings))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    train_sft(SFTConfig(output_dir=str(folder), **settings))
    assert "already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_is_known_by_its_folder_and_free_to_print_otherwise(settings, tmp_path, capsys):
    folder = train_sft(SFTConfig(output_dir=str(tmp_path / "run"), **settings))
    moved = folder.rename(tmp_path / "moved")
    train_sft(SFTConfig(output_dir=f"{moved}/", log_steps=3, save_total_limit=5, **settings))
    assert "already complete" in capsys.readouterr().out


def test_other_settings_are_refused_and_listed(settings, tmp_path):
    folder = train_sft(SFTConfig(output_dir=str(tmp_path / "run"), **settings))
    with pytest.raises(InputError, match=r"batch_size: 8 → 4\n(.*\n)*.*--overwrite"):
        train_sft(SFTConfig(output_dir=str(folder), **settings | {"batch_size": 4}))
    assert status(folder) == "complete"


def test_foreign_files_are_refused_and_survive_overwrite(settings, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds files this stage did not write \(thesis\.txt\)"):
        train_sft(SFTConfig(output_dir=str(folder), **settings))
    train_sft(SFTConfig(output_dir=str(folder), overwrite=True, **settings))
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert status(folder) == "complete"


def test_overwrite_with_bad_input_keeps_the_finished_run(settings, tmp_path):
    folder = train_sft(SFTConfig(output_dir=str(tmp_path / "run"), **settings))
    with pytest.raises(InputError, match="no such file"):
        train_sft(SFTConfig(output_dir=str(folder), overwrite=True, **settings | {"train_data": "typo.jsonl"}))
    assert status(folder) == "complete"
    assert (folder / "model.safetensors").exists()


def test_changed_data_are_refused_when_a_run_continues(settings, tmp_path, data, stop_after):
    own = tmp_path / "own.jsonl"
    lines = Path(data.sft).read_text().splitlines(keepends=True)
    own.write_text("".join(lines))
    settings |= {"train_data": str(own), "output_dir": str(tmp_path / "run")}
    stop_after(2)
    with pytest.raises(RunStopped):
        train_sft(SFTConfig(**settings))
    own.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"rows have changed since it started:\n.* 48 rows then, 47 now"):
        train_sft(SFTConfig(**settings))


def test_resume_never_begins_anew(settings, tmp_path, stop_after):
    settings |= {"output_dir": str(tmp_path / "run")}
    stop_signals_off = stop_after(3)
    with pytest.raises(RunStopped):
        train_sft(SFTConfig(**settings))
    stop_signals_off()
    folder = train_sft(SFTConfig(resume="never", **settings))
    assert [row["step"] for row in numbers(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_stopped_run_branches_off_with_another_learning_rate(settings, tmp_path, stop_after, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    settings = settings | {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0}
    stop_signals_off = stop_after(2)
    with pytest.raises(RunStopped):
        train_sft(SFTConfig(**settings, output_dir=str(first)))
    stop_signals_off()
    checkpoint = str(first / "checkpoints" / "step-2")
    train_sft(SFTConfig(**settings | {"learning_rate": 1e-4, "resume": checkpoint}, output_dir=str(second)))
    said = f"branches from {checkpoint}; settings that differ: learning_rate: 0.001 -> 0.0001"
    assert said in capsys.readouterr().out
    rates = {row["step"]: row["learning_rate"] for row in numbers(second)}
    assert min(rates) == 3 and set(rates.values()) == {1e-4}
    assert status(second) == "complete"
