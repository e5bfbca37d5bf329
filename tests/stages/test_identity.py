"""Rows and models are known by what they are: a run goes on, or is done, wherever its inputs lie by now."""

import json
import shutil
from pathlib import Path

import pytest

from easyrlhf.config import DPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.stages.align import train_dpo
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

STAGES = {
    "sft": (train_sft, SFTConfig),
    "rm": (train_rm, RMConfig),
    "dpo": (train_dpo, DPOConfig),
    "ppo": (train_ppo, PPOConfig),
}
FUNCTION = "def score(completions, **_):\n    return [-float(len(str(one))) for one in completions]\n"


@pytest.fixture(params=STAGES)
def stage(request, data, chain, small, small_ppo, tmp_path, monkeypatch):
    """stage(**settings) trains, in a working directory with inputs of its own: sft, rm, rows.jsonl, rewards.py."""
    train, config = STAGES[request.param]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    model = chain.init if request.param == "sft" else chain.sft
    shutil.copytree(model, "start")
    rows = {"sft": data.sft, "ppo": data.prompts}.get(request.param, data.pairs)
    shutil.copy(rows, "rows.jsonl")
    Path("rewards.py").write_text(FUNCTION)
    settings = small | {"model": "start", "train_data": "rows.jsonl", "output_dir": "run", "max_steps": 4}
    if request.param == "ppo":
        shutil.copytree(chain.rm, "rm")
        online = {"reward_model": "rm", "reward_funcs": "rewards.py:score", "num_sample_generations": 0}
        settings |= small_ppo | online

    def run(**more) -> Path:
        return train(config(**settings | more))

    run.name = request.param
    return run


def elsewhere(monkeypatch, name: str) -> dict:
    """Move everything, and go to another folder; returns the settings that say where it is."""
    Path("../moved").mkdir()
    for path in list(Path().iterdir()):
        path.rename(Path("../moved") / f"new_{path.name}")
    monkeypatch.chdir("..")
    found = {"model": "moved/new_start", "train_data": "./moved/new_rows.jsonl", "output_dir": "moved/new_run"}
    if name == "ppo":
        found |= {"reward_model": str(Path("moved/new_rm").resolve()), "reward_funcs": "moved/new_rewards.py:score"}
    return found


def steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def written(folder: Path) -> dict[Path, int]:
    """When each file of a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def says(capsys, act, error: type | None = None) -> str:
    """What a run prints, or the error that it raises."""
    capsys.readouterr()
    if error is None:
        act()
        return capsys.readouterr().out
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)


def test_a_run_goes_on_and_is_done_wherever_its_inputs_lie(stage, stop_after, monkeypatch, capsys):
    stop_signals_off = stop_after(2)
    with pytest.raises(RunStopped):
        stage()
    stop_signals_off()
    moved = elsewhere(monkeypatch, stage.name)

    # the dry run says what the run would do, and refuses in the same words
    assert "continues after step-2" in says(capsys, lambda: stage(**moved, dry_run=True))
    rows = Path("moved/new_rows.jsonl")
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:-1]))
    refused = says(capsys, lambda: stage(**moved), InputError)
    assert says(capsys, lambda: stage(**moved, dry_run=True), InputError) == refused
    assert "holds a stopped run" in refused and "48 rows then, 47 now" in refused
    rows.write_text("".join(lines))

    assert "continues after step-2" in says(capsys, lambda: stage(**moved))
    assert steps(moved["output_dir"]) == [1, 2, 3, 4]

    # a complete run is known as well, and left alone
    Path("moved").rename("again")
    there = {name: value.replace("moved", "again") for name, value in moved.items()}
    before = written(Path("again/new_run"))
    for dry_run in (False, True):
        assert "already complete; nothing to do" in says(capsys, lambda dry=dry_run: stage(**there, dry_run=dry))
    assert {
        path: path.stat().st_mtime_ns for path in Path("again/new_run").rglob("*") if path.name != ".lock"
    } == before
    rows = Path("again/new_rows.jsonl")
    rows.write_text("".join(lines[1:]))
    refused = says(capsys, lambda: stage(**there), InputError)
    assert says(capsys, lambda: stage(**there, dry_run=True), InputError) == refused
    assert "holds a complete run" in refused and "48 rows then, 47 now" in refused
