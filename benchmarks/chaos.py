"""Runs that are killed at random moments, continued until complete, and compared with their twins.

    python benchmarks/chaos.py --cycles 50 --output_dir outputs/chaos          # about 20 minutes on 2 idle cores
    python benchmarks/chaos.py --cycles 20 --engines fsdp2 --output_dir outputs/chaos_fsdp     # about 10 minutes
    python benchmarks/chaos.py --cycles 50 --engines alone --output_dir outputs/stops          # about 10 minutes

Works on a finished quickstart (scripts/quickstart.sh): its folders are where the stages start. Each cell (a stage in
two processes under ZeRO-2, ZeRO-3 or FSDP2, or alone in one) first runs undisturbed, then is killed, while it starts,
between two steps, in a save, or after its last step. Of two processes one gets SIGKILL, or the launcher SIGKILL or
SIGTERM; a single one gets SIGKILL, SIGTERM, SIGINT or SIGHUP, or loses the reader of its output, which must not stop
it. The same command continues it. A complete run must have the metrics and the weights of its twin, bit for bit; no
kill may cost more steps than there are between two checkpoints, and none after a signal that can be heard; no process
may outlive its launcher, and none may end without a word.

What every sitting said is in OUTPUT_DIR/STAGE-ENGINE/sitting-N, what rank 1 said in the run's logs/. Exit code 1 when
anything was lost, differed, was left behind, or ended as it should not.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click

from easyrlhf.run.checkpoint import list_checkpoints, step_of
from easyrlhf.userfile import load_module

room = load_module(Path(__file__).parent.parent / "tests" / "distributed" / "conftest.py")

TOY = Path(__file__).parent.parent / "data" / "toy"
RANK, LAUNCHER, REQUEST = "SIGKILL rank", "SIGKILL launcher", "SIGTERM launcher"
ALONE, READER = "alone", "closed pipe"
KINDS = (RANK, LAUNCHER, REQUEST)
KINDS_ALONE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", READER)
MOMENTS = {"start": 1, "step": 3, "save": 3, "end": 1}  # weights of the draw
SAVE_STEPS = 3
ENOUGH = 60.0  # seconds in which a launcher must end once one of its processes is killed
SMALL = {"max_length": 128, "max_prompt_length": 96, "report_to": "none", "save_steps": SAVE_STEPS, "devices": "cpu:2"}
OFFLINE = {"batch_size": 16, "max_steps": 24, "learning_rate": 1e-3}
PPO = {"batch_size": 16, "max_steps": 12, "response_length": 8, "num_mini_batches": 2, "num_ppo_epochs": 1}
COUNTS = ["most steps lost", "runs", "differences", "silent ends", "orphans"]


class Piped(room.Command):
    """A command whose standard output goes through a pipe to a reader, which writes it to the file."""

    def __init__(self, words: list[str], home: Path):
        home.mkdir()
        self.home, self.out_file, self.err_file = home, home / "out.txt", home / "err.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(home)}
        with self.out_file.open("w") as out, self.err_file.open("w") as err:
            self.process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=err)
            self.reader = subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=out)
        self.process.stdout.close()

    def end(self) -> None:
        """Kill whatever is left."""
        super().end()
        self.reader.kill()
        self.reader.wait()


@dataclass
class Cell:
    """A stage under an engine, and what has become of it.

    twin     folder of the run that nothing happened to
    startup  its seconds up to the first step
    pace     its seconds of a step
    tail     its seconds after the last step
    faults   a line on everything that is not as it should be
    """

    stage: str
    engine: str
    folder: Path
    settings: dict
    twin: Path | None = None
    command: room.Command | None = None  # at work, or the last one
    startup: float = 0.0
    pace: float = 0.0
    tail: float = 0.0
    sittings: int = 0
    runs: int = 0
    lost: int = 0
    orphans: int = 0
    differences: int = 0
    silent: int = 0
    kills: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Steps of a run."""
        return self.settings["max_steps"]

    def sit(self, run: Path) -> room.Command:
        """Start the command on this run, anew or to continue it."""
        self.sittings += 1
        home = self.folder / f"sitting-{self.sittings}"
        flags = self.settings | {"output_dir": run}
        if self.engine != ALONE:
            self.command = room.start(home, self.stage, **flags | engine_flags(self.engine))
            return self.command
        words = [sys.executable, "-c", f"from easyrlhf.cli.stages import {self.stage}_train; {self.stage}_train()"]
        words += [word for name, value in (flags | {"devices": "cpu"}).items() for word in (f"--{name}", str(value))]
        self.command = Piped(words, home)
        return self.command

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be done to it."""
        return KINDS_ALONE if self.engine == ALONE else KINDS

    def fault(self, text: str, command: room.Command) -> None:
        """Note what is not as it should be, and where its evidence lies."""
        self.faults.append(f"{self.stage} {self.engine}: {text}; see {command.home}")


def cells(start: Path, stages: list[str], engines: list[str], output_dir: Path) -> list[Cell]:
    """The cells, on the models of a finished quickstart."""
    from_sft = SMALL | {"model": start / "sft"}
    pairs = {"train_data": TOY / "comparisons.jsonl.gz"} | OFFLINE
    of_stage = {
        "sft": SMALL | OFFLINE | {"model": start / "init", "train_data": TOY / "sft.jsonl.gz"},
        "rm": from_sft | pairs,
        "dpo": from_sft | pairs,
        "ppo": from_sft | PPO | {"reward_model": start / "rm", "train_data": TOY / "prompts.jsonl.gz"},
    }
    return [
        Cell(stage, engine, output_dir / f"{stage}-{engine}", of_stage[stage]) for stage in stages for engine in engines
    ]


def run_twin(cell: Cell) -> None:
    """Run the cell undisturbed, and take its times."""
    cell.folder.mkdir(parents=True)
    cell.twin = cell.folder / "twin"
    began = time.monotonic()
    command = cell.sit(cell.twin)
    command.wait_for_step(cell.twin, 1)
    cell.startup = time.monotonic() - began
    command.wait_for_step(cell.twin, cell.total)
    cell.pace = (time.monotonic() - began - cell.startup) / cell.total
    code = command.wait()
    cell.tail = time.monotonic() - began - cell.startup - cell.pace * cell.total
    if code:
        raise SystemExit(f"the undisturbed run of {cell.stage} under {cell.engine} failed: {command.err}")


def torment(cell: Cell, cycles: int, draw: random.Random) -> None:
    """Kill runs of the cell so many times, and bring every one of them to its end."""
    run: Path | None = None
    while cycles or run:
        if run is None:
            cell.runs += 1
            run = cell.folder / f"run-{cell.runs}"
        command = cell.sit(run)
        before = saved_steps(run)
        kind = draw.choice(cell.kinds)
        if cycles and wait_for_moment(cell, command, run, draw):
            cycles -= 1
            strike(cell, command, run, kind, draw)
            look_for_orphans(cell, command)
            check_loss(cell, command, run, kind, before)
            continue
        if command.wait():
            cell.fault(f"ended with exit code {command.code} though nothing was done to it", command)
        else:
            compare(cell, run, command)
        look_for_orphans(cell, command)
        run = None


def engine_flags(engine: str) -> dict[str, str]:
    """The flag that makes several processes use an engine."""
    return {"sharding": engine} if engine == "fsdp2" else {"deepspeed": engine}


def wait_for_moment(cell: Cell, command: room.Command, run: Path, draw: random.Random) -> bool:
    """Wait for a random moment of the sitting; False when the command has ended before it came."""
    moment = draw.choices(list(MOMENTS), MOMENTS.values())[0]
    step = min(cell.total, logged_step(run) + draw.randint(1, cell.total // 3))
    if moment == "start":
        time.sleep(draw.uniform(0, cell.startup))
    else:
        wait_while(command, lambda: logged_step(run) < (cell.total if moment == "end" else step))
        if moment == "save":
            wait_while(command, lambda: not list((run / "checkpoints").glob(".step-*")))
        time.sleep(draw.uniform(0, {"step": cell.pace, "save": 0.1, "end": cell.tail}[moment]))
    print(f"  {cell.stage} {cell.engine}: {moment}, {logged_step(run)} steps logged", flush=True)
    return command.code is None


def wait_while(command: room.Command, condition) -> None:
    """Wait as long as the condition holds and the command runs."""
    deadline = time.monotonic() + room.PATIENCE
    while command.code is None and time.monotonic() < deadline and condition():
        time.sleep(0.002)


def strike(cell: Cell, command: room.Command, run: Path, kind: str, draw: random.Random) -> None:
    """Kill what is to be killed, and see how the launcher ends."""
    begun = bool(command.out)
    if not hit(cell, command, kind, draw):
        return
    patience = room.PATIENCE if kind == READER else ENOUGH
    try:
        code = command.wait(patience)
    except subprocess.TimeoutExpired:
        return cell.fault(f"hung for {patience:g} s after {kind}", command)
    done = status(run) == "complete"
    late = {0, 1, 3, *(-number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))}  # nothing left to lose
    usual = usual_codes(kind, begun) | (late if done else set())
    if code > 0 and not command.err.strip():
        cell.silent += 1
        cell.fault(f"ended with exit code {code} and no word after {kind}", command)
    if code not in usual:
        cell.fault(f"ended with exit code {code} after {kind}", command)
    if code and done:
        print(f"  {cell.stage} {cell.engine}: exit code {code} after all work was done ({kind}); see {command.home}")
    words = "^(error: |Stopped |SIG[A-Z]+ received (before|while nothing was trained))"
    told = len(re.findall(words, command.err, re.MULTILINE))
    if code in (1, 3) and (told != 1 or "Traceback" in command.err):
        cell.fault(f"{kind} was not told in one message", command)


def hit(cell: Cell, command: room.Command, kind: str, draw: random.Random) -> bool:
    """Do what is to be done; False when the command has ended by itself."""
    if cell.engine != ALONE:
        wait_while(command, lambda: not ranks_of(command))
        if not (ranks := ranks_of(command)):
            return False
    if kind == RANK:
        os.kill(draw.choice(ranks), signal.SIGKILL)
    elif kind == READER:
        command.reader.kill()
    else:
        name = {LAUNCHER: "SIGKILL", REQUEST: "SIGTERM"}.get(kind, kind)
        command.process.send_signal(getattr(signal, name))
    cell.kills[kind] += 1
    return True


def usual_codes(kind: str, begun: bool) -> set[int]:
    """The exit codes that a kill may have; a program that has not said its first word dies of a signal by default."""
    if kind in KINDS_ALONE:
        number = 0 if kind == READER else getattr(signal, kind)
        heard = kind not in ("SIGKILL", READER)
        return ({3} if heard else {-number}) | (set() if begun else {-number})
    return {RANK: {1}, LAUNCHER: {-signal.SIGKILL}, REQUEST: {3}}[kind]


def ranks_of(command: room.Command) -> list[int]:
    """The processes of the run."""
    return sorted(pid for pid, environment in command.processes().items() if "RANK" in environment)


def look_for_orphans(cell: Cell, command: room.Command) -> None:
    """Count the processes that are still there a few seconds after their launcher, and end them."""
    deadline = time.monotonic() + 10
    while (left := command.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        cell.orphans += len(left)
        cell.fault(f"left processes behind: {sorted(left)}", command)
    command.end()


def check_loss(cell: Cell, command: room.Command, run: Path, kind: str, before: list[int]) -> None:
    """Hold the steps that were done against those that are saved."""
    saved, logged = saved_steps(run), logged_step(run)
    newest = max(saved, default=0)
    if before and newest < max(before):
        cell.fault(f"step {max(before)} was saved, and after {kind} the newest is {newest}", command)
    lost = max(0, logged - newest)
    cell.lost = max(cell.lost, lost)
    most = 0 if command.code == 3 and "Stopped on request" in command.err else SAVE_STEPS
    if lost > most:
        cell.fault(f"{lost} steps were lost by {kind}", command)


def compare(cell: Cell, run: Path, command: room.Command) -> None:
    """Hold a complete run against its twin."""
    different = []
    if status(run) != "complete":
        different.append("status")
    if room.numbers(run) != room.numbers(cell.twin):
        different.append("metrics.jsonl")
    if (run / "model.safetensors").read_bytes() != (cell.twin / "model.safetensors").read_bytes():
        different.append("model.safetensors")
    cell.differences += len(different)
    if different:
        cell.fault(f"{run} and {cell.twin} differ in {', '.join(different)}", command)


def logged_step(run: Path) -> int:
    """The last step in a run's log; a line that is half written does not count."""
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def saved_steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    return [step_of(checkpoint) for checkpoint in list_checkpoints(run)]


