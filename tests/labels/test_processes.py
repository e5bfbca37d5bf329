"""The store under several processes, some of which are killed."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from easyrlhf.labels.rows import NewItem
from easyrlhf.labels.store import Store

SCRIPT = Path(__file__).with_name("annotate.py")


def start(folder: Path, overlap: int, *groups: tuple[str, ...]) -> list[subprocess.Popen]:
    """A process for each group of annotators; they begin when all are ready."""
    words = [sys.executable, str(SCRIPT), str(folder), str(overlap)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*words, *names], **pipes) for names in groups]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * len(running)
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return running


def with_items(folder: Path, count: int) -> Path:
    with Store(folder, create=True) as store:
        store.add_items(NewItem("pair", f"q{n}", ["a", "b"]) for n in range(count))
    return folder


@pytest.mark.parametrize(("overlap", "expected"), [(1, 100), (2, 200)])
def test_six_annotators_in_two_processes_give_exactly_the_labels_that_are_wanted(tmp_path, overlap, expected):
    folder = with_items(tmp_path / "labels", 100)
    running = start(folder, overlap, ("a", "b", "c"), ("d", "e", "f"))
    printed = [line for process in running for line in process.communicate(timeout=120)[0].split()]
    with Store(folder) as store:
        labels = store.labels()
        assert len(labels) == len(printed) == expected
        assert set(Counter(label.item for label in labels).values()) == {overlap}
        assert len({(label.item, label.annotator) for label in labels}) == expected


def test_a_killed_process_loses_no_label_that_it_has_acknowledged(tmp_path):
    """What it had in its hands comes back when its lease is over: here the next process is the same annotator."""
    folder = with_items(tmp_path / "labels", 60)
    printed = []
    for _ in range(3):
        [process] = start(folder, 1, ("ann",))
        for _ in range(10):
            printed.append(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        printed += process.communicate(timeout=60)[0].split()
    [last] = start(folder, 1, ("ann",))
    printed += last.communicate(timeout=60)[0].split()
    with Store(folder) as store:
        labels, events = store.labels(), [event for event in store.events() if event["what"] == "label"]
        assert set(printed) <= {label.id for label in labels}
        assert len(printed) == len(set(printed))
        assert len(labels) == len(events) == 60
        assert {event["label"] for event in events} == {label.id for label in labels}
        assert store.check() == "ok"
