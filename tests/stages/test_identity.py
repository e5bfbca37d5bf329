"""Rows and models are known by what they are: a run goes on, or is done, wherever its inputs lie by now."""

import json
import shutil
from pathlib import Path

import pytest

from easyrlhf.config import DPOConfig, KTOConfig, PPOConfig, RMConfig, RRHFConfig, SFTConfig
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.stages.kto import train_kto
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.preference import train_dpo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.rrhf import train_rrhf
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
    assert written(Path("again/new_run")) == before
    rows = Path("again/new_rows.jsonl")
    rows.write_text("".join(lines[1:]))
    refused = says(capsys, lambda: stage(**there), InputError)
    assert says(capsys, lambda: stage(**there, dry_run=True), InputError) == refused
    assert "holds a complete run" in refused and "48 rows then, 47 now" in refused


KINDS = {"sft": "sft", "rm": "pairs", "dpo": "pairs", "kto": "pairs", "rrhf": "pairs", "ppo": "prompts"}


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_are_held_out_and_trained_on_are_counted_by_their_content(name, data, chain, small, tmp_path, capsys):
    train, config = {**STAGES, "kto": (train_kto, KTOConfig), "rrhf": (train_rrhf, RRHFConfig)}[name]
    lines = Path(getattr(data, KINDS[name])).read_text().splitlines(keepends=True)
    unique = [json.dumps(json.loads(line.replace("Say", "Now say"))) + "\n" for line in lines[:5]]
    (tmp_path / "valid.jsonl").write_text("".join(lines[:7] + unique))
    settings = small | {"model": chain.sft, "train_data": getattr(data, KINDS[name]), "dry_run": True}
    settings |= {"output_dir": str(tmp_path / "run"), "valid_data": str(tmp_path / "valid.jsonl")}
    settings |= {"reward_model": chain.rm, "response_length": 6} if name == "ppo" else {}
    train(config(**settings))
    shared, all_rows = (14, 24) if name == "kto" else (7, 12)  # of a comparison KTO makes two rows
    said = f"trained on: {shared} of {all_rows} rows of --valid_data {tmp_path}/valid.jsonl are in --train_data"
    assert said in " ".join(capsys.readouterr().out.split())
    (tmp_path / "valid.jsonl").write_text("".join(unique))
    train(config(**settings))
    assert "trained on:" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sft", "rm"])
def test_a_reward_model_as_a_start_is_said_to_lose_its_head(name, data, chain, small, tmp_path, capsys):
    train, config = STAGES[name]
    rows = {"sft": data.sft, "rm": data.pairs}[name]
    settings = small | {"train_data": rows, "output_dir": str(tmp_path / "run"), "dry_run": True}
    train(config(model=chain.rm, **settings))
    said = f"warning: --model {chain.rm}: is a reward model or a value model; its language model alone is used, without"
    assert said in " ".join(capsys.readouterr().out.split())
    train(config(model=chain.sft, **settings))
    assert "its head" not in capsys.readouterr().out
