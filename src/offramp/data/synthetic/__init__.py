"""Drawn street scenes with exact labels, for first steps and for tests: half of them easy, half of them hard.

Colours and textures overlap between classes on purpose. In an easy picture (daylight, few large things) most pixels can be told
from close by; in a hard one (fog, night, crowds of small things) it takes the rest of the scene. This is what makes exits of
different depth differ.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from offramp.data.catalog import CLASS_FILE, Classes
from offramp.data.synthetic.canvas import Canvas
from offramp.data.synthetic.street import draw_ground, plan_camera, plan_street, plan_things
from offramp.data.synthetic.weather import develop, draw_weather, paint_sky
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import check_replaceable, new_folder
from offramp.metrics import VOID
from offramp.progress import Progress, silent
from offramp.targets import require_own_folders, require_place

CLASSES = Classes(
    names=("sky", "building", "road", "pavement", "tree", "pole", "car", "person"),
    palette=(
        (70, 130, 180),
        (128, 72, 60),
        (128, 64, 128),
        (232, 140, 210),
        (84, 142, 40),
        (220, 200, 60),
        (0, 30, 160),
        (220, 20, 60),
    ),
)

DRAWN = "drawn.json"
"""The file that says that a dataset was drawn, and from what."""

SPLITS = ("train", "val", "test")

SMALLEST = (64, 48)
LARGEST = 4096

SMOOTH_PIXELS = 1 << 20
"""Pictures up to this many pixels are drawn at twice their size; larger ones show no steps that matter."""


@checked_call
def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], difficulty: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one street as a driver sees it.

    Args:
        rng: where all chance comes from; the same state gives the same picture on any machine.
        size: width and height in pixels, 64x48 to 4096x4096.
        difficulty: 0 (daylight, few large things) to 1 (fog, night, crowds of small things); hard from 0.5.

    Returns:
        The image, RGB uint8 (H, W, 3), and the class indices, uint8 (H, W), as numbered in CLASSES.

    Raises:
        InputError: size or difficulty is out of range.

    """
    _check_size(size)
    if not 0.0 <= difficulty <= 1.0:
        raise InputError(f"difficulty must be from 0 to 1, not {difficulty}")
    scale = 2 if size[0] * size[1] <= SMOOTH_PIXELS else 1
    width, height = size[0] * scale, size[1] * scale
    weather = draw_weather(rng, difficulty)
    camera = plan_camera(rng, width, height, difficulty)
    street = plan_street(rng)
    canvas = Canvas(camera, weather.light, paint_sky(rng, weather, (width, height), camera.horizon), weather.dark)
    draw_ground(canvas, rng, street, difficulty)
    for _, draw in plan_things(rng, street, difficulty):
        draw(canvas)
    return develop(rng, canvas, weather, scale)


@checked_call
def draw_dataset(
    root: Path, images: int = 240, size: tuple[int, int] = (192, 128), seed: int = 0, progress: Progress = silent
) -> None:
    """Write a dataset in the native layout: 70 % train, 15 % val, 15 % test, at least one image each.

    Every image depends on `seed` and its number alone, and its name says how hard it is: `0007-easy.png`, `0008-hard.png`.
    An older drawn dataset at `root` is replaced; a dataset from elsewhere never is.

    Args:
        root: the folder to write.
        images: how many, 3 or more.
        size: width and height in pixels, 64x48 to 4096x4096.
        seed: a whole number from 0.
        progress: told after every image.

    Raises:
        InputError: an argument is out of range, or `root` holds something else or cannot be written.

    """
    _check_size(size)
    if images < 3:
        raise InputError(f"cannot draw {images} images: train, val and test need one each; ask for 3 or more")
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, not {seed}")
    check_replaceable(root, marker=DRAWN)
    require_own_folders(root, SPLITS)
    require_place(root)
    held_out = max(1, round(0.15 * images))
    splits = ["train"] * (images - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    with new_folder(root, marker=DRAWN) as folder:
        for split in SPLITS:
            (folder / split / "images").mkdir(parents=True)
            (folder / split / "labels").mkdir()
        for index, split in enumerate(splits):
            rng = np.random.default_rng([seed, index])
            hard = bool(rng.random() < 0.5)
            difficulty = rng.uniform(0.55, 1.0) if hard else rng.uniform(0.0, 0.35)
            image, labels = draw_scene(rng, size, difficulty)
            name = f"{index:04d}-{'hard' if hard else 'easy'}.png"
            Image.fromarray(image).save(folder / split / "images" / name, compress_level=3)
            _palette_picture(labels).save(folder / split / "labels" / name)
            progress("draw images", index + 1, images)
        content = {
            "classes": CLASSES.names,
            "void_index": VOID,
            "palette": CLASSES.palette,
        }
        (folder / CLASS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        drawn = {"images": images, "size": size, "seed": seed}
        (folder / DRAWN).write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")


def _palette_picture(labels: npt.NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([channel for colour in CLASSES.palette for channel in colour])
    return picture


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < SMALLEST[0] or height < SMALLEST[1] or max(size) > LARGEST:
        raise InputError(f"cannot draw at {width}x{height}: choose a size from 64x48 to {LARGEST}x{LARGEST}")
