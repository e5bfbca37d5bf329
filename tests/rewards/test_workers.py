"""Worker processes: the same scores in the same order, and none of them left behind, whatever a function does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from easyrlhf.rewards.batch import RewardError
from easyrlhf.rewards.functions import load_functions
from easyrlhf.rewards.workers import WorkerFunction, Workers

FILE = """
import os, signal, subprocess, sys, time
from pathlib import Path

def numbers(completions, **_):
    return [float(text) for text in completions]

def where(completions, **_):
    return [float(os.getpid())] * len(completions)

def sees(completions, **_):
    return [len(completions)] * len(completions)

def word_length(completions, word, **_):
    return [None if w is None else len(w) for w in word]

async def later(completions, **_):
    return [2 * float(text) for text in completions]

def raises(completions, **_):
    return [1 / (2 - float(text)) for text in completions]

def hangs(completions, **_):
    while "2" in completions:
        time.sleep(60)
    return [0.0] * len(completions)

def dies(completions, **_):
    if "2" in completions:
        os.kill(os.getpid(), signal.SIGKILL)
    return [0.0] * len(completions)

def leaves(completions, **_):
    if "2" in completions:
        os._exit(7)
    return [0.0] * len(completions)

def exits(completions, **_):
    if "2" in completions:
        sys.exit("enough")
    return [0.0] * len(completions)

def starts_a_child(completions, **_):
    child = subprocess.Popen(["sleep", "600"])
    Path("child.pid").write_text(str(child.pid))
    return [float(child.pid)] * len(completions)

def in_main_thread(completions, **_):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return [1.0] * len(completions)

def tensor(completions, **_):
    import numpy
    return numpy.arange(float(len(completions)))

def unsendable(completions, **_):
    return [lambda: 0] * len(completions)

def too_few(completions, **_):
    return [0.0] * (1 if "2" in completions else len(completions))
"""


@pytest.fixture
def worker_function(tmp_path, monkeypatch):
    """worker_function(name, count, timeout) -> (workers, source); the workers end with the test."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rewards.py"
    file.write_text(FILE)
    opened = []

    def make(name: str, count: int = 2, timeout: float = 60.0):
        specs = [f"{file}:numbers", f"{file}:{name}"]
        workers = Workers(specs, count, timeout).__enter__()
        opened.append(workers)
        return workers, WorkerFunction(workers, 1, load_functions(specs)[1], name)

    yield make
    for workers in opened:
        workers.close(2.0)


def pids(workers: Workers) -> list[int]:
    return [worker.process.pid for worker in workers.workers]


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(fact, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.02)
    return fact()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("numbers", [1.0, 2.0, 3.0]),
        ("later", [2.0, 4.0, 6.0]),
        ("sees", [1, 2, 2]),  # a function sees its part alone
        ("word_length", [None, None, None]),
        ("in_main_thread", [1.0, 1.0, 1.0]),
        ("tensor", [0.0, 0.0, 1.0]),
    ],
)
def test_scores_come_back_in_order(worker_function, three, name, expected):
    workers, source = worker_function(name)
    assert source.start(three).scores() == expected
    assert source.start(three).scores() == expected
    assert source.start(three.part(0, 1)).scores() == expected[:1]  # fewer completions than workers
    before = pids(workers)
    workers.close(5.0)
    assert not any(map(running, before))


def test_every_worker_is_a_process_of_its_own(worker_function, three):
    workers, source = worker_function("where", count=3)
    assert source.start(three).scores() == [float(pid) for pid in pids(workers)]
    assert os.getpid() not in pids(workers)


@pytest.mark.parametrize(
    "name, message, sample",
    [
        ("raises", r"reward function raises raised ZeroDivisionError: .* \(rewards.py:\d+\)", "2"),
        ("hangs", r"reward function hangs gave no scores for 2 completions within 2 s \(--reward_timeout\)", "2"),
        ("dies", r"lost its worker process \(--reward_workers\), it ended with SIGKILL, on 2 completions", "2"),
        ("leaves", "it ended with exit code 7, on 2 completions", "2"),
        ("exits", "raised SystemExit: enough", "2"),
        ("too_few", "returned 1 scores for 2 completions", "2"),
    ],
)
def test_a_worker_that_fails_is_named_with_a_sample_of_its_part_and_all_end(
    worker_function, three, name, message, sample
):
    workers, source = worker_function(name, timeout=2.0)
    before = pids(workers)
    with pytest.raises(RewardError, match=message) as caught:
        source.start(three).scores()
    assert str(caught.value).endswith(f"completion: '{sample}'")
    assert not any(map(running, before))


def test_a_score_that_cannot_be_sent_is_told_by_its_text(worker_function, three):
    scores = worker_function("unsendable")[1].start(three).scores()
    assert all(score.startswith("<function unsendable.<locals>.<lambda>") for score in scores)


def test_what_a_function_started_ends_with_its_worker(worker_function, three):
    workers, source = worker_function("starts_a_child", count=1)
    child = int(source.start(three).scores()[0])
    assert running(child)
    workers.close(5.0)
    assert wait_until(lambda: not running(child))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["hangs", "numbers"])
def test_workers_end_with_the_run_however_it_ends(tmp_path, name, end):
    """A run that is killed cannot tell them."""
    (tmp_path / "rewards.py").write_text(FILE)
    program = (
        "from easyrlhf.rewards.batch import RewardBatch\n"
        "from easyrlhf.rewards.functions import load_functions\n"
        "from easyrlhf.rewards.workers import WorkerFunction, Workers\n"
        f"spec = 'rewards.py:{name}'\n"
        "with Workers([spec], 2, 600.0) as workers:\n"
        "    batch = RewardBatch(['a', 'b'], ['2', '2'], [[1], [2]], [True, True], {})\n"
        "    pending = WorkerFunction(workers, 0, load_functions([spec])[0], 'f').start(batch)\n"
        "    print(*[worker.process.pid for worker in workers.workers], flush=True)\n"
        "    pending.scores() and input()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        workers = [int(pid) for pid in run.stdout.readline().split()]
        assert len(workers) == 2 and all(map(running, workers))
        run.send_signal(end)
        run.wait(20)
    assert wait_until(lambda: not any(map(running, workers)))


def test_a_stop_request_does_not_reach_the_workers(worker_function, three):
    """The run that they belong to finishes its step first."""
    workers, source = worker_function("numbers")
    source.start(three).scores()
    for pid in pids(workers):
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)
    assert source.start(three).scores() == [1.0, 2.0, 3.0]
    assert [os.getsid(pid) for pid in pids(workers)] == pids(workers)  # nor does Ctrl-C in the terminal
