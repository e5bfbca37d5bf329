"""What a stopped run has kept can be used: ended where it is, exported at a step, read by every tool."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import (
    DPOConfig,
    ExportConfig,
    FinishConfig,
    GenerateConfig,
    GRPOConfig,
    KTOConfig,
    PolicyConfig,
    PPOConfig,
    RMConfig,
    RRHFConfig,
    ScoreConfig,
    SFTConfig,
)
from easyrlhf.errors import InputError, RunError, RunStopped
from easyrlhf.run.claim import locked
from easyrlhf.run.manifest import read_stage, require_whole
from easyrlhf.run.unfinished import shape_of
from easyrlhf.stages.kto import train_kto
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.preference import train_dpo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.rrhf import train_rrhf
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools import at_hand
from easyrlhf.tools.exporting.export import export_model
from easyrlhf.tools.finish import finish_run
from easyrlhf.tools.fitting.stage_memory import with_start_model
from easyrlhf.tools.generate import generate
from easyrlhf.tools.policy import load_policy_lm, read_renderer
from easyrlhf.tools.scoring import load_scorer, scores_of


@dataclass
class Pair:
    """A run that was stopped after step 3 of 6, and one whose last step was that."""

    stopped: Path
    whole: Path


@pytest.fixture
def pair(data, chain, small, small_ppo, small_grpo, tmp_path, stop_after):
    """pair(stage, lora_r) -> Pair."""
    online = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "num_sample_generations": 1}
    pairs = small | {"model": chain.sft, "train_data": data.pairs}
    (tmp_path / "rewards.py").write_text("def short(completions, **_): return [1.0 / len(c) for c in completions]")
    rewarded = {"reward_model": None, "reward_funcs": f"{tmp_path}/rewards.py:short"}
    stages = {
        "sft": (train_sft, SFTConfig, small | {"model": chain.init, "train_data": data.sft}),
        "rm": (train_rm, RMConfig, pairs | {"valid_data": data.pairs, "examine_rows": 4}),
        "dpo": (train_dpo, DPOConfig, pairs),
        "kto": (train_kto, KTOConfig, pairs | {"batch_size": 16}),
        "rrhf": (train_rrhf, RRHFConfig, pairs),
        "ppo": (train_ppo, PPOConfig, small_ppo | online),
        "shared": (train_ppo, PPOConfig, small_ppo | online | rewarded | {"share_backbone": True}),
        "grpo": (train_grpo, GRPOConfig, small_grpo | online | {"beta": 0.1}),
    }

    def make(stage: str, lora_r: int) -> Pair:
        train, config_class, settings = stages[stage]
        settings = settings | {"lora_r": lora_r, "save_steps": 2, "lr_scheduler": "constant", "warmup_ratio": 0.0}
        whole = train(config_class(**settings, max_steps=3, output_dir=str(tmp_path / "whole")))
        off = stop_after(3)
        with pytest.raises(RunStopped, match=r"^Stopped on request after step 3; .* easyrlhf finish .*ped ends"):
            train(config_class(**settings, output_dir=str(tmp_path / "stopped")))
        off()
        return Pair(tmp_path / "stopped", whole)

    return make


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All weights below a folder, checkpoints apart."""
    files = [file for file in sorted(folder.rglob("*.safetensors")) if "checkpoints" not in file.parts]
    return {f"{f.relative_to(folder)}:{key}": value for f in files for key, value in load_file(f).items()}


def assert_same_model(found: Path, wanted: Path) -> None:
    ours, theirs = tensors(found), tensors(wanted)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def model_files(folder: Path) -> set[str]:
    """Names of what makes a folder a model, adapter and value model included."""
    skipped = ("checkpoints", "plots", "runs")
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not set(skipped) & set(path.relative_to(folder).parts)
    }


CASES = [("sft", 4), ("rm", 0), ("ppo", 0)]
SLOW = [("sft", 0), ("rm", 4), ("dpo", 4), ("kto", 0), ("rrhf", 0), ("ppo", 4), ("shared", 4), ("grpo", 0)]


