"""A process that kills itself at exactly the moment that is asked for."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any


class Crash:
    """Kills the process that it is prepared in before its n-th change to what lies below a folder: file made, renamed, removed.

    It hears what Python itself does, by audit events; what native code writes by itself is not heard.
    """

    def __init__(self, root: Path, at: int = 0) -> None:
        """At 0 it only counts."""
        self._root, self._at = f"{root.resolve()}{os.sep}", at
        self._shared = mmap.mmap(-1, 8)

    @property
    def changes(self) -> int:
        """How many were counted, also by a fork."""
        return int(struct.unpack("q", self._shared[:8])[0])

    def __call__(self) -> None:
        """Begin to listen; there is no end to it in this process."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int) or not (flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "") & set("wax+")):
                return
        elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            return
        below = os.path.abspath(os.fsdecode(arguments[0])).startswith(self._root)  # noqa: PTH100 - cheap, and it may be text
        inside = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # of a folder that is being removed
        if not below and not inside:
            return
        self._shared[:8] = struct.pack("q", self.changes + 1)
        if self.changes == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
