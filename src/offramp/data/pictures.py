"""Picture files from anywhere, read as what they show, or refused with a reason.

A file is looked at before its pixels are asked for: it must be a regular file of a known format, of a size that may be, and a
PNG must be whole. Only then is memory taken for it.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from offramp.errors import InputError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Pillow's names of what is read. Pillow knows more, some by starting other programs (PostScript)."""

MOST_PIXELS = 100_000_000
"""Of an image, a label file or a frame. Larger ones are refused by what their header says, before memory is taken for them."""

# What Pillow raises on broken files; it lets the errors of its decoders through.
BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings a picture into the way up that it is shown."""

_QUIET = Lock()
"""Python's warning filters belong to the whole process: two threads must not change and restore them at once."""


def load_image(path: Path) -> Pixels:
    """Read a picture as RGB, uint8 (H, W, 3), the way up that it is shown, which its EXIF orientation says.

    Of several frames the first is read. 16-bit grey is scaled to 8 bits; alpha is dropped, since the colours below it are what
    the camera saw.

    Raises:
        InputError: the file is missing, none of `FORMATS`, truncated or damaged, larger than `MOST_PIXELS`, or of a mode
            without a known range.

    """
    return decode_image(path, path)


def decode_image(file: Path | BinaryIO, name: str | Path, *, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """Read a picture, as `load_image` does, from a file or from memory.

    Args:
        file: where it is.
        name: what errors call it.
        formats: those of `FORMATS` that are read.

    Raises:
        InputError: as `load_image`.

    """
    with reading(file, "image", name, formats=formats) as picture:
        return as_rgb(picture, name)


@contextmanager
def reading(file: Path | BinaryIO, what: str, name: str | Path, *, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture file whose pixels are read in the block; errors there, too, say what could not be read.

    Args:
        file: where it is.
        what: image or label file.
        name: what errors call it.
        formats: those that are read.

    Raises:
        InputError: as `load_image`.

    """
    opening = regular_file(file, what, name) if isinstance(file, Path) else nullcontext(file)
    with _told(what, name), opening as stream:
        yield _opened(stream, what, name, formats)


def pixels_of(picture: Image.Image, name: str) -> Pixels:
    """As `decode_image`, of a picture that somebody has opened already; of a film, its present frame."""
    with _told("image", name):
        return as_rgb(picture, name)


@contextmanager
def _told(what: str, name: str | Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        reason = str(error).rstrip(".")
        raise InputError(f"the {what} {name} is too large: {reason}; make it smaller, or cut it into parts") from error
    except BROKEN_FILE as error:
        reason = str(error) if isinstance(error, OSError | SyntaxError | ValueError) else "its parts do not fit together"
        reason = (isinstance(error, OSError) and error.strerror) or reason  # the name is said already
        raise InputError(f"cannot read the {what} {name}: {reason}; replace it or remove it") from error


def as_rgb(picture: Image.Image, name: str | Path) -> Pixels:
    """A picture, or the first frame of one, as `load_image` gives it.

    Raises:
        InputError: larger than `MOST_PIXELS`, or of a mode without a known range.

    """
    require_size(picture.size, "image", name)
    if 0 in picture.size:
        raise InputError(f"the image {name} has no pixels: it is {picture.width}x{picture.height}")
    picture = upright(picture)
    if picture.mode == "F":
        raise InputError(f"image {name} holds floating-point numbers of unknown range: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture).astype(np.int64).clip(0, 65535)
        grey = ((deep + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def upright(picture: Image.Image) -> Image.Image:
    """A picture the way up that it is shown. Damaged EXIF data say nothing: the pixels may be whole for all that."""
    picture.load()  # before the orientation is asked for: Pillow turns TIFF files while it loads them
    try:
        with _quietly():
            orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except BROKEN_FILE:
        return picture
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def require_size(size: tuple[int, int], what: str, name: str | Path) -> None:
    """Raise InputError if width times height is more than `MOST_PIXELS`."""
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(
            f"the {what} {name} is too large: it says that it has {size[0]}x{size[1]} pixels, and at most "
            f"{MOST_PIXELS // 1_000_000} million are read; make it smaller, or cut it into parts"
        )


@contextmanager
def regular_file(file: Path, what: str, name: str | Path) -> Iterator[BufferedReader]:
    """Open a file, if it is one: a pipe would be waited for, and a device never ends.

    Raises:
        InputError: it is none, or cannot be opened.

    """
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "a pipe, socket or device"
        raise InputError(f"cannot read the {what} {name}: it is {kind}, not a file; replace it or remove it")
    if file.is_symlink() and not file.exists():
        raise InputError(f"cannot read the {what} {name}: it is a link to {file.readlink()}, which is not there; remove it")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise InputError(f"cannot read the {what} {name}: {error.strerror or error}; replace it or remove it") from error
    with stream:
        yield stream


def _opened(stream: BinaryIO, what: str, name: str | Path, formats: tuple[str, ...]) -> Image.Image:
    """Look at a picture's header, and at all of a PNG file's checksums: its decoder passes some of them over."""
    head = stream.read(16)
    if not head:
        raise InputError(f"cannot read the {what} {name}: the file is empty; replace it or remove it")
    try:
        picture = _at_start(stream, formats)
        require_size(picture.size, what, name)
        if picture.format == "PNG":
            picture.verify()
            picture = _at_start(stream, formats)
    except UnidentifiedImageError as error:
        known = (
            f"PNG file, as {what}s must be" if formats == ("PNG",) else f"file of a kind that is read ({', '.join(formats)})"
        )
        raise InputError(
            f"cannot read the {what} {name}: it is no whole {known}, and begins with {head!r}; replace it or remove it"
        ) from error
    return picture


def _at_start(stream: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    stream.seek(0)
    with _quietly():
        return Image.open(stream, formats=formats)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings: what they are about is judged here, and whoever made them errors wants a picture, too."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
