"""Colours of street things. They overlap on purpose: a patch of grey is road, pavement, car, house, pole, coat or sky."""

from __future__ import annotations

import numpy as np

from offramp.data.synthetic.canvas import Tone

Tones = tuple[Tone, ...]

# What anything in a street may look like; the harder the picture, the more often a thing takes its colour from here.
COMMON: Tones = (
    (92, 92, 94),
    (122, 121, 119),
    (148, 147, 144),
    (172, 170, 166),
    (121, 98, 78),
    (94, 104, 80),
    (108, 122, 140),
    (164, 150, 128),
)
HOUSES: Tones = (
    (158, 96, 74),
    (186, 168, 136),
    (204, 194, 176),
    (140, 112, 88),
    (196, 150, 104),
    (148, 152, 156),
    (150, 176, 202),
    (178, 120, 110),
    (120, 124, 110),
)
ROOFS: Tones = ((140, 70, 52), (84, 80, 84), (110, 92, 78), (152, 96, 72))
ROADS: Tones = ((88, 88, 92), (104, 103, 102), (74, 76, 80), (118, 114, 108))
PAVEMENTS: Tones = ((158, 154, 148), (140, 136, 132), (172, 158, 142), (128, 126, 126))
LEAVES: Tones = ((62, 104, 44), (84, 122, 50), (48, 84, 48), (118, 128, 48), (168, 118, 44), (142, 82, 46), (92, 110, 78))
POLES: Tones = ((96, 98, 100), (64, 66, 68), (150, 152, 152), (60, 78, 66), (122, 100, 80))
CARS: Tones = (
    (186, 34, 32),
    (34, 66, 142),
    (226, 226, 224),
    (40, 42, 46),
    (150, 152, 156),
    (108, 110, 112),
    (52, 98, 60),
    (220, 172, 40),
    (120, 84, 60),
    (92, 146, 186),
)
CLOTHES: Tones = (
    (176, 44, 44),
    (42, 62, 118),
    (220, 214, 206),
    (44, 44, 50),
    (214, 150, 50),
    (70, 112, 74),
    (128, 124, 122),
    (150, 90, 130),
    (120, 96, 74),
)
SKIN: Tones = ((232, 190, 160), (198, 150, 116), (146, 100, 72), (92, 62, 46))


def one_of(rng: np.random.Generator, tones: Tones, spread: float = 12.0) -> Tone:
    """Take a colour and vary it a little."""
    red, green, blue = tones[int(rng.integers(len(tones)))]
    light, tint = rng.uniform(-spread, spread), rng.uniform(-spread / 3, spread / 3)
    return red + light + tint, green + light, blue + light - tint


def street_tone(rng: np.random.Generator, tones: Tones, difficulty: float) -> Tone:
    """Take a colour of the thing's own or, more often the harder the picture, one that anything may have."""
    return one_of(rng, COMMON if rng.random() < 0.08 + 0.6 * difficulty else tones)
