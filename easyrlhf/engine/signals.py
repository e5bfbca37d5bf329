"""Stop requests: SIGTERM and SIGINT become a clean end."""

import signal
import threading

from easyrlhf.errors import RunStopped


class StopRequest:
    """Catches SIGTERM and Ctrl-C while a stage works.

    While `holding` is False (nothing is trained yet) a signal ends the run at once. While it is True the
    signal is noted in `requested`, for the loop to finish its step and save; a second one ends the run at once.
    """

    def __init__(self):
        self.holding = False
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # the only thread that may set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number, _frame):
        """Note the first signal of a training run; end the run at any other."""
        name = signal.Signals(number).name
        if self.holding and not self.requested:
            self.requested = True
            return
        when = "a second time; stopped at once" if self.requested else "before training began; nothing was lost"
        raise RunStopped(f"{name} received {when}. The same command starts or continues the run")
