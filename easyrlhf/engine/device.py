"""Where and in which precision a run computes."""

import ctypes
import os
import sys

import torch

from easyrlhf.errors import InputError
from easyrlhf.launch import gpu_index

AMPERE = (8, 0)  # compute capability of the first GPUs whose kernels all have bf16
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 2**25  # bytes of the largest block that is kept; larger ones would leave large holes behind
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")  # beginnings of names: the user chose how to allocate


def pick_device(devices: str | None) -> torch.device:
    """This process's device for --devices: the CPU, a GPU, or by default a GPU where there is one, else the CPU.

    An Apple GPU is used when it is asked for, by `mps`.

    One of several processes takes the GPU of its number on this node, LOCAL_RANK.
    Raises InputError when the GPU is not there.
    """
    if devices == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--devices mps: torch finds no GPU of Apple's here; leave --devices out, or give cpu")
        return torch.device("mps")
    if (devices or "").startswith("cpu") or (devices is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    index = gpu_index(devices)  # the first of them, in a dry run
    if index >= torch.cuda.device_count():
        raise InputError(
            f"--devices {devices}: torch finds no such GPU here; give the number of another, or --devices cpu"
        )
    return torch.device("cuda", index)


def take_device(devices: str | None) -> torch.device:
    """This process's device, as pick_device says, which is then also the GPU of whatever names none."""
    device = pick_device(devices)
    if device.type == "cuda":  # else random states, kernels and a context of their own would go to GPU 0
        torch.cuda.set_device(device)
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type weights are computed in: `auto` is bf16 on a GPU from Ampere on, float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and computes_bf16(device) else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16}[precision]


def computes_bf16(device: torch.device) -> bool:
    """Whether a GPU has bf16 in all its kernels, as those from Ampere on do; one that is not here is taken for such."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= AMPERE


def other_device(devices: str | None, device: torch.device) -> str:
    """What the summary says beside a CPU that nobody asked for, where an Apple GPU stands idle; "" elsewhere."""
    idle = devices is None and device.type == "cpu" and torch.backends.mps.is_available()
    return " (--devices mps takes this machine's GPU)" if idle else ""


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` or `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def pick_micro_batch_tokens(micro_batch_tokens: int | None, device: torch.device) -> int:
    """Tokens of one forward pass: the setting, or 8192 on a GPU and 2048 on a CPU and on `mps`."""
    return micro_batch_tokens or (8192 if device.type == "cuda" else 2048)


def memory_of(device: torch.device) -> int:
    """Bytes of a device of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        raise InputError("--devices: the memory of this machine is not known; give it, such as cpu:16GB")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_room(device: torch.device, size: float) -> bool:
    """Whether a device has so many bytes left, and a fifth more; a CPU is taken to have them."""
    if device.type != "cuda":
        return True
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle >= 1.2 * size


def choose_threads(device: torch.device, parameters: int) -> None:
    """Set the CPU threads of this process, unless OMP_NUM_THREADS has.

    A model below ten million parameters gets one: its matrices are too small to share, and threads that wait for
    one another by spinning make it many times slower on a busy machine.
    """
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ and parameters < 10_000_000:
        torch.set_num_threads(1)


def reuse_memory(device: torch.device) -> None:
    """Keep what this process frees for its next step, unless the environment says how memory is allocated.

    Left alone, glibc gives what a step frees back to the system; the next one then waits until the system has cleared
    it anew. It is set for the whole process, and does nothing on a GPU or with another C library.
    """
    if device.type != "cpu" or any(name.startswith(ALLOCATOR_VARIABLES) for name in os.environ):
        return
    if sys.platform == "win32":
        return
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "gnu_get_libc_version"):
        c_library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        c_library.mallopt(M_TRIM_THRESHOLD, -1)  # never
