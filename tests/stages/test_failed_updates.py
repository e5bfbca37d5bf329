"""An update that fails: what was done before is kept, and the way out that is printed is one."""

import errno
import json
import math
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from easyrlhf.cli.main import main
from easyrlhf.config import PPOConfig, SFTConfig
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.errors import RunError
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.sft import train_sft


@pytest.fixture
def fail(monkeypatch):
    """fail(at, error) makes an engine's update number `at` raise, by None of a loss that is NaN."""

    def install(at: int, error: Exception | None = None) -> None:
        update, count = PlainEngine.update, []

        def failing(engine, loss):
            count.append(1)
            if len(count) == at and error:
                raise error
            return update(engine, math.nan if len(count) == at else loss)

        monkeypatch.setattr(PlainEngine, "update", failing)

    return install


@pytest.fixture
def sft(data, chain, small, tmp_path):
    """sft(**changed) runs 6 steps of sft in tmp_path/run, saved every second one."""

    def run(**changed) -> Path:
        settings = small | {"model": chain.init, "train_data": data.sft, "save_steps": 2, "save_total_limit": 1}
        return train_sft(SFTConfig(**settings | {"output_dir": str(tmp_path / "run")} | changed))

    return run


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_loss_that_is_nan_leaves_the_steps_before_it_and_a_command_that_works(sft, fail, tmp_path, monkeypatch):
    fail(4)
    with pytest.raises(RunError) as found:
        sft()
    run, text = tmp_path / "run", str(found.value)
    said, way_out = text.splitlines()
    assert said.startswith("the loss is nan with a gradient of norm ")
    assert said.endswith("the weights were not changed. Lower --learning_rate")  # they are float32 already
    assert saved(run) == ["step-2", "step-3"] and steps(run) == [1, 2, 3]
    kept = f"{run}/checkpoints"
    assert way_out.startswith(f"Safe on disk: {kept}/step-3, {kept}/step-2. The same command would end the same way.")
    command = shlex.split(way_out.partition("A lower rate: ")[2])
    assert command[0] == "sft_train" and command[-2:] == ["--learning_rate", "0.0001"]
    ended = CliRunner().invoke(main, command, standalone_mode=False, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    branch = tmp_path / "run-2"
    assert json.loads((branch / "stage.json").read_text())["status"] == "complete"
    assert steps(branch) == [4, 5, 6]


def test_a_loss_that_is_nan_at_once_has_a_command_as_well(sft, fail, tmp_path):
    fail(1)
    with pytest.raises(RunError) as found:
        sft(overwrite=True)
    command = shlex.split(str(found.value).partition("A lower rate: ")[2])
    assert str(found.value).splitlines()[1].startswith("The same command would end the same way. ")
    assert command[-1] == "--no_overwrite" and "--resume" not in command
    assert CliRunner().invoke(main, command, standalone_mode=False).exit_code == 0
    assert steps(tmp_path / "run-2") == [1, 2, 3, 4, 5, 6]


def test_float32_is_advised_where_numbers_are_rounded():
    layer = nn.Linear(2, 2, dtype=torch.bfloat16)
    engine = PlainEngine.__new__(PlainEngine)
    engine.trained = dict(layer.named_parameters())
    assert engine.remedy == "Lower --learning_rate, or use --precision float32"


def test_a_run_whose_update_failed_for_another_reason_goes_on_as_if_nothing_was(sft, fail, tmp_path):
    fail(4, IndexError("a fault"))
    with pytest.raises(IndexError):
        sft()
    assert saved(tmp_path / "run") == ["step-2", "step-3"]
    sft()
    sft(output_dir=str(tmp_path / "whole"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_a_final_model_and_a_report_that_cannot_be_written_are_one_message_each(sft, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def refused(*_, **__):
        raise OSError(errno.EACCES, "Permission denied", str(run / "report.html"))

    with monkeypatch.context() as patch:
        patch.setattr("easyrlhf.models.folder.write_lm", full)
        with pytest.raises(RunError) as found:
            sft()
    said, way_out = str(found.value).splitlines()
    assert said == (
        f"{run}: could not be written: Error while serializing: I/O error: No space left on device (os error 28); "
        "make room there"
    )
    assert way_out.startswith(f"Safe on disk: {run}/checkpoints/step-6. The same command continues the run.")
    with monkeypatch.context() as patch:
        patch.setattr("easyrlhf.stages.lifecycle.write_report", refused)
        with pytest.raises(RunError) as found:
            sft()
    said, way_out = str(found.value).splitlines()
    assert said == f"{run}/report.html: could not be written: Permission denied; see that it can be written"
    assert way_out == f"The model in {run} is complete and safe; easyrlhf report {run} writes its pages anew."
    assert json.loads((run / "stage.json").read_text())["status"] == "complete"


def test_weights_that_are_not_finite_are_never_saved(sft, tmp_path, monkeypatch):
    update = PlainEngine.update

    def spoiling(engine, loss):
        norm = update(engine, loss)
        if engine.changes == 4:
            next(iter(engine.trained.values())).data[0] = math.inf
        return norm

    monkeypatch.setattr(PlainEngine, "update", spoiling)
    with pytest.raises(RunError, match=r"trained weights have become NaN or infinite: .*embed_tokens\.weight"):
        sft()
    assert saved(tmp_path / "run") == ["step-2"]


@pytest.mark.parametrize("at, kept", [(17, ["step-2"]), (18, [])])
def test_a_rollout_that_has_changed_weights_is_not_taken_for_its_step(at, kept, data, chain, small_ppo, fail, tmp_path):
    """A step of ppo has 4 updates of each of two models: number 17 is the first of the third rollout."""
    online = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "save_steps": 0}
    fail(at)
    with pytest.raises(RunError):
        train_ppo(PPOConfig(**small_ppo | online | {"output_dir": str(tmp_path / "run"), "num_sample_generations": 0}))
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.glob("step-*")) == kept
