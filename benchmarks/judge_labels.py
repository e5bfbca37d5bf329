"""How fast `easyrlhf label ai` is, how true its report, and what ten kills cost.

A judge that knows the toy world (scripts/toy_judge_server.py), with an error, a preference for the first place and
refusals, labels 1,000 pairs in both orders. What is reported is held against the closed forms; then the same is done
again and killed ten times on the way: the export must be the same, and nothing be asked twice but what was under way.

    python benchmarks/judge_labels.py
"""

import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[1]
toy = load_module(ROOT / "scripts" / "toy_judge_server.py")
PAIRS, KILLS, WORKERS = 1000, 10, 8
ERROR, PLACE, REFUSALS = 0.1, 0.6, 0.02


class CountingJudge:
    """The judge behind a server that counts its questions."""

    def __init__(self, **more):
        self.judge, self.asked, self.lock = toy.ToyJudge(**more), Counter(), threading.Lock()

    def __getattr__(self, name: str):
        return getattr(self.judge, name)

    def reply(self, body: dict):
        with self.lock:
            self.asked[json.dumps(body["messages"])] += 1
        return self.judge.reply(body)


def serve(judge: CountingJudge) -> str:
    """Serve the judge in a thread; returns its address."""
    server = toy.server_of(judge, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def easyrlhf(*words: str) -> subprocess.Popen:
    """Start a command."""
    code = "from easyrlhf.cli.main import main; main()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def label(folder: Path, url: str) -> subprocess.Popen:
    """Start to label what is in a folder."""
    judge = ("--judge_url", url, "--judge_model", "toy", "--judge_workers", str(WORKERS))
    return easyrlhf("label", "ai", "--labels", str(folder), *judge, "--average", "logit")


def imported(folder: Path, rows: Path) -> Path:
    """A folder with the pairs."""
    assert easyrlhf("label", "import", str(rows), "--hide_labels", "--labels", str(folder)).wait() == 0
    return folder


def exported(folder: Path) -> str:
    """What the labels are as rows to train on."""
    file = folder / "export.jsonl"
    assert easyrlhf("label", "export", "--labels", str(folder), "--output", str(file)).wait() == 0
    return file.read_text()


def truth_of(report: dict) -> None:
    """Print what the report says beside the closed form."""
    n = report["first_place"]["n"]
    print(f"place {report['place_nats']['nats']:+.4f} nats (is {PLACE:+.4f})")
    unread = report["unreadable"] / report["verdicts"]
    error = math.sqrt(REFUSALS * (1 - REFUSALS) / report["verdicts"])
    print(f"unreadable {unread:.4f} (is {REFUSALS:.4f}, standard error {error:.4f})")
    print(
        f"for the first place {report['first_place']['share']:.4f} of {n}; orders agree "
        f"{report['orders_agree']['share']:.4f}"
    )


def accuracy(folder: Path) -> tuple[int, int]:
    """Labels that prefer what the gold judge prefers, and all whose answers it tells apart."""
    right = total = 0
    for line in exported(folder).splitlines():
        row = json.loads(line)
        text = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in row["prompt"])
        gap = toy.gold(text, row["chosen"][-1]["content"]) - toy.gold(text, row["rejected"][-1]["content"])
        right, total = right + (gap > 0), total + (gap != 0)
    return right, total


def main() -> None:
    """Measure and print."""
    with TemporaryDirectory() as scratch:
        rows = Path(scratch) / "pairs.jsonl"
        lines = (ROOT / "data/toy/comparisons_heldout.jsonl").read_text().splitlines(keepends=True)[:PAIRS]
        rows.write_text("".join(lines))
        judge = CountingJudge(error=ERROR, place=PLACE, refusals=REFUSALS)
        url, whole = serve(judge), imported(Path(scratch) / "whole", rows)
        begun = time.monotonic()
        assert label(whole, url).wait() == 0
        asked = sum(judge.asked.values())
        print(f"{asked} requests in {time.monotonic() - begun:.1f} s, start of the command and labels included")
        truth_of(json.loads((whole / "judge-toy.json").read_text()))
        right, total = accuracy(whole)
        error = math.sqrt(ERROR * (1 - ERROR) / total)
        print(f"right {right / total:.4f} of {total} (is {1 - ERROR:.4f}, standard error {error:.4f})")
        judge.asked.clear()
        killed = imported(Path(scratch) / "killed", rows)
        for number in range(1, KILLS + 1):
            process, goal = label(killed, url), asked * number // (KILLS + 1)
            while sum(judge.asked.values()) < goal:
                time.sleep(0.002)
            process.kill()
            process.wait()
        assert label(killed, url).wait() == 0
        twice = sum(count - 1 for count in judge.asked.values())
        print(f"killed {KILLS} times: {twice} of {asked} asked twice, at most {WORKERS} were under way at each kill")
        print(f"the same export: {exported(killed) == exported(whole)}")


if __name__ == "__main__":
    main()
