"""Other systems than Linux, imitated: what they lack is taken away, and what they have is put in its place."""

import ast
import ctypes
import fcntl
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from easyrlhf import files, launch
from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.config import ScoreConfig, SFTConfig
from easyrlhf.engine import device, engine
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.errors import InputError, SettingError
from easyrlhf.files import hold_file
from easyrlhf.rewards import workers
from easyrlhf.run.claim import locked
from easyrlhf.run.facts import library_versions

PACKAGE = Path(launch.__file__).parent
NOT_EVERYWHERE = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
NOT_EVERYWHERE |= {"deepspeed", "vllm", "bitsandbytes"}


def test_no_module_imports_what_only_some_systems_have():
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(file.name, name) for name in names if name.partition(".")[0] in NOT_EVERYWHERE]
    assert found == []


@pytest.fixture(params=["fcntl", "msvcrt"])
def system(request, monkeypatch):
    """A system with the lock of Unix, or with that of Windows, whose errors are others."""
    if request.param == "msvcrt":

        def locking(descriptor: int, mode: int, count: int) -> None:
            assert (mode, count) == (2, 1)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PermissionError(13, "Permission denied") from None

        monkeypatch.setattr(files, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    return request.param


def test_a_folder_is_held_by_one_run_alone(system, tmp_path):
    with locked(tmp_path):
        with pytest.raises(InputError, match="another run is working there; wait for it"), locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass


def test_a_lock_left_behind_by_a_killed_run_holds_nobody_up(system, tmp_path):
    (tmp_path / ".lock").touch()
    with locked(tmp_path), pytest.raises(InputError, match=r"^taken$"), hold_file(tmp_path / ".lock", "taken"):
        pass


def test_a_system_without_deepspeed_says_so_by_leaving_it_out(monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "deepspeed":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert list(library_versions()) == ["torch", "transformers", "peft", "datasets", "tokenizers"]


def test_cores_are_counted_where_they_cannot_be_assigned(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert launch.placement(launch.LaunchPlan(2, ""))["OMP_NUM_THREADS"] == "4"


def test_prctl_is_asked_on_linux_alone(monkeypatch):
    asked = []
    c_library = SimpleNamespace(prctl=lambda *args: asked.append(args))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: c_library)
    launch.die_with(os.getppid())
    assert asked == [(1, signal.SIGKILL)]
    monkeypatch.setattr(launch, "sys", SimpleNamespace(platform="darwin"))
    launch.die_with(os.getppid())
    assert len(asked) == 1


def test_a_process_without_prctl_ends_with_the_one_that_started_it():
    child = (
        "import os, threading, time; from easyrlhf.cli.worker_process import end_with; "
        "threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); input()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        number = int(process.stdout.readline())
        os.kill(number, 0)
        process.kill()
    ends = time.monotonic() + 10
    while alive(number) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive(number)


def alive(number: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_windows_refuses_several_processes_by_name(monkeypatch):
    windows = SimpleNamespace(platform="win32")
    monkeypatch.setattr(launch, "sys", windows)
    monkeypatch.setattr(workers, "sys", windows)
    with pytest.raises(InputError, match="in several processes needs Linux or macOS"):
        launch.check_several(SFTConfig(train_data="a", devices="cpu:2"))
    with pytest.raises(InputError, match="--reward_workers 3: needs Linux or macOS; leave it at 0"):
        workers.Workers(["r.py:fn"], 3, 1.0)


def test_windows_flushes_files_but_no_folders(monkeypatch, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("x")
    opened, real = [], os.open
    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"name": "nt", "open": note(opened, real)}))
    files.sync_to_disk(tmp_path)
    assert opened == [(tmp_path / "inner" / "file", os.O_RDWR)]


def note(calls: list, function):
    def noting(*args):
        calls.append(args)
        return function(*args)

    return noting


def test_windows_has_no_allocator_to_tell(monkeypatch):
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("Windows has no such library"))
    device.reuse_memory(torch.device("cpu"))


def test_windows_is_told_to_read_utf8(monkeypatch):
    from easyrlhf.cli import exit_codes

    for utf8, said in ((0, "warning: set PYTHONUTF8=1, or other characters"), (1, "")):
        system = SimpleNamespace(platform="win32", flags=SimpleNamespace(utf8_mode=utf8), exit=sys.exit)
        monkeypatch.setattr(exit_codes, "sys", system)
        result = CliRunner().invoke(easyrlhf, ["docs", "sft"], prog_name="easyrlhf")
        assert result.exit_code == 0
        assert result.stderr.startswith(said) and bool(result.stderr) == bool(said)


@pytest.fixture
def apple(monkeypatch):
    """A machine with an Apple GPU and no other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_an_apple_gpu_is_taken_when_asked_for_and_mentioned_when_not(apple):
    mps, cpu = torch.device("mps"), torch.device("cpu")
    assert device.pick_device("mps") == mps
    assert device.pick_device(None) == device.pick_device("cpu") == cpu
    assert device.other_device(None, cpu) == " (--devices mps takes this machine's GPU)"
    assert device.other_device("cpu", cpu) == device.other_device("mps", mps) == ""
    assert device.pick_dtype("auto", mps) == torch.float32
    assert device.pick_micro_batch_tokens(None, mps) == 2048


def test_elsewhere_an_apple_gpu_is_refused_and_not_mentioned():
    with pytest.raises(InputError, match=r"^--devices mps: torch finds no GPU of Apple's here"):
        device.pick_device("mps")
    assert device.other_device(None, torch.device("cpu")) == ""


def test_mps_is_a_device_of_stages_and_tools():
    assert SFTConfig(train_data="a", devices="mps").devices == "mps"
    assert ScoreConfig(reward_model="rm", text="x", devices="mps").devices == "mps"
    assert launch.launch_plan(SFTConfig(train_data="a", devices="mps")).count == 1
    with pytest.raises(SettingError, match="devices mps: is one process, but nnodes is 2"):
        SFTConfig(train_data="a", devices="mps", nnodes=2)


def test_adamw_is_fused_where_that_is_known_to_work_and_steps_the_same_elsewhere(monkeypatch):
    settings = engine.OptimiserSettings(0.1, "constant", 0.0, 0.0, 1e-8, 1e9, 10)
    ended = {}
    for name, fused in (("cpu", ("cpu", "cuda")), ("other", ("cuda",))):
        monkeypatch.setattr(engine, "FUSED", fused)
        model = torch.nn.Linear(2, 1, bias=False)
        model.weight.data = torch.tensor([[0.5, -0.2]])
        stepped = PlainEngine(model, settings)
        optimizer = stepped.make_optimiser(dict(model.named_parameters()))
        assert optimizer.defaults["fused"] is (name == "cpu")
        model.weight.grad = torch.tensor([[2.0, -4.0]])
        optimizer.step()
        ended[name] = model.weight.data.tolist()
    # the first step of AdamW is the learning rate against the sign
    assert ended["cpu"] == [pytest.approx([0.4, -0.1])] and ended["other"] == [pytest.approx([0.4, -0.1])]
