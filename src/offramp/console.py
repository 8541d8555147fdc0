"""What people see: progress on standard error while a step works, tables on standard output when it is done."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from offramp.progress import Progress

LOG_EVERY_S = 15.0
"""Where standard error is no terminal, a line of progress this often."""


TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
"""Characters that turn the direction of what follows them."""


def printable(text: str) -> str:
    """Text as a terminal may have it: what moves its cursor, which a name in a stranger's file may hold, is shown as an escape.

    Line breaks stay.
    """
    strange = (char != "\n" and (char in TURNS or unicodedata.category(char) in {"Cc", "Cs"}) for char in text)
    return "".join(ascii(char)[1:-1] if found else char for char, found in zip(text, strange, strict=True))


class Listener:
    """Listens to a step: `__call__` is a `Progress`, `line` prints something that stays."""

    def __init__(self, progress: Progress, line: Callable[[str], None]) -> None:
        self._progress, self.line = progress, line

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._progress(what, done, total)


@contextmanager
def showing_progress() -> Iterator[Listener]:
    """A listener for steps: bars with the time left on a terminal, a line now and then in a log."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Listener(_log_lines(), lambda text: print(printable(text), file=sys.stderr, flush=True))  # noqa: T201
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        current = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal current
            # "phase 1: epoch 3/60" is the same work as "phase 1: epoch 2/60": one bar for both.
            what = printable(what)
            kind = what.split(":", maxsplit=1)[0]
            if kind != current:
                for task in bars.task_ids:
                    bars.remove_task(task)
                bars.add_task(what, total=total or None)
                current = kind
            bars.update(bars.task_ids[-1], description=what, completed=done, total=total or None)

        yield Listener(show, lambda text: bars.console.print(printable(text), markup=False))


def _log_lines() -> Progress:
    started: dict[str, float] = {}
    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        began = started.setdefault(what.split(":", maxsplit=1)[0], now)
        finished = 0 < total <= done
        if not finished and now - last < LOG_EVERY_S:
            return
        last = now
        left = (now - began) / done * (total - done)
        told = "done" if finished else f"{left:.0f} s left" if total else "so far"
        print(f"{printable(what)}  {done}{f'/{total}' if total else ''}  {told}", file=sys.stderr, flush=True)  # noqa: T201

    return show


class _Output(Console):
    """Standard output; where its reader has gone, the command line ends, not rich."""

    def on_broken_pipe(self) -> None:
        """See `cli.streams`."""
        raise BrokenPipeError


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output: the first column is text, the others are figures."""
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # Where nobody watches the width, a table is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 160
    _Output(width=width, highlight=False).print(table)
