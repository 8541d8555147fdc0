"""A camera above a road, and a canvas on which every stroke leaves a colour, a class and a distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Point = tuple[float, float]
Tone = tuple[float, float, float]
"""Red, green, blue; 0..255 as a colour, around 1 as a light."""

SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, CAR, PERSON = range(8)

NEAR = 1.2
"""Nothing is drawn closer to the camera than this, in metres."""
FAR = 400.0
"""Where the road ends, in metres."""

DISTANCE_STEPS = 10
"""Distances are kept in steps of a tenth of a metre, in one integer with the class."""


@dataclass(frozen=True)
class Camera:
    """Where points of the street appear. x: metres to the right, y: metres above the road, z: metres ahead."""

    width: int
    height: int
    horizon: float
    centre: float
    focal: float
    eye: float
    """Height of the camera above the road, in metres."""
    bend: float
    """How fast the road turns: at z metres it has moved bend * z * z metres to the right."""

    def point(self, x: float, y: float, z: float) -> Point:
        """Pixel coordinates of a point of the street."""
        return self.centre + self.focal * (x / z + self.bend * z), self.horizon + self.focal * (self.eye - y) / z

    def length(self, metres: float, z: float) -> float:
        """How many pixels long something across the view is at distance z."""
        return self.focal * metres / z

    def wall(self, x: float, low: float, high: float, near: float, far: float) -> list[Point]:
        """Corners of an upright rectangle that runs along the road."""
        near, far = max(near, NEAR), max(far, NEAR)
        return [self.point(x, low, near), self.point(x, high, near), self.point(x, high, far), self.point(x, low, far)]

    def front(self, left: float, right: float, low: float, high: float, z: float) -> list[Point]:
        """Corners of an upright rectangle that faces the camera."""
        return [self.point(left, low, z), self.point(left, high, z), self.point(right, high, z), self.point(right, low, z)]

    def floor(self, left: float, right: float, near: float, far: float, y: float = 0.0) -> list[Point]:
        """Outline of a level strip along the road; it follows the bend."""
        near = max(near, NEAR)
        steps = 1 if far - near < 8 else 14
        # Equal ratios put more points where the strip is large in the picture.
        along = [near * (far / near) ** (step / steps) for step in range(steps + 1)]
        return [self.point(left, y, z) for z in along] + [self.point(right, y, z) for z in reversed(along)]


@dataclass(frozen=True)
class Glow:
    """A light that shines into the picture: centre and radius in canvas pixels."""

    at: Point
    radius: float
    tone: Tone


@dataclass
class Canvas:
    """What has been drawn so far. Strokes in a class replace what lay behind; strokes without one only colour it."""

    camera: Camera
    light: Tone
    """What a white surface looks like."""
    picture: Image.Image
    dark: bool
    glows: list[Glow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._classes = Image.new("I", self.picture.size, _code(SKY, FAR))
        self._paint = ImageDraw.Draw(self.picture)
        self._mark = ImageDraw.Draw(self._classes)

    def polygon(self, points: Sequence[Point], tone: Tone, label: int | None = None, z: float = 0.0) -> None:
        """Fill a polygon; `label` is its class and `z` its distance in metres."""
        self._paint.polygon(points, fill=self._lit(tone))
        if label is not None:
            self._mark.polygon(points, fill=_code(label, z))

    def ellipse(
        self, centre: Point, across: float, upright: float, tone: Tone, label: int | None = None, z: float = 0.0
    ) -> None:
        """Fill an ellipse with the given half axes in pixels."""
        box = (centre[0] - across, centre[1] - upright, centre[0] + across, centre[1] + upright)
        self._paint.ellipse(box, fill=self._lit(tone))
        if label is not None:
            self._mark.ellipse(box, fill=_code(label, z))

    def lamp(self, centre: Point, radius: float, tone: Tone, shine: float) -> None:
        """Draw a light source, and let it shine `shine` times its radius far if it is dark."""
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        self._paint.ellipse(box, fill=_rgb(tone) if self.dark else self._lit(tone))
        if self.dark:
            self.glows.append(Glow(centre, max(2.0, radius * shine), tone))

    def pane(self, points: Sequence[Point], tone: Tone) -> None:
        """Fill a polygon that is lit from inside."""
        self._paint.polygon(points, fill=_rgb(tone))

    def ground_distance(self) -> None:
        """Give all ground its distance, row by row: call it before anything is put on the ground."""
        codes = np.array(self._classes)
        rows = np.arange(codes.shape[0]) - self.camera.horizon
        distance = (self.camera.eye * self.camera.focal / rows.clip(min=0.5)).clip(NEAR, FAR)
        steps = (distance * DISTANCE_STEPS).astype(np.int32) << 4
        label = codes & 15
        codes = np.where(label == SKY, codes, label | steps[:, None]).astype(np.int32)
        self._classes = Image.fromarray(codes)
        self._mark = ImageDraw.Draw(self._classes)

    def labels_and_distance(self, scale: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Class and distance (in steps of 1 / DISTANCE_STEPS metres) of every `scale`-th pixel."""
        codes = np.asarray(self._classes)[::scale, ::scale]
        return (codes & 15).astype(np.uint8), codes >> 4

    def _lit(self, tone: Tone) -> tuple[int, int, int]:
        return _rgb((tone[0] * self.light[0], tone[1] * self.light[1], tone[2] * self.light[2]))


def _code(label: int, z: float) -> int:
    return label | int(z * DISTANCE_STEPS) << 4


def _rgb(tone: Tone) -> tuple[int, int, int]:
    return (
        min(255, max(0, int(tone[0]))),
        min(255, max(0, int(tone[1]))),
        min(255, max(0, int(tone[2]))),
    )


def shade(tone: Tone, factor: float) -> Tone:
    """Make a colour lighter or darker."""
    return tone[0] * factor, tone[1] * factor, tone[2] * factor
