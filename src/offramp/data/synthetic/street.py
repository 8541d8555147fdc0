"""A street: how wide it is, what lies on the ground, and what stands where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from offramp.data.synthetic.buildings import House, draw_house, draw_skyline
from offramp.data.synthetic.canvas import FAR, NEAR, PAVEMENT, ROAD, Camera, Canvas, Tone, shade
from offramp.data.synthetic.cars import draw_car, draw_car_across
from offramp.data.synthetic.colours import PAVEMENTS, ROADS, street_tone
from offramp.data.synthetic.things import draw_hedge, draw_person, draw_pole, draw_tree

Drawing = Callable[[Canvas], None]

KERB = 0.13
PAINT: Tone = (212, 210, 202)


@dataclass(frozen=True)
class Street:
    """Where things are, in metres to the right of the camera."""

    road: tuple[float, float]
    walls: tuple[float, float]
    """The facades on the left and on the right."""
    lane_middles: tuple[float, ...]
    own_lane: int
    parking: tuple[bool, bool]
    """Whether cars are parked at the left and at the right."""
    crossing: tuple[float, float] | None
    """Where a side street begins and ends, in metres ahead."""


def plan_camera(rng: np.random.Generator, width: int, height: int, difficulty: float) -> Camera:
    """Set up a camera as a driver or a robot would carry it; width and height in canvas pixels."""
    return Camera(
        width=width,
        height=height,
        horizon=height * rng.uniform(0.36, 0.52),
        centre=width * rng.uniform(0.36, 0.64),
        focal=max(width, height) * rng.uniform(0.62, 0.85),
        eye=rng.uniform(1.35, 2.1),
        bend=rng.uniform(-0.0016, 0.0016) * (0.4 + difficulty),
    )


def plan_street(rng: np.random.Generator) -> Street:
    """Choose lanes, pavements, parked rows and side streets."""
    lane, lanes = rng.uniform(2.9, 3.5), int(rng.integers(2, 4))
    own = int(rng.integers(lanes))
    middles = tuple((place - own) * lane + rng.uniform(-0.2, 0.2) for place in range(lanes))
    parking = (bool(rng.random() < 0.55), bool(rng.random() < 0.55))
    left = middles[0] - lane / 2 - (2.1 if parking[0] else 0.2)
    right = middles[-1] + lane / 2 + (2.1 if parking[1] else 0.2)
    start = rng.uniform(12, 35)
    crossing = (start, start + rng.uniform(6, 9)) if rng.random() < 0.45 else None
    walls = (left - rng.uniform(2.0, 5.0), right + rng.uniform(2.0, 5.0))
    return Street((left, right), walls, middles, own, parking, crossing)


def draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street, difficulty: float) -> None:
    """Draw the skyline, pavements to the horizon, the road on them, and everything flat."""
    camera = canvas.camera
    draw_skyline(canvas, rng, difficulty)
    slabs, asphalt = street_tone(rng, PAVEMENTS, difficulty), street_tone(rng, ROADS, difficulty)
    down = camera.height + 2.0
    whole = [(-2.0, camera.horizon + 1), (camera.width + 2.0, camera.horizon + 1), (camera.width + 2.0, down), (-2.0, down)]
    canvas.polygon(whole, slabs, PAVEMENT, 1.0)
    _slab_joints(canvas, rng, street, slabs)
    left, right = street.road
    for edge in (left - KERB, right):
        canvas.polygon(camera.floor(edge, edge + KERB, NEAR, 60.0), shade(slabs, rng.uniform(1.08, 1.25)))
    if street.crossing:
        near, far = street.crossing
        canvas.polygon(camera.floor(-60.0, 60.0, near, far), shade(asphalt, 0.97), ROAD, near)
    canvas.polygon(camera.floor(left, right, 0.5, FAR), asphalt, ROAD, 1.0)
    canvas.ground_distance()
    _patches(canvas, rng, street, asphalt)
    _lane_marks(canvas, rng, street)
    if rng.random() < 0.5:
        _shadow(canvas, rng, street, asphalt)


def _slab_joints(canvas: Canvas, rng: np.random.Generator, street: Street, slabs: Tone) -> None:
    camera, joint = canvas.camera, shade(slabs, 0.88)
    for z in np.arange(2.0, 22.0, rng.uniform(0.9, 1.6)).tolist():
        canvas.polygon(camera.floor(street.walls[0], street.road[0], z, z + 0.05), joint)
        canvas.polygon(camera.floor(street.road[1], street.walls[1], z, z + 0.05), joint)


def _patches(canvas: Canvas, rng: np.random.Generator, street: Street, asphalt: Tone) -> None:
    """Repairs, puddles and manholes."""
    camera = canvas.camera
    for _ in range(int(rng.integers(3, 8))):
        x, z = rng.uniform(street.road[0], street.road[1] - 1.5), rng.uniform(3, 30)
        corners = camera.floor(x, x + rng.uniform(0.5, 1.5), z, z + rng.uniform(0.6, 6.0))
        canvas.polygon(corners, shade(asphalt, rng.uniform(0.82, 1.16)))
    x, z = rng.uniform(*street.road), rng.uniform(4, 14)
    canvas.ellipse(camera.point(x, 0, z), camera.length(0.35, z), camera.length(0.35, z) * camera.eye / z, shade(asphalt, 0.7))


def _lane_marks(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    camera, tone = canvas.camera, shade(PAINT, rng.uniform(0.78, 1.1))
    start = rng.uniform(0, 6)
    for one, other in zip(street.lane_middles, street.lane_middles[1:], strict=False):
        middle = (one + other) / 2
        for z in np.arange(start, 90.0, 7.0).tolist():
            canvas.polygon(camera.floor(middle - 0.07, middle + 0.07, z + NEAR, z + NEAR + 3.0), tone)
    if rng.random() < 0.6:
        for edge in (street.road[0] + 0.25, street.road[1] - 0.37):
            canvas.polygon(camera.floor(edge, edge + 0.12, NEAR, 120.0), shade(tone, 0.95))
    if rng.random() < 0.35:
        z = street.crossing[0] - 4.5 if street.crossing else rng.uniform(7, 18)
        for x in np.arange(street.road[0] + 0.3, street.road[1] - 0.4, 1.0).tolist():
            canvas.polygon(camera.floor(x, x + 0.5, z, z + 3.0), tone)


def _shadow(canvas: Canvas, rng: np.random.Generator, street: Street, asphalt: Tone) -> None:
    """The shadows that houses cast on the road."""
    left = rng.random() < 0.5
    edge = street.road[0] if left else street.road[1]
    for z in (rng.uniform(3, 9), rng.uniform(16, 26)):
        reach = edge + (1 if left else -1) * rng.uniform(0.6, 2.6)
        corners = canvas.camera.floor(min(edge, reach), max(edge, reach), z, z + rng.uniform(4, 10))
        canvas.polygon(corners, shade(asphalt, 0.62))


def plan_things(rng: np.random.Generator, street: Street, difficulty: float) -> list[tuple[float, Drawing]]:
    """Everything that stands in the street, as (distance, drawing), the farthest first."""
    things = [*_houses(rng, street, difficulty), *_traffic(rng, street, difficulty), *_roadside(rng, street, difficulty)]
    return sorted(things, key=lambda thing: -thing[0])


def _houses(rng: np.random.Generator, street: Street, difficulty: float) -> Iterator[tuple[float, Drawing]]:
    for x, outward in zip(street.walls, (-1, 1), strict=True):
        near = rng.uniform(-12, 2)
        low, high = ((5, 11), (7, 16), (10, 26))[int(rng.integers(3))]
        while near < 140:
            far = near + rng.uniform(8, 22)
            blocked = street.crossing is not None and near < street.crossing[1] and far > street.crossing[0]
            if not blocked and far > 3 and rng.random() < 0.86:
                house = House(x + outward * rng.uniform(0, 1.2), outward, near, far, rng.uniform(low, high))
                yield far, partial(draw_house, rng=rng, house=house, difficulty=difficulty)
            near = far + (rng.uniform(0, 5) if rng.random() < 0.35 else 0.0)


def _traffic(rng: np.random.Generator, street: Street, difficulty: float) -> Iterator[tuple[float, Drawing]]:
    """Cars in the lanes and along the kerbs; few and near in easy pictures, many and small in hard ones."""
    hard = difficulty >= 0.5
    for place, middle in enumerate(street.lane_middles):
        towards = place < street.own_lane
        z = rng.uniform(5, 16) if not hard else rng.uniform(7, 30)
        while z < (28 if not hard else 110):
            if rng.random() < 0.4 + 0.3 * difficulty:
                yield (
                    z,
                    partial(draw_car, rng=rng, x=middle + rng.uniform(-0.3, 0.3), z=z, difficulty=difficulty, towards=towards),
                )
            z += rng.uniform(9, 26)
    for edge, inward, parked, towards in zip(street.road, (1, -1), street.parking, (True, False), strict=True):
        z = rng.uniform(2.5, 9)
        while parked and z < (30 if not hard else 80):
            open_place = street.crossing is None or not street.crossing[0] - 6 < z < street.crossing[1]
            if open_place and rng.random() < 0.35 + 0.5 * difficulty:
                yield z, partial(draw_car, rng=rng, x=edge + inward * 1.1, z=z, difficulty=difficulty, towards=towards)
            z += rng.uniform(5.4, 7.5)
    if street.crossing and rng.random() < 0.7:
        z = sum(street.crossing) / 2
        yield z, partial(draw_car_across, rng=rng, x=rng.uniform(-8, 8), z=z, difficulty=difficulty)


def _roadside(rng: np.random.Generator, street: Street, difficulty: float) -> Iterator[tuple[float, Drawing]]:
    """People, trees, hedges and poles on the pavements; some people are on the road."""
    hard = difficulty >= 0.5
    farthest = 70.0 if hard else 24.0

    def beside(share: float) -> float:
        side = int(rng.integers(2))
        return street.road[side] + (street.walls[side] - street.road[side]) * share

    for _ in range(int(rng.integers(9, 25) if hard else rng.integers(2, 6))):
        z = rng.uniform(5.0, 45.0) if hard else rng.uniform(3.5, 13.0)
        x = rng.uniform(*street.road) if rng.random() < 0.3 else beside(rng.uniform(0.15, 0.9))
        yield z, partial(draw_person, rng=rng, x=x, z=z, difficulty=difficulty)
    for _ in range(int(rng.integers(4, 12) if hard else rng.integers(0, 4))):
        z = rng.uniform(7, farthest + 20)
        yield z, partial(draw_tree, rng=rng, x=beside(rng.uniform(0.1, 0.8)), z=z, difficulty=difficulty)
    for _ in range(int(rng.integers(6, 15) if hard else rng.integers(1, 4))):
        z = rng.uniform(4.5, farthest)
        yield z, partial(draw_pole, rng=rng, x=beside(rng.uniform(0.05, 0.25)), z=z, difficulty=difficulty)
    if rng.random() < 0.35:
        z = rng.uniform(5, 20)
        yield z, partial(draw_hedge, rng=rng, x=beside(0.85), z=z, difficulty=difficulty)
