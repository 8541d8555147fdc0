"""Sky before the street is drawn; light, haze, lamps, blur and sensor noise after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from offramp.data.synthetic.canvas import DISTANCE_STEPS, FAR, Canvas, Glow, Tone

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weather:
    """How a picture is lit and what stands between the camera and the street."""

    light: Tone
    zenith: Tone
    horizon: Tone
    clouds: float
    """How much of the sky they cover, 0..1."""
    visibility: float
    """Distance in metres at which a thing keeps a twentieth of its contrast."""
    dark: bool
    blur: float
    """Standard deviation as a share of the picture's width."""
    noise: float
    """Standard deviation of the sensor noise, in grey levels."""


CLEAR = Weather((1.0, 1.0, 0.98), (92, 142, 206), (190, 212, 232), 0.35, 1500.0, False, 0.0, 3.0)
OVERCAST = Weather((0.92, 0.94, 0.97), (168, 176, 184), (206, 208, 210), 0.9, 700.0, False, 0.0, 4.0)
EVENING = Weather((0.98, 0.86, 0.76), (104, 122, 168), (242, 198, 152), 0.5, 600.0, False, 0.0, 5.0)
FOG = Weather((0.9, 0.92, 0.94), (184, 188, 192), (196, 198, 200), 0.3, 60.0, False, 0.0, 6.0)
NIGHT = Weather((0.31, 0.32, 0.41), (12, 16, 34), (44, 42, 54), 0.4, 500.0, True, 0.0, 9.0)
DUSK = Weather((0.46, 0.44, 0.51), (52, 62, 98), (136, 112, 122), 0.5, 500.0, True, 0.0, 8.0)
SHAKE = Weather((0.92, 0.94, 0.97), (150, 168, 190), (206, 208, 210), 0.7, 400.0, False, 0.006, 7.0)

EASY_WEATHER = (CLEAR, CLEAR, CLEAR, OVERCAST, EVENING)
HARD_WEATHER = (OVERCAST, EVENING, FOG, FOG, NIGHT, NIGHT, DUSK, SHAKE)


def draw_weather(rng: np.random.Generator, difficulty: float) -> Weather:
    """Choose the weather and vary it; bad weather is worse in harder pictures."""
    kinds = HARD_WEATHER if difficulty >= 0.5 else EASY_WEATHER
    kind = kinds[int(rng.integers(len(kinds)))]
    bright, warm = rng.uniform(0.85, 1.12), rng.uniform(-0.04, 0.04)
    red, green, blue = kind.light
    return Weather(
        light=(red * (bright + warm), green * bright, blue * (bright - warm)),
        zenith=_varied(rng, kind.zenith),
        horizon=_varied(rng, kind.horizon),
        clouds=min(1.0, kind.clouds * rng.uniform(0.3, 1.4)),
        visibility=kind.visibility * rng.uniform(0.7, 1.5) * (1.5 - difficulty),
        dark=kind.dark,
        blur=kind.blur * rng.uniform(0.6, 1.2),
        noise=kind.noise * rng.uniform(0.6, 1.3) * (0.6 + 0.6 * difficulty),
    )


def _varied(rng: np.random.Generator, tone: Tone) -> Tone:
    spread = 0.06 * sum(tone) / 3
    red, green, blue = tone
    return (
        red + rng.uniform(-spread, spread),
        green + rng.uniform(-spread, spread),
        blue + rng.uniform(-spread, spread),
    )


def soft_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Field:
    """Smooth noise in -1..1 with about `cells` bumps across, (height, width)."""
    rows = max(2, round(cells * height / width))
    grid = rng.integers(0, 256, size=(rows, max(2, cells)), dtype=np.uint8)
    # Resizing 8-bit pictures is integer arithmetic in Pillow: the same on every machine.
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


