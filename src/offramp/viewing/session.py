"""What the page speaks with: one package, the image that is shown, and how it is answered."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from offramp.errors import InputError
from offramp.policy import GRID, MEAN
from offramp.runtime.answers import Answer
from offramp.runtime.images import enlarged
from offramp.runtime.predictor import Plan, Predictor
from offramp.runtime.sources import Shot
from offramp.specs import Mode, Region, Spec
from offramp.viewing.inputs import open_input
from offramp.viewing.pictures import confidence_url, image_url, labels_url, overhang, read_dropped, shown_size

EARLY_EXITS = 3
"""So many are proposed where no deployment says which."""


class Ask(Spec):
    """A question of the page: which image, and how it is to be answered."""

    index: int | None = Field(default=None, ge=0)
    """This image of the folder."""
    play: Literal["every", "timed"] | None = None
    """The video's next frame: whichever comes next, or at its own speed. Neither this nor an index: the present image."""
    resumed: bool = False
    """The video was paused before."""
    have: int = -1
    """Number of the image that the page shows already: it is not sent again."""
    width: int = Field(default=960, ge=16, le=8192)
    """Of the picture on the page, in pixels of the screen."""
    mode: Mode
    exits: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    region: Region = "all"
    pixel_threshold: int = Field(default=MEAN, ge=0, lt=GRID)
    image_thresholds: tuple[float, ...] = ()
    deadline_ms: float | None = Field(default=None, gt=0)

    def plan(self) -> Plan:
        """The part that the predictor follows."""
        return Plan(self.mode, self.exits, self.region, self.pixel_threshold, self.image_thresholds)


class Session:
    """A package and the image that is shown. Questions are answered one after another."""

    def __init__(self, predictor: Predictor, source: Path | None) -> None:
        """Show nothing yet.

        Args:
            predictor: with every exit loaded.
            source: an image, a folder of images, a video, or None.

        Raises:
            InputError: an input that cannot be shown.

        """
        self._predictor = predictor
        self._first_plan = predictor.plan
        self._input = open_input(source)
        self._shot: Shot | None = None
        self._number = 0  # of the image that is shown
        self._answered: deque[float] = deque(maxlen=1000)
        self._lock = Lock()

    def facts(self) -> dict[str, Any]:
        """What does not change: the package, its exits and classes, the input, and the plan to begin with."""
        manifest, engine, plan = self._predictor.manifest, self._predictor.network.engine, self._first_plan
        return {
            "package": self._predictor.network.package.resolve().name,
            "engine": engine.name,
            "threads": engine.threads,
            "precision": engine.precision,
            "size": manifest.size,
            "classes": [
                {"name": name, "colour": list(colour)} for name, colour in zip(manifest.classes, manifest.palette, strict=True)
            ],
            "stages": len(manifest.stages),
            "exits": [{"name": head.exit, "stage": head.stage} for head in manifest.heads],
            "judges": manifest.judges,
            "pixel_thresholds": manifest.pixel_thresholds,
            "deployed": self._predictor.deployment is not None,
            "plan": {
                "mode": plan.mode,
                "exits": plan.exits,
                "region": plan.region,
                "pixel_threshold": plan.pixel_threshold,
                "image_thresholds": plan.image_thresholds,
            },
            "proposed": self._proposed(),
            "input": {"kind": self._input.kind, "name": self._input.name, "total": self._input.total},
        }

    def _proposed(self) -> list[str]:
        """The last head at each of a few stages, evenly spaced, and the deepest exit."""
        heads = self._predictor.manifest.heads
        last = list({head.stage: head.exit for head in heads}.values())
        chosen = np.linspace(0, len(last) - 1, min(len(last), EARLY_EXITS + 1)).round().astype(int)
        return [last[index] for index in chosen]

    def drop(self, body: bytes, name: str) -> dict[str, Any]:
        """Show an image that came as bytes.

        Raises:
            InputError: it is no image, or a broken one; the one that was shown stays.

        """
        image = read_dropped(body)
        with self._lock:
            self._show(Shot(name, image, 0.0))
            return {"number": self._number}

    def answer(self, ask: Ask) -> dict[str, Any]:
        """Answer for the image that is asked for.

        Raises:
            InputError: no image, a broken one, or a plan that the package cannot follow.

        """
        with self._lock:
            if ask.plan() != self._predictor.plan:
                self._predictor.change(ask.plan())
            if ask.index is not None:
                self._show(self._input.image(ask.index))
            elif ask.play is not None:
                self._show(self._input.frame(timed=ask.play == "timed", resumed=ask.resumed))
            if self._shot is None:
                raise InputError("no image yet: drop one on the page, or open one")
            answer = self._predictor(self._shot.image, deadline_ms=ask.deadline_ms)
            self._answered.append(time.monotonic())
            return self._described(self._shot, answer, ask)

    def _show(self, shot: Shot) -> None:
        self._shot = shot
        self._number += 1

    def _described(self, shot: Shot, answer: Answer, ask: Ask) -> dict[str, Any]:
        manifest = self._predictor.manifest
        labels = enlarged(answer.labels, manifest.label_stride, shot.image.shape)
        size = shown_size(shot.image, ask.width)
        judged = answer.confidence.size > 0
        return {
            "number": self._number,
            "name": shot.name,
            "seconds": shot.seconds,
            "size": shot.image.shape[1::-1],
            "image": None if ask.have == self._number else image_url(shot.image, size),
            "labels": labels_url(labels, manifest.palette, size),
            "shares": (np.bincount(labels.ravel(), minlength=len(manifest.classes)) / labels.size).tolist(),
            "confidence": confidence_url(answer.confidence) if judged else None,
            "overhang": overhang(answer.confidence.shape, manifest.size),
            "exit": answer.exit,
            "scores": answer.scores,
            "steps_ms": answer.steps_ms,
            "latency_ms": answer.latency_ms,
            "met": None if ask.deadline_ms is None else answer.latency_ms <= ask.deadline_ms,
            "rate": self._rate(),
            "dropped": self._input.dropped,
        }

    def _rate(self) -> float | None:
        """Answers a second, over the last second; None where there was one alone."""
        recent = [moment for moment in self._answered if moment > self._answered[-1] - 1]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else None
