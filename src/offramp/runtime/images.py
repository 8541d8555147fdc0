"""From an image of any kind and size to what a package takes, and from its label maps back to the image.

A package has one size. Images are fitted to it whole, whatever their shape; label maps go the same way back, by the nearest
neighbour, since class indices have no values between them. A package whose label maps are coarser than its images (its label
stride is more than 1) leaves it to whoever shows or counts them to enlarge them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from offramp.data.folder import load_image
from offramp.data.pictures import Pixels, pixels_of
from offramp.errors import InputError
from offramp.specs import Size


def as_pixels(image: Pixels | Image.Image | Path | str) -> Pixels:
    """An image of any kind as RGB, (H, W, 3) uint8.

    Files and PIL images are read by the rules of `load_image`: both come the way up that their EXIF orientation says, and so do
    the labels.

    Raises:
        InputError: a file or picture that cannot be read, or an array of another shape or type.

    """
    if isinstance(image, (Path, str)):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return pixels_of(image, "given")
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"an image must be RGB, uint8 (height, width, 3), got {_unfit(image)}")
    return image


def fit(pixels: Pixels, size: Size) -> Pixels:
    """An image (H, W, 3) at the size (width, height) that a package takes, bilinear."""
    if pixels.shape[:2] == (size[1], size[0]):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def resize_labels(labels: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Labels (H, W) at another resolution, nearest neighbour."""
    if labels.shape == shape:
        return labels
    return np.asarray(Image.fromarray(labels).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def enlarged(labels: Pixels, stride: int, shape: tuple[int, ...]) -> Pixels:
    """A label map of this stride at its image's full size (H, W): what hangs over the edge is cut."""
    if stride == 1:
        return labels
    return labels.repeat(stride, axis=0).repeat(stride, axis=1)[: shape[0], : shape[1]]


def _unfit(image: object) -> str:
    """What an image is that cannot be taken, and what makes one of it that can."""
    if not isinstance(image, np.ndarray):
        return f"{type(image).__name__}; numpy.asarray makes an array of most things"
    got = f"{image.dtype} {image.shape}"
    if not image.size:
        return f"{got}, which holds no pixel"
    if image.dtype != np.uint8:
        return f"{got}; scale it to 0..255, round, and take .astype(numpy.uint8)"
    if image.ndim == 3 and image.shape[0] == 3:
        return f"{got}; image.transpose(1, 2, 0) puts the channels last"
    if image.ndim == 3 and image.shape[2] == 4:
        return f"{got}; image[..., :3] leaves out the fourth channel"
    return f"{got}; PIL.Image.fromarray(image).convert('RGB') makes one of most pictures"
