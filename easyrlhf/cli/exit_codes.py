"""From a command to its exit code: 0 finished, 1 failed, 2 bad input, 3 stopped and resumable."""

import atexit
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from easyrlhf.cli.wording import in_our_words
from easyrlhf.config.base import Settings
from easyrlhf.errors import EasyRLHFError
from easyrlhf.stopping import ignore_stop_signals
from easyrlhf.streams import outlast_readers

STOPPED = 3
ERROR = "error: "

Job = Callable[[], Any]


def job(target: str, *args: Any, **kwargs: Any) -> Job:
    """A call of `module:function`, imported only when it runs: help never waits for torch."""

    def run() -> Any:
        module, function = target.split(":")
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    return run


def job_on_models(target: str, settings: Settings, *more: Any) -> Job:
    """A job that is called with these settings, if the models that they name are there."""
    look, work = job("easyrlhf.glance:glance_at_models", settings), job(target, settings, *more)

    def run() -> Any:
        look()
        return work()

    return run


def job_on_one_gpu(devices: str | None, work: Job) -> Job:
    """A job of a program that has no other GPU than the one that these devices name, where they name one."""
    take = job("easyrlhf.launch:take_one_gpu", devices)

    def run() -> Any:
        take()
        return work()

    return run


def run_and_exit(parse: Callable[[], Job | int | None]) -> NoReturn:
    """Parse, run the job that parsing returned, and leave with the exit code of what happened.

    The job runs outside of click, which would take an EOFError of a stage for a key press. Errors
    meant for the user are one message on stderr; anything else keeps its traceback (exit code 1).
    A reader of our output who leaves, such as `head`, changes nothing, and neither does a signal that
    asks to stop once the work is over: Python takes a second or more to end.
    """
    if sys.platform == "win32" and not sys.flags.utf8_mode:
        click.echo("warning: set PYTHONUTF8=1, or other characters than English ones may be read wrongly", err=True)
    outlast_readers()
    try:
        work = parse()
        if callable(work):
            work()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(in_our_words(error), error.exit_code)
    except EasyRLHFError as error:
        asked = error.exit_code == STOPPED  # which is no error: it was told to
        own = error.shown_by == int(os.environ.get("RANK", 0))
        _fail(str(error), error.exit_code, shown=own, head="" if asked else ERROR)
    except (KeyboardInterrupt, click.Abort):
        _fail("Stopped at once. The same command goes on from what it has saved", STOPPED, head="")
    finally:
        atexit.register(ignore_stop_signals)  # the last to be registered is the first to be called
    sys.exit(0)


def _fail(message: str, exit_code: int, *, shown: bool = True, head: str = ERROR) -> NoReturn:
    if shown:
        click.echo(f"{head}{message}", err=True)
    sys.exit(exit_code)
