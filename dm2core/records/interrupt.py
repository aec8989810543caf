"""SIGTERM, SIGINT and SIGUSR1 ask a cell to stop; it stops at the next poll and loses at most one iteration."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dm2core.errors import EXIT_AGAIN, TryAgain

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupt:
    """`poll` raises TryAgain once a signal has come; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def poll(self) -> None:
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise TryAgain(
                f"stopped by {name}; everything up to the last iteration is saved, run again to go on"
            )

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(EXIT_AGAIN)
        self.received = number


@contextmanager
def catch_signals() -> Iterator[Interrupt]:
    """Within it, signals are remembered instead of acted upon."""
    interrupt = Interrupt()
    before = {number: signal.signal(number, interrupt._handle) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
