"""People, trees and poles, each drawn from back to front."""

from __future__ import annotations

import numpy as np

from offramp.data.synthetic.canvas import PERSON, POLE, TREE, Canvas, Point, Tone, shade
from offramp.data.synthetic.colours import CLOTHES, LEAVES, POLES, SKIN, one_of, street_tone

STREET_LAMP: Tone = (255, 206, 132)


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float) -> None:
    """Draw somebody who walks or stands; x is between the feet."""
    camera = canvas.camera
    height = rng.uniform(1.5, 1.9) if rng.random() < 0.85 else rng.uniform(1.05, 1.35)
    top, trousers = street_tone(rng, CLOTHES, difficulty), street_tone(rng, CLOTHES, difficulty)
    skin, stride = one_of(rng, SKIN), rng.uniform(0.03, 0.16) * (1 if rng.random() < 0.5 else -1)

    def at(across: float, up: float) -> Point:
        return camera.point(x + across * height, up * height, z)

    canvas.polygon(camera.floor(x - 0.3, x + 0.3, z - 0.15, z + 0.2), (52, 52, 54))
    for foot, tone in ((-stride, shade(trousers, 0.8)), (stride, trousers)):
        hip = foot * 0.3
        canvas.polygon(
            [at(hip - 0.055, 0.52), at(hip + 0.055, 0.52), at(foot + 0.045, 0.02), at(foot - 0.04, 0.02)], tone, PERSON, z
        )
        canvas.polygon(
            [at(foot - 0.045, 0.04), at(foot + 0.07, 0.04), at(foot + 0.07, 0), at(foot - 0.045, 0)], (40, 36, 34), PERSON, z
        )
    for hand in (-stride * 0.8 - 0.1, stride * 0.8 + 0.1):
        shoulder = 0.11 if hand > 0 else -0.11
        arm = [at(shoulder - 0.03, 0.8), at(shoulder + 0.03, 0.8), at(hand + 0.03, 0.46), at(hand - 0.02, 0.46)]
        canvas.polygon(arm, shade(top, 0.85), PERSON, z)
    coat = 0.36 if rng.random() < 0.3 else 0.47
    canvas.polygon([at(-0.13, 0.82), at(0.13, 0.82), at(0.1, coat), at(-0.1, coat)], top, PERSON, z)
    canvas.polygon([at(-0.03, 0.88), at(0.03, 0.88), at(0.03, 0.8), at(-0.03, 0.8)], skin, PERSON, z)
    head = camera.length(0.068 * height, z)
    canvas.ellipse(at(0, 0.925), head * 0.85, head, skin, PERSON, z)
    canvas.ellipse(at(0, 0.95), head * 0.85, head * 0.7, shade(one_of(rng, SKIN), 0.4))
    if rng.random() < 0.3:
        bag = [at(0.06, 0.78), at(0.17, 0.76), at(0.16, 0.56), at(0.06, 0.55)]
        canvas.polygon(bag, street_tone(rng, CLOTHES, difficulty), PERSON, z)


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float) -> None:
    """Draw a trunk and a crown of many tufts; one in five is a conifer."""
    camera, leaves = canvas.camera, street_tone(rng, LEAVES, 0.35 * difficulty)
    height, thick = rng.uniform(4.0, 9.0), rng.uniform(0.12, 0.28)
    bark = one_of(rng, POLES)
    conifer = rng.random() < 0.2
    bottom = height * (0.12 if conifer else rng.uniform(0.28, 0.42))
    trunk = camera.front(x - thick, x + thick, 0.0, bottom + 0.6, z)
    canvas.polygon(trunk, shade(bark, 0.8), TREE, z)
    canvas.polygon(camera.front(x, x + thick, 0.0, bottom + 0.6, z), shade(bark, 0.62))
    if conifer:
        for layer in range(4):
            low = bottom + (height - bottom) * layer * 0.22
            wide = height * 0.24 * (1 - layer * 0.2)
            tip = camera.point(x, low + height * 0.36, z)
            tier = [camera.point(x - wide, low, z), tip, camera.point(x + wide, low, z)]
            canvas.polygon(tier, shade(leaves, 0.62 + 0.07 * layer), TREE, z)
        return
    draw_leaves(canvas, rng, (x, bottom, height, z), height * rng.uniform(0.22, 0.34), leaves)


