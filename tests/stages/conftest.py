"""A tiny chain of stages on generated rows, made once per worker: init → sft → rm."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from easyrlhf.config import InitConfig, RMConfig, SFTConfig
from easyrlhf.run.run import Run
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools.init import init_model

WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one", "two"]
SMALL = {
    "max_length": 64,
    "max_prompt_length": 40,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "devices": "cpu",
    "report_to": "none",
}


def write_rows(path: Path, rows: list[dict]) -> str:
    """Write a .jsonl file; returns its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def question(word: str) -> dict:
    return {"role": "user", "content": f"Say {word}."}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="session", autouse=True)
def reference_cache(tmp_path_factory):
    """The reference log-probabilities of all tests of this room, out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EASYRLHF_CACHE", str(tmp_path_factory.mktemp("reference_cache")))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> SimpleNamespace:
    """Files: sft (messages), pairs (chosen repeats the word, rejected another), prompts."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    words = [rng.choice(WORDS) for _ in range(48)]
    others = [rng.choice([w for w in WORDS if w != word]) for word in words]
    return SimpleNamespace(
        sft=write_rows(folder / "sft.jsonl", [{"messages": [question(w), answer(f"{w}.")]} for w in words]),
        pairs=write_rows(
            folder / "pairs.jsonl",
            [
                {"prompt": [question(w)], "chosen": [answer(f"{w}.")], "rejected": [answer(f"{o} {o}.")]}
                for w, o in zip(words, others, strict=True)
            ],
        ),
        prompts=write_rows(folder / "prompts.jsonl", [{"prompt": [question(w)], "word": w} for w in words]),
    )


@pytest.fixture(scope="session")
def chain(data, tmp_path_factory) -> SimpleNamespace:
    """Folders of a finished init, sft and rm."""
    folder = tmp_path_factory.mktemp("chain")
    init, sft, rm = (str(folder / name) for name in ("init", "sft", "rm"))
    init_model(InitConfig(train_data=data.sft, output_dir=init, vocab_size=320))
    train_sft(SFTConfig(model=init, train_data=data.sft, valid_data=data.sft, output_dir=sft, epochs=3, **SMALL))
    train_rm(RMConfig(model=sft, train_data=data.pairs, valid_data=data.pairs, output_dir=rm, epochs=3, **SMALL))
    return SimpleNamespace(init=init, sft=sft, rm=rm)


@pytest.fixture
def small() -> dict:
    """Settings of a small run; `ppo` holds those PPO needs besides."""
    return dict(SMALL)


@pytest.fixture
def small_grpo() -> dict:
    """Settings of a small GRPO run of 6 rollouts, four prompts each."""
    settings = {"max_completion_length": 6, "total_episodes": 48, "num_generations": 2}
    return SMALL | settings | {"num_mini_batches": 2, "num_iterations": 2}


@pytest.fixture
def small_ppo() -> dict:
    """Settings of a small PPO run of 6 rollouts."""
    return SMALL | {"response_length": 6, "total_episodes": 48, "num_mini_batches": 2, "num_ppo_epochs": 2}


@pytest.fixture
def stop_after(monkeypatch):
    """Makes every run receive a stop request after the given step."""

    def install(step: int):
        original = Run.stop_if_requested

        def stop_if_requested(run, engines, **state):
            run.stop.requested = run.stop.requested or run.step == step
            original(run, engines, **state)

        monkeypatch.setattr(Run, "stop_if_requested", stop_if_requested)
        return lambda: monkeypatch.setattr(Run, "stop_if_requested", original)

    return install
