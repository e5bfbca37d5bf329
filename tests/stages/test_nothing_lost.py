"""Something fails in the fifth of eight steps: exit code 1 with its name, and mended the run is as if nothing was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import InputError, RunError
from easyrlhf.online.state import Models
from easyrlhf.rewards.model import ModelSource
from easyrlhf.rollout.sampler import EVALUATION, HFSampler
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.stages.online import train_grpo, train_ppo

CLOCK = ("time/", "tokens_per_second")
SAMPLE = "\n  (the longest of 8)\n  prompt: 'Say "
# what fails → what is raised, the start of the message, its end of a regular expression
FAULTS = {
    "sampling": (IndexError("out of range"), "sampling with the policy raised IndexError: out of range (test_nothing"),
    "scoring": (IndexError("out of range"), "reward_model raised IndexError: out of range (test_nothing"),
    "a template": (InputError("its template refuses this"), "reward_model: its template refuses this" + SAMPLE),
    "reference": (ValueError("no such place"), "the reference raised ValueError: no such place (test_nothing"),
    "evaluating": (TypeError("no model"), "sampling with the policy raised TypeError: no model (test_nothing"),
    "memory": (
        MemoryError("DefaultCPUAllocator"),
        "out of memory on cpu: DefaultCPUAllocator\nA forward pass had up to",
    ),
}


def numbers(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The rows of a log without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in rows]


@pytest.fixture
def fail(monkeypatch):
    """fail(what, error) makes it fail once, in step 5 of rollouts of 8."""

    def install(what: str, error: Exception) -> None:
        updates, left = [], [error]
        generate = HFSampler.generate

        def raised() -> None:
            if len(updates) == 4 + (what == "evaluating") and left:
                raise left.pop()

        def sampling(sampler, prompts, keys, **how):
            if what in ("sampling", "memory") or (what == "evaluating" and keys[0][1] == EVALUATION):
                raised()
            return generate(sampler, prompts, keys, **how)

        def first(function):
            def wrapped(*args, **how):
                raised()
                return function(*args, **how)

            return wrapped

        monkeypatch.setattr(HFSampler, "generate", sampling)
        monkeypatch.setattr(ShardedSampler, "updated", lambda sampler: updates.append(1))
        if what in ("scoring", "a template"):
            monkeypatch.setattr(ModelSource, "__call__", first(ModelSource.__call__))
        if what == "reference":
            monkeypatch.setattr(Models, "ref_logprobs", first(Models.ref_logprobs))

    return install


@pytest.fixture(scope="module")
def whole(data, chain, tmp_path_factory) -> dict:
    """stage → (train, config without a folder, folder of the run that nothing disturbed)."""
    return {}


@pytest.fixture
def run(data, chain, small_ppo, small_grpo, whole, tmp_path_factory):
    """run(stage) -> (start a run in a folder, folder of the run that nothing disturbed)."""
    few = tmp_path_factory.mktemp("few") / "prompts.jsonl"
    few.write_text("".join(Path(data.prompts).read_text().splitlines(keepends=True)[:8]))
    known = {"model": chain.sft, "reward_model": chain.rm, "train_data": str(few), "valid_data": str(few)}
    known |= {"total_episodes": 64, "eval_steps": 5, "save_steps": 0, "num_sample_generations": 2}
    known |= {"keep_best": "eval/scores"}
    stages = {
        "ppo": (train_ppo, PPOConfig, small_ppo | {"kl_target": 0.5}),
        "grpo": (train_grpo, GRPOConfig, small_grpo | {"beta": 0.1, "dynamic_sampling": 1}),
    }

    def make(stage: str):
        train, config_class, small = stages[stage]

        def start(folder: Path) -> Path:
            return train(config_class(**small | known, output_dir=str(folder)))

        if stage not in whole:
            whole[stage] = start(tmp_path_factory.mktemp(stage))
        return start, whole[stage]

    return make


@pytest.mark.parametrize(
    "stage, what", [*(("ppo", what) for what in FAULTS), ("grpo", "scoring"), ("grpo", "evaluating")]
)
def test_a_run_that_failed_goes_on_bit_for_bit(run, fail, tmp_path, stage, what):
    start, undisturbed = run(stage)
    error, message = FAULTS[what]
    fail(what, error)
    with pytest.raises(RunError) as found:
        start(tmp_path / "run")
    text, done = str(found.value), 5 if what == "evaluating" else 4
    assert text.startswith(message) and found.value.exit_code == 1
    assert what == "memory" or SAMPLE in text or (what == "evaluating" and "\n  prompt: 'Say " in text)
    assert f"Safe on disk: {tmp_path}/run/checkpoints/step-{done}. The same command continues the run." in text
    assert [row["step"] for row in numbers(tmp_path / "run")] == list(range(done + 1))
    start(tmp_path / "run")
    for log in ("metrics.jsonl", "samples.jsonl"):
        assert numbers(tmp_path / "run", log) == numbers(undisturbed, log)
    assert [row["step"] for row in numbers(undisturbed)] == list(range(9))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
