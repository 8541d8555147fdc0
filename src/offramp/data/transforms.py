"""Random scale, crop, flip and colour for training; reproducible for each image of each epoch.

Only what ends up in the crop is resized, by PyTorch's antialiased resampling of bytes. Brightness, contrast, saturation and hue
are all linear in the colours of a pixel, so together they are one 3x3 matrix and an offset.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from offramp.data.folder import Split
from offramp.metrics import VOID

CACHE_BYTES = 2 << 30
"""Decoded images are kept in memory while all of a split fit into this."""

BACKGROUND = 114.0
"""What lies beside an image that is smaller than the crop: the grey of ImageNet's mean."""

GREY = np.array([0.299, 0.587, 0.114])
"""Luma of RGB (ITU-R BT.601), as torchvision and Pillow have it."""

HUE_SHARE = 1 / 8
"""The hue turns by at most this share of the jitter's strength, of a full circle."""

_TO_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Luma, and two axes around which the hue turns (NTSC)."""


class Crops(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random crops of a split: images (3, h, w) float32 in [0, 255] and labels (h, w) int64 with VOID for void.

    What an index gives depends on `seed`, the epoch and the index alone, not on the order of calls or the number of workers:
    a resumed run sees what the uninterrupted one would have seen.
    """

    def __init__(
        self,
        split: Split,
        width: int,
        height: int,
        zoom: tuple[float, float],
        seed: int,
        *,
        flip: bool = True,
        jitter: float = 0.4,
    ) -> None:
        """See `specs.TrainingSpec` for the options."""
        self.split = split
        self.width, self.height = width, height
        self.zoom, self.seed, self.flip, self.jitter = zoom, seed, flip, jitter
        self.epoch = 0
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, values = self._decoded(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        # Uniform in the logarithm: twice as large is as likely as half as large.
        zoom = math.exp(rng.uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        image, labels = self._cut(pixels, values, zoom, rng)
        if self.flip and rng.random() < 0.5:
            image, labels = image.flip(-1), labels.flip(-1)
        if self.jitter:
            image = recoloured(image, colour_change(rng, self.jitter))
        return image.contiguous(), labels.contiguous()

    def _cut(
        self, pixels: torch.Tensor, values: torch.Tensor, zoom: float, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The crop's window in the original, resized; what lies beside the image is grey, and void."""
        (top, bottom, rows), (left, right, columns) = (
            _window(side, crop, zoom, rng) for side, crop in ((values.shape[0], self.height), (values.shape[1], self.width))
        )
        image = torch.full((3, self.height, self.width), BACKGROUND)
        labels = torch.full((self.height, self.width), VOID)
        shown = functional.interpolate(
            pixels[None, :, top:bottom, left:right], (len(rows), len(columns)), mode="bilinear", antialias=True
        )
        image[:, rows.start : rows.stop, columns.start : columns.stop] = shown[0]
        nearest = (
            _centres(top, bottom, len(rows))[:, None],
            _centres(left, right, len(columns))[None, :],
        )
        labels[rows.start : rows.stop, columns.start : columns.stop] = values[nearest].long()
        return image, labels

    def decode_all(self) -> None:
        """Fill the cache now, as far as it may go."""
        for index in range(len(self)):
            if self._cached_bytes > CACHE_BYTES:
                return
            self._decoded(index)

    def _decoded(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index in self._cache:
            return self._cache[index]
        pixels, values = self.split.pair(index)
        image, labels = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(values)
        self._cached_bytes += image.numel() + labels.numel()
        if self._cached_bytes <= CACHE_BYTES:
            self._cache[index] = (image, labels)
        return image, labels


def _window(side: int, crop: int, zoom: float, rng: np.random.Generator) -> tuple[int, int, range]:
    """Where a crop of `crop` pixels lies on a side of `side` that is magnified by `zoom`.

    Returns:
        First pixel of the original that is shown, the one after the last, and the crop's pixels that show them.

    """
    window = max(1, round(crop / zoom))
    room = side - window
    begin = int(rng.integers(min(0, room), max(0, room) + 1))
    first, last = max(0, begin), min(side, begin + window)
    start, stop = round((first - begin) * crop / window), round((last - begin) * crop / window)
    return first, last, range(start, max(start + 1, stop)) if stop <= crop and start < crop else range(crop - 1, crop)


def _centres(first: int, last: int, cells: int) -> torch.Tensor:
    """For each of `cells` equal parts of first..last the pixel at its centre."""
    return first + ((torch.arange(cells) + 0.5) * ((last - first) / cells)).long()


def colour_change(rng: np.random.Generator, strength: float) -> tuple[float, float, float, float]:
    """Draw factors of brightness, contrast and saturation about 1, and a turn of the hue as a share of a circle."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    return float(brightness), float(contrast), float(saturation), float(rng.uniform(-1, 1) * strength * HUE_SHARE)


def colour_matrix(brightness: float, saturation: float, turn: float) -> npt.NDArray[np.float64]:
    """The 3x3 matrix, applied to RGB, that scales the brightness, blends with grey, and turns the hue by a share of a circle.

    The hue turns about the grey axis of the YIQ space, which is linear, where torchvision takes HSV.
    """
    grey = np.tile(GREY, (3, 1))
    blend = saturation * np.eye(3) + (1 - saturation) * grey
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    turned: npt.NDArray[np.float64] = np.linalg.inv(_TO_YIQ) @ rotation @ _TO_YIQ @ blend * brightness
    return turned


def recoloured(image: torch.Tensor, change: tuple[float, float, float, float]) -> torch.Tensor:
    """Change the colours of an image (3, h, w) in [0, 255]; clipped once, at the end.

    Args:
        image: float32.
        change: factors of brightness, contrast and saturation, and a turn of the hue; see `colour_change`. The contrast is
            about the mean grey of the brightened image.

    """
    brightness, contrast, saturation, turn = change
    matrix = torch.from_numpy(contrast * colour_matrix(brightness, saturation, turn)).float()
    flat = image.reshape(3, -1)
    mean = float(flat.mean(dim=1) @ torch.from_numpy(GREY).float()) * brightness
    return (matrix @ flat).add_((1 - contrast) * mean).clamp_(0, 255).reshape(image.shape)
