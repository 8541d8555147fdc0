"""The run log: frame by frame, where it left and what that took; of a long run in a bounded size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from offramp.artifacts.base import Artifact, Provenance
from offramp.specs import EngineName, Mode, Precision, Spec

MOST_FRAMES = 1024
"""That a run log holds. With twice as many, every second one is left out."""
GRAIN = 1.005
"""Ratio of neighbouring classes of latencies, of runs with more frames: their quantiles are within half of that."""


class Frame(Spec):
    """One answered image."""

    name: str
    seconds: float = Field(default=0.0, ge=0)
    """From the start of the run to this answer."""
    exit: str
    scores: dict[str, float]
    """Score at each exit asked."""
    steps_ms: dict[str, float]
    """Time of each stage, head and label map, in the order run."""
    latency_ms: float = Field(ge=0)
    """From the decoded image to the label map."""
    deadline_ms: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the deadline was met; None without one."""
        return None if self.deadline_ms is None else self.latency_ms <= self.deadline_ms


class Latency(Spec):
    """Of all frames of a run, in ms."""

    mean: float
    median: float
    p95: float
    max: float


class Summary(Spec):
    """Figures of all frames of a run."""

    frames: int
    leaving: dict[str, int]
    """Frames that left at each exit at which any did."""
    with_deadline: int
    missed: int
    """Deadlines."""
    latency_ms: Latency | None
    """None without frames."""


class Tally:
    """Takes frame after frame of a run that may never end: figures of all, and a bounded number of the frames themselves.

    Up to MOST_FRAMES all are kept. Beyond, of every 2, 4, 8 ... successive ones the slowest: so many (`every`) that no more are
    kept than that.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        """Begin with some frames."""
        self.frames: list[Frame] = []
        self.every = 1
        self.count = self.missed = 0
        self._with_deadline = 0
        self._leaving: Counter[str] = Counter()
        self._sum_ms = self._max_ms = 0.0
        self._classes: Counter[int] = Counter()
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        if self.count % self.every:
            self.frames[-1] = _slower(self.frames[-1], frame)
        else:
            if len(self.frames) == MOST_FRAMES:
                self.frames = [_slower(*pair) for pair in zip(self.frames[::2], self.frames[1::2], strict=True)]
                self.every *= 2
            self.frames.append(frame)
        self.count += 1
        self.missed += frame.met is False
        self._with_deadline += frame.met is not None
        self._leaving[frame.exit] += 1
        self._sum_ms += frame.latency_ms
        self._max_ms = max(self._max_ms, frame.latency_ms)
        self._classes[_class_of(frame.latency_ms)] += 1

    def summary(self) -> Summary:
        """Figures of all frames so far. Quantiles are exact as long as every frame is kept."""
        leaving = dict(self._leaving)
        latency = self._latency() if self.count else None
        return Summary(
            frames=self.count, leaving=leaving, with_deadline=self._with_deadline, missed=self.missed, latency_ms=latency
        )

    def _latency(self) -> Latency:
        if self.every == 1:
            median, p95 = (float(value) for value in np.percentile([frame.latency_ms for frame in self.frames], [50, 95]))
        else:
            classes = sorted(self._classes)
            reached = np.cumsum([self._classes[each] for each in classes])
            places = np.searchsorted(reached, [0.5 * self.count, 0.95 * self.count])
            median, p95 = (min(GRAIN ** classes[place], self._max_ms) for place in places)
        return Latency(mean=self._sum_ms / self.count, median=median, p95=p95, max=self._max_ms)


def _slower(one: Frame, other: Frame) -> Frame:
    return other if other.latency_ms > one.latency_ms else one


def _class_of(latency_ms: float) -> int:
    return round(math.log(max(latency_ms, 1e-6)) / math.log(GRAIN))


class RunLog(Artifact):
    """Frame by frame: where it left, what that took."""

    largest: ClassVar[int] = 1_000_000_000
    """Bytes of its file that are read: about a million frames."""
    kind: Literal["run log"] = "run log"
    package_id: str
    trimmed_from: str | None = None
    """Of the package, if it was trimmed: records, profile and deployment carry that identity."""
    mode: Mode
    exits: tuple[str, ...]
    engine: EngineName
    threads: int = Field(ge=0, le=1024)
    precision: Precision = "fp32"
    frames: tuple[Frame, ...]
    """All of them; of a run longer than MOST_FRAMES, the slowest of every `every` successive ones. The table holds all."""
    every: int = Field(default=1, ge=1)
    summary: Summary | None = None
    """Of all frames; see `figures`. Logs of earlier versions hold all frames and no summary."""
    live: bool = False
    dropped: int = Field(default=0, ge=0)
    """Frames of a live source that newer ones replaced before they were asked about."""
    reconnected: int = 0
    """So often a live source was lost and came back."""
    interrupted: bool = False
    """Ended by its user."""
    provenance: Provenance

    def figures(self) -> Summary:
        """Figures of all frames."""
        return self.summary or Tally(self.frames).summary()

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        known = set(self.exits)
        strange = next((frame for frame in self.frames if frame.exit not in known), None)
        if strange is not None:
            raise ValueError(f"the frame {strange.name} left at {strange.exit!r}, which is not among the exits")
        return self

    def shares(self) -> dict[str, float]:
        """Share of frames that left at each exit."""
        figures = self.figures()
        return {name: figures.leaving.get(name, 0) / max(figures.frames, 1) for name in self.exits}
