"""Standard output and error that are closed, or whose reader has gone: no reason for a command to fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

GONE = 141
"""Exit code where nobody read on, as shells tell it of programs that SIGPIPE ended."""


@contextmanager
def standing_streams() -> Iterator[None]:
    """Stand in for closed streams, escape letters that a terminal lacks, and end where a pipe's reader (`head`) has gone."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the program
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            # A class or file may be called what the terminal has no letters for.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be flushed at the end of the process must not fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        sys.exit(GONE)