@pytest.mark.parametrize("stage, lora_r", [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_a_finished_run_is_what_its_stage_leaves(stage, lora_r, pair, capsys):
    both = pair(stage, lora_r)
    assert finish_run(FinishConfig(run=str(both.stopped), devices="cpu")) == both.stopped
    assert_same_model(both.stopped, both.whole)
    assert model_files(both.stopped) == model_files(both.whole)
    ours, theirs = read_stage(both.stopped), read_stage(both.whole)
    assert ours["ended_early"] == {"step": 3, "of": 6} and "ended_early" not in theirs
    assert (ours["status"], ours["step"]) == ("complete", 3)
    assert ours.keys() - {"ended_early"} == theirs.keys()
    for name in ("files", "tokenizer", "chat_template", "probes", "max_length", "rendering", "precision"):
        assert ours.get(name) == theirs.get(name)
    require_whole("--model", str(both.stopped))
    assert "| ended early | after step 3 of 6, by easyrlhf finish |" in (both.stopped / "README.md").read_text()
    assert "after step 3 of 6, by easyrlhf finish" in (both.stopped / "report.html").read_text()


@pytest.fixture
def stopped(data, chain, small, tmp_path, stop_after):
    """stopped(**changed) -> the folder of an sft run of 6 steps, stopped after step 3, with steps 2 and 3 saved."""

    def make(**changed) -> Path:
        settings = small | {"model": chain.init, "train_data": data.sft, "valid_data": data.sft, "save_steps": 2}
        settings |= {"output_dir": str(tmp_path / "run"), "eval_steps": 1} | changed
        off = stop_after(3)
        with pytest.raises(RunStopped):
            train_sft(SFTConfig(**settings))
        off()
        return tmp_path / "run"

    return make


def logged(folder: Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]


def test_an_earlier_step_can_be_the_end_and_later_rows_are_set_aside(stopped, tmp_path, capsys):
    run = stopped()
    export_model(ExportConfig(model=str(run), step=2))
    exported = tmp_path / "run-step-2"
    finish_run(FinishConfig(run=str(run), step=2, devices="cpu"))
    assert_same_model(run, exported)
    assert (read_stage(run)["step"], read_stage(run)["ended_early"]) == (2, {"step": 2, "of": 6})
    assert logged(run) == [1, 2] and logged(run, "metrics.after-2.jsonl") == [3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-2", "step-3"]
    capsys.readouterr()
    finish_run(FinishConfig(run=str(run), step=3))
    said = capsys.readouterr().out
    assert "complete already; nothing to do" in said and f"easyrlhf export {run} --step 3" in said
    train_sft(SFTConfig.from_yaml(run / "args.yaml"))
    said = " ".join(capsys.readouterr().out.split())
    assert "already complete (ended early, after step 2 of 6, by easyrlhf finish); nothing to do. --resume" in said
    assert read_stage(run)["step"] == 2


def test_the_best_step_is_the_end_of_a_run_that_keeps_the_best(stopped, tmp_path):
    run = stopped(keep_best="eval/loss")
    state = run / "checkpoints" / "step-3" / "state.json"
    known = json.loads(state.read_text())
    state.write_text(json.dumps(known | {"best": {"metric": "eval/loss", "step": 2, "value": 1.5}}))
    export_model(ExportConfig(model=str(run), step=2, output_dir=str(tmp_path / "best")))
    finish_run(FinishConfig(run=str(run), devices="cpu"))
    assert_same_model(run, tmp_path / "best")
    stage = read_stage(run)
    assert (stage["step"], stage["best"]["step"], stage["ended_early"]["step"]) == (3, 2, 3)
    assert logged(run) == [1, 2, 3]


def test_what_cannot_be_finished_is_refused_with_words(stopped, chain, tmp_path):
    with pytest.raises(InputError, match="is not the output folder of a training stage"):
        finish_run(FinishConfig(run=chain.init))
    run = stopped()
    with pytest.raises(InputError, match=r"--step 1: .*run has no checkpoint of that step; it has 2, 3"):
        finish_run(FinishConfig(run=str(run), step=1))
    with locked(run), pytest.raises(InputError, match=r"its run is at work; stop it first"):
        finish_run(FinishConfig(run=str(run)))
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "model" / "engine.json").write_text("{}")
    with pytest.raises(InputError, match="none of its checkpoints is whole"):
        finish_run(FinishConfig(run=str(run)))
    with pytest.raises(InputError, match=r"--step 2: .*is damaged: model/engine\.json is not as it was written"):
        finish_run(FinishConfig(run=str(run), step=2))
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no checkpoint, so there is no model in it yet"):
        finish_run(FinishConfig(run=str(run)))
    assert read_stage(run)["status"] == "stopped"


def test_a_model_that_cannot_be_written_leaves_the_run_to_go_on(stopped, monkeypatch, data, chain, small):
    run = stopped()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("easyrlhf.models.folder.write_lm", full)
        with pytest.raises(RunError, match=r"run: could not be written: No space left on device; make room there"):
            finish_run(FinishConfig(run=str(run), devices="cpu"))
    assert read_stage(run)["status"] == "stopped" and logged(run) == [1, 2, 3]
    with monkeypatch.context() as patch:
        patch.setattr("easyrlhf.tools.report.write_report", full)
        with pytest.raises(RunError, match=r"Its model is complete; easyrlhf report .*run writes the pages anew"):
            finish_run(FinishConfig(run=str(run), devices="cpu"))
    assert read_stage(run)["status"] == "complete"


def test_a_checkpoint_is_exported_while_its_run_goes_on_and_nothing_there_is_touched(pair, tmp_path):
    run = pair("rm", 0).stopped
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    scored = ScoreConfig(reward_model=str(run), text="Say red.", devices="cpu", allow_incomplete=True)
    unfinished = load_scorer(scored)
    with locked(run):
        export_model(ExportConfig(model=str(run), step=3, output_dir=str(tmp_path / "full")))
        export_model(
            ExportConfig(
                model=str(run / "checkpoints" / "step-3"),
                to="sequence_classification",
                output_dir=str(tmp_path / "cls"),
            )
        )
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == before
    finish_run(FinishConfig(run=str(run), devices="cpu"))
    assert_same_model(tmp_path / "full", run)
    ids = [unfinished.renderer.sequence("", "Say red.")]
    assert scores_of(unfinished, ids, None) == scores_of(load_scorer(scored), ids, None)
    head = load_file(tmp_path / "cls" / "model.safetensors")["score.weight"]
    assert torch.equal(head, load_file(run / "value_head.safetensors")["v_head.summary.weight"])
    assert read_stage(tmp_path / "full")["parents"] == {"model": str(run / "checkpoints" / "step-3")}


def test_tools_read_the_newest_checkpoint_of_a_run_that_has_not_ended(stopped, chain, tmp_path, capsys):
    run = stopped(lora_r=4)
    config = PolicyConfig(model=str(run), devices="cpu")
    with pytest.raises(InputError, match=r"is not complete \(status stopped\).*--allow_incomplete takes its newest"):
        read_renderer(config)
    allowed = replace(config, allow_incomplete=True)
    renderer = read_renderer(allowed)
    assert "not complete (status stopped); its step 3 is read" in capsys.readouterr().err
    begun = load_policy_lm(allowed, renderer).state_dict()
    earlier = load_policy_lm(replace(config, model=str(run / "checkpoints" / "step-2")), renderer).state_dict()
    on_top = PolicyConfig(model=chain.init, adapter=str(run / "adapter"), devices="cpu", allow_incomplete=True)
    adapted = load_policy_lm(on_top, read_renderer(on_top)).state_dict()
    finish_run(FinishConfig(run=str(run), devices="cpu"))
    ended = load_policy_lm(config, read_renderer(config)).state_dict()
    assert all(torch.equal(begun[key], ended[key]) and torch.equal(adapted[key], ended[key]) for key in ended)
    assert not all(torch.equal(earlier[key], ended[key]) for key in ended)


def test_answers_of_one_checkpoint_are_not_continued_with_another(stopped, data, tmp_path):
    run, out = stopped(), tmp_path / "out.jsonl"
    settings = {"prompts": data.prompts, "output": str(out), "devices": "cpu", "max_new_tokens": 2}
    generate(GenerateConfig(model=str(run), allow_incomplete=True, **settings))
    assert out.exists()
    at_hand._stands.clear()  # another process
    shutil.rmtree(run / "checkpoints" / "step-3")
    with pytest.raises(InputError, match="was begun with other settings"):
        generate(GenerateConfig(model=str(run), allow_incomplete=True, **settings))


def test_what_needs_only_the_shape_of_an_unfinished_run_goes_by_where_it_started(stopped, chain, data):
    run = stopped()
    assert shape_of(str(run)) == chain.init
    assert shape_of(chain.sft) == chain.sft
    assert shape_of(f"{chain.sft}/checkpoints/step-18") == chain.sft
    with pytest.raises(InputError, match="is not complete"):
        with_start_model(RMConfig(model=str(run), train_data=data.pairs))
    assert with_start_model(RMConfig(model=str(run), train_data=data.pairs, allow_incomplete=True)).model == chain.init


def test_a_stage_builds_on_an_unfinished_run_and_keeps_what_it_took(stopped, data, small, tmp_path, stop_after):
    run = stopped()
    settings = small | {"model": str(run), "train_data": data.pairs, "output_dir": str(tmp_path / "rm"), "lora_r": 4}
    with pytest.raises(InputError, match=r"status stopped.*easyrlhf finish .*run ends it.*--allow_incomplete"):
        train_rm(RMConfig(**settings))
    off = stop_after(2)
    with pytest.raises(RunStopped):
        train_rm(RMConfig(**settings, allow_incomplete=True))
    off()
    kept = tmp_path / "rm" / "parents" / "model"
    adapter = read_stage(kept)
    assert adapter["checkpoint"] == str(run / "checkpoints" / "step-3") and adapter["step"] == 3
    weights = tensors(kept)
    finish_run(FinishConfig(run=str(run), step=2, devices="cpu"))
    folder = train_rm(RMConfig(**settings, allow_incomplete=True))  # goes on with what it began with
    assert all(torch.equal(value, tensors(kept)[key]) for key, value in weights.items())
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(kept)
    assert "model: " + str(run) in (folder / "args.yaml").read_text()
