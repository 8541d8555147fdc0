"""A live source that is lost and comes back: a camera that was unplugged, a stream whose sender was started again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event

import numpy as np
import numpy.typing as npt

from offramp.errors import InputError

RETRY_SECONDS = 1.0
"""So often a lost source is tried again."""
SILENT_SECONDS = 10.0
"""A source that is opened again when it is lost counts as lost after so long without a frame."""

Pixels = npt.NDArray[np.uint8]
Decoded = tuple[Pixels, float]
"""A frame, RGB (H, W, 3), and its seconds since the first one."""
Timeouts = tuple[float | None, float | None]
"""Seconds that opening and each frame may take; None: for ever."""
Open = Callable[[Timeouts], Iterator[Decoded]]


def unheard(text: str) -> None:
    """The default listener: nobody."""


class Reconnecting:
    """Iterates over the frames of a live source; when it is lost, tries every second to open it again.

    Once only: there is no second iteration. Seconds go on by this machine's monotonic clock.
    """

    def __init__(self, name: str, opened: Open, patience_s: float, line: Callable[[str], None] = unheard) -> None:
        """Nothing is opened yet.

        Args:
            name: what the user calls the source.
            opened: opens it.
            patience_s: for so long a lost source is tried again; 0: not at all.
            line: told when the source is lost, and when it is back.

        """
        self.reconnected = 0
        self._name, self._open, self._patience_s, self._line = name, opened, patience_s, line
        self._closed = Event()

    def __iter__(self) -> Iterator[Decoded]:
        """Yield the frames.

        Raises:
            InputError: the source never was there, or was lost by an error and did not come back. One that only ended and did
                not come back has ended.

        """
        began: float | None = None
        lost: InputError | None = None
        lost_at: float | None = None
        while not self._closed.is_set():
            ended: InputError | None = None
            offset = 0.0 if began is None else time.monotonic() - began
            try:
                for pixels, seconds in self._open(self._timeouts(lost_at)):
                    began = time.monotonic() if began is None else began
                    if lost_at is not None:
                        offset, lost_at = time.monotonic() - began, None
                        self.reconnected += 1
                        self._line(f"{self._name} is back")
                    yield pixels, offset + seconds
            except InputError as error:
                ended = error
            if began is None or self._patience_s == 0:
                if ended is not None:
                    raise ended
                return
            if lost_at is None:
                lost, lost_at = ended, time.monotonic()
                self._line(f"{self._name} is lost ({ended or 'it ended'}); it is tried again for {self._patience_s:g} s")
            left_s = lost_at + self._patience_s - time.monotonic()
            if left_s <= 0:
                if lost is not None:
                    raise InputError(f"{lost}; it did not come back within {self._patience_s:g} s") from lost
                return
            self._closed.wait(min(RETRY_SECONDS, left_s))

    def _timeouts(self, lost_at: float | None) -> Timeouts:
        if self._patience_s == 0:
            return None, None
        if lost_at is None:
            return None, SILENT_SECONDS
        return max(lost_at + self._patience_s - time.monotonic(), RETRY_SECONDS), SILENT_SECONDS

    def close(self) -> None:
        """Try no further."""
        self._closed.set()
