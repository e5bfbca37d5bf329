"""Where a run computes, on a machine with and without a GPU, and how it holds memory."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from easyrlhf.engine import device
from easyrlhf.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

WARM_UP, STEPS, TENSORS, MIB = 6, 4, 8, 16
# Left to itself glibc may or may not keep blocks of this size; told to keep none, it keeps them only when told again.
PAGE_FAULTS = f"""
import ctypes, resource, sys, torch
from easyrlhf.engine.device import M_MMAP_THRESHOLD, reuse_memory

ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
for device in sys.argv[1:]:
    reuse_memory(torch.device(device))
for step in range({WARM_UP} + {STEPS}):
    if step == {WARM_UP}:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones({MIB} * 2**18) for _ in range({TENSORS})]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("devices", [None, "cpu", "0", "1", "2"])
def test_the_device_of_each_setting(monkeypatch, gpus, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if devices == "cpu" or (devices is None and not gpus):
        assert device.pick_device(devices) == CPU
    elif devices is None or int(devices) < gpus:
        assert device.pick_device(devices) == torch.device("cuda", int(devices or 0))
    else:
        with pytest.raises(InputError, match=f"--devices {devices}: torch finds no such GPU here"):
            device.pick_device(devices)


def test_precision_and_micro_batches_follow_the_device_unless_set():
    assert device.pick_dtype("auto", CPU) == torch.float32
    assert device.pick_dtype("auto", GPU) == torch.bfloat16  # as fit asks for one that is not here
    assert device.pick_dtype("float32", GPU) == torch.float32
    assert device.pick_dtype("bf16", CPU) == torch.bfloat16
    assert device.pick_micro_batch_tokens(None, CPU) == 2048
    assert device.pick_micro_batch_tokens(None, GPU) == 8192
    assert device.pick_micro_batch_tokens(77, GPU) == 77


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_a_gpu_without_bf16_computes_in_float32_unless_told_otherwise(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device.pick_dtype("auto", GPU) == dtype
    assert device.pick_dtype("bf16", GPU) == torch.bfloat16


def test_small_models_get_one_thread_unless_the_user_chose(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    device.choose_threads(CPU, 1000)
    monkeypatch.delenv("OMP_NUM_THREADS")
    device.choose_threads(CPU, 500_000_000)
    device.choose_threads(GPU, 1000)
    assert chosen == []
    device.choose_threads(CPU, 1000)
    assert chosen == [1]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("devices", "variables", "kept"),
    [
        (["cpu"], {}, True),
        ([], {}, False),
        (["cuda"], {}, False),
        (["cpu"], {"MALLOC_MMAP_THRESHOLD_": "65536"}, False),
        (["cpu"], {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, False),
    ],
)
def test_freed_memory_is_kept_for_the_next_step_on_a_cpu_unless_the_user_chose(devices, variables, kept):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PAGE_FAULTS, *devices]
    done = subprocess.run(command, env=own | variables, capture_output=True, text=True, check=True)
    # Memory that has to be asked for anew costs a fault a page, and pages are of 2 MiB at most.
    a_step = TENSORS * MIB // 2
    assert (int(done.stdout) < a_step) if kept else (int(done.stdout) >= STEPS * a_step), done.stdout
