"""The hub as these tests know it: one on this machine."""

import json
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module


@pytest.fixture
def hub(monkeypatch):
    """A fake hub in place of the real one, with a token in the environment."""
    with load_module(Path(__file__).parent / "fake_hub.py").hub_in_place(monkeypatch) as found:
        yield found


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A finished run with everything that may lie in its folder."""
    folder = tmp_path / "my run"
    info = {"status": "complete", "stage": "dpo", "step": 7, "files": {}}
    files = {
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 40,
        "tokenizer.json": b'{"a": 1}',
        "README.md": "---\nlibrary_name: transformers\n---\n# dpo ü\r\n".encode(),
        "plots/loss.png": b"\x89PNG\r\n\x1a\n\x00\xff",
        "stage.json": json.dumps(info).encode(),
        "metrics.jsonl": b'{"step": 1}\n',
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": b"\x00" * 300,
        "runs/events.out.tfevents.1": b"\x01\x02",
        "empty.txt": b"",
        "checkpoints/step-7/model/part-1-of-1.safetensors": b"no",
        "cache/train.arrow": b"no",
        "logs/rank-1.log": b"no",
        "runs/wandb/run-1/files/wandb-metadata.json": b"no",
        ".lock": b"",
        "adapter/.hidden": b"no",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
