"""Exceptions of what is not ours, a model or a template: which they are, and how they become errors for the user."""

import errno
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from easyrlhf.errors import EasyRLHFError, InputError, ServiceError
from easyrlhf.files import is_full_disk

LOSS_SIGNS = ("gloo", "nccl", "connection reset", "connection closed", "timed out", "broken pipe", "socket", "tcpstore")


class Raised(ServiceError):
    """Something that is not ours raised an exception; the message is `described`, who it was is added on the way."""


@contextmanager
def named(who: str, show: Callable[[], str]) -> Iterator[None]:
    """An exception of a model or a template in here, as a ServiceError with its name and the sample.

    Errors for the user go through, but for bad input, which it is too late to call that; so do those of a full memory
    or disk and of lost processes, which are explained elsewhere.

    show  → the sample, as messages show it
    """
    try:
        yield
    except Raised as error:
        raise ServiceError(f"{who} raised {error}\n{show()}") from error
    except InputError as error:
        raise ServiceError(f"{who}: {error}\n{show()}") from error
    except Exception as error:
        if is_explained_elsewhere(error):
            raise
        raise ServiceError(f"{who} raised {described_error(error)}\n{show()}") from error


def described_error(error: Exception) -> str:
    """`IndexError: index out of range in self (functional.py:2567)`: what was raised, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({os.path.basename(frame.filename)}:{frame.lineno})"


def is_explained_elsewhere(error: Exception) -> bool:
    """Whether an exception has its message already, or gets it further up."""
    if isinstance(error, EasyRLHFError | dist.DistError) or is_out_of_memory(error) or is_full_disk(error):
        return True
    return dist.is_initialized() and isinstance(error, RuntimeError) and is_loss(error)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or (
        isinstance(error, RuntimeError | OSError) and "can't allocate memory" in str(error)
    )


def is_loss(error: Exception) -> bool:
    """Whether the text of an error of torch says that another process is gone or silent."""
    return any(sign in str(error).lower() for sign in LOSS_SIGNS)
