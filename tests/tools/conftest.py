"""A tiny reward model and held-out pairs, made once per worker: init → rm."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from easyrlhf.config import ExportConfig, InitConfig, RMConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.stages.rm import train_rm
from easyrlhf.tools.exporting.export import export_model
from easyrlhf.tools.init import init_model

WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one", "two"]


def turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


def pairs(count: int, seed: int) -> list[dict]:
    """Comparisons: the chosen answer repeats the word of the question, the rejected one says another word twice."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        word, other = rng.sample(WORDS, 2)
        rows.append(
            {
                "prompt": turn("user", f"Say {word}."),
                "chosen": turn("assistant", f"{word}."),
                "rejected": turn("assistant", f"{other} {other}."),
            }
        )
    return rows


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def rm(tmp_path_factory) -> SimpleNamespace:
    """folder: of a trained reward model. train, one, two: files of pairs; the last two were not trained on."""
    folder = tmp_path_factory.mktemp("rm")
    files = {
        name: write(folder / f"{name}.jsonl", pairs(count, seed))
        for seed, (name, count) in enumerate([("train", 48), ("one", 40), ("two", 24)])
    }
    init_model(InitConfig(train_data=files["train"], output_dir=str(folder / "init"), vocab_size=320))
    settings = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 3, "max_length": 64, "max_prompt_length": 40}
    settings |= {"devices": "cpu", "report_to": "none", "eval_steps": 0}
    trained = RMConfig(
        model=str(folder / "init"),
        train_data=files["train"],
        valid_data=files["one"],
        output_dir=str(folder / "rm"),
        **settings,
    )
    train_rm(trained)
    return SimpleNamespace(folder=str(folder / "rm"), root=folder, **files)


@pytest.fixture(scope="session")
def exported():
    """exported(source, out, **settings) -> the folder `out` with `source` as a sequence classifier."""

    def export(source, out, **more) -> Path:
        settings = {"model": str(source), "to": "sequence_classification", "output_dir": str(out)}
        return export_model(ExportConfig(**settings | more))

    return export


@pytest.fixture(autouse=True)
def models_of_examples_are_pretended(monkeypatch):
    """Commands are called as help and pages write them, with models that are not there; tests/test_glance.py looks."""
    monkeypatch.setattr("easyrlhf.launch.glance", lambda config: None)
    monkeypatch.setattr("easyrlhf.glance.glance_at_models", lambda settings: None)


@pytest.fixture(scope="session")
def ending_model(rm, tmp_path_factory) -> str:
    """The random model that the reward model was trained from, keener to end its answers."""
    folder = tmp_path_factory.mktemp("policy")
    lm = AutoModelForCausalLM.from_pretrained(rm.root / "init")
    tokenizer = load_tokenizer(str(rm.root / "init"))
    with torch.no_grad():
        lm.get_output_embeddings().weight[tokenizer.eos_token_id] *= 3.0
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
