"""Ctrl-C and SIGTERM as a request to stop after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

EXIT_STATUS = 128  # of a process that a signal ended, plus the number of the signal, as shells have it


class StopSignals:
    """While open, the first Ctrl-C or SIGTERM only sets `requested`, its number; a second one interrupts at once.

    `tell` hears of the first one.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, tell: Callable[[str], object] = lambda line: None) -> None:
        self.tell = tell
        self.requested = 0
        self.previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.previous = {number: signal.signal(number, self.request) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            end_as_asked(number)
        self.requested = number
        self.tell("stopping after this step, and saving; once more stops at once and saves nothing")


def end_as_asked(number: int) -> NoReturn:
    """Raise what the signal raises in any program: `KeyboardInterrupt` for Ctrl-C, else `SystemExit` with its status.

    A caller's loop over several trainings ends, `train && evaluate` stops there, and a scheduler knows that the job is
    to be started again.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_STATUS + number)