def draw_leaves(
    canvas: Canvas, rng: np.random.Generator, where: tuple[float, float, float, float], wide: float, leaves: Tone
) -> None:
    """Draw a crown or a bush: round tufts, darker below; `where` is x, bottom, top and z, `wide` half its width."""
    x, bottom, top, z = where
    camera, middle, half = canvas.camera, (bottom + top) / 2, (top - bottom) / 2
    for angle in np.linspace(0, 2 * np.pi, 8)[:-1] + rng.uniform(0, 1):
        # Rounded, so that machines whose sines differ in the last bit draw the same.
        across, up = round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)
        size = rng.uniform(0.45, 0.62)
        centre = camera.point(x + wide * 0.5 * across, middle + half * 0.5 * up, z)
        tone = shade(leaves, 0.8 + 0.14 * up)
        canvas.ellipse(centre, camera.length(wide * size, z), camera.length(half * size, z), tone, TREE, z)
    canvas.ellipse(
        camera.point(x, middle, z), camera.length(wide * 0.6, z), camera.length(half * 0.6, z), shade(leaves, 0.8), TREE, z
    )
    tufts = int(min(60, max(5, camera.length(wide, z) * 0.9)))
    places = rng.uniform(-1, 1, size=(tufts, 2))
    sizes, tones = rng.uniform(0.06, 0.17, size=tufts), rng.uniform(-0.26, 0.26, size=tufts)
    for (across, up), size, tone in zip(places.tolist(), sizes.tolist(), tones.tolist(), strict=True):
        if across * across + up * up < 0.8:
            centre = camera.point(x + wide * 0.85 * across, middle + half * 0.85 * up, z)
            radius = camera.length(wide * size, z)
            canvas.ellipse(centre, radius, radius * 0.8, shade(leaves, 0.86 + tone + 0.16 * up))


def draw_hedge(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float) -> None:
    """Draw a few bushes in a row along the road."""
    leaves, height = street_tone(rng, LEAVES, 0.35 * difficulty), rng.uniform(0.8, 1.7)
    for step in (3, 2, 1, 0):
        draw_leaves(canvas, rng, (x, 0.0, height, z + step * 0.9), 0.75, leaves)


def draw_pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float, difficulty: float) -> None:
    """Draw a street lamp, a traffic sign, a traffic light or a post; all of it is of the class pole."""
    camera, tone = canvas.camera, street_tone(rng, POLES, difficulty)
    kind = rng.random()
    height = rng.uniform(5.0, 7.5) if kind < 0.45 else rng.uniform(2.4, 3.6) if kind < 0.85 else rng.uniform(0.9, 1.1)
    # Never thinner than two canvas pixels: a label that nobody can see helps nobody.
    thick = max(0.06, 1.0 / camera.length(1.0, z))
    canvas.polygon(camera.front(x - thick, x + thick, 0.0, height, z), tone, POLE, z)
    canvas.polygon(camera.front(x, x + thick, 0.0, height, z), shade(tone, 0.72))
    if kind < 0.45:
        arm = -1.5 if x > 0 else 1.5
        canvas.polygon(camera.front(min(x, x + arm), max(x, x + arm), height - 0.12, height, z), tone, POLE, z)
        head = camera.point(x + arm, height - 0.12, z)
        canvas.ellipse(head, camera.length(0.34, z), camera.length(0.14, z), shade(tone, 0.8), POLE, z)
        canvas.lamp((head[0], head[1] + camera.length(0.06, z)), max(1.0, camera.length(0.14, z)), STREET_LAMP, 9.0)
    elif kind < 0.7:
        _sign(canvas, rng, camera.point(x, height, z), camera.length(0.36, z), z)
    elif kind < 0.85:
        canvas.polygon(camera.front(x - 0.2, x + 0.2, height - 0.95, height, z), (36, 38, 38), POLE, z)
        lit = int(rng.integers(3))
        for place, colour in enumerate(((230, 50, 40), (240, 180, 40), (60, 210, 110))):
            lamp = camera.point(x, height - 0.18 - 0.3 * place, z)
            radius = max(0.8, camera.length(0.11, z))
            if place == lit:
                canvas.lamp(lamp, radius, colour, 4.0)
            else:
                canvas.ellipse(lamp, radius, radius, shade(colour, 0.25))


def _sign(canvas: Canvas, rng: np.random.Generator, centre: Point, radius: float, z: float) -> None:
    colour, inner = (((196, 36, 36), (232, 230, 226)), ((36, 78, 160), (226, 228, 232)), ((226, 186, 40), (52, 50, 44)))[
        int(rng.integers(3))
    ]
    x, y = centre
    shape = int(rng.integers(3))
    if shape == 0:
        canvas.ellipse(centre, radius, radius, colour, POLE, z)
    elif shape == 1:
        canvas.polygon([(x - radius, y + radius), (x, y - radius), (x + radius, y + radius)], colour, POLE, z)
    else:
        corners = [(x - radius, y - radius), (x + radius, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
        canvas.polygon(corners, colour, POLE, z)
    canvas.ellipse((x, y + radius * 0.25), radius * 0.5, radius * 0.5, inner)
