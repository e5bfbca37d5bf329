"""--keep_best: the weights of the best evaluation are what the folder gets, whatever happens on the way."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError, RunStopped, SettingError
from easyrlhf.online import loop
from easyrlhf.report.metrics import METRICS, is_better, ranked
from easyrlhf.run.checkpoint import list_checkpoints, save_checkpoint
from easyrlhf.run.step_end import note_best
from easyrlhf.stages import offline, rm
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

TRAIN = {
    "sft": (train_sft, SFTConfig),
    "rm": (train_rm, RMConfig),
    "ppo": (train_ppo, PPOConfig),
    "grpo": (train_grpo, GRPOConfig),
}
# eval/… of steps 1 to 6: best at step 3, and at step 2 before that
FALLS_THEN_RISES = [0.9, 0.5, 0.4, 0.4, 0.6, 0.7]


@pytest.fixture
def train(data, chain, small, small_ppo, small_grpo, tmp_path, monkeypatch):
    """train(stage, **settings) -> the folder of a run of 6 steps, evaluated after each as FALLS_THEN_RISES says."""
    metric = {"sft": "eval/loss", "rm": "eval/loss", "ppo": "eval/scores", "grpo": "eval/scores"}
    online = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "valid_data": data.prompts}
    online |= {"num_sample_generations": 0}
    settings = {
        "sft": small | {"model": chain.init, "train_data": data.sft, "valid_data": data.sft},
        "rm": small | {"model": chain.sft, "train_data": data.pairs, "valid_data": data.pairs},
        "ppo": small_ppo | online,
        "grpo": small_grpo | online,
    }
    script_evaluations(monkeypatch)

    def start(stage: str, folder="run", **changed) -> Path:
        train_stage, config_class = TRAIN[stage]
        best = {"output_dir": str(tmp_path / folder), "keep_best": metric[stage], "eval_steps": 1, "save_steps": 0}
        return train_stage(config_class(**settings[stage] | best | changed))

    return start


def script_evaluations(monkeypatch) -> None:
    """Let every evaluation happen, but give FALLS_THEN_RISES as its loss, or its negative as its score."""
    fit, evaluate = offline.train_steps, loop.evaluate_prompts

    def scripted_fit(run, engine, task, *rest):
        def scripted(rows, advance):
            return task.evaluate(rows, advance) | {"eval/loss": FALLS_THEN_RISES[run.step - 1]}

        return fit(run, engine, replace(task, evaluate=scripted), *rest)

    def scripted_evaluate(run, *rest):
        return evaluate(run, *rest) | {"eval/scores": -FALLS_THEN_RISES[run.step - 1]}

    monkeypatch.setattr(offline, "train_steps", scripted_fit)
    monkeypatch.setattr(loop, "evaluate_prompts", scripted_evaluate)


def stage(folder: Path) -> dict:
    return json.loads((folder / "stage.json").read_text())


def steps_saved(folder: Path) -> list[str]:
    return [checkpoint.name for checkpoint in list_checkpoints(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model's weights at the root of a folder, or those of its adapter."""
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")


