"""Labels of two annotators while the process that writes each is killed again and again: none may be lost or doubled.

    python benchmarks/labels_killed.py --labels 2900 --kills 30

Each annotator has a process that writes to the store what it is sent, a line a label, and acknowledges it by its id.
The process is killed (signal 9) in the middle of its work; a new one is sent all that was not acknowledged, under the
same ids. In the end every acknowledged label is there once, with one event, and SQLite finds nothing wrong. Exits with
1 when that is not so, or when it took longer than five minutes.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.store import CONFLICT, Store

NAMES = ("ann", "bob")
LONGEST = 300.0  # seconds


def write_what_comes(folder: str, name: str) -> None:
    """Write each label of standard input, and say so."""
    with Store(folder) as store:
        who = store.annotator(name).id
        for line in sys.stdin:
            sent = json.loads(line)
            kept = store.add_label(NewLabel(sent["id"], sent["item"], who, sent["value"], "3"))
            assert kept != CONFLICT, sent
            print(sent["id"], flush=True)


class Client:
    """An annotator who sends labels one by one and sends again what was not acknowledged.

    kill_after  how many labels are acknowledged before each kill
    """

    def __init__(self, folder: Path, name: str, items: int, kill_after: list[int]):
        self.folder, self.name, self.kill_after = folder, name, kill_after
        self.waiting = [{"id": f"{name} {item}", "item": item, "value": (item % 3) - 1} for item in range(1, items + 1)]
        self.acknowledged: list[str] = []
        self.killed = 0

    def run(self) -> None:
        """Send all, through as many processes as it takes."""
        while self.waiting:
            words = [sys.executable, __file__, "--write", self.name, "--folder", str(self.folder)]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.send_until_killed(process)
            process.wait()

    def send_until_killed(self, process: subprocess.Popen) -> None:
        """Send what waits; the kill comes right behind a label that was sent, before it is acknowledged."""
        more = self.kill_after.pop(0) if self.kill_after else len(self.waiting)
        killed = more < len(self.waiting)
        for sent in self.waiting[: more + 1] if killed else list(self.waiting):
            process.stdin.write(json.dumps(sent) + "\n")
            process.stdin.flush()
            if more == 0 and killed:
                time.sleep(random.random() * 0.01)
                process.send_signal(signal.SIGKILL)
                self.killed += 1
            more -= 1
            if process.stdout.readline().strip() == sent["id"]:
                self.acknowledged.append(sent["id"])
                self.waiting.remove(sent)
        if not killed:
            process.stdin.close()


@click.command()
@click.option("--labels", default=2900, show_default=True, help="Labels in all, of two annotators.")
@click.option("--kills", default=30, show_default=True, help="How often a process is killed, in all.")
@click.option("--write", hidden=True)
@click.option("--folder", hidden=True)
def main(labels: int, kills: int, write: str | None, folder: str | None) -> None:
    """Kill the writers, then count."""
    if write:
        write_what_comes(folder, write)
        return
    with tempfile.TemporaryDirectory() as scratch:
        each = labels // len(NAMES)
        with Store(scratch, create=True) as store:
            store.add_items(NewItem("pair", f"q{n}", ["a", "b"]) for n in range(each))
        rng, begun = random.Random(0), time.monotonic()
        most = 2 * each // kills
        clients = [
            Client(Path(scratch), name, each, [rng.randint(1, most) for _ in range(kills // len(NAMES))])
            for name in NAMES
        ]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begun
        with Store(scratch) as store:
            kept = [label.id for label in store.labels()]
            events = [event["label"] for event in store.events() if event["what"] == "label"]
            checked = store.check()
    acknowledged = [one for client in clients for one in client.acknowledged]
    lost, doubled = set(acknowledged) - set(kept), len(kept) - len(set(kept))
    print(f"{len(acknowledged):,} labels acknowledged, {sum(c.killed for c in clients)} kills, {seconds:.0f} s")
    print(f"lost {len(lost)}, doubled {doubled}, labels {len(kept):,}, events {len(events):,}, integrity {checked}")
    fine = not lost and not doubled and sorted(events) == sorted(kept) and checked == "ok" and len(kept) == 2 * each
    sys.exit(0 if fine and seconds < LONGEST else 1)


if __name__ == "__main__":
    main()
