"""Cars and vans: along the road, seen from behind or from the front, and across it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offramp.data.synthetic.canvas import CAR, Canvas, Point, Tone, shade
from offramp.data.synthetic.colours import CARS, street_tone

TYRE: Tone = (32, 32, 34)
GLASS: Tone = (62, 76, 90)
RED_LAMP: Tone = (236, 48, 40)
WHITE_LAMP: Tone = (255, 244, 214)


@dataclass(frozen=True)
class Body:
    """The shape of a car: lengths and heights in metres, places along it as shares of its length."""

    half_width: float
    length: float
    belt: float
    """Height of the body below the windows."""
    top: float
    window: tuple[float, float]
    """Where the nearer window starts at the belt, and where it meets the roof."""
    roof_end: tuple[float, float]
    """Where the roof ends, and where the farther window meets the belt."""


def _body(rng: np.random.Generator) -> Body:
    half, length = rng.uniform(0.83, 0.95), rng.uniform(3.8, 4.7)
    if rng.random() < 0.18:
        return Body(half, length + 0.6, 1.15, rng.uniform(1.9, 2.3), (0.01, 0.05), (0.8, 0.92))
    return Body(half, length, rng.uniform(0.82, 0.95), rng.uniform(1.38, 1.6), (0.08, 0.26), (0.7, 0.88))


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float, *, towards: bool) -> None:
    """Draw a car along the road; x is its middle, z its nearer end, `towards` that it comes to the camera."""
    camera, paint, body = canvas.camera, street_tone(rng, CARS, difficulty), _body(rng)
    half, length, belt = body.half_width, body.length, body.belt
    glass = shade(GLASS, rng.uniform(0.6, 1.6))
    canvas.polygon(camera.floor(x - half - 0.15, x + half + 0.15, z - 0.2, z + length), (34, 34, 37))
    for wheel in (x - half, x + half - 0.24):
        canvas.polygon(camera.front(wheel, wheel + 0.24, 0.0, 0.5, z + 0.1), TYRE, CAR, z)
    canvas.polygon(camera.floor(x - half, x + half, z, z + length, belt), shade(paint, 1.1), CAR, z)
    # A car straight ahead hides both its sides.
    side = x - half if x > half else x + half if x < -half else None
    if side is not None:
        _side_windows(canvas, body, side, z, paint, glass)
    inner = half - 0.12
    start, end = z + body.window[1] * length, z + body.roof_end[0] * length
    canvas.polygon(camera.floor(x - inner, x + inner, start, end, body.top), shade(paint, 1.15), CAR, z)
    canvas.polygon(_slope(canvas, body, x, z, margin=0.0), paint, CAR, z)
    canvas.polygon(_slope(canvas, body, x, z, margin=0.1), glass)
    if side is not None:
        canvas.polygon(camera.wall(side, 0.25, belt, z, z + length), shade(paint, 0.78), CAR, z)
        radius = 0.33
        for share in (0.19, 0.8):
            middle = z + share * length
            wide = abs(camera.point(side, 0, middle - radius)[0] - camera.point(side, 0, middle + radius)[0]) / 2
            _wheel(canvas, camera.point(side, radius, middle), wide, camera.length(radius, middle), z)
    _near_end(canvas, body, x, z, paint, towards=towards)


def _side_windows(canvas: Canvas, body: Body, side: float, z: float, paint: Tone, glass: Tone) -> None:
    (low, high), (end, foot) = body.window, body.roof_end
    outline = ((low, body.belt), (high, body.top), (end, body.top), (foot, body.belt))
    pane = (
        (low + 0.09, body.belt + 0.03),
        (high + 0.04, body.top - 0.12),
        (end - 0.02, body.top - 0.12),
        (foot - 0.06, body.belt + 0.03),
    )
    canvas.polygon(_along(canvas, outline, side, z, body.length), shade(paint, 0.9), CAR, z)
    canvas.polygon(_along(canvas, pane, side, z, body.length), shade(glass, 0.8))


def _along(canvas: Canvas, shape: Sequence[tuple[float, float]], side: float, z: float, length: float) -> list[Point]:
    return [canvas.camera.point(side, height, z + share * length) for share, height in shape]


def _slope(canvas: Canvas, body: Body, x: float, z: float, margin: float) -> list[Point]:
    """Corners of the nearer window, `margin` metres inside its frame."""
    wide, narrow = body.half_width - margin, body.half_width - 0.12 - margin
    low, high = (z + share * body.length for share in body.window)
    camera, belt, top = canvas.camera, body.belt + margin / 3, body.top - margin
    return [
        camera.point(x - wide, belt, low),
        camera.point(x - narrow, top, high),
        camera.point(x + narrow, top, high),
        camera.point(x + wide, belt, low),
    ]


def _near_end(canvas: Canvas, body: Body, x: float, z: float, paint: Tone, *, towards: bool) -> None:
    """Draw the boot or the bonnet's end with bumper, plate and lamps."""
    camera, half, belt = canvas.camera, body.half_width, body.belt
    canvas.polygon(camera.front(x - half, x + half, 0.25, belt, z), paint, CAR, z)
    canvas.polygon(camera.front(x - half, x + half, 0.25, 0.42, z), shade(paint, 0.6))
    canvas.polygon(camera.front(x - 0.26, x + 0.26, 0.46, 0.58, z), (206, 204, 190))
    if towards:
        canvas.polygon(camera.front(x - 0.45, x + 0.45, 0.6, belt - 0.1, z), (40, 40, 44))
    radius = max(1.0, camera.length(0.11, z))
    for lamp in (x - half + 0.2, x + half - 0.2):
        tone, shine = (WHITE_LAMP, 7.0) if towards else (RED_LAMP, 4.0)
        canvas.lamp(camera.point(lamp, belt - 0.18, z), radius, tone, shine)


def draw_car_across(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float) -> None:
    """Draw a car that crosses the view; x is its middle."""
    camera, paint, body = canvas.camera, street_tone(rng, CARS, difficulty), _body(rng)
    start = x - body.length / 2
    places = [start + share * body.length for share in (*body.window, *body.roof_end)]
    if rng.random() < 0.5:
        places = [2 * x - place for place in places]
    heights = (body.belt, body.top, body.top, body.belt)
    roof = [camera.point(place, height, z) for place, height in zip(places, heights, strict=True)]
    middle = sum(places) / 4
    pane = [
        camera.point(middle + (place - middle) * 0.86, body.belt + (height - body.belt) * 0.8 + 0.02, z)
        for place, height in zip(places, heights, strict=True)
    ]
    canvas.polygon(camera.floor(start - 0.1, start + body.length + 0.1, z - 0.2, z + 1.6), (34, 34, 37))
    canvas.polygon(roof, paint, CAR, z)
    canvas.polygon(pane, shade(GLASS, rng.uniform(0.6, 1.6)))
    canvas.polygon(camera.front(middle - 0.05, middle + 0.05, body.belt, body.top, z), paint)
    canvas.polygon(camera.front(start, start + body.length, 0.28, body.belt, z), shade(paint, 0.88), CAR, z)
    canvas.polygon(camera.front(start, start + body.length, 0.28, 0.4, z), shade(paint, 0.55))
    for share in (0.19, 0.8):
        radius = camera.length(0.34, z)
        _wheel(canvas, camera.point(start + share * body.length, 0.34, z), radius, radius, z)


def _wheel(canvas: Canvas, centre: Point, across: float, upright: float, z: float) -> None:
    canvas.ellipse(centre, across, upright, TYRE, CAR, z)
    canvas.ellipse(centre, across * 0.5, upright * 0.5, (128, 128, 130))
