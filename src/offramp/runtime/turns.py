"""One at a time, in any thread; in a forked process an error where a lock would wait without end."""

from __future__ import annotations

import os
from threading import Lock


class Turns:
    """A lock for `with`. A process that is forked while it is held could wait for ever: who held it is not there."""

    def __init__(self) -> None:
        """Nobody holds it."""
        self._lock = Lock()
        self._process = os.getpid()

    def __enter__(self) -> None:
        """Wait for one's turn.

        Raises:
            RuntimeError: it was held in another process when that one was forked.

        """
        if os.getpid() != self._process:
            if self._lock.locked():
                raise RuntimeError(
                    "the process was forked while another thread's image was being answered, so this Predictor cannot be used "
                    "here; open the package again in this process, or fork while no image is being answered"
                )
            self._process = os.getpid()
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        """The next one's turn."""
        self._lock.release()
