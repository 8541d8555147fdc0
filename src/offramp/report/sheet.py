"""A contact sheet: images down, true labels, every exit's answer and its confidence across. Pillow and NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from offramp.errors import InputError
from offramp.files import new_file

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Palette = Sequence[Colour]

CELL = 220
"""Width of a picture on the sheet, in pixels."""
GAP = 10
MARGIN = 16
LINE = 20
"""Height of a line of text."""
PAPER, INK, QUIET, FRAME = (255, 255, 255), (27, 29, 31), (110, 116, 122), (213, 94, 0)

VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (109, 205, 89), (180, 222, 44), (253, 231, 37))  # fmt: skip
"""matplotlib's viridis at ten even steps: dark is unsure, bright is sure."""


@dataclass(frozen=True)
class Answer:
    """What one exit said about an image."""

    exit: str
    labels: Pixels
    """(h, w) class indices."""
    confidence: npt.NDArray[np.floating]
    """(h, w) in [0, 1], at head resolution."""
    score: float
    left_here: bool = False


@dataclass(frozen=True)
class SheetRow:
    """One image of the sheet."""

    name: str
    image: Pixels
    """(H, W, 3)."""
    labels: Pixels | None
    """(H, W) true classes, 255 where unknown; None without labels."""
    answers: Sequence[Answer]
    """In order of depth; an exit that was not asked may be left out."""