def saved_weights(folder: Path, step: int, engine: str) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of one engine, its names as weights() gives them."""
    found = load_file(folder / "checkpoints" / f"step-{step}" / engine / "part-1-of-1.safetensors")
    masters = {name.removeprefix("master/"): tensor for name, tensor in found.items() if name.startswith("master/")}
    return {name.removeprefix("lm.").replace(".default.", "."): tensor for name, tensor in masters.items()}


def assert_same(kept: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    """Every weight that was kept is the one that was saved; a tied one is saved once."""
    shared = kept.keys() & saved.keys()
    assert len(shared) >= len(kept) - 1 and shared
    for name in shared:
        assert torch.equal(kept[name], saved[name]), name


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one.keys() & other.keys())


@pytest.mark.parametrize("name, lora_r", [("sft", 0), ("sft", 4), ("rm", 4), ("ppo", 0), ("ppo", 4), ("grpo", 0)])
def test_the_folder_gets_the_weights_of_the_best_step_and_says_so(name, lora_r, train, capsys):
    folder = train(name, lora_r=lora_r, save_total_limit=1)
    found = stage(folder)
    sign = -1 if name in ("ppo", "grpo") else 1
    metric = "eval/scores" if sign < 0 else "eval/loss"
    assert found["best"] == {"metric": metric, "step": 3, "value": sign * 0.4}  # step 4 is as good, and later
    assert found["step"] == 6 and found["metrics"][metric] == sign * 0.4
    assert steps_saved(folder) == ["step-3", "step-6"]
    places = {"sft": {"model": "."}, "rm": {"model": "."}, "grpo": {"policy": "."}}
    for engine, place in places.get(name, {"policy": ".", "value": "value_model"}).items():
        kept = weights(folder / place)
        assert_same(kept, saved_weights(folder, 3, engine))
        assert differ(kept, saved_weights(folder, 6, engine))
    assert "best step: 3, with " in capsys.readouterr().out
    assert "the weights are of that step" in (folder / "report.html").read_text()
    assert "| best step | 3, with " in (folder / "README.md").read_text()


@pytest.mark.parametrize("name, lora_r, stop_at", [("sft", 0, 3), ("ppo", 4, 4)])
def test_a_stop_loses_neither_the_best_step_nor_a_bit(name, lora_r, stop_at, train, stop_after):
    whole = train(name, "whole", lora_r=lora_r, save_total_limit=1)
    go_on = stop_after(stop_at)
    with pytest.raises(RunStopped):
        train(name, lora_r=lora_r, save_total_limit=1)
    go_on()
    folder = train(name, lora_r=lora_r, save_total_limit=1)
    assert stage(folder)["best"] == stage(whole)["best"]
    for model in sorted(whole.rglob("*model.safetensors")):
        if "checkpoints" not in model.parts:
            assert not differ(load_file(folder / model.relative_to(whole)), load_file(model))
    assert steps_saved(folder) == ["step-3", "step-6"]


def test_a_run_stopped_before_its_best_step_finds_it_afterwards(train, stop_after):
    go_on = stop_after(2)
    with pytest.raises(RunStopped):
        train("sft")
    go_on()
    assert stage(train("sft"))["best"]["step"] == 3


def test_the_examination_of_a_reward_model_is_that_of_the_best_step(train, monkeypatch):
    examined, plain = [], rm.evaluation_of

    def evaluation_of(folder, *rest):
        found = plain(folder, *rest)
        examined.append((folder / "rm_eval.json").read_text())
        return found

    monkeypatch.setattr(rm, "evaluation_of", evaluation_of)
    folder = train("rm")
    assert len(examined) == 7
    assert (folder / "rm_eval.json").read_text() == examined[2] != examined[5]


def test_when_the_last_step_is_the_best_nothing_is_taken_back(train, monkeypatch):
    monkeypatch.setitem(globals(), "FALLS_THEN_RISES", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    folder = train("sft", save_total_limit=1)
    assert stage(folder)["best"]["step"] == 6
    assert_same(weights(folder), saved_weights(folder, 6, "model"))
    assert steps_saved(folder) == ["step-6"]


def test_without_the_setting_the_last_step_is_what_the_folder_gets(train):
    folder = train("sft", keep_best=None)
    assert "best" not in stage(folder)
    assert_same(weights(folder), saved_weights(folder, 6, "model"))
    assert stage(folder)["metrics"]["eval/loss"] == 0.7
    assert steps_saved(folder) == ["step-6"]


@pytest.mark.parametrize(
    "name, metric",
    [("sft", "eval/scores"), ("sft", "loss"), ("rm", "eval/ties"), ("ppo", "eval/kl"), ("grpo", "eval/los")],
)
def test_a_metric_that_cannot_choose_is_refused_before_a_model_is_loaded(name, metric, train, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.models.load_config", lambda *_, **__: pytest.fail("went on to the model"))
    with pytest.raises(InputError) as caught:
        train(name, keep_best=metric)
    assert str(caught.value).startswith(f"--keep_best {metric}: ")
    assert str(caught.value).endswith(f"{name}; use {' or '.join(ranked(name))}")


def test_the_setting_needs_rows_to_evaluate_on():
    with pytest.raises(SettingError, match="keep_best eval/loss: needs valid_data"):
        SFTConfig(train_data="x.jsonl", keep_best="eval/loss")


def test_every_stage_has_metrics_to_choose_by_and_all_are_of_evaluations():
    assert ranked("sft") == ["eval/loss", "eval/perplexity"]
    assert ranked("rm") == ["eval/loss", "eval/rewards/margins", "eval/rewards/accuracies"]
    assert ranked("ppo") == ranked("grpo") == ranked("ebft") == ["eval/scores", "eval/eos_rate"]
    assert all(name.startswith("eval/") for name, entry in METRICS.items() if entry.better)


def test_better_is_strictly_better_and_never_nan():
    nan = float("nan")
    assert is_better("eval/loss", 0.4, 0.5) and not is_better("eval/loss", 0.5, 0.5)
    assert is_better("eval/scores", 0.5, 0.4) and not is_better("eval/scores", 0.4, 0.4)
    assert not is_better("eval/loss", nan, 0.5) and not is_better("eval/scores", nan, 0.5)


def test_a_number_that_is_not_finite_is_never_the_best():
    run = SimpleNamespace(config=SimpleNamespace(keep_best="eval/loss"), best=None, step=1)
    note_best(run, {"eval/loss": float("nan")})
    assert run.best is None
    run.step = 2
    note_best(run, {"eval/loss": 3.0})
    note_best(run, {"loss": 1.0})  # a step that was not evaluated
    assert run.best == {"metric": "eval/loss", "step": 2, "value": 3.0}


# --- checkpoints


def save(folder: Path, step: int, best: int, keep: int) -> None:
    save_checkpoint(folder, step, {}, {"best": {"metric": "eval/loss", "step": best, "value": 1.0}}, keep)


def test_the_best_of_every_kept_checkpoint_is_kept_beside_them(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        save(tmp_path, step, best, keep=2)
        assert f"step-{best}" in steps_saved(tmp_path)
        if step == 4:  # step 3 may still be continued, and its best is step 1
            assert steps_saved(tmp_path) == ["step-1", "step-3", "step-4"]
    assert steps_saved(tmp_path) == ["step-4", "step-5"]


def test_a_best_checkpoint_that_has_gone_is_missed_before_training_goes_on(train, stop_after):
    go_on = stop_after(4)
    with pytest.raises(RunStopped) as caught:
        train("sft")
    go_on()
    folder = Path(str(caught.value).split("; ")[1].split("/checkpoints")[0])
    gone = folder / "checkpoints" / "step-3"
    gone.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"step-3: is missing, and holds the best eval/loss up to .*step-4"):
        train("sft")
    assert stage(folder)["status"] == "stopped"
    folder.with_name("elsewhere").rename(gone)
    assert stage(train("sft"))["best"]["step"] == 3
