"""Runs in two processes that meet what people, machines and disks do to them: nothing is lost, nobody is left behind.

Each failure is one message on the terminal, an exit code that says what it was, and a run that the same command ends.
"""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import time
from itertools import count
from pathlib import Path

import pytest

from easyrlhf.children import Ended, run_failure
from easyrlhf.config import SFTConfig
from easyrlhf.errors import EasyRLHFError, RunError, RunStopped
from easyrlhf.stages.sft import train_sft
from easyrlhf.userfile import load_module

room = load_module(Path(__file__).parent / "conftest.py")
SMALL, numbers, Command = room.stages.SMALL, room.numbers, room.Command

pytestmark = pytest.mark.distributed

PROMPT = 15.0  # seconds: well below children.GRACE, after which the launcher kills who has not ended
REWARDS = """
import os
calls = 0

def score(prompts, completions, **_):
    global calls
    calls += 1
    {fault}
    return [len(completion[0]["content"]) / 10 for completion in completions]
"""


@pytest.fixture(scope="module")
def settings(data, chain) -> dict:
    """An sft run of 60 steps in two processes under ZeRO-2, with a checkpoint every fourth one."""
    own = {"model": chain.init, "train_data": data.sft, "epochs": 10, "save_steps": 4}
    return SMALL | own | {"devices": "cpu:2", "deepspeed": "zero2"}


@pytest.fixture
def sft(settings, launch):
    """sft(output_dir, **flags) -> the Command."""
    return lambda folder, environment=None, **flags: launch(
        "sft", environment, **settings | {"output_dir": folder} | flags
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> list[dict]:
    """The numbers of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    command = room.start(folder / "command", "sft", **settings | {"output_dir": folder / "run"})
    assert command.wait() == 0, command.err
    return numbers(folder / "run")


def assert_said_once(command: Command, *texts: str) -> None:
    """That the command has shown one error, or that it was stopped, with these texts and left no process."""
    assert len(re.findall("^error: ", command.err, re.MULTILINE)) == (command.code != 3), command.err
    for text in texts:
        assert text in command.err
        assert command.err.count(text) == 1
    assert "Traceback" not in command.err + command.out
    assert not command.processes()


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def flip_a_byte(file: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_ends_a_run_the_same_command_continues_it_bit_for_bit(sft, whole, tmp_path):
    folder = tmp_path / "run"
    for rank, step in ((0, 2), (1, 9)):  # before the first checkpoint, and between two
        command = sft(folder)
        command.wait_for_step(folder, step)
        os.kill(command.rank(rank), signal.SIGKILL)
        assert command.wait(PROMPT) == 1
        assert_said_once(command, f"process {rank} was ended by SIGKILL", "The same command goes on")

    command = sft(folder)
    command.wait_for_step(folder, 13)
    assert len(command.processes()) == 2
    command.process.kill()
    command.wait_until_alone(5)

    command = sft(folder)
    command.wait_for_step(folder, 17)
    command.process.send_signal(signal.SIGTERM)
    assert command.wait() == 3
    assert_said_once(command, "Stopped on request after step", "holds it. The same command continues the run.")
    stage = json.loads((folder / "stage.json").read_text())
    assert (stage["status"], f"step-{stage['step']}") == ("stopped", newest(folder).name)

    flip_a_byte(newest(folder) / "model" / "part-1-of-2.safetensors")
    command = sft(folder)
    command.wait_for_step(folder, 25)
    assert (
        f"step-{stage['step']}: is damaged: model/part-1-of-2.safetensors is not as it was written; the one before"
        in (" ".join(command.out.split()) + " ".join(command.err.split()))
    )
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == 3
    assert_said_once(command, "Stopped on request after step")

    command = sft(folder)
    command.wait_for_step(folder, 35)
    command.pause()
    for number in (signal.SIGTERM, signal.SIGINT):  # Python handles them in the order of their numbers
        command.process.send_signal(number)
        time.sleep(0.5)
    command.go_on()
    assert command.wait(PROMPT) == 3
    assert_said_once(command, "SIGTERM received a second time; stopped at once")

    state = newest(folder) / "state.json"
    state.write_text(state.read_text()[:40])
    command = sft(folder)
    command.wait_for_step(folder, 40)
    assert "is damaged: state.json cannot be read" in command.out + command.err
    command.pause()
    log = (folder / "logs" / "rank-1.log").read_bytes()
    second = sft(folder)
    assert second.wait() == 2
    assert_said_once(second, "another run is working there")
    assert (folder / "logs" / "rank-1.log").read_bytes() == log
    command.go_on()
    assert command.wait() == 0
    assert numbers(folder) == whole


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_when_one_of_two_nodes_is_gone_the_other_ends_and_both_go_on_together(sft, whole, tmp_path):
    folder = tmp_path / "run"

    def start_both() -> list[Command]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = {"master_addr": "127.0.0.1", "master_port": probe.getsockname()[1]}
        return [sft(folder, devices="cpu", nnodes=2, node_rank=node, **place) for node in (0, 1)]

    for gone, step in ((1, 6), (0, 14)):
        nodes = start_both()
        nodes[0].wait_for_step(folder, step)
        nodes[gone].process.kill()
        nodes[gone].wait_until_alone(5)
        assert nodes[1 - gone].wait(PROMPT) == 1
        assert_said_once(nodes[1 - gone], f"process {1 - gone} of 2 lost the others")
    assert [node.wait() for node in start_both()] == [0, 0]
    assert numbers(folder) == whole


@pytest.fixture
def disk(tmp_path):
    """disk(options) -> a file system of its own, mounted with these options; skips where that is not allowed."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        found = subprocess.run(words, capture_output=True, text=True)
        if found.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {found.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@pytest.mark.slow
def test_a_full_disk_at_a_save_keeps_the_checkpoint_before(sft, whole, disk, tmp_path):
    folder = disk("size=64m") / "run"
    command = sft(folder)
    command.wait_for_step(folder, 5)
    command.pause()
    kept, free, filler = newest(folder), os.statvfs(folder), folder.parent / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 300_000))  # room for a few lines, not for a model
    command.go_on()
    assert command.wait() == 1
    assert_said_once(command, "/model: could not be written", f"Safe on disk: {kept}.")
    assert re.search(rf"{folder}/checkpoints/\.step-\d+/model: could not", command.err)  # 8, if it was paused in time
    assert newest(folder) == kept
    filler.unlink()
    assert sft(folder).wait() == 0
    assert numbers(folder) == whole