def colour_labels(labels: Pixels, palette: Palette) -> Pixels:
    """Turn class indices (H, W) into colours (H, W, 3); whatever is no class is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    colours: Pixels = table[labels]
    return colours


def overlay(image: Pixels, labels: Pixels, palette: Palette, alpha: float = 0.55) -> Pixels:
    """Lay the classes' colours over an image (H, W, 3); pixels of no class stay as they are.

    Args:
        image: (H, W, 3).
        labels: (h, w) class indices, stretched to the image.
        palette: one colour for each class.
        alpha: share of the class's colour.

    """
    height, width = image.shape[:2]
    if labels.shape != (height, width):
        labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    mixed = (1 - alpha) * image + alpha * colour_labels(labels, palette)
    laid: Pixels = np.where((labels < len(palette))[..., None], np.rint(mixed), image).astype(np.uint8)
    return laid


def colour_confidence(confidence: npt.NDArray[np.floating]) -> Pixels:
    """Turn confidences (h, w) in [0, 1] into viridis colours (h, w, 3)."""
    steps = np.linspace(0.0, 1.0, len(VIRIDIS))
    held = np.clip(confidence, 0.0, 1.0)
    channels = [np.interp(held, steps, [colour[channel] for colour in VIRIDIS]) for channel in range(3)]
    colours: Pixels = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def picture_sheet(out: Path, rows: Sequence[SheetRow], classes: Sequence[str], palette: Palette) -> None:
    """Write a PNG: per row the image, its true labels, each exit's answer with its score, and the confidence maps.

    The answer of the exit where the image left is framed.

    Args:
        out: the picture; an older one is replaced.
        rows: the images.
        classes: names for the legend.
        palette: one colour for each class.

    Raises:
        InputError: no rows, or colours and classes differ in number.

    """
    if not rows:
        raise InputError("no images for the picture sheet; give at least one")
    if len(classes) != len(palette):
        raise InputError(f"{len(classes)} classes but {len(palette)} colours; give one colour for each class")
    with new_file(out) as temporary:
        draw_sheet(rows, classes, palette).save(temporary, format="PNG")


def draw_sheet(rows: Sequence[SheetRow], classes: Sequence[str], palette: Palette) -> Image.Image:
    """Draw what `picture_sheet` writes."""
    exits = exit_columns(rows)
    headings = ["image", "true labels", *exits, *(f"confidence: {name}" for name in exits)]
    width = max(2 * MARGIN + len(headings) * (CELL + GAP) - GAP, 480)
    heights = [_cell_height(row) for row in rows]
    legend = _legend_places(classes, width)
    body = MARGIN + LINE + GAP
    height = body + sum(cell + LINE + GAP for cell in heights) + (legend[-1][1] + LINE if legend else 0) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, heading in enumerate(headings):
        draw.text((_left(index), MARGIN), _fitted(heading, CELL, 14), fill=INK, font=_font(14))
    top = body
    for row, cell in zip(rows, heights, strict=True):
        _draw_row(sheet, row, exits, palette, (top, cell))
        top += cell + LINE + GAP
    for (x, y), name, colour in zip(legend, classes, palette, strict=True):
        draw.rectangle((x, top + y + 3, x + 13, top + y + 16), fill=tuple(colour), outline=QUIET)
        draw.text((x + 20, top + y + 2), name, fill=INK, font=_font(13))
    return sheet


def exit_columns(rows: Sequence[SheetRow]) -> list[str]:
    """All exits of the rows, in the order of those rows that asked most of them."""
    ordered = sorted(rows, key=lambda row: -len(row.answers))
    return list(dict.fromkeys(answer.exit for row in ordered for answer in row.answers))


def _draw_row(sheet: Image.Image, row: SheetRow, exits: Sequence[str], palette: Palette, place: tuple[int, int]) -> None:
    top, height = place
    draw = ImageDraw.Draw(sheet)
    _paste(sheet, row.image, (_left(0), top), height, Image.Resampling.LANCZOS)
    draw.text((_left(0), top + height + 3), _fitted(row.name, CELL, 12), fill=QUIET, font=_font(12))
    if row.labels is None:
        _empty(draw, 1, place, "no labels")
    else:
        _paste(sheet, colour_labels(row.labels, palette), (_left(1), top), height)
    given = {answer.exit: answer for answer in row.answers}
    for index, name in enumerate(exits):
        answer, column = given.get(name), 2 + index
        if answer is None:
            _empty(draw, column, place, "not asked")
            _empty(draw, column + len(exits), place, "")
            continue
        _paste(sheet, overlay(row.image, answer.labels, palette, alpha=0.75), (_left(column), top), height)
        _paste(sheet, colour_confidence(answer.confidence), (_left(column + len(exits)), top), height)
        text = f"score {answer.score:.3f}" + (", left here" if answer.left_here else "")
        draw.text((_left(column), top + height + 3), text, fill=FRAME if answer.left_here else QUIET, font=_font(12))
        if answer.left_here:
            box = (_left(column) - 4, top - 4, _left(column) + CELL + 3, top + height + 3)
            draw.rectangle(box, outline=FRAME, width=3)


def _paste(
    sheet: Image.Image,
    pixels: Pixels,
    corner: tuple[int, int],
    height: int,
    resampling: Image.Resampling = Image.Resampling.NEAREST,
) -> None:
    """Stretch pixels into a cell; labels and confidences keep their own squares, so that resolution is seen."""
    sheet.paste(Image.fromarray(pixels).resize((CELL, height), resampling), corner)


def _empty(draw: ImageDraw.ImageDraw, column: int, place: tuple[int, int], text: str) -> None:
    top, height = place
    draw.rectangle((_left(column), top, _left(column) + CELL - 1, top + height - 1), fill=(242, 242, 240))
    draw.text((_left(column) + CELL / 2, top + height / 2), text, fill=QUIET, font=_font(12), anchor="mm")


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _cell_height(row: SheetRow) -> int:
    height, width = row.image.shape[:2]
    return max(1, round(CELL * float(height) / float(width)))


def _legend_places(classes: Sequence[str], width: int) -> list[tuple[int, int]]:
    """Corners of the legend's entries, line after line, relative to the legend's top."""
    places, x, y = [], MARGIN, 0
    for name in classes:
        wide = 20 + round(_font(13).getlength(name)) + 18
        if x + wide > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + LINE
        places.append((x, y))
        x += wide
    return places


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int, size: int) -> str:
    """The text, shortened in its middle until it fits."""
    font, kept = _font(size), len(text)
    short = text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return short
