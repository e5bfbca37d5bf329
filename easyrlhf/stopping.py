"""The signals that ask a run to stop; what a launcher and its processes must agree on."""

import signal

HANG_UP = getattr(signal, "SIGHUP", None)  # the terminal is gone; Windows has no such signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT, and SIGHUP unless this program was started to ignore it, as by nohup."""
    heard = HANG_UP is not None and signal.getsignal(HANG_UP) != signal.SIG_IGN
    return signal.SIGTERM, signal.SIGINT, *([HANG_UP] if heard else [])


def ignore_stop_signals() -> None:
    """Let no stop signal change how this program ends; for when its exit code is settled."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def insisting(numbers: list[int]) -> list[int]:
    """Those that ask once more to stop when they come again; one closed terminal sends several SIGHUPs."""
    return [number for number in numbers if number != HANG_UP]