def test_a_full_disk_between_two_saves_is_an_error_that_names_the_folder(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("easyrlhf.report.log._append", lambda _: Path("/dev/full").open("a"))  # noqa: SIM115
    with pytest.raises(RunError, match=r"run: could not be written: No space left on device"):
        train_sft(SFTConfig(**settings | {"devices": "cpu", "deepspeed": "none", "output_dir": str(tmp_path / "run")}))


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_a_read_only_folder_is_refused_before_anything_is_loaded(devices, sft, disk):
    folder = disk("size=1m")
    (folder / "earlier" / "logs").mkdir(parents=True)
    disk("ro,remount")
    for name in ("new", "earlier"):
        command = sft(folder / name, devices=devices)
        assert command.wait() == 2
        assert_said_once(command, f"--output_dir {folder / name}: ", "give another folder")
        assert [line.split()[0] for line in command.out.splitlines()] == ["reading"]


@pytest.mark.slow
def test_a_rank_without_memory_says_what_to_do(sft, tmp_path):
    # Blocks of 64 KiB come from the system, not from what the process has had before.
    command = sft(tmp_path / "run", {"MALLOC_MMAP_THRESHOLD_": "65536"}, micro_batch_tokens=2000)
    command.wait_for_step(tmp_path / "run", 5)
    pages = int(Path(f"/proc/{command.rank(1)}/statm").read_text().split()[0])
    resource.prlimit(command.rank(1), resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
    assert command.wait(PROMPT) == 1
    assert_said_once(command, "out of memory on cpu", "try --micro_batch_tokens 1000", "Safe on disk: ")
    assert "out of memory" in (tmp_path / "run" / "logs" / "rank-1.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_ends_the_run_instead_of_hanging_it(rank, sft, tmp_path):
    command = sft(tmp_path / "run", ddp_timeout=10, deepspeed="none" if rank else "zero3")
    command.wait_for_step(tmp_path / "run", 5)
    os.kill(command.rank(rank), signal.SIGSTOP)
    assert command.wait(10 + 30 + PROMPT) == 1
    assert_said_once(command, f"process {1 - rank} of 2 lost the others", "--ddp_timeout 10 seconds")


BAD_INPUT = {
    "a malformed row": ({"train_data": "bad.jsonl"}, "bad.jsonl:2"),
    "a missing file": ({"train_data": "typo.jsonl"}, "no such file"),
    "an unknown preset": ({"deepspeed": "zero9"}, "--deepspeed zero9: is neither a file nor one of"),
    "a key that is ours": ({"deepspeed": "own.json"}, "key gradient_accumulation_steps is 4, but"),
}


@pytest.mark.parametrize("fault", BAD_INPUT)
def test_bad_input_is_one_message(fault, sft, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = Path(data.sft).read_text().splitlines(keepends=True)
    Path("bad.jsonl").write_text("".join([good[0], '{"messages": 7}\n', *good[1:]]))
    Path("own.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4}))
    flags, text = BAD_INPUT[fault]
    command = sft("run", **flags)
    assert command.wait() == 2
    assert_said_once(command, text)


@pytest.mark.slow
def test_a_reward_function_that_raises_on_one_rank(launch, data, chain, tmp_path):
    file, folder = tmp_path / "rewards.py", tmp_path / "run"
    settings = SMALL | {"model": chain.sft, "train_data": data.prompts, "response_length": 6, "total_episodes": 32}
    settings |= {"num_mini_batches": 2, "num_ppo_epochs": 2, "num_sample_generations": 0, "save_steps": 4}
    settings |= {"devices": "cpu:2", "reward_funcs": f"{file}:score", "output_dir": folder}
    file.write_text(REWARDS.format(fault="assert calls < 3 or os.environ['RANK'] == '0', 'too long'"))
    command = launch("ppo", **settings)
    assert command.wait() == 1
    assert_said_once(command, "reward function score raised AssertionError", "too long", "Safe on disk: ")
    assert "Say " in command.err  # the sample
    assert newest(folder).name == "step-2"
    file.write_text(REWARDS.format(fault="pass"))
    command = launch("ppo", **settings)
    assert command.wait() == 0, command.err
    assert [row["step"] for row in numbers(folder)] == [1, 2, 3, 4]


def test_a_clock_that_is_set_back_changes_no_duration(settings, tmp_path, monkeypatch):
    hours = count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600.0 * next(hours))
    alone = {"devices": "cpu", "deepspeed": "none", "output_dir": str(tmp_path / "run"), "max_steps": 6}
    train_sft(SFTConfig(**settings | alone))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["time/step"] < 600 and row["tokens_per_second"] > 0 for row in rows)
    assert 0 < json.loads((tmp_path / "run" / "stage.json").read_text())["wall_seconds"] < 600


LOST = ("process 0 of 2 lost the others", 1, None)
CAUSES = {  # exit codes, notes by rank (message, exit code, shown by), what is shown, its exit code
    "rank 1 alone had it, and rank 0 was first to end": ((1, 1), {0: ("no", 1, 1), 1: ("no", 1, 1)}, "no", 1),
    "rank 0 lost a process that has a reason": ((1, 1), {0: LOST, 1: ("out of memory", 1, 1)}, "out of memory", 1),
    "killed": ((1, -9), {0: LOST}, "process 1 was ended by SIGKILL", 1),
    "a stop that rank 0 has not heard of": ((1, 3), {0: LOST, 1: ("a second time", 3, 0)}, "a second time", 3),
    "bad input": ((2, 2), {0: ("no file", 2, 0), 1: ("no file", 2, 0)}, "no file", 2),
    "a traceback in the log of rank 1": ((1, 1), {0: LOST}, "ValueError: boom", 1),
    "a traceback on the terminal": ((1, 1), {1: LOST}, "", 1),
    "another node is gone": ((1, 1), {0: LOST, 1: LOST}, "lost the others", 1),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_is_what_is_shown(case, tmp_path):
    codes, notes, text, code = CAUSES[case]
    (tmp_path / "rank-1.log").write_text("Traceback …\nValueError: boom\n")
    for rank, (message, exit_code, shown_by) in notes.items():
        note = {"message": message, "code": exit_code, "shown_by": shown_by}
        (tmp_path / f"{rank}.json").write_text(json.dumps(note))
    first = min((0, 1), key=lambda number: codes[number])
    error = run_failure(Ended(first, codes, asked=()), 0, tmp_path, tmp_path)
    assert isinstance(error, EasyRLHFError)
    assert text in str(error)
    assert (error.exit_code, error.shown_by) == (code, 0 if text else None)


def test_a_signal_before_training_is_a_stop(tmp_path):
    ended = Ended(0, (-signal.SIGTERM, -signal.SIGTERM), asked=(signal.SIGTERM,))
    error = run_failure(ended, 0, tmp_path, tmp_path)
    assert isinstance(error, RunStopped)
    assert "SIGTERM received while nothing was trained" in str(error)
