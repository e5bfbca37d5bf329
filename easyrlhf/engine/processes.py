"""The processes of a run: who they are, and how they come to one mind.

Alone, every function here does nothing but the work it is given. Among several, all of them call the same functions
in the same order.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from easyrlhf.engine.faults import Raised, described_error, is_explained_elsewhere, is_loss
from easyrlhf.errors import EasyRLHFError, RunError
from easyrlhf.launch import LAUNCHED, check_sharers, free_port

Result = TypeVar("Result")

POLL = 0.05  # seconds between two looks at whether the main process is done
_meeting_place: dist.Store | None = None
_turns = 0
_handed_over = False  # whether another library ends the group
_by_itself = False  # while the main process does what the others wait for
_row_group: dist.ProcessGroup | None = None  # those that share micro-batches with this process


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes that do the present work."""
    return dist.get_world_size() if dist.is_initialized() and not _by_itself else 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return rank() == 0


def row_group() -> dist.ProcessGroup | None:
    """The processes that share every micro-batch with this one; None where each has micro-batches of its own."""
    return None if _by_itself else _row_group


def sharers() -> int:
    """Number of processes that share a micro-batch."""
    group = row_group()
    return 1 if group is None else group.size()


@contextmanager
def sharing_rows(count: int) -> Iterator[None]:
    """Let so many neighbouring processes share every micro-batch, for a while. Raises InputError."""
    global _row_group
    check_sharers(count, size())
    if count > 1:
        _row_group, _ = dist.new_subgroups(count)
    try:
        yield
    finally:
        _row_group = None


@contextmanager
def join_group(device: torch.device, timeout: int, *, alone: bool) -> Iterator[None]:
    """Belong to the processes that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT speak of, if there are several.

    timeout  seconds after which an exchange fails that another process takes no part in
    alone    be a group of one where there are no others, as DeepSpeed wants it
    Raises RunError when the others are lost, instead of what torch says then.
    """
    global _meeting_place, _turns
    if dist.is_initialized() or (int(os.environ.get("WORLD_SIZE", 1)) == 1 and not alone):
        yield
        return
    own: dict[str, str] = {}
    if "RANK" not in os.environ:
        own = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": str(device.index or 0), "MASTER_ADDR": "127.0.0.1"}
        own["MASTER_PORT"] = str(free_port())
        os.environ |= own
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    patience = timedelta(seconds=timeout)
    try:
        store, number, count = next(iter(dist.rendezvous("env://", timeout=patience)))
        _meeting_place, _turns = dist.PrefixStore("easyrlhf", store), 0
        groups = dist.PrefixStore("groups", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=groups, rank=number, world_size=count, timeout=patience)
        yield
        dist.barrier()
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, EasyRLHFError) or not (isinstance(error, dist.DistError) or is_loss(error)):
            raise
        raise lost_peers_error(timeout, error) from error
    finally:
        if dist.is_initialized() and not _handed_over:
            dist.destroy_process_group()
        for name in own:
            del os.environ[name]


def hand_over() -> None:
    """Leave it to another library to end the group of processes: vLLM does when it ends itself."""
    global _handed_over
    _handed_over = True


def lost_peers_error(timeout: int, error: Exception) -> RunError:
    """What to say when the others are lost."""
    number, count = int(os.environ["RANK"]), os.environ["WORLD_SIZE"]
    found = RunError(
        f"process {number} of {count} lost the others: one of them ended, or took no part in an exchange for "
        f"--ddp_timeout {timeout} seconds ({str(error).strip().splitlines()[0][:200]})"
    )
    found.shown_by = None if LAUNCHED in os.environ else number  # our launcher says who was first to end
    return found


def gather_results(job: Callable[[], Result]) -> list[Result]:
    """Every process does its job; all of them get all results, by rank.

    When some fail, all raise the first of their errors: nobody waits for one that has left. Among several processes an
    exception that is not meant for the user becomes one, Raised.
    """
    outcome = outcome_of(job)
    if size() == 1:
        return [result_of(outcome, 0)]
    outcomes: list[Any] = [None] * size()
    dist.all_gather_object(outcomes, outcome)
    for number, one in enumerate(outcomes):
        if isinstance(one, EasyRLHFError):
            result_of(outcome if number == rank() else one, number)
    return outcomes


def on_main(job: Callable[[], Result]) -> Result:
    """The main process does the job by itself, however long it takes; all get its result, or raise its error."""
    global _turns, _by_itself
    if size() == 1:
        return job()
    _turns += 1
    key = f"main/{_turns}"
    if is_main():
        _by_itself = True
        try:
            outcome = outcome_of(job)
        finally:
            _by_itself = False
        _meeting_place.set(key, pickle.dumps(outcome))
        return result_of(outcome, 0)
    while not _meeting_place.check([key]):  # not wait(), which would be deaf to signals
        time.sleep(POLL)
    return result_of(pickle.loads(_meeting_place.get(key)), 0)


def outcome_of(job: Callable[[], Result]) -> Result | EasyRLHFError:
    """What a job returns, or the error that it raises: one meant for the user, or made so if others have to know."""
    try:
        return job()
    except EasyRLHFError as error:
        return error
    except Exception as error:
        if size() == 1 or is_explained_elsewhere(error):
            raise
        return Raised(described_error(error))


def result_of(outcome: Any, number: int) -> Any:
    """An outcome's result; raises its error, to be shown by the process of that number."""
    if isinstance(outcome, EasyRLHFError):
        outcome.shown_by = number
        raise outcome
    return outcome


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The tensor, in place, as the sum of every process's."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """Sums over the processes of numbers that each of them has, under the same names."""
    if size() == 1:
        return dict(numbers)
    totals = all_reduce_sum(torch.tensor([float(numbers[name]) for name in sorted(numbers)], dtype=torch.float64))
    return dict(zip(sorted(numbers), totals.tolist(), strict=True))


def any_of(flag: bool) -> bool:
    """Whether any process says so."""
    return all_reduce_sum(torch.tensor(float(flag))).item() > 0 if size() > 1 else flag