def status(run: Path) -> str | None:
    """A run's status; None before it has one."""
    file = run / "stage.json"
    return json.loads(file.read_text())["status"] if file.exists() else None


def line(values: list) -> str:
    """A line of the table."""
    return f"| {' | '.join(map(str, values))} |"


@click.command(help=__doc__)
@click.option("--cycles", default=50, show_default=True, help="Kills, over all cells.")
@click.option("--start", default="outputs/quickstart", show_default=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output_dir", required=True, type=click.Path(path_type=Path), help="A folder that is not there yet.")
@click.option("--stages", default="sft,rm,dpo,ppo", show_default=True)
@click.option("--engines", default="zero2,zero3", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(cycles: int, start: Path, output_dir: Path, stages: str, engines: str, seed: int):
    """Torment every cell, print the table."""
    os.environ["EASYRLHF_CACHE"] = str(output_dir.absolute() / "reference_cache")
    found = cells(start.absolute(), stages.split(","), engines.split(","), output_dir.absolute())
    for number, cell in enumerate(found):
        own = cycles * (number + 1) // len(found) - cycles * number // len(found)
        if not own:
            continue
        try:
            run_twin(cell)
            torment(cell, own, random.Random(f"{seed} {cell.stage} {cell.engine}"))
        except KeyboardInterrupt:  # what was seen so far is told
            cell.fault("was broken off", cell.command)
            break
        finally:
            cell.command.end()
    kinds = list(dict.fromkeys(kind for cell in found for kind in cell.kinds))
    columns = ["stage", "engine", "cycles", *kinds, *COUNTS]
    print("\n" + line(columns) + "\n" + line(["---"] * len(columns)))
    for cell in found:
        kills = [cell.kills[kind] for kind in kinds]
        counts = [cell.lost, cell.runs, cell.differences, cell.silent, cell.orphans]
        print(line([cell.stage, cell.engine, sum(kills), *kills, *counts]))
    faults = [fault for cell in found for fault in cell.faults]
    print("\n".join(["", *faults, f"{len(faults)} faults"]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