def paint_sky(rng: np.random.Generator, weather: Weather, size: tuple[int, int], horizon: float) -> Image.Image:
    """Draw the sky over the whole canvas: a gradient down to the horizon, with clouds."""
    width, height = size
    down = (np.arange(height, dtype=np.float32) / max(1.0, horizon)).clip(0, 1)[:, None, None]
    zenith, low = np.array(weather.zenith, np.float32), np.array(weather.horizon, np.float32)
    sky = zenith + (low - zenith) * down
    bumps = soft_noise(rng, width, height, 5) * np.float32(0.6) + soft_noise(rng, width, height, 14) * np.float32(0.4)
    cover = ((bumps + np.float32(weather.clouds) - np.float32(0.55)) * np.float32(2.2)).clip(0, 0.85)[..., None]
    cloud = (zenith + low) * np.float32(0.25) + np.float32(30 if weather.dark else 120)
    sky = sky + (cloud - sky) * cover
    return Image.fromarray(sky.clip(0, 255).astype(np.uint8))


def develop(
    rng: np.random.Generator, canvas: Canvas, weather: Weather, scale: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Turn a finished canvas into a picture as a camera takes it; returns it, (H, W, 3), and its labels, (H, W)."""
    labels, distance = canvas.labels_and_distance(scale)
    height, width = labels.shape
    pixels = np.asarray(canvas.picture.reduce(scale) if scale > 1 else canvas.picture, dtype=np.float32)
    pixels = pixels * _uneven_light(rng, width, height)
    pixels = _haze(pixels, distance, weather)
    for glow in canvas.glows:
        _shine(pixels, glow, scale)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if weather.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(weather.blur * width))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(weather.noise)
    colour_grain = rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(weather.noise / 2)
    noisy = np.asarray(picture, dtype=np.float32) + grain + colour_grain
    return noisy.clip(0, 255).astype(np.uint8), labels


def _uneven_light(rng: np.random.Generator, width: int, height: int) -> Field:
    """Brightness that rises to one side, and stains of several sizes; (height, width, 1)."""
    across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(rng.uniform(-0.16, 0.16))
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(rng.uniform(-0.08, 0.12))
    stains = sum(
        soft_noise(rng, width, height, cells) * np.float32(strength)
        for cells, strength in ((6, 0.06), (width // 10, 0.06), (width // 3, 0.05))
    )
    return np.asarray(1 + across + down + stains, dtype=np.float32)[..., None]


def _haze(pixels: Field, distance: npt.NDArray[np.int32], weather: Weather) -> Field:
    """Blend with the colour of the horizon, the more the farther away."""
    metres = np.arange(int(FAR * DISTANCE_STEPS) + 1, dtype=np.float64) / DISTANCE_STEPS
    # By table: the same on machines whose vectorised exponentials differ in the last bit.
    kept = np.round(np.exp(-3.0 * metres / weather.visibility), 6).astype(np.float32)
    share = kept[distance][..., None]
    fog = np.array(weather.horizon, dtype=np.float32)
    # The sky has its own gradient already; only thick fog hides it.
    return pixels * share + fog * (1 - share)


def _shine(pixels: Field, glow: Glow, scale: int) -> None:
    """Add a lamp's light around it, in place."""
    height, width = pixels.shape[:2]
    radius = glow.radius / scale
    x, y = glow.at[0] / scale, glow.at[1] / scale
    left, right = max(0, int(x - radius)), min(width, int(x + radius) + 2)
    top, bottom = max(0, int(y - radius)), min(height, int(y + radius) + 2)
    if left >= right or top >= bottom:
        return
    columns = (np.arange(left, right, dtype=np.float32) - np.float32(x)) / np.float32(radius)
    rows = (np.arange(top, bottom, dtype=np.float32) - np.float32(y)) / np.float32(radius)
    fall = (1 - columns[None, :] ** 2 - rows[:, None] ** 2).clip(0, 1) ** 2
    pixels[top:bottom, left:right] += (fall * np.float32(0.6))[..., None] * np.array(glow.tone, dtype=np.float32)
