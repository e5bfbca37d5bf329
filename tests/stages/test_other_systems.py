"""A stage on a system like Windows: without fcntl, readline, DeepSpeed and what only Unix has in os and signal."""

import fcntl
import importlib.metadata
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from easyrlhf import files
from easyrlhf.config import SFTConfig
from easyrlhf.engine import device
from easyrlhf.errors import RunStopped
from easyrlhf.stages.sft import train_sft


@pytest.fixture
def windows(monkeypatch):
    """Takes away what Windows lacks; its lock is that of this system, with its own error."""

    def locking(descriptor: int, _mode: int, _count: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    def version(name: str) -> str:
        if name == "deepspeed":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    found = importlib.metadata.version
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(importlib.metadata, "version", version)
    for name in ("sched_getaffinity", "killpg", "sysconf", "fork", "setsid"):
        monkeypatch.delattr(os, name)
    for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGPIPE"):
        monkeypatch.delattr(signal, name)


def test_a_run_is_trained_stopped_and_continued_to_the_same_numbers(windows, data, chain, small, tmp_path, stop_after):
    settings = small | {"model": chain.init, "train_data": data.sft, "save_steps": 2}
    train_sft(SFTConfig(output_dir=str(tmp_path / "whole"), **settings))
    off = stop_after(3)
    with pytest.raises(RunStopped, match="after step 3"):
        train_sft(SFTConfig(output_dir=str(tmp_path / "stopped"), **settings))
    off()
    train_sft(SFTConfig(output_dir=str(tmp_path / "stopped"), **settings))
    whole, stopped = (losses(tmp_path / name) for name in ("whole", "stopped"))
    assert stopped == whole and len(whole) == 6
    assert "deepspeed" not in json.loads((tmp_path / "whole" / "stage.json").read_text())["libraries"]
    assert not (tmp_path / "whole" / ".lock").exists()


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
