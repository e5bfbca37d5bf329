"""What becomes of exceptions that are not ours: alone, among several processes, and on their way to the user."""

import errno

import pytest
import torch

from easyrlhf.engine import processes
from easyrlhf.engine.faults import Raised, named
from easyrlhf.errors import InputError, RunError, ServiceError


def broken():
    return [][3]


def test_among_several_processes_an_exception_is_told_to_the_others(monkeypatch):
    with pytest.raises(IndexError):
        processes.gather_results(broken)
    monkeypatch.setattr(processes, "size", lambda: 2)
    found = processes.outcome_of(broken)
    assert isinstance(found, Raised) and str(found).startswith("IndexError: list index out of range (test_faults.py:")
    with pytest.raises(MemoryError):  # has advice of its own, and this process alone has it
        processes.outcome_of(lambda: (_ for _ in ()).throw(MemoryError()))


@pytest.mark.parametrize(
    "error, expected",
    [
        (ValueError("no\nsuch place"), "the reference raised ValueError: no such place (test_faults.py:"),
        (Raised("KeyError: 'x' (model.py:3)"), "the reference raised KeyError: 'x' (model.py:3)"),
        (InputError("the template refuses it"), "the reference: the template refuses it"),
    ],
)
def test_an_exception_gets_a_name_and_a_sample(error, expected):
    with pytest.raises(ServiceError) as found, named("the reference", lambda: "  prompt: 'a'"):
        raise error
    assert str(found.value).startswith(expected) and str(found.value).endswith("\n  prompt: 'a'")
    assert found.value.exit_code == 1


@pytest.mark.parametrize(
    "error",
    [
        RunError("NaN loss"),
        ServiceError("no server"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_explained_elsewhere_goes_through_as_it_is(error):
    with pytest.raises(type(error)) as found, named("the reference", lambda: pytest.fail("was asked for a sample")):
        raise error
    assert found.value is error
