import numpy as np
import pytest
from PIL import Image

from offramp.errors import InputError
from offramp.report.sheet import (
    CELL,
    FRAME,
    GAP,
    LINE,
    MARGIN,
    Answer,
    SheetRow,
    colour_confidence,
    colour_labels,
    exit_columns,
    overlay,
    picture_sheet,
)

CLASSES = ("road", "car")
PALETTE = ((128, 64, 128), (0, 0, 142))
TOP = MARGIN + LINE + GAP
HEIGHT = CELL // 2


def row(exits=("early", "final"), *, labels=True, left_at="early"):
    truth = np.zeros((20, 40), dtype=np.uint8)
    truth[:, 20:] = 1
    truth[10:, :] = 255
    answers = [
        Answer(name, np.ones((10, 20), np.uint8), np.full((5, 10), 1.0), score=0.75, left_here=name == left_at)
        for name in exits
    ]
    return SheetRow("street.png", np.full((20, 40, 3), 200, np.uint8), truth if labels else None, answers)


def place(column, x, y, line=0):
    """The pixel at the share (x, y) of a cell."""
    top = TOP + line * (HEIGHT + LINE + GAP)
    return MARGIN + column * (CELL + GAP) + int(x * CELL), top + int(y * HEIGHT)


@pytest.fixture
def sheet(tmp_path):
    def make(*rows):
        out = tmp_path / "sheet.png"
        picture_sheet(out, rows, CLASSES, PALETTE)
        with Image.open(out) as image:
            assert image.format == "PNG"
            return image.convert("RGB")

    return make


def test_labels_take_the_palettes_colours_and_void_is_black():
    assert colour_labels(np.array([[0, 1], [2, 255]], np.uint8), PALETTE).tolist() == [
        [[128, 64, 128], [0, 0, 142]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_an_overlay_mixes_by_alpha_and_leaves_void_alone():
    image = np.full((2, 2, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 255], [1, 1]], np.uint8), PALETTE, alpha=0.25)
    assert mixed[0, 0].tolist() == [107, 91, 107]
    assert mixed[0, 1].tolist() == [100, 100, 100]
    assert mixed[1, 0].tolist() == [75, 75, 110]
    # Smaller label maps are stretched in squares.
    assert overlay(image, np.array([[1]], np.uint8), PALETTE, alpha=1.0).tolist() == [[[0, 0, 142]] * 2] * 2


def test_confidence_runs_from_dark_to_bright():
    colours = colour_confidence(np.array([[0.0, 1 / 9, 1.0, 7.0]]))
    assert colours[0].tolist() == [[68, 1, 84], [72, 40, 120], [253, 231, 37], [253, 231, 37]]


def test_cells_hold_what_their_headings_say(sheet):
    image = sheet(row())
    assert image.getpixel(place(0, 0.25, 0.5)) == (200, 200, 200)
    assert image.getpixel(place(1, 0.25, 0.25)) == PALETTE[0]
    assert image.getpixel(place(1, 0.75, 0.25)) == PALETTE[1]
    assert image.getpixel(place(1, 0.25, 0.75)) == (0, 0, 0)
    assert image.getpixel(place(2, 0.5, 0.5)) == (50, 50, 156)
    assert image.getpixel(place(4, 0.5, 0.5)) == image.getpixel(place(5, 0.5, 0.5)) == (253, 231, 37)
    assert image.width == 2 * MARGIN + 6 * (CELL + GAP) - GAP


def test_the_cell_where_the_image_left_is_framed(sheet):
    image = sheet(row(left_at="final"))
    corner = [MARGIN + column * (CELL + GAP) - 3 for column in (2, 3)]
    assert image.getpixel((corner[1], TOP + 20)) == FRAME
    assert image.getpixel((corner[0], TOP + 20)) != FRAME


def test_exits_not_asked_and_labels_not_given_leave_empty_cells(sheet):
    image = sheet(row(("early",), labels=False), row())
    assert image.getpixel(place(1, 0.1, 0.1)) == (242, 242, 240)
    assert image.getpixel(place(3, 0.1, 0.1)) == (242, 242, 240)
    assert image.getpixel(place(5, 0.1, 0.1)) == (242, 242, 240)
    assert image.getpixel(place(3, 0.5, 0.5, line=1)) == (50, 50, 156)


def test_columns_come_in_the_order_of_depth():
    assert exit_columns([row(("early", "final")), row(("early", "middle", "final"))]) == ["early", "middle", "final"]


def test_the_legend_shows_every_colour(sheet):
    image = sheet(row())
    legend = image.crop((0, TOP + HEIGHT + LINE + GAP, image.width, image.height))
    colours = {colour for _, colour in legend.getcolors(maxcolors=100_000)}
    assert set(PALETTE) <= colours


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images"):
        picture_sheet(tmp_path / "a.png", [], CLASSES, PALETTE)
    with pytest.raises(InputError, match="2 classes but 1 colours"):
        picture_sheet(tmp_path / "a.png", [row()], CLASSES, PALETTE[:1])
    assert not (tmp_path / "a.png").exists()
