"""What a predictor gives: an answer, or an image whose answer becomes better in the background while the caller works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np
import numpy.typing as npt

from offramp.data.pictures import Pixels


@dataclass(frozen=True)
class Answer:
    """What the network says of an image."""

    labels: Pixels
    """Class indices, (ceil(H / s), ceil(W / s)) of the image's own size (H, W); s is the package's label stride, usually 1."""
    confidence: npt.NDArray[np.float32]
    """(h, w), at head resolution; empty where the package was trimmed without confidence."""
    exit: str
    scores: dict[str, float]
    """Score at each exit asked; empty where no policy judges."""
    steps_ms: dict[str, float]
    latency_ms: float
    """From the decoded image to the labels."""


class Background:
    """An image that is answered in the background."""

    def __init__(self, answers: Iterator[Answer]) -> None:
        """Begin; see `Predictor.start`."""
        self._answers = answers
        self._latest: Answer | None = None
        self._error: Exception | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="offramp background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                answer = next(self._answers, None)
                if answer is None:
                    return
                self._latest = answer
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            # Another image has taken over the buffers of one that was told to stop.
            self._error = None if self._stopped.is_set() else error

    @property
    def running(self) -> bool:
        """Whether deeper exits are still to come."""
        return self._thread.is_alive()

    def latest(self) -> Answer | None:
        """The best answer so far, at any moment; None before the first exit.

        Raises:
            Exception: what went wrong in the background.

        """
        if self._error is not None:
            raise self._error
        return self._latest

    def stop(self) -> None:
        """Begin no further exit; returns at once."""
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> Answer | None:
        """Wait for the last exit, or so long; then `latest`."""
        self._thread.join(seconds)
        return self.latest()
