"""A command as a process: how it ends when it is told to, and what it says when the machine fails it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from offramp.faults import explain_fault, os_error

LESS_MEMORY = {
    "train": "a smaller --batch-size or --crop needs less",
    "prune": "a smaller --batch-size or --crop needs less",
    "sweep": "a smaller batch_size or crop in the plan needs less",
    "export": "a smaller --size needs less",
    "evaluate": "--threads 1 needs less, and so does a package of fewer exits or of a smaller --size",
    "profile": "--threads 1 needs less, and so does a package of fewer exits or of a smaller --size",
    "run": "--threads 1 needs less, and so does a package of fewer exits or of a smaller --size",
    "view": "--threads 1 needs less, and so does a package of fewer exits or of a smaller --size",
    "search": "--workers 1 needs less, and so does a smaller --max-candidates",
    "report": "fewer --images need less",
}
MORE_MEMORY = "end other programs, or give it more (ulimit -v, a container's limit)"

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""128 and the signal's number, as shells tell it."""


@dataclass
class Ending:
    """Whether a command was told to end."""

    by: signal.Signals | None = None

    @property
    def status(self) -> int:
        """The exit code; without a signal, that of Ctrl-C."""
        return STATUS[self.by or signal.SIGINT]


@contextmanager
def told_to_end() -> Iterator[Ending]:
    """Take SIGTERM, as service managers send it, for Ctrl-C; and leave threads' faults to whoever waits for those threads."""
    ending = Ending()

    def end(number: int, _frame: FrameType | None) -> None:
        ending.by = signal.Signals(number)
        raise KeyboardInterrupt

    def thread_failed(failed: Any) -> None:
        error = failed.exc_value
        if error is None or (os_error(error) is None and explain_fault(error, "") is None):
            before_thread(failed)

    before_thread, before = threading.excepthook, {}
    if threading.current_thread() is threading.main_thread():
        # A program that was started in the background with Ctrl-C ignored goes on to ignore it.
        heard = [number for number in STATUS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, end) for number in heard}
    threading.excepthook = thread_failed
    try:
        yield ending
    finally:
        threading.excepthook = before_thread
        for number, handler in before.items():
            signal.signal(number, handler)


def drop_unwritable_output() -> None:
    """Forget what standard output does not take: Python would try again at the end, and complain in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explained(error: BaseException, verb: str) -> str | None:
    """One line on a fault of the machine behind an error of a verb; None if there is none."""
    less = LESS_MEMORY.get(verb)
    return explain_fault(error, f"{less}; or {MORE_MEMORY}" if less else MORE_MEMORY)
