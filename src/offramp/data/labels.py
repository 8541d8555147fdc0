"""Label files: what their values or colours mean, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from offramp.data.catalog import Colour
from offramp.data.pictures import reading, upright
from offramp.errors import InputError
from offramp.metrics import VOID

T = TypeVar("T", int, npt.NDArray[np.int32])
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelCode:
    """What the values, or the colours, in a dataset's label files mean."""

    values: dict[int, int]
    """Value in the file -> class index or VOID."""
    colours: dict[Colour, int]
    """Colour in the file -> class index or VOID, for three-channel files."""

    def decode(self, path: Path) -> tuple[Pixels, list[str]]:
        """Read a label file, the way up that it is shown, as the image that it belongs to is read.

        Values are those in the file: 0 and 1 with one bit a pixel, 0 to 15 with four; with 16 bits they are not scaled.

        Returns:
            Class indices and VOID, uint8 (H, W), and the values (or colours) in the file that mean nothing; their pixels
            are VOID.

        Raises:
            InputError: the file cannot be read, is of a kind that holds no labels, or its own palette contradicts its values.

        """
        # PNG alone: JPEG and WebP would have changed values.
        with reading(path, "label file", path, formats=("PNG",)) as opened:
            factor = _factor(opened)
            picture = upright(opened)
            if picture.mode in ("RGB", "RGBA"):
                rgb = np.asarray(picture.convert("RGB")).astype(np.int32)
                colours = {_packed(*colour): index for colour, index in self.colours.items()}
                labels, unknown = _look_up(_packed(rgb[..., 0], rgb[..., 1], rgb[..., 2]), colours)
                return labels, [f"#{colour:06x}" for colour in unknown]
            if picture.mode in ("1", "L", "P", "I", "I;16"):
                raw = np.asarray(picture)
                if picture.mode == "P":
                    self._require_agreement(raw, picture.getpalette("RGB") or [], path)
                labels, unknown = _look_up(raw.astype(np.uint8) if raw.dtype == np.bool_ else raw // factor, self.values)
                return labels, [str(value) for value in unknown]
            raise InputError(f"label file {path} has mode {picture.mode}: save labels as palette PNG (P) or grey PNG (L)")

    def _require_agreement(self, raw: Pixels, palette: list[int], path: Path) -> None:
        """Refuse a file in the classes' colours whose palette gives them in another order, as made from an RGB picture.

        Palettes of other colours are for show, and so is that of a file with a single class: its colour may be there by chance.
        """
        own = {}
        for value in np.unique(raw).tolist():
            if self.values.get(value, VOID) != VOID:
                own[value] = tuple(palette[3 * value : 3 * value + 3])
        meant = {value: self.colours.get((colour[0], colour[1], colour[2])) for value, colour in own.items() if colour}
        if len(own) < 2 or len(meant) < len(own) or None in meant.values() or len(set(own.values())) < len(own):
            return
        wrong = [value for value, index in meant.items() if index != self.values[value]]
        if wrong:
            red, green, blue = own[wrong[0]]
            raise InputError(
                f"label file {path} paints its value {wrong[0]} in the colour #{red:02x}{green:02x}{blue:02x}, that of another "
                f"class: its palette is not in the order of the classes; save class indices, or an RGB picture"
            )


def _factor(picture: Image.Image) -> int:
    """By what Pillow has multiplied the values of a grey picture of two or four bits, to fill the range up to 255."""
    stored = picture.tile[0].args if isinstance(picture, ImageFile.ImageFile) and picture.tile else ""
    return {"L;2": 85, "L;4": 17}.get(stored, 1) if isinstance(stored, str) else 1


def _packed(red: T, green: T, blue: T) -> T:
    """Make one number of a colour; channels are integers or arrays of them."""
    return red << 16 | green << 8 | blue


def _look_up(raw: npt.NDArray[np.integer[Any]], meaning: dict[int, int]) -> tuple[Pixels, list[int]]:
    """Replace values by their meaning; return also the values without one, whose pixels become VOID."""
    if raw.dtype.itemsize <= 2:  # a table takes a byte a pixel, a search twenty
        table = np.full(1 << 16, VOID, np.uint8)
        table[list(meaning)] = list(meaning.values())
        present = np.zeros(1 << 16, np.bool_)
        present[raw] = True
        return table[raw], [value for value in np.flatnonzero(present).tolist() if value not in meaning]
    known = np.array(sorted(meaning), dtype=np.int32)
    meanings = np.array([meaning[int(value)] for value in known], dtype=np.uint8)
    places = np.searchsorted(known, raw).clip(max=len(known) - 1)
    unknown = known[places] != raw
    labels = meanings[places]
    labels[unknown] = VOID
    return labels, [int(value) for value in np.unique(raw[unknown])]
