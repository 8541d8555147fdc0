"""Pictures as the page takes them: data URLs, no larger than they are shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from offramp.data.folder import decode_image
from offramp.errors import InputError
from offramp.specs import Size

DROPPED = ("JPEG", "PNG", "BMP", "WEBP")
"""What may be dropped: the formats of `data.folder.IMAGE_SUFFIXES`, and no reader of Pillow's beyond them."""

SURE = ((0, 32, 77), (65, 77, 107), (124, 123, 120), (187, 173, 108), (255, 234, 70))
"""Colours from unsure to sure, evenly spaced: cividis, which the colour-blind see as others do."""

Pixels = npt.NDArray[np.uint8]


def read_dropped(body: bytes) -> Pixels:
    """An image that came as bytes: RGB, (H, W, 3) uint8, by the rules of `load_image`.

    Raises:
        InputError: no picture of a known kind, a broken one, or one too large to be true.

    """
    if not body:
        raise InputError("what was dropped is no picture but an empty file; drop a JPEG, PNG, BMP or WebP file")
    try:
        return decode_image(io.BytesIO(body), "that was dropped", formats=DROPPED)
    except InputError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise InputError("what was dropped is no picture; drop a JPEG, PNG, BMP or WebP file") from error
        raise


def shown_size(image: Pixels, width: int) -> Size:
    """Width and height at which an image is shown: no wider than asked, never enlarged."""
    height, own = image.shape[:2]
    scale = min(1.0, width / own)
    return max(1, round(own * scale)), max(1, round(height * scale))


def image_url(image: Pixels, size: Size) -> str:
    """An image as JPEG."""
    picture = Image.fromarray(image)
    return _url(picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR), "jpeg", quality=88)


def labels_url(labels: Pixels, palette: Sequence[tuple[int, int, int]], size: Size) -> str:
    """A label map as palette PNG: its values are the class indices."""
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([channel for colour in palette for channel in colour])
    return _url(picture if picture.size == size else picture.resize(size, Image.Resampling.NEAREST), "png", compress_level=1)


def confidence_url(confidence: npt.NDArray[np.float32]) -> str:
    """A confidence map (h, w) as palette PNG, a pixel for each cell of the head."""
    steps = np.linspace(0, len(SURE) - 1, 256)
    ramp = np.stack([np.interp(steps, range(len(SURE)), channel) for channel in zip(*SURE, strict=True)], axis=1)
    picture = Image.fromarray(np.rint(confidence.clip(0, 1) * 255).astype(np.uint8), mode="P")
    picture.putpalette(np.rint(ramp).astype(np.uint8).ravel().tolist())
    return _url(picture, "png", compress_level=1)


def overhang(cells: tuple[int, ...], size: Size) -> tuple[float, float]:
    """How many images wide and high a head's map (h, w) is: its last cells hang over the edge where the size is no multiple."""
    for stride in (1, 2, 4, 8, 16, 32, 64):
        if (-(-size[1] // stride), -(-size[0] // stride)) == cells:
            return cells[1] * stride / size[0], cells[0] * stride / size[1]
    return 1.0, 1.0


def _url(picture: Image.Image, kind: str, **options: Any) -> str:
    written = io.BytesIO()
    picture.save(written, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
