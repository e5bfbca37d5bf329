"""What the shell sees: 0 finished, 1 failed, 2 bad input, 3 stopped."""

import os
import signal
import subprocess
import sys

import pytest

from easyrlhf.errors import InputError, RunError, RunStopped, SettingError

ARGS = ("sft", "--train_data", "rows.jsonl")


def test_a_finished_stage_exits_with_0_and_says_what_it_reads(stages):
    result = stages.run(*ARGS)
    assert result.exit_code == 0
    assert result.output == "reading rows.jsonl …\n"
    assert [config.train_data for config in stages.configs] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "error, code",
    [
        (RunError("the loss became NaN at step 7"), 1),
        (InputError("rows.jsonl:7: not JSON"), 2),
        (SettingError("model", "model: outputs/sft does not exist"), 2),
    ],
)
def test_an_error_for_the_user_is_one_message_and_its_exit_code(stages, error, code):
    stages.raises = error
    result = stages.run(*ARGS)
    assert result.exit_code == code
    assert result.stderr == f"error: {error}\n"
    assert result.stdout == "reading rows.jsonl …\n"


def test_a_stop_that_was_asked_for_is_a_plain_sentence(stages):
    stages.raises = RunStopped("Stopped on request after step 7; x/step-7 holds it.")
    result = stages.run(*ARGS)
    assert result.exit_code == 3
    assert result.stderr == "Stopped on request after step 7; x/step-7 holds it.\n"


def test_a_second_interrupt_exits_with_3(stages):
    stages.raises = KeyboardInterrupt()
    result = stages.run(*ARGS)
    assert result.exit_code == 3
    assert result.stderr == "Stopped at once. The same command goes on from what it has saved\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault"), ValueError("x"), EOFError("cut")])
def test_a_fault_of_the_program_keeps_its_traceback_and_exits_with_1(stages, error):
    stages.raises = error
    result = stages.run(*ARGS)
    assert result.exit_code == 1
    assert result.exception is error  # reaches the interpreter, which prints the traceback


def test_nothing_is_imported_for_settings_that_cannot_be_used(stages):
    assert "batch_size" in stages.error(*ARGS, "--batch_size", "0")
    assert stages.configs == []


def test_dry_run_is_passed_on_to_the_stage(stages):
    assert stages.config(*ARGS, "--dry_run").dry_run is True


def test_a_reader_that_leaves_a_pipe_early_is_no_fault_of_the_program():
    words = "from easyrlhf.cli.exit_codes import run_and_exit\n"
    words += "run_and_exit(lambda: lambda: [print('row', flush=True) for _ in range(100_000)])"
    program = subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.readline() == b"row\n"
    program.stdout.close()
    assert program.wait(60) == 0
    assert program.stderr.read() == b""


WORK = """
import sys
from easyrlhf.cli.exit_codes import run_and_exit
def work():
    for _ in range(1000):
        print("row", flush=True, file=sys.{stream})
    open({done!r}, "w").write("all of it")
run_and_exit(lambda: work)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_lost_reader_costs_the_output_and_not_the_work(tmp_path, stream, unbuffered):
    done = tmp_path / "done"
    words = WORK.format(stream=stream, done=str(done))
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    program = subprocess.Popen(
        [sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    getattr(program, stream).close()
    assert program.wait(60) == 0
    assert done.read_text() == "all of it"


def test_what_the_encoding_of_the_output_lacks_is_replaced():
    words = "from easyrlhf.cli.exit_codes import run_and_exit\nrun_and_exit(lambda: lambda: print('┌ né \\udc80'))"
    for encoding, seen in (("latin-1", b"? n\xe9 ?\n"), ("ascii", b"? n? ?\n"), ("utf-8", "┌ né ?\n".encode())):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        found = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, check=False)
        assert (found.returncode, found.stdout, found.stderr) == (0, seen, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal ends a program at once")
@pytest.mark.parametrize("finds, code", [("pass", 0), ("raise RunError('the disk is full')", 1)])
def test_a_signal_that_comes_after_the_work_does_not_change_the_exit_code(finds, code):
    program = f"""
import atexit
from easyrlhf.cli.exit_codes import run_and_exit
from easyrlhf.errors import RunError
atexit.register(lambda: (print("leaving", flush=True), input()))
def work():
    {finds}
run_and_exit(lambda: work)
"""
    leaving = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert leaving.stdout.readline() == "leaving\n"  # Python calls what is left to do at its end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        leaving.send_signal(number)
    leaving.communicate("\n", timeout=60)
    assert leaving.returncode == code
