"""Houses beside the road and the skyline behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.data.synthetic.canvas import BUILDING, NEAR, TREE, Canvas, Tone, shade
from offramp.data.synthetic.colours import HOUSES, LEAVES, ROOFS, one_of, street_tone

LIT_WINDOW: Tone = (250, 206, 128)
SKYLINE_DISTANCE = 220.0
# In metres. A roof's ridge lies half a house deep.
HOUSE_DEPTH, ROOF_RISE, ROOF_DEPTH = 12.0, 5.0, 6.0


@dataclass(frozen=True)
class House:
    """One house: its facade runs along the road at x, from z = near to far; `outward` is 1 on the right, -1 on the left."""

    x: float
    outward: int
    near: float
    far: float
    height: float


def draw_house(canvas: Canvas, rng: np.random.Generator, house: House, difficulty: float) -> None:
    """Draw the end wall, the roof and the facade with its windows."""
    camera, wall = canvas.camera, street_tone(rng, HOUSES, difficulty)
    x, near, far, height = house.x, house.near, house.far, house.height
    back = x + house.outward * HOUSE_DEPTH
    facing, along = (0.78, 1.0) if house.outward * rng.uniform(-1, 1) > 0 else (1.0, 0.8)
    end = camera.front(min(x, back), max(x, back), 0.0, height, max(near, 1.5))
    canvas.polygon(end, shade(wall, facing), BUILDING, near)
    _end_windows(canvas, rng, house, shade(wall, facing))
    _roof(canvas, rng, house, shade(wall, facing), difficulty)
    canvas.polygon(camera.wall(x, 0.0, height, near, far), shade(wall, along), BUILDING, near)
    _stains(canvas, rng, house, shade(wall, along))
    _facade(canvas, rng, house, shade(wall, along))


def _roof(canvas: Canvas, rng: np.random.Generator, house: House, wall: Tone, difficulty: float) -> None:
    """Draw tiles and gable, if the house is low or far from the road enough for them to show over the eaves."""
    camera, x, height, far, near = canvas.camera, house.x, house.height, house.far, max(house.near, 1.5)
    tiles = street_tone(rng, ROOFS, difficulty)
    if (height - camera.eye) / abs(x) > ROOF_RISE / ROOF_DEPTH - 0.1:
        return
    ridge, back, top = x + house.outward * ROOF_DEPTH, x + 2 * house.outward * ROOF_DEPTH, height + ROOF_RISE
    slope = [
        camera.point(x, height, near),
        camera.point(ridge, top, near),
        camera.point(ridge, top, far),
        camera.point(x, height, far),
    ]
    gable = [camera.point(x, height, near), camera.point(ridge, top, near), camera.point(back, height, near)]
    canvas.polygon(slope, tiles, BUILDING, near)
    canvas.polygon(gable, shade(wall, 0.95), BUILDING, near)


def _stains(canvas: Canvas, rng: np.random.Generator, house: House, wall: Tone) -> None:
    for _ in range(5):
        start, low = rng.uniform(max(house.near, NEAR), house.far), rng.uniform(0, house.height)
        patch = canvas.camera.wall(house.x, low, min(house.height, low + 2.5), start, min(house.far, start + 3.0))
        canvas.polygon(patch, shade(wall, rng.uniform(0.88, 1.1)))


def _facade(canvas: Canvas, rng: np.random.Generator, house: House, wall: Tone) -> None:
    """Draw rows of windows between ledges; shops take the ground floor of one house in two."""
    camera = canvas.camera
    storey, bay = rng.uniform(2.9, 3.6), rng.uniform(2.4, 3.8)
    wide, tall = rng.uniform(0.4, 0.75), rng.uniform(0.45, 0.68)
    pane = _pane_tone(rng)
    shop = rng.random() < 0.5
    frame = shade(wall, rng.uniform(1.12, 1.3))
    first = max(house.near, 1.5)
    # Windows less than a pixel wide are left out: they would only cost time.
    last = min(house.far, (camera.focal * abs(house.x) * bay * wide) ** 0.5)
    if shop:
        sign = one_of(rng, HOUSES, 40)
        canvas.polygon(camera.wall(house.x, 0.3, 2.5, first, house.far), shade(pane, 0.9))
        canvas.polygon(camera.wall(house.x, 2.5, 3.0, first, house.far), sign)
    for floor in range(1 if shop else 0, int(house.height / storey)):
        base = floor * storey
        canvas.polygon(camera.wall(house.x, base + storey - 0.16, base + storey, first, house.far), shade(wall, 0.86))
        for place in np.arange(house.near + 0.5, house.far - bay * wide, bay).tolist():
            if place + bay * wide < first or place > last:
                continue
            low, high = base + storey * (0.9 - tall), base + storey * 0.9
            start, end = max(place, first), place + bay * wide
            canvas.polygon(camera.wall(house.x, low - 0.1, high + 0.1, start, end), frame)
            _window(canvas, rng, camera.wall(house.x, low, high, start + 0.1, end - 0.1), pane)


def _end_windows(canvas: Canvas, rng: np.random.Generator, house: House, wall: Tone) -> None:
    z = max(house.near, 1.5)
    if z < 6 or canvas.camera.length(1.0, z) < 4:
        return
    pane = _pane_tone(rng)
    canvas.polygon(canvas.camera.front(house.x, house.x + house.outward * HOUSE_DEPTH, 0.0, 0.5, z), shade(wall, 0.8))
    for floor in range(int(house.height / 3.2)):
        for column in range(4):
            left = house.x + house.outward * (1.0 + 3.0 * column)
            right = left + house.outward * 1.2
            corners = canvas.camera.front(min(left, right), max(left, right), floor * 3.2 + 1.0, floor * 3.2 + 2.5, z)
            _window(canvas, rng, corners, pane)


def _window(canvas: Canvas, rng: np.random.Generator, corners: list[tuple[float, float]], pane: Tone) -> None:
    chance = rng.random()
    if canvas.dark and chance < 0.25:
        canvas.pane(corners, shade(LIT_WINDOW, 0.5 + 2 * chance))
    else:
        canvas.polygon(corners, shade(pane, 0.8 + 0.4 * chance))


def _pane_tone(rng: np.random.Generator) -> Tone:
    """Glass is dark, or mirrors the sky."""
    return one_of(rng, ((58, 66, 76), (44, 46, 52), (86, 104, 122), (150, 176, 204)))


def draw_skyline(canvas: Canvas, rng: np.random.Generator, difficulty: float) -> None:
    """Draw what closes the view: far houses and tree tops. They reach below the horizon; draw the ground afterwards."""
    camera, z = canvas.camera, SKYLINE_DISTANCE
    base, left = camera.horizon + 1.5, 0.0
    while left < camera.width:
        wide = camera.width * rng.uniform(0.03, 0.12)
        high = camera.height * rng.uniform(0.02, 0.10)
        if rng.random() < 0.5:
            tone = street_tone(rng, HOUSES, difficulty)
            corners = [(left, base), (left, base - high), (left + wide, base - high), (left + wide, base)]
            canvas.polygon(corners, shade(tone, 0.9), BUILDING, z)
        else:
            tone = street_tone(rng, LEAVES, difficulty)
            for _ in range(3):
                centre = (left + wide * rng.uniform(0, 1), base - high * rng.uniform(0.1, 0.4))
                canvas.ellipse(centre, wide * 0.45, high * 0.55, shade(tone, rng.uniform(0.7, 1.0)), TREE, z)
        left += wide * rng.uniform(0.7, 1.0)
